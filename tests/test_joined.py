"""The joined recipe: requests of one recording, usage of another."""

from __future__ import annotations

import numpy as np
import pytest

from placement.errors import ConfigError
from placement.learning.usage import STEP_S, UsageSeries
from placement.pods import GpuRequest, PodSpec
from placement.resources import CPU, MEMORY
from simulator.traces.joined import Join, join
from simulator.traces.trace import Trace

GIB = 2**30


def _series(num_steps: int = 600) -> UsageSeries:
    cores = np.array([1.0, 4.0, 16.0])
    levels = np.array([[0.1], [0.2], [0.4]]) * np.ones((3, num_steps))
    levels[0, 300] = np.nan
    return UsageSeries(
        "machines",
        ("a", "b", "c"),
        0,
        {CPU: (levels * cores[:, None]).astype(np.float32), MEMORY: (levels * cores[:, None]).astype(np.float32)},
        {CPU: cores, MEMORY: cores},
    )


def _arrivals() -> Trace:
    spec = [PodSpec(((CPU, c), (MEMORY, GIB)), owner=f"Application/{c}") for c in (500, 2000, 8000)]
    return Trace.of("three", (), [(f"p{i}", spec[i % 3], 60 * i, 60 * i + 9000) for i in range(60)])


def test_usage_follows_the_size_of_the_request_and_never_exceeds_it():
    made = join(_arrivals(), _series(), Join(share=1, from_day=0, spread=0))
    asked = np.array([made.specs[c].amount(CPU) for c in made.pods.spec[made.usage.pod]])
    share = made.usage.cpu_millicores / asked
    assert np.allclose([share[asked == c].mean() for c in (500, 2000, 8000)], [0.1, 0.2, 0.4], atol=0.01)
    crowded = join(_arrivals(), _series(), Join(share=1, from_day=0, scale=9))
    asked = np.array([crowded.specs[c].amount(CPU) for c in crowded.pods.spec[crowded.usage.pod]])
    assert (crowded.usage.cpu_millicores <= asked).all()


def test_a_gap_of_the_machine_is_a_gap_of_the_pod():
    late = Trace.of("late", (), [("p", PodSpec(((CPU, 500), (MEMORY, GIB))), 299 * STEP_S, 302 * STEP_S)])
    one = join(late, _series().pick([0]), Join(share=1, from_day=0))
    assert 300 * STEP_S not in one.usage.time_s.tolist()
    assert 301 * STEP_S in one.usage.time_s.tolist()


def test_workloads_have_at_most_so_many_replicas():
    made = join(_arrivals(), _series(), Join(share=1, from_day=0, replicas=4))
    owners = [made.specs[c].owner for c in made.pods.spec]
    assert max(owners.count(o) for o in set(owners)) == 4


def test_each_sample_is_the_machines_share_at_that_step_of_what_the_pod_asks_for():
    """Pods of one size, one at a time and with a GPU, whose machine's share tells the step; the second day is the first."""
    steps = np.arange(600)
    cores = np.full((1, 600), 4.0)
    table = {CPU: (steps / 1000 * cores).astype(np.float32), MEMORY: (steps / 2000 * cores).astype(np.float32)}
    table[MEMORY][0, 290] = np.nan
    series = UsageSeries("machine", ("m",), 0, table, {CPU: np.array([4.0]), MEMORY: np.array([4.0])})
    spec = PodSpec(((CPU, 100_000), (MEMORY, 10**6)), GpuRequest(1), owner="Application/a")
    late = (600 - 288) * STEP_S - 100
    arrivals = Trace.of("t", (), [("p", spec, 299, 901), ("q", spec, 600, -1), ("r", spec, late, late + 9000)])
    made = join(arrivals, series, Join(share=1, from_day=1))
    found = dict[str, list[tuple[int, ...]]]()
    rows = zip(made.usage.pod, made.usage.time_s, made.usage.cpu_millicores, made.usage.memory_bytes, strict=True)
    for pod, *row in rows:
        found.setdefault(made.pods.name[pod], []).append(tuple(int(x) for x in row))
    assert found == {
        "p": [(STEP_S * k, 100 * (288 + k), 500 * (288 + k)) for k in (0, 1, 3, 4)],
        "q": [(STEP_S * k, 100 * (288 + k), 500 * (288 + k)) for k in range(3, 312)],
        "r": [(STEP_S * k, 100 * (288 + k), 500 * (288 + k)) for k in (311,)],
    }, "step 290 was not measured, and nothing after the last of them"
    assert [s.gpu for s in made.specs] == [None]
    assert made.pods.departure_s.tolist() == [901, -1, late + 9000]


def test_workloads_are_cut_by_arrival():
    made = join(_arrivals(), _series(), Join(share=1, from_day=0, replicas=4))
    small = [made.specs[c].owner for c in made.pods.spec if made.specs[c].amount(CPU) == 500]
    assert small == [f"Application/500.0.{i // 4}" for i in range(20)]


def test_so_large_a_share_of_the_pods_is_kept():
    assert 0 < len(join(_arrivals(), _series(), Join(share=0.2, from_day=0)).pods) < 30
    assert len(join(_arrivals(), _series(), Join(share=0, from_day=0)).pods) == 0


def test_the_same_seed_makes_the_same_trace_and_another_seed_another():
    one, two, other = (join(_arrivals(), _series(), Join(share=0.5, from_day=0, seed=s)).digest for s in (1, 1, 2))
    assert one == two != other


def test_a_first_day_outside_of_the_recording_is_refused():
    with pytest.raises(ConfigError, match="outside"):
        join(_arrivals(), _series(), Join(from_day=30))
    with pytest.raises(ConfigError, match="outside"):
        join(_arrivals(), _series(2 * 288), Join(from_day=2))


def test_any_machine_may_be_drawn_and_none_beyond_the_last():
    made = join(_arrivals(), _series(), Join(share=1, from_day=0, spread=1))
    assert len(made.pods) == 60
