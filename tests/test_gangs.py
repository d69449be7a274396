"""Gangs in a replay: together or not at all, nothing held while they wait, nothing lost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from placement.nodes import NodeSpec
from placement.playback import rebuild, verify
from placement.pods import PodSpec
from placement.resources import CPU, MEMORY
from placement.strategies import STRATEGIES
from simulator.cost import shape
from simulator.fleet import Elastic
from simulator.gangs import INCOMPLETE, NO_ROOM
from simulator.replay import Replay, ReplayOptions
from simulator.traces.synth import Recipe, synthesise
from simulator.traces.trace import NodeEvent, Trace

NODES = [NodeSpec(f"n{i}", ((CPU, 4000),)) for i in range(2)]
TWO_CORES = PodSpec(((CPU, 2000),))


def ganged(gang: list[int], pods: list[tuple[int, int]], nodes: list[NodeSpec] = NODES) -> Trace:
    """Pods of two cores as (arrival, departure), with their gangs."""
    trace = Trace.of("gangs", nodes, [(f"p{i}", TWO_CORES, a, d) for i, (a, d) in enumerate(pods)])
    return trace.but(pods=replace(trace.pods, gang=np.array(gang, np.int64)))


def test_a_gang_waits_until_all_of_its_pods_fit_at_once() -> None:
    trace = ganged([-1, 0, 0, 0, 0], [(0, 100), *[(10, 50)] * 4])
    outcome = Replay(trace, STRATEGIES["best-fit"], ReplayOptions()).run()
    assert outcome.pending_s.tolist() == [0, 90, 90, 90, 90]


def test_a_gang_that_waits_holds_no_room_for_itself() -> None:
    trace = ganged([0, 0, 0, 0, 0, -1], [*[(0, 50)] * 5, (5, 20)])
    outcome = Replay(trace, STRATEGIES["best-fit"], ReplayOptions(end_s=60)).run()
    assert outcome.pending_s.tolist() == [-1] * 5 + [0]
    assert outcome.unplaced == {NO_ROOM: 5}


def test_a_gang_starts_with_its_last_pod() -> None:
    trace = ganged([0, 0, 1], [(0, 90), (30, 90), (31, 90)])
    outcome = Replay(trace, STRATEGIES["best-fit"], ReplayOptions()).run()
    assert outcome.pending_s.tolist() == [30, 0, 0]


def test_pods_whose_gang_never_comes_are_named_so() -> None:
    trace = ganged([0, 0], [(0, 90), (30, 90)])
    outcome = Replay(trace, STRATEGIES["best-fit"], ReplayOptions(end_s=20)).run()
    assert outcome.unplaced == {INCOMPLETE: 1}


def test_a_gang_that_does_not_fit_is_dropped_whole_where_nobody_waits() -> None:
    trace = ganged([0, 0, 0, 0, 0, -1], [*[(0, 50)] * 5, (5, 20)])
    outcome = Replay(trace, STRATEGIES["best-fit"], ReplayOptions(retries=False)).run()
    assert outcome.unplaced == {NO_ROOM: 5}
    assert outcome.num_placed == 1


def test_a_fleet_grows_for_a_whole_gang() -> None:
    trace = ganged([0] * 6, [(0, 600)] * 6, nodes=[])
    fleet = Elastic((shape("s", 4, 16),))
    outcome = Replay(trace, STRATEGIES["best-fit"], ReplayOptions(elastic=fleet)).run()
    assert outcome.num_placed == 6
    assert len(set(outcome.pending_s.tolist())) == 1


def test_a_pod_that_loses_its_node_comes_back_without_its_gang() -> None:
    trace = ganged([0, 0, 0], [(0, 100)] * 3)
    failures = (NodeEvent(10, "fail", "n0"), NodeEvent(40, "repair", "n0"))
    outcome = Replay(trace.but(failures=failures), STRATEGIES["first-fit"], ReplayOptions()).run()
    assert outcome.num_evictions == 2
    assert outcome.pending_s.tolist() == [0, 0, 0]
    assert outcome.timeline.series[-1].num_running == 0


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 10_000),
    strategy=st.sampled_from(["best-fit", "priced", "random", "kube-default", "atc23-fgd"]),
    load=st.sampled_from([0.7, 1.3]),
    spread_s=st.sampled_from([0, 300]),
)
def test_gangs_are_whole_and_their_replay_can_be_played_back(
    seed: int, strategy: str, load: float, spread_s: int
) -> None:
    """The replay's own checks (whole gangs, nothing lost, columns are sums) run at its end."""
    made = synthesise(Recipe(seed=seed, days=0.05, gpu_nodes=2, small_gpu_nodes=2, cpu_nodes=2, owners=9, load=load))
    rng = np.random.default_rng(seed)
    pods = made.pods
    gang = np.repeat(np.arange(len(pods) // 4 + 1), 4)[: len(pods)]
    gang[rng.random(len(pods)) < 0.3] = -1
    late = np.sort(pods.arrival_s + rng.integers(0, spread_s + 1, len(pods)))
    stays = np.maximum(pods.departure_s, late + 1)
    trace = made.but(pods=replace(pods, gang=gang, arrival_s=late, departure_s=stays))
    outcome = Replay(trace, STRATEGIES[strategy], ReplayOptions(seed=seed)).run()
    assert outcome.num_placed + sum(outcome.unplaced.values()) == outcome.num_pods
    assert list(verify(outcome.log, [STRATEGIES[strategy]])) == []
    assert rebuild(outcome.log).residents.keys() == {uid for uid, running in _running(outcome.log).items() if running}


def _running(log: object) -> dict[str, bool]:
    state: dict[str, bool] = {}
    for event in log:  # type: ignore[attr-defined]  # an event log
        if event.kind in ("pod_assumed", "pod_bound"):
            state[event.subject] = True
        elif event.kind in ("pod_released", "pod_forgotten"):
            state[event.subject] = False
    return state


@pytest.mark.parametrize("delivery", ["nominate", "score"])
def test_every_delivery_keeps_gangs_whole(delivery: str) -> None:
    from simulator.delivery import DELIVERIES

    trace = synthesise(Recipe(seed=3, days=0.1, gpu_nodes=3, small_gpu_nodes=3, cpu_nodes=2, owners=12, load=1.2))
    gang = np.repeat(np.arange(len(trace.pods) // 3 + 1), 3)[: len(trace.pods)]
    trace = trace.but(pods=replace(trace.pods, gang=gang))
    options = ReplayOptions(delivery=DELIVERIES[delivery], seed=1)
    outcome = Replay(trace, STRATEGIES["best-fit"], options).run()
    assert outcome.num_placed + sum(outcome.unplaced.values()) == outcome.num_pods
    assert outcome.num_placed > 0


def test_memory_is_a_limit_for_a_gang_too() -> None:
    spec = PodSpec(((CPU, 100), (MEMORY, 3 << 30)))
    nodes = [NodeSpec("n", ((CPU, 4000), (MEMORY, 4 << 30)))]
    trace = Trace.of("t", nodes, [("a", spec, 0, 9), ("b", spec, 0, 9)])
    trace = trace.but(pods=replace(trace.pods, gang=np.zeros(2, np.int64)))
    assert Replay(trace, STRATEGIES["best-fit"], ReplayOptions(end_s=50)).run().num_placed == 0
