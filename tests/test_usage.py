"""Usage series and histories: grids, rings, snapshots."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from placement.errors import StateError
from placement.learning.usage import DAY, STEP_S, UsageHistory, UsageSeries
from placement.resources import CPU, MEMORY


def test_a_series_with_rows_and_amounts_of_different_length_is_refused() -> None:
    with pytest.raises(StateError, match="give one row and one amount"):
        UsageSeries("x", ("a", "b"), 0, {CPU: np.zeros((2, 4), np.float32)}, {CPU: np.ones(3)})


def test_a_history_keeps_the_largest_of_several_samples_in_one_interval() -> None:
    history = UsageHistory("w")
    for value in (100, 700, 300):
        assert history.add(601, cpu_millicores=value)
    snapshot = history.snapshot()
    assert snapshot is not None
    assert snapshot.samples[CPU].tolist() == [700]
    assert snapshot.samples[MEMORY].tolist() == [-1]


def test_a_sample_that_is_negative_older_than_the_ring_or_from_the_future_is_refused_and_counted() -> None:
    history = UsageHistory("w", days=1)
    assert history.add(10 * DAY * STEP_S, cpu_millicores=1)
    assert not history.add(10 * DAY * STEP_S, cpu_millicores=-5)
    assert not history.add(8 * DAY * STEP_S, cpu_millicores=1)
    assert not history.add(12 * DAY * STEP_S, cpu_millicores=1, now_s=10 * DAY * STEP_S)
    assert history.refused == 3
    assert history.snapshot() is not None


def test_a_snapshot_does_not_change_when_the_history_goes_on() -> None:
    history = UsageHistory("w")
    history.add(300, cpu_millicores=5)
    snapshot = history.snapshot()
    history.add(300, cpu_millicores=9)
    assert snapshot is not None
    assert snapshot.samples[CPU].tolist() == [5]
    with pytest.raises(ValueError, match="read-only"):
        snapshot.samples[CPU][0] = 1


def test_an_oom_kill_enters_the_history_as_vpa_counts_it() -> None:
    history = UsageHistory("w")
    history.add_oom(300, 2**30)
    snapshot = history.snapshot()
    assert snapshot is not None
    assert snapshot.samples[MEMORY].tolist() == [2**30 * 6 // 5]


@given(st.lists(st.tuples(st.integers(1, 3 * DAY), st.integers(0, 9999)), min_size=1, max_size=60))
def test_a_ring_holds_exactly_the_samples_of_its_last_day(samples: list[tuple[int, int]]) -> None:
    history = UsageHistory("w", days=1)
    kept: dict[int, int] = {}
    last = 0
    for slot, value in samples:
        taken = history.add(slot * STEP_S, cpu_millicores=value)
        assert taken == (last == 0 or slot > last - DAY)
        if taken:
            kept[slot] = max(kept.get(slot, -1), value)
            last = max(last, slot)
    snapshot = history.snapshot()
    assert snapshot is not None
    inside = {slot: value for slot, value in kept.items() if slot > last - DAY}
    first = snapshot.end_s // STEP_S - len(snapshot.samples[CPU]) + 1
    found = {first + i: int(v) for i, v in enumerate(snapshot.samples[CPU]) if v >= 0}
    assert found == inside
