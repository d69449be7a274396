"""Real use in replays: throttling, kills and restarts, forecasts from the past, and the two mechanisms."""

from __future__ import annotations

import numpy as np
import pytest

from placement.nodes import NodeSpec
from placement.pods import PodSpec
from placement.resources import CPU, MEMORY, PODS
from placement.strategies import STRATEGIES
from placement.usage import STEP_S
from simulator.replay import Replay, ReplayOptions
from simulator.trace import Trace, Usage
from simulator.usage_truth import Reclaiming, Rightsizing, UsageLearner, UsageTruth, on_reclaimed

GIB = 2**30
HOUR_S = 3600
NODE = NodeSpec("n", ((CPU, 4000), (MEMORY, 8 * GIB), (PODS, 110)))


def _spec(name: str, cpu: int = 1000, gib: int = 2) -> PodSpec:
    return PodSpec(tuple(sorted(((CPU, cpu), (MEMORY, gib * GIB)))), owner=f"StatefulSet/{name}")


def _trace(specs: list[PodSpec], cpu: list[int], gib: list[float], *, hours: int = 2, nodes: int = 1) -> Trace:
    """One pod of each class from the start, of constant use."""
    fleet = [NodeSpec(f"n{i}", NODE.allocatable) for i in range(nodes)]
    made = Trace.of("t", fleet, [(f"p{i}", s, 0, hours * HOUR_S) for i, s in enumerate(specs)])
    steps = hours * HOUR_S // STEP_S + 1
    pod = np.repeat(np.arange(len(specs)), steps)
    time_s = np.tile(np.arange(steps) * STEP_S, len(specs))
    memory = (np.array(gib) * GIB).astype(np.int64)
    return made.but(usage=Usage(pod, time_s, np.array(cpu, np.int64)[pod], memory[pod]))


def _learner(truth: UsageTruth) -> UsageLearner:
    """With a factor that was fitted elsewhere: a single workload has no outcomes to fit one from."""
    return UsageLearner(truth, factor=np.array([1.5, 1.2]), is_calibrated=True)


def _run(trace: Trace, *policies, strategy: str = "best-fit", end_s: int = -1):
    return Replay(trace, STRATEGIES[strategy], ReplayOptions(policies=policies, end_s=end_s)).run()


def test_a_node_over_its_cpu_throttles_what_exceeds_it_and_counts_the_lost_work():
    trace = _trace([_spec("a"), _spec("b")], [3000, 3000], [1, 1])
    truth = UsageTruth(trace.usage)
    _run(trace, truth, end_s=HOUR_S)
    assert truth.over_cpu_steps == truth.node_steps == HOUR_S // STEP_S
    assert truth.throttled_core_s == pytest.approx(2.0 * HOUR_S)
    assert truth.used_core_s == pytest.approx(4.0 * HOUR_S)


def test_a_node_over_its_memory_kills_who_exceeds_his_request_and_its_owner_restarts_it():
    trace = _trace([_spec("honest", gib=5), _spec("greedy")], [100, 100], [4.5, 6.0])
    truth = UsageTruth(trace.usage)
    outcome = _run(trace, truth, end_s=HOUR_S)
    assert truth.oom_kills == outcome.num_evictions > 0
    assert truth.over_memory_steps == truth.oom_kills
    assert outcome.lost_pod_s > 0


def test_forecasts_come_from_the_past_alone_and_lower_what_is_expected():
    trace = _trace([_spec("idle", cpu=3000)], [300], [0.5], hours=12)
    truth = UsageTruth(trace.usage)
    learner = _learner(truth)
    replay = Replay(trace, STRATEGIES["predicted"], ReplayOptions(policies=(truth, learner), end_s=2 * HOUR_S))
    replay.run()
    assert not replay.state.knowledge.forecasts.of, "two hours are too little to forecast from"
    replay = Replay(trace, STRATEGIES["predicted"], ReplayOptions(policies=(truth, learner), end_s=8 * HOUR_S))
    replay.run()
    (forecast,) = replay.state.knowledge.forecasts.of.values()
    assert 300 <= forecast.cpu < 1000


def test_rightsizing_lowers_requests_of_pods_to_come_but_never_of_guaranteed_ones():
    old, kept = _spec("web", cpu=3000), PodSpec(((CPU, 800), (MEMORY, GIB)), owner="StatefulSet/db", guaranteed=True)
    trace = _trace([old, kept], [300, 100], [0.5, 0.5], hours=12)
    end = 12 * HOUR_S
    later = Trace.of(
        "t",
        [NodeSpec("n", ((CPU, 6000), (MEMORY, 8 * GIB), (PODS, 110)))],
        [("p0", old, 0, end), ("p1", kept, 0, end), ("q0", old, 8 * HOUR_S, end), ("q1", kept, 8 * HOUR_S, end)],
    ).but(usage=trace.usage)
    truth = UsageTruth(later.usage)
    learner = _learner(truth)
    replay = Replay(
        later,
        STRATEGIES["best-fit"],
        ReplayOptions(policies=(truth, learner, Rightsizing(learner)), end_s=9 * HOUR_S),
    )
    assert replay.run().num_placed == 4, "both more fit only because one asks for less"
    assert replay.state.residents["q0"].spec.amount(CPU) < 1500
    assert replay.state.residents["q1"].spec == kept


def test_reclaimed_capacity_is_sold_and_taken_back_when_use_rises():
    trace = _trace(
        [_spec("web", cpu=3500), on_reclaimed(_spec("batch", cpu=1000, gib=1))], [200, 800], [0.5, 0.5], hours=12
    )
    usage = trace.usage
    risen = (usage.pod == 0) & (usage.time_s >= 9 * HOUR_S)
    trace = trace.but(
        usage=Usage(usage.pod, usage.time_s, np.where(risen, 3500, usage.cpu_millicores), usage.memory_bytes)
    )
    truth = UsageTruth(trace.usage)
    reclaiming = Reclaiming(truth)
    replay = Replay(
        trace,
        STRATEGIES["best-fit"],
        ReplayOptions(policies=(truth, _learner(truth), reclaiming), end_s=9 * HOUR_S + 600),
    )
    outcome = replay.run()
    assert outcome.num_placed == 2
    assert truth.used_reclaimed_core_s > 0
    assert reclaiming.evictions == 1
    assert "p1" not in replay.state.residents
    assert truth.over_cpu_guaranteed_steps == 0
