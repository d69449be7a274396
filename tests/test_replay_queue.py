"""The queue of a replay: back-off by kube-scheduler's rule, and an autoscaler that buys for nobody who has room."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from placement.log import POD_BOUND, POD_RELEASED
from placement.nodes import NodeSpec
from placement.owners import HOSTNAME
from placement.pods import GpuRequest, PodRules, PodSpec
from placement.resources import CPU, MEMORY, PODS
from placement.state import ClusterState
from placement.strategies import STRATEGIES
from simulator.fleet import Elastic, Shape
from simulator.gangs import Unit
from simulator.pending import backoff_s
from simulator.replay import Outcome, Replay, ReplayOptions
from simulator.spare import Spare
from simulator.traces.trace import NodeEvent, Trace

BEST_FIT = STRATEGIES["best-fit"]
TWO, FOUR = PodSpec(((CPU, 2000),)), PodSpec(((CPU, 4000),))
TICK = PodSpec(((CPU, 500), (MEMORY, 1)))
"""Comes and goes each second on a node that holds nobody else: a change that makes no room for who waits."""
LONG_S = 100_000
END_S = 150


def node(name: str, millicores: int, *, pods: int = 50, gpus: int = 0, memory: int = 0) -> NodeSpec:
    amounts = ((CPU, millicores), (MEMORY, memory), (PODS, pods))
    return NodeSpec(name, amounts, labels=((HOSTNAME, name),), num_gpus=gpus)


def ticking(pods: list[tuple[str, PodSpec, int, int]]) -> list[tuple[str, PodSpec, int, int]]:
    """The pods, and one tick that ends in each second."""
    return sorted(pods + [(f"tick-{i}", TICK, i, i + 1) for i in range(END_S)], key=lambda pod: pod[2])


def kube_backoff_s(attempts: int) -> int:
    """``calculateBackoffDuration`` of kube-scheduler's queue, as it is written there; first 1 s, most 10 s."""
    duration = 1
    for _ in range(1, attempts):
        if duration > 10 - duration:
            return 10
        duration += duration
    return duration


def test_back_off_is_that_of_kube_scheduler() -> None:
    assert [backoff_s(n) for n in range(1, 7)] == [1, 2, 4, 8, 10, 10]
    assert [backoff_s(n) for n in range(1, 40)] == [kube_backoff_s(n) for n in range(1, 40)]


def placements(outcome: Outcome) -> dict[str, list[int]]:
    """When each pod was bound."""
    found: dict[str, list[int]] = {}
    for event in outcome.log:
        if event.kind == POD_BOUND:
            found.setdefault(event.subject, []).append(event.time_s)
    return found


def test_pods_that_lose_their_node_together_are_tried_after_one_second() -> None:
    pods = [(f"p{i}", TWO, 0, LONG_S) for i in range(12)]
    trace = Trace.of("together", [node("a", 24_000), node("b", 24_000)], pods, failures=[NodeEvent(100, "fail", "a")])
    bound = placements(Replay(trace, BEST_FIT, ReplayOptions(end_s=END_S)).run())
    assert list(bound.values()) == [[0, 101]] * 12


def test_an_evicted_pod_does_not_put_off_those_of_its_class_that_wait() -> None:
    # `late` is tried in vain at 95 (its first attempt) and at 96, when a tick has ended; `ran` loses its node at 97
    pods = ticking([("ran", TWO, 0, LONG_S), ("stays", TWO, 1, 98), ("late", TWO, 95, LONG_S)])
    nodes = [node("a", 2000), node("b", 2000), node("ticks", 500, memory=1)]
    trace = Trace.of("joins", nodes, pods, failures=[NodeEvent(97, "fail", "a"), NodeEvent(120, "repair", "a")])
    bound = placements(Replay(trace, BEST_FIT, ReplayOptions(end_s=END_S)).run())
    assert bound["late"] == [98], "tried two seconds after its second attempt, whoever joined meanwhile"
    assert bound["ran"][0] == 0
    assert 120 <= bound["ran"][1] <= 130


def starts_by_kube_rule(arrivals: list[int], releases: list[int]) -> list[int]:
    """When identical pods start that share attempts, second by second: each attempt in vain counts for all who wait,
    and the oldest backs off by how often he was tried. Something changes in each second."""
    free, ready_s, waiting = 0, 0, list[int]()
    attempts, starts = [0] * len(arrivals), [-1] * len(arrivals)
    for now in range(END_S):
        free += releases.count(now)
        if waiting and ready_s <= now:
            while waiting and free:
                starts[waiting.pop(0)] = now
                free -= 1
            for pod in waiting:
                attempts[pod] += 1
            if waiting:
                ready_s = now + kube_backoff_s(attempts[waiting[0]])
        for pod in (p for p, arrival in enumerate(arrivals) if arrival == now):
            if not waiting and free:
                starts[pod], free = now, free - 1
                continue
            attempts[pod] = 1  # its own, or the last of those who wait already
            if not waiting:
                ready_s = now + kube_backoff_s(1)
            waiting.append(pod)
    return starts


@settings(deadline=None)
@given(
    arrivals=st.lists(st.integers(1, 60), min_size=1, max_size=8).map(sorted),
    releases=st.lists(st.integers(1, 90), min_size=1, max_size=8),
)
def test_identical_pods_that_wait_back_off_as_the_oldest_of_them_would(
    arrivals: list[int], releases: list[int]
) -> None:
    taken = [(f"held-{i}", FOUR, 0, at) for i, at in enumerate(releases)]
    wanted = [(f"wants-{i}", replace(FOUR, namespace="other"), at, LONG_S) for i, at in enumerate(arrivals)]
    nodes = [node("ticks", 500, memory=1), *(node(f"n{i}", 4000) for i in range(len(releases)))]
    trace = Trace.of("shared", nodes, ticking(taken + wanted))
    bound = placements(Replay(trace, BEST_FIT, ReplayOptions(end_s=END_S - 1)).run())
    starts = [bound.get(name, [-1])[0] for name, *_ in wanted]
    assert starts == starts_by_kube_rule(arrivals, releases)


def test_every_wake_up_of_the_queue_tries_somebody() -> None:
    class Watched(Replay):
        def __init__(self, trace: Trace, options: ReplayOptions) -> None:
            super().__init__(trace, BEST_FIT, options)
            self.tried_s: list[int] = []

        def _retry(self) -> None:
            before = self.num_decisions
            super()._retry()
            assert self.num_decisions > before
            self.tried_s.append(self.time_s)

    # `late` is tried at 0, 1 and 3 and waits for 7; `early` comes at 5 and is tried at 6, which leaves two wake-ups at 7
    changes = [(f"change-{at}", replace(TICK, namespace=str(at)), 0, at) for at in (1, 3, 4, 6, 9)]
    wants = [("late", FOUR, 0, LONG_S), ("early", replace(FOUR, namespace="other"), 5, LONG_S)]
    nodes = [node("n", 4000), node("changes", 2500, memory=5)]
    replay = Watched(Trace.of("two", nodes, [*changes, ("held", TWO, 0, 99), *wants]), ReplayOptions(end_s=20))
    replay.run()
    assert replay.tried_s == [1, 3, 6, 7, 9, 15]


# ── who buys for whom ─────────────────────────────────────────────────────────────────────────────────────────

SOLD = Shape("m", ((CPU, 2000), (PODS, 50)), 1.0)


def bought(pods: list[tuple[str, PodSpec, int, int]], shape: Shape = SOLD) -> tuple[int, dict[str, list[int]]]:
    """Nodes that were ordered, and when pods were bound; a tick keeps everybody's back-off long."""
    trace = Trace.of("elastic", [node("ticks", 500, memory=1)], ticking(pods))
    replay = Replay(trace, BEST_FIT, ReplayOptions(elastic=Elastic((shape,)), end_s=END_S))
    outcome = replay.run()
    assert replay.scaler is not None
    return replay.scaler.ordered, placements(outcome)


def test_nothing_is_bought_for_a_pod_in_back_off_whose_node_has_come() -> None:
    # ordered at the scan at 10 and there at 70; the pod was tried at 65 and may be tried again at 75, after the next scan
    ordered, bound = bought([("p", TWO, 0, LONG_S)])
    assert bound["p"] == [75]
    assert ordered == 1


def test_a_node_is_bought_for_those_in_back_off_who_find_no_room_beside_the_others() -> None:
    ordered, bound = bought([("first", TWO, 0, LONG_S), ("second", TWO, 62, LONG_S)])
    assert bound["first"] == [75]
    assert ordered == 2, "one at 10, and at 70 one for the second alone, because the first has room"


def test_of_two_classes_in_back_off_one_has_room_and_the_other_is_bought_for() -> None:
    other = replace(TWO, namespace="other")
    ordered, bound = bought([("first", TWO, 0, LONG_S), ("second", other, 62, LONG_S)])
    assert ordered == 2
    assert bound["first"] == [75], "the older one"


def test_changes_that_make_no_room_keep_nobody_from_getting_a_node() -> None:
    ordered, bound = bought([("p", TWO, 3, LONG_S)])
    assert ordered == 1
    assert bound["p"][0] < 90


def test_a_node_is_bought_for_a_pod_that_asks_for_nothing() -> None:
    trace = Trace.of("nothing", [], [("p", PodSpec(()), 0, 100)])
    outcome = Replay(trace, BEST_FIT, ReplayOptions(elastic=Elastic((SOLD,)))).run()
    assert outcome.pending_s.tolist() == [70], "ordered at the scan at 10, there after a minute"


def spare(nodes: list[NodeSpec], *placed: tuple[PodSpec, str, int]) -> Spare:
    state = ClusterState()
    for each in nodes:
        state.add_node(each)
    for i, (spec, name, devices) in enumerate(placed):
        state.bind(f"uid-{i}", spec, name, devices)
    return Spare(state.snapshot(), BEST_FIT)


def test_room_in_thought_is_given_once() -> None:
    room = spare([node("a", 6000), node("b", 3000)], (TWO, "a", 0))
    assert [room.takes(FOUR, 3), room.takes(TWO, 3), room.takes(PodSpec(((CPU, 1000),)), 3)] == [1, 1, 1]


def test_a_gang_in_thought_takes_all_of_its_room_or_none() -> None:
    gang: Unit = (TWO, TWO, FOUR)
    room = spare([node("a", 6000), node("b", 4000), node("c", 4000)])
    assert room.takes(gang, 5) == 1
    assert room.takes(TWO, 5) == 3, "what the second gang tried is free again"


def test_a_gang_that_asks_for_what_no_node_offers_yet_takes_nothing() -> None:
    """Its first pod had no room when it was tried, so nobody has asked for what the second wants."""
    fpga = PodSpec(((CPU, 1000), ("example.com/fpga", 1)))
    room = spare([node("a", 6000)])
    assert room.takes((TWO, fpga), 3) == 0
    assert room.takes(TWO, 5) == 3


@pytest.mark.parametrize(
    ("gpu", "fits"),
    [(GpuRequest(1), 1), (GpuRequest(2), 0), (GpuRequest(1, 400), 3), (GpuRequest(1, 600), 2), (GpuRequest(1, 700), 1)],
)
def test_devices_in_thought_are_counted_one_by_one(gpu: GpuRequest, fits: int) -> None:
    share = PodSpec(((CPU, 100),), gpu=GpuRequest(1, 400))
    room = spare([node("a", 8000, gpus=2)], (share, "a", 1))  # 600 and 1,000 are free
    assert room.takes(PodSpec(((CPU, 100),), gpu=gpu), 9) == fits


def test_pods_that_keep_apart_count_one_to_a_node() -> None:
    apart = PodSpec(((CPU, 1000),), owner="o", pod_rules=PodRules(max_per_node=1))
    assert spare([node("a", 8000), node("b", 8000)]).takes(apart, 5) == 2


def test_thought_changes_nothing() -> None:
    state = ClusterState()
    state.add_node(node("a", 8000, gpus=1))
    free, version = state.taken.copy(), state.version
    Spare(state.snapshot(), BEST_FIT).takes(PodSpec(((CPU, 100),), gpu=GpuRequest(1, 400)), 2)
    assert (state.taken == free).all()
    assert np.unique(state.gpu_free[0]).max() == 1000
    assert state.version == version


class Moves:
    """Moves a pod to a row at its one act; keeps whether it could."""

    every_s = 100

    def __init__(self, *moves: tuple[str, int]) -> None:
        self.moves = moves
        self.could: list[bool] = []

    def act(self, replay: Replay) -> None:
        if replay.time_s == self.every_s:
            self.could = [replay.migrate(uid, row, restart_s=30, checkpoint_s=60) for uid, row in self.moves]


def test_a_moved_pod_stays_for_what_is_left_and_lost_and_one_that_cannot_go_loses_nothing() -> None:
    pods = [("moves", TWO, 0, 1000), ("endless", TWO, 0, -1), ("cannot", TWO, 0, 1000)]
    full = ("full", PodSpec(((CPU, 9000),)), 0, 2000)
    trace = Trace.of("moves", [node("a", 6000), node("b", 8000), node("c", 9000)], [*pods, full])
    policy = Moves(("moves", 1), ("endless", 1), ("cannot", 2))
    replay = Replay(trace, BEST_FIT, ReplayOptions(end_s=1500, policies=(policy,)))
    outcome = replay.run()
    assert policy.could == [True, True, False]
    assert (outcome.num_evictions, outcome.lost_pod_s) == (2, 2 * (60 + 30))
    released = {event.subject: event.time_s for event in outcome.log if event.kind == POD_RELEASED}
    assert released == {"moves": 1000 + 60 + 30, "endless": 100, "cannot": 1000}
    assert [replay.placed_s[replay.pod_of[uid]] for uid in ("moves", "endless", "cannot")] == [100, 100, 0]


def test_a_pod_that_waits_backs_off_longer_after_its_second_attempt() -> None:
    pods = [("a", PodSpec(((CPU, 3000),)), 0, 13), ("b", PodSpec(((CPU, 1000),)), 0, 12), ("waits", TWO, 10, LONG_S)]
    outcome = Replay(Trace.of("waits", [node("n", 4000)], pods), BEST_FIT, ReplayOptions(end_s=END_S)).run()
    assert placements(outcome)["waits"] == [14], "tried at 10 and at 12, when one has ended, and then after two seconds"


@pytest.mark.parametrize(("learn_from", "num_pods"), [(2, 2), (64, 0)])
def test_what_was_learned_before_anybody_left_is_learned_anew_when_the_first_one_does(
    learn_from: int, num_pods: int
) -> None:
    pods = [("a", TWO, 0, 10), ("b", TWO, 1, 20), ("c", TWO, 2, LONG_S), ("d", TWO, 15, LONG_S)]
    options = ReplayOptions(end_s=30, learn_from=learn_from)
    replay = Replay(Trace.of("leaves", [node("n", 16_000)], pods), STRATEGIES["priced"], options)
    replay.run()
    workload = replay.state.knowledge.workload
    assert workload is not None
    assert (sum(workload.counts), workload.leaving) == (num_pods, learn_from == 2)


def test_what_a_replay_learns_of_prices_is_of_the_nodes_that_are_there() -> None:
    share = PodSpec(((CPU, 100),), GpuRequest(1, 500))
    nodes = [node("gone", 4000, gpus=2), node("n", 4000, gpus=1), node("never", 4000)]
    pods = [(f"p{i}", share, 10 * i, LONG_S) for i in range(4)]

    def learned_of(nodes: list[NodeSpec], failures: list[NodeEvent]) -> object:
        options = ReplayOptions(end_s=60, learn_from=2)
        trace = Trace.of("prices", nodes, pods, failures=failures)
        replay = Replay(trace, STRATEGIES["priced"], options)
        replay.run()
        learned = replay.state.knowledge.prices
        assert learned is not None
        return learned.groups, learned.worth.tolist()

    assert learned_of(nodes, [NodeEvent(5, "remove", "gone")]) == learned_of(nodes[1:], []) != learned_of(nodes, [])
