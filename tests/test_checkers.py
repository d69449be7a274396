"""Checkers find what they are there to find: what every replay and every plan is checked with would else prove nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from placement.errors import ConfigError
from placement.nodes import NodeSpec
from placement.planning.fleet import Emptied, Fleet, violations
from placement.pods import GpuRequest, PodSpec
from placement.resources import CPU, MEMORY, PODS
from placement.state import NUM_DERIVED, ClusterState
from placement.strategies import STRATEGIES
from simulator.accounts import check_ledger
from simulator.replay import Replay, ReplayOptions
from simulator.traces.trace import Trace

POD, SHARE = PodSpec(((CPU, 2000), (MEMORY, 1))), PodSpec(((CPU, 1000), (MEMORY, 1)), GpuRequest(1, 600))
FEW = PodSpec(((CPU, 0),))


def node(name: str, *, pods: int = 2) -> NodeSpec:
    return NodeSpec(name, ((CPU, 3000), (MEMORY, 9), (PODS, pods)), num_gpus=2)


def ledger() -> ClusterState:
    state = ClusterState()
    for name in ("gone", "a", "b"):
        state.add_node(node(name))
    state.bind("left", SHARE, "a", 0b10)
    state.bind("p", POD, "a")
    state.bind("q", SHARE, "b", 0b01)
    state.remove_node("gone")
    state.release("left")
    return state


def test_a_ledger_that_is_the_sum_of_its_residents_passes() -> None:
    check_ledger(ledger())
    check_ledger(ClusterState())


def _lose(state: ClusterState) -> None:
    del state.residents["p"]


def _give_half_back(state: ClusterState) -> None:
    state.gpu_free[state.row_of["b"], 0] += 300


def _take_devices_of_nobody(state: ClusterState) -> None:
    state.gpu_free[state.row_of["a"], 1] -= 1


def _take_more(state: ClusterState) -> None:
    state.taken[NUM_DERIVED, state.row_of["b"]] += 1


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_lose, "not the sum of its residents"),
        (_take_more, "not the sum of its residents"),
        (_give_half_back, "not what residents left"),
        (_take_devices_of_nobody, "not what residents left"),
        (lambda state: state.bind("again", SHARE, "b", 0b01), "a device is given twice"),
        (lambda state: state.bind("large", POD, "a"), "over its allocatable"),
        (lambda state: [state.bind(uid, FEW, "b") for uid in "xy"], "over its allocatable"),
    ],
    ids=["lost", "counted twice", "devices lost", "devices of nobody", "device twice", "too much", "too many"],
)
def test_a_ledger_that_is_not_is_found_out(spoil: Callable[[ClusterState], None], message: str) -> None:
    state = ledger()
    spoil(state)
    with pytest.raises(AssertionError, match=message):
        check_ledger(state)


# ── replays ───────────────────────────────────────────────────────────────────────────────────────────────────


def _wait_twice(replay: Replay) -> None:
    for unit, waiting in list(replay._pending):
        replay._pending.add(unit, waiting.pods[0])  # type: ignore[arg-type]  # a class


def _run_and_wait(replay: Replay) -> None:
    replay._pending.add(POD, replay.pod_of["runs"])


def _forget_who_waits(replay: Replay) -> None:
    for _, waiting in list(replay._pending):
        waiting.leave()


def _count_what_is_not_there(replay: Replay) -> None:
    _take_more(replay.state)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_wait_twice, "a pod waits twice"),
        (_run_and_wait, "a pod both runs and waits"),
        (_forget_who_waits, "a pod was lost"),
        (_count_what_is_not_there, "not the sum of its residents"),
        (lambda replay: replay.first_placed_s.__setitem__(replay.pod_of["g-1"], 7), "a gang did not start together"),
    ],
    ids=["waits twice", "runs and waits", "lost", "ledger", "gang"],
)
def test_a_replay_that_loses_or_doubles_pods_says_so(spoil: Callable[[Replay], None], message: str) -> None:
    class Spoiler:
        every_s = 50

        def act(self, replay: Replay) -> None:
            spoil(replay)

    pods = [("runs", POD, 0, -1), ("g-0", FEW, 0, -1), ("g-1", FEW, 0, -1), ("waits", POD, 10, -1)]
    trace = Trace.of("spoiled", [node("b", pods=9)], pods)
    trace = trace.but(pods=replace(trace.pods, gang=np.array([-1, 0, 0, -1])))
    best_fit = STRATEGIES["best-fit"]
    Replay(trace, best_fit, ReplayOptions(end_s=60)).run()
    with pytest.raises(AssertionError, match=message):
        Replay(trace, best_fit, ReplayOptions(end_s=60, policies=(Spoiler(),))).run()
    if message != "not the sum of its residents":
        Replay(trace, best_fit, ReplayOptions(end_s=60, policies=(Spoiler(),), checks=False)).run()


# ── consolidations ────────────────────────────────────────────────────────────────────────────────────────────

FLEET = Fleet(
    request=np.array([[1, 2]]),
    count=np.array([[2, 0, 0, 1], [0, 1, 0, 0]]),
    free=np.array([[0, 0, 4, 9]]),
    allowed=np.array([[True, True, True, True], [True, True, True, False]]),
    deletable=np.array([True, True, True, False]),
    usd_per_hour=np.ones(4),
)
GONE = [True, True, False, False]
MOVED = [[0, 0, 2, 0], [0, 0, 1, 0]]


def plan(gone: list[bool], arrivals: list[list[int]]) -> Emptied:
    return Emptied.of(FLEET, np.array(gone), np.array(arrivals))


def test_a_consolidation_that_is_valid_passes_and_moves_as_many_pods_as_it_says() -> None:
    assert violations(FLEET, plan(GONE, MOVED), None) == []
    assert violations(FLEET, plan(GONE, MOVED), 3) == []
    assert violations(FLEET, plan(GONE, MOVED), 2) == ["more moves than the budget allows"]


@pytest.mark.parametrize(
    ("gone", "arrivals", "wrong"),
    [
        ([False, False, False, True], [[0, 0, 1, 0], [0, 0, 0, 0]], ["node number 3 must stay"]),
        (GONE, [[0, 1, 1, 0], [0, 0, 1, 0]], ["a node that goes receives pods"]),
        (GONE, [[0, 0, 2, 0], [0, 0, 0, 1]], ["a pod arrives where its rules exclude it"]),
        (GONE, [[0, 0, 1, 0], [0, 0, 1, 0]], ["pods are lost, or counted twice"]),
        (
            GONE,
            [[0, 0, 2, 0], [0, 0, 1, 1]],
            ["a pod arrives where its rules exclude it", "pods are lost, or counted twice"],
        ),
        (
            GONE,
            [[0, 0, 3, -1], [0, 0, 0, 1]],
            ["fewer pods than none arrive", "a pod arrives where its rules exclude it"],
        ),
        ([False, True, True, False], [[0, 0, 0, 0], [1, 0, 0, 0]], ["node number 0 is overfull"]),
    ],
)
def test_a_consolidation_that_is_not_is_found_out(
    gone: list[bool], arrivals: list[list[int]], wrong: list[str]
) -> None:
    assert sorted(violations(FLEET, plan(gone, arrivals), None)) == sorted(wrong)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"free": np.array([[0, -1, 4, 9]])}, "node number 1 is overfull before planning"),
        ({"usd_per_hour": np.array([1.0, 1.0, np.nan, 1.0])}, "node number 2 has no price"),
        ({"usd_per_hour": np.array([np.inf, 1.0, 1.0, 1.0])}, "node number 0 has no price"),
    ],
)
def test_a_fleet_that_cannot_be_planned_for_is_refused(columns: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(FLEET, **columns)
