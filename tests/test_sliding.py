"""Compiled sliding windows and histograms say the same as sorting and counting anew, to the last bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from placement.learning import sliding
from placement.learning.histograms import KOORDINATOR_CPU, VPA_CPU, VPA_MEMORY, HistogramSpec, histogram_percentiles
from placement.learning.usage import DAY, HOUR
from placement.learning.windows import SLIDE_FROM, Past, trailing_max, window_percentiles

pytestmark = pytest.mark.skipif(not sliding.HAS_NUMBA, reason="without numba there is nothing to compare")


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    steps=st.integers(1, 3),
    width=st.integers(SLIDE_FROM * 3 + 1, 400),
    gaps=st.sampled_from([0.0, 0.2, 0.95]),
)
def test_sliding_percentiles_equal_sorted_windows(seed: int, steps: int, width: int, gaps: float) -> None:
    rng = np.random.default_rng(seed)
    table = rng.random((3, 700)).astype(np.float32).round(1)
    table[rng.random(table.shape) < gaps] = np.nan
    table[1, : rng.integers(700)] = np.nan
    ends = np.arange(-width // 2, 701, steps)
    percents = (0.0, 10.0, 50.0, 95.0, 100.0)
    slid = window_percentiles(table, ends, width, percents)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sliding, "HAS_NUMBA", False)
        ordered = window_percentiles(table, ends, width, percents)
    np.testing.assert_array_equal(slid, ordered)


def test_percentiles_of_ends_out_of_order_or_far_apart_are_refilled() -> None:
    table = np.random.default_rng(1).random((2, 2000)).astype(np.float32)
    fractions = np.array([0.5])
    for ends in (np.array([500, 400, 1990, 10]), np.array([300, 900, 1999])):
        out = np.full((1, 2, len(ends)), np.nan, np.float32)
        sliding.window_percentiles(table, ends, 300, fractions, out)
        wanted = [[np.median(row[max(0, e - 300) : e]) for e in ends] for row in table]
        np.testing.assert_allclose(out[0], wanted, rtol=1e-6)


def test_a_window_beyond_the_series_is_refused() -> None:
    with pytest.raises(IndexError, match="ends at 11, the series has 10"):
        window_percentiles(np.zeros((1, 10), np.float32), np.array([11]), 3, (50.0,))


@pytest.mark.parametrize("width", [1, 7, 30])
def test_windows_without_a_gap_are_read_as_those_beside_a_gap(width: int) -> None:
    table = np.random.default_rng(4).random((2, 90)).astype(np.float32)
    ends, percents = np.arange(width, 91, width), (0.0, 12.5, 95.0, 100.0)
    whole = window_percentiles(table, ends, width, percents)
    with_an_empty_one = window_percentiles(table, np.array([0, *ends]), width, percents)
    assert np.isnan(with_an_empty_one[:, :, 0]).all()
    np.testing.assert_array_equal(whole, with_an_empty_one[:, :, 1:])


@pytest.mark.parametrize(("width", "stride"), [(1, 3), (2, 1), (7, 24), (28, 6), (40, 5)])
def test_the_largest_of_entries_apart_is_that_of_those_there_are(width: int, stride: int) -> None:
    values = np.random.default_rng(5).random((3, 170)).astype(np.float32)
    values[1, 20:90] = -np.inf
    wanted = [
        [max(row[t % stride if t < width * stride else t - (width - 1) * stride : t + 1 : stride]) for t in range(170)]
        for row in values
    ]
    np.testing.assert_array_equal(trailing_max(values, width, stride), wanted)


@pytest.mark.parametrize("spec", [VPA_CPU, VPA_MEMORY, HistogramSpec(1 / 400, 1.0, 1.05, 12.0)])
def test_a_value_falls_into_the_bucket_that_reaches_over_it(spec: HistogramSpec) -> None:
    rng = np.random.default_rng(6)
    values = np.concatenate([spec.upper_edges[-1] * rng.random(500) ** 8, [0.0, np.nan, 1e18, spec.first / 2]])
    bucket = spec.bucket(values)
    edges = np.array([0.0, *spec.upper_edges])
    assert (edges[bucket[:500]] <= values[:500]).all()
    assert (values[:500] < edges[bucket[:500] + 1]).all()
    assert bucket[500:].tolist() == [0, 0, spec.num_buckets - 1, 0]


@pytest.mark.parametrize("spec", [VPA_CPU, KOORDINATOR_CPU, HistogramSpec(1 / 400, 1.0, 1.05, 12.0)])
@pytest.mark.parametrize("by_value", [False, True])
def test_compiled_histograms_equal_counted_ones(spec: HistogramSpec, by_value: bool) -> None:
    rng = np.random.default_rng(2)
    share = rng.gamma(0.5, 0.2, (7, 5 * DAY + 5)).astype(np.float32)
    share[rng.random(share.shape) < 0.1] = np.nan
    share[3] = np.nan
    share[4, : 2 * DAY] = np.nan
    past = Past(share, np.arange(5, 5 * DAY + 6, 3 * HOUR), rng.uniform(1, 8, 7))
    compiled = histogram_percentiles(past, spec, (50.0, 90.0, 99.0), by_value=by_value)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sliding, "HAS_NUMBA", False)
        counted = histogram_percentiles(past, spec, (50.0, 90.0, 99.0), by_value=by_value)
    np.testing.assert_array_equal(compiled, counted)


def test_a_past_at_other_origins_shares_tables_of_its_phase_only() -> None:
    past = Past(
        np.random.default_rng(3).random((2, 3 * DAY)).astype(np.float32), np.arange(DAY, 3 * DAY, HOUR), np.ones(2)
    )
    assert past.at(np.array([2 * DAY])).hour_max is past.hour_max
    assert past.at(np.array([2 * DAY])).statistic(6, "p95") is past.statistic(6, "p95")
    moved = past.at(np.array([2 * DAY + 5]))
    assert moved.phase == 5
    assert moved.hour_max is not past.hour_max
