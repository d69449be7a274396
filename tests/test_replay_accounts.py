"""What replays count: small cases worked out by hand, each a rule that was broken once."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from placement.log import NODE_ADDED
from placement.nodes import NodeSpec
from placement.owners import HOSTNAME
from placement.pods import GpuRequest, PodSpec
from placement.resources import CPU, MEMORY, PODS
from placement.strategies import STRATEGIES
from simulator.cost import PriceBook, parts_usd
from simulator.fleet import Elastic, Shape
from simulator.measures import measure
from simulator.replay import Interruptions, Outcome, Replay, ReplayOptions
from simulator.traces.trace import NodeEvent, Trace

BEST_FIT = STRATEGIES["best-fit"]


def node(name: str, cores: int = 2, *, spot: bool = False) -> NodeSpec:
    amounts = ((CPU, cores * 1000), (MEMORY, 64 << 30), (PODS, 50))
    return NodeSpec(name, amounts, labels=((HOSTNAME, name),), spot=spot)


def pod(cores: float, *, gib: int = 1, priority: int = 0) -> PodSpec:
    """A class of its own for every size."""
    return PodSpec(((CPU, int(cores * 1000)), (MEMORY, gib << 30)), priority=priority)


def sold(cores: int = 2, *, limit: int = 0, spot_usd: float = 0.0) -> Shape:
    return Shape("m", ((CPU, cores * 1000), (MEMORY, 64 << 30), (PODS, 50)), 1.0, spot_usd, limit=limit)


def replayed(trace: Trace, **options: object) -> Outcome:
    return Replay(trace, BEST_FIT, ReplayOptions(**options)).run()  # type: ignore[arg-type]  # options by name


def waits(trace: Trace, outcome: Outcome) -> dict[str, int]:
    return dict(zip(trace.pods.name.tolist(), outcome.pending_s.tolist(), strict=True))


def test_room_that_came_during_a_back_off_is_tried_when_that_ends() -> None:
    # `late` was tried at 0, 1 and 3 and may be tried again at 7; the room comes at 4, when `early` may be tried at once.
    trace = Trace.of(
        "back-off",
        [node("n", 3)],
        [
            ("long", pod(1, gib=4), 0, 100),
            ("first", pod(0.25, gib=5), 0, 1),
            ("second", pod(0.25, gib=6), 0, 2),
            ("third", pod(1.5, gib=7), 0, 4),
            ("late", pod(1, gib=2), 0, 50),
            ("early", pod(0.6, gib=1), 3, 50),
        ],
    )
    assert waits(trace, replayed(trace)) == {"long": 0, "first": 0, "second": 0, "third": 0, "late": 7, "early": 1}


def test_a_pod_that_ran_and_was_evicted_is_not_counted_as_never_placed() -> None:
    trace = Trace.of("fill", [node("n")], [("low", pod(2), 0, -1), ("high", pod(2, priority=100), 1, -1)])
    outcome = replayed(trace, retries=False, departures=False)
    assert (outcome.num_placed, outcome.unplaced, outcome.num_preemptions) == (2, {}, 1)


@pytest.mark.parametrize(
    ("high", "options", "num_preemptions"),
    [
        (pod(2, priority=100), {}, 1),
        (replace(pod(2, priority=100), preempts=False), {}, 0),
        (pod(2, priority=100), {"preemption": False}, 0),
        (pod(2, gib=2), {}, 0),
    ],
    ids=["more important", "polite", "switched off", "as important"],
)
def test_only_who_may_and_is_more_important_takes_anothers_place(
    high: PodSpec, options: dict[str, bool], num_preemptions: int
) -> None:
    trace = Trace.of("full", [node("n")], [("low", pod(2), 0, 100), ("high", high, 1, 10)])
    outcome = replayed(trace, **options)
    assert outcome.num_preemptions == num_preemptions
    assert (waits(trace, outcome)["high"] == 0) is bool(num_preemptions)


@pytest.mark.parametrize("seed", range(3))
def test_an_elastic_fleet_gets_no_interrupted_node_back_for_nothing(seed: int) -> None:
    trace = Trace.of("spot", [], [("pod", pod(2), 0, 9000)])
    elastic = Elastic((sold(limit=1, spot_usd=0.3),), spot_share=1.0)
    replay = Replay(trace, BEST_FIT, ReplayOptions(elastic=elastic, spot=Interruptions(1.0, return_s=600), seed=seed))
    outcome = replay.run()
    assert replay.scaler is not None
    assert outcome.timeline.peak == {"m": 1}, "more nodes than the shape's limit"
    assert replay.scaler.alive["m"] == len(replay.state.row_of)


def test_a_repaired_spot_node_is_interrupted_as_often_as_one_that_never_failed() -> None:
    def interruptions(failures: list[NodeEvent]) -> int:
        trace = Trace.of("spot", [node("n", spot=True)], [("pod", pod(1), 0, -1)], failures=failures)
        spot = Interruptions(0.5, return_s=1)
        return replayed(trace, spot=spot, end_s=3_600_000).num_evictions - len(failures) // 2

    flapping = [NodeEvent(100 * i, ("repair", "fail")[i % 2], "n") for i in range(1, 41)]
    assert interruptions(flapping) == pytest.approx(interruptions([]), rel=0.15)


def test_an_interrupted_node_that_the_trace_repairs_is_not_brought_back_twice() -> None:
    failures = [NodeEvent(at, "repair", "n") for at in range(0, 36_000, 60)]
    trace = Trace.of("spot", [node("n", spot=True)], [("pod", pod(1), 0, 36_000)], failures=failures)
    outcome = replayed(trace, spot=Interruptions(1.0, return_s=600), end_s=36_000)
    assert outcome.num_evictions > 0
    assert max(sample.num_nodes for sample in outcome.timeline.series) == 1


def test_an_interrupted_node_that_the_trace_takes_away_meanwhile_stays_away_until_the_trace_brings_it() -> None:
    failures = [NodeEvent(3000, "remove", "n"), NodeEvent(9000, "add", "n")]
    trace = Trace.of("spot", [node("n", spot=True)], [("pod", pod(1), 0, 36_000)], failures=failures)
    outcome = replayed(
        trace, spot=Interruptions(3600.0, return_s=600), end_s=12_000
    )  # there for a second, away for ten minutes
    came = [event.time_s for event in outcome.log if event.kind == NODE_ADDED]
    assert [at for at in came if 3000 <= at < 9000] == []
    assert min(at for at in came if at >= 9000) == 9000
    assert len(came) > 8


def test_a_node_that_a_gang_was_tried_on_in_vain_still_goes_when_it_is_idle() -> None:
    trace = Trace.of("gang", [], [("alone", pod(2), 0, 100), ("g-1", pod(2), 200, 900), ("g-2", pod(2), 200, 900)])
    trace = trace.but(pods=replace(trace.pods, gang=np.array([-1, 0, 0])))
    outcome = replayed(trace, elastic=Elastic((sold(limit=1),)), end_s=775)
    # ordered at 10, there at 70, empty at 170, gone at 770
    assert sum(outcome.timeline.node_s.values()) == 700


def test_what_befell_nodes_before_the_first_arrival_stands_when_it_comes() -> None:
    failures = [NodeEvent(10, "fail", "n"), NodeEvent(1500, "repair", "n")]
    trace = Trace.of("early", [node("n"), node("m")], [("pod", pod(1), 1000, 2000)], failures=failures)
    outcome = replayed(trace)
    times = [event.time_s for event in outcome.log]
    assert times[1:] == sorted(times[1:]), "the log runs backwards"
    assert sum(outcome.timeline.node_s.values()) == 1000 + 500


def test_waits_of_the_warm_up_are_not_measured() -> None:
    pods = [
        ("first", pod(2), 0, 100),
        ("second", pod(2), 1, 200),
        ("third", pod(2), 400, 500),
        ("last", pod(2), 600, -1),
    ]
    trace = Trace.of("warm", [node("n")], pods)
    metrics = [measure(replayed(trace, warmup_s=s), trace, PriceBook())["metrics"] for s in (0, 300)]
    assert [m["pending_s_p99"] > 90 for m in metrics] == [True, False]
    assert [m["placed"] for m in metrics] == [4, 4]


def test_nodes_of_ones_own_cost_while_they_belong_to_the_fleet_also_while_they_are_down() -> None:
    fleet = [node("gone"), node("came", 4), node("down", 8), node("drained", 16)]
    events = [(0, "remove", "came"), (500, "fail", "down"), (3600, "remove", "gone"), (3600, "add", "came")]
    events += [
        (5400, "drain", "drained"),
        (5400, "remove", "drained"),
        (6000, "repair", "drained"),
        (9999, "add", "gone"),
    ]
    failures = [NodeEvent(*event) for event in events]
    trace = Trace.of("log", fleet, [("pod", pod(1), 0, 7200)], failures=failures)
    row = measure(replayed(trace, end_s=7200, warmup_s=1800), trace, PriceBook())["metrics"]
    seconds = (1800, 3600, 5400, 4800)
    usd = sum(s / 3600 * parts_usd(each, PriceBook().rates) for s, each in zip(seconds, fleet, strict=True))
    assert row["usd"] == pytest.approx(usd, abs=1e-5)


def test_spot_nodes_of_a_shape_that_the_price_book_does_not_know_cost_less_than_others() -> None:
    fleet = [
        replace(node("sold"), shape="m"),
        replace(node("dear"), shape="odd"),
        replace(node("cheap", spot=True), shape="odd"),
    ]
    trace = Trace.of("odd", fleet, [("pod", pod(1), 0, 3600)])
    book = PriceBook({"m": sold()})
    row = measure(replayed(trace), trace, book)["metrics"]
    assert row["usd_on_demand"] == pytest.approx(1.0 + parts_usd(fleet[1], book.rates), abs=1e-5)
    assert row["usd_spot"] == pytest.approx(parts_usd(fleet[2], book.rates), abs=1e-5)
    assert row["usd_spot"] < row["usd_on_demand"] - 1.0


def test_free_devices_of_a_model_that_came_in_place_of_another_are_no_fragments() -> None:
    wants_new = PodSpec(((CPU, 1000),), GpuRequest(1, 1000, ("new",)))
    fleet = [replace(node(name), num_gpus=2, gpu_model=name) for name in ("old", "new")]
    swap = [NodeEvent(0, "remove", "new"), NodeEvent(50, "remove", "old"), NodeEvent(50, "add", "new")]
    trace = Trace.of("models", fleet, [("first", wants_new, 0, -1), ("last", pod(1), 100, -1)], failures=swap)
    series = replayed(trace, samples=4).timeline.series
    fragments = {sample.time_s: sample.fragmented_gpu_milli for sample in series}
    assert fragments[25] == 2000.0, "nobody accepts what is there"
    assert fragments[75] == 0.5 * 1000.0, "one device is free, and half of the pods ask for none"


def test_samples_stay_few_however_long_after_the_last_arrival_a_replay_goes_on() -> None:
    trace = Trace.of("long", [node("n")], [("pod", pod(1), 0, 30 * 86_400)])
    outcome = replayed(trace, samples=100)
    assert len(outcome.timeline.series) <= 402
    assert outcome.timeline.series[-1].time_s == 30 * 86_400
