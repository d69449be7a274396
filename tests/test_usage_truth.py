"""Real use in replays: throttling, kills and restarts, forecasts from the past, and the two mechanisms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from placement.columns import Columns, Demand
from placement.errors import ConfigError
from placement.knowledge import Forecast, Forecasts, Knowledge
from placement.learning.packed import share_over
from placement.learning.prediction import REQUEST, Rungs
from placement.learning.reclaim import is_reclaimed
from placement.learning.usage import STEP_S
from placement.nodes import NodeSpec
from placement.pods import PodSpec
from placement.resources import CPU, MEMORY, PODS
from placement.scorers import Hot
from placement.state import ClusterState
from placement.strategies import STRATEGIES
from simulator.cli.simulate import never_placed
from simulator.compare import compare
from simulator.comparison import Question
from simulator.fleet import Elastic, Shape
from simulator.replay import GIVE_UP_S, Interruptions, Replay, ReplayOptions
from simulator.report import to_html
from simulator.traces.trace import NodeEvent, Trace, Usage
from simulator.usage.reclaiming import Reclaiming, batch_on_reclaimed, on_reclaimed
from simulator.usage.rightsizing import SIZERS, Restoring, Rightsizing
from simulator.usage.rollouts import Rollouts
from simulator.usage.usage_learner import HORIZON, UsageLearner
from simulator.usage.usage_truth import UsageTruth

GIB = 2**30
HOUR_S = 3600
NODE = NodeSpec("n", ((CPU, 4000), (MEMORY, 8 * GIB), (PODS, 110)))


def forecasts_of(replay: Replay) -> Forecasts:
    found = replay.state.knowledge.forecasts
    assert found is not None
    return found


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
    return UsageLearner(truth, factor=1.2)


def _run(trace: Trace, *policies, strategy: str = "best-fit", end_s: int = -1):
    return Replay(trace, STRATEGIES[strategy], ReplayOptions(policies=policies, end_s=end_s)).run()


def test_a_node_over_its_cpu_throttles_what_exceeds_it_and_counts_the_lost_work():
    trace = _trace([_spec("a"), _spec("b")], [3000, 3000], [1, 1])
    truth = UsageTruth(trace.usage)
    _run(trace, truth, end_s=HOUR_S)
    assert truth.over_cpu_steps == truth.node_steps == HOUR_S // STEP_S
    assert truth.throttled_core_s == pytest.approx(2.0 * HOUR_S)
    assert truth.used_core_s == pytest.approx(4.0 * HOUR_S)


def test_the_worst_day_is_not_averaged_away_nor_made_of_a_moment():
    trace = _trace([_spec("a"), _spec("b")], [1000, 1000], [1, 1], hours=50)
    usage = trace.usage
    busy = (usage.time_s >= 26 * HOUR_S) & (usage.time_s < 27 * HOUR_S) | (usage.time_s >= 49 * HOUR_S)
    truth = UsageTruth(replace(usage, cpu_millicores=np.where(busy, 3000, 1000)), measured_from_s=HOUR_S)
    _run(trace, truth, end_s=49 * HOUR_S)
    told = truth.summary()
    assert told["over_cpu_worst_day"] == pytest.approx(
        1 / 24
    )  # of the hours 25 to 49; hour 49 is one step of the next day
    assert told["over_cpu_guaranteed_share"] == pytest.approx(13 / (48 * 12 + 1))


def test_a_node_over_its_memory_kills_who_exceeds_his_request_and_its_owner_restarts_it():
    trace = _trace([_spec("honest", gib=5), _spec("greedy")], [100, 100], [4.5, 6.0])
    truth = UsageTruth(trace.usage)
    outcome = _run(trace, truth, end_s=HOUR_S)
    assert truth.oom_kills == outcome.num_evictions > 0
    assert truth.over_memory_steps == truth.oom_kills
    assert outcome.lost_pod_s > 0


def test_forecasts_come_from_the_past_alone_and_lower_what_is_expected():
    trace = _trace([_spec("idle", cpu=3000)], [300], [0.5], hours=48)
    truth = UsageTruth(trace.usage)
    learner = _learner(truth)
    replay = Replay(trace, STRATEGIES["predicted"], ReplayOptions(policies=(truth, learner), end_s=20 * HOUR_S))
    replay.run()
    (forecast,) = forecasts_of(replay).of.values()
    assert (forecast.rung, forecast.cpu) == (REQUEST, 3000), "twenty hours are too little to forecast from"
    replay = Replay(trace, STRATEGIES["predicted"], ReplayOptions(policies=(truth, learner), end_s=26 * HOUR_S))
    replay.run()
    (forecast,) = forecasts_of(replay).of.values()
    assert 300 <= forecast.cpu < 1000


def test_rightsizing_lowers_requests_of_pods_to_come_but_never_of_guaranteed_ones():
    old, kept = _spec("web", cpu=3000), PodSpec(((CPU, 800), (MEMORY, GIB)), owner="StatefulSet/db", guaranteed=True)
    trace = _trace([old, kept], [300, 100], [0.5, 0.5], hours=48)
    end = 48 * HOUR_S
    later = Trace.of(
        "t",
        [NodeSpec("n", ((CPU, 6000), (MEMORY, 8 * GIB), (PODS, 110)))],
        [("p0", old, 0, end), ("p1", kept, 0, end), ("q0", old, 26 * HOUR_S, end), ("q1", kept, 26 * HOUR_S, end)],
    ).but(usage=trace.usage)
    truth = UsageTruth(later.usage)
    learner = _learner(truth)
    replay = Replay(
        later,
        STRATEGIES["best-fit"],
        ReplayOptions(policies=(truth, learner, Rightsizing(learner)), end_s=27 * HOUR_S),
    )
    assert replay.run().num_placed == 4, "both more fit only because one asks for less"
    assert replay.state.residents["q0"].spec.amount(CPU) < 1500
    assert replay.state.residents["q1"].spec == kept


def test_reclaimed_capacity_is_sold_and_taken_back_when_use_rises():
    trace = _trace(
        [_spec("web", cpu=3500), on_reclaimed(_spec("batch", cpu=1000, gib=1))], [200, 800], [0.5, 0.5], hours=48
    )
    usage = trace.usage
    risen = (usage.pod == 0) & (usage.time_s >= 30 * HOUR_S)
    trace = trace.but(
        usage=Usage(usage.pod, usage.time_s, np.where(risen, 3500, usage.cpu_millicores), usage.memory_bytes)
    )
    truth = UsageTruth(trace.usage)
    reclaiming = Reclaiming(truth)
    replay = Replay(
        trace,
        STRATEGIES["best-fit"],
        ReplayOptions(policies=(truth, _learner(truth), reclaiming), end_s=30 * HOUR_S + 600),
    )
    outcome = replay.run()
    assert outcome.num_placed == 2
    assert truth.used_reclaimed_core_s > 0
    assert reclaiming.evictions == 1
    assert "p1" not in replay.state.residents
    assert truth.over_cpu_guaranteed_steps == 0


def test_a_comparison_of_a_trace_with_usage_tells_of_contention_and_its_report_shows_it(tmp_path):
    trace = _trace([_spec("a"), _spec("b")], [3000, 3000], [1, 1], hours=4)
    trace.save(tmp_path / "busy.ullage")
    question = Question((str(tmp_path / "busy.ullage"),), ("best-fit", "predicted"), until="empty")
    assert "no time was measured" in compare(replace(question, until="arrivals"), jobs=1).headline
    result = compare(question, jobs=1)
    metrics = result.rows[0]["metrics"]
    assert metrics["over_cpu_share"] == 1.0
    assert metrics["throttled_core_hours"] == pytest.approx(2.0 * 4, rel=0.05)
    assert result.rows[0]["use"]["map"]["nodes"] == ["n0"]
    page = to_html(result)
    assert all(f">{head}</h2>" in page for head in ("Contention", "Throttled", "Hot nodes · best-fit"))
    assert "Throttled core-hours" in page


def test_a_mechanism_needs_usage(tmp_path):
    Trace.of("t", [NODE], [("p", _spec("a"), 0, 100)]).save(tmp_path / "t.ullage")
    with pytest.raises(ConfigError, match="records no usage"):
        compare(Question((str(tmp_path / "t.ullage"),), ("best-fit",), mechanism="rightsized"), jobs=1)


def test_every_workload_is_rolled_out_once_a_week():
    trace = _trace([_spec("a"), _spec("b")], [100, 100], [1, 1], hours=24 * 15)
    outcome = _run(trace, Rollouts(seed=3), end_s=14 * 24 * HOUR_S)
    assert outcome.num_evictions == 4


class Grows:
    """Raises what the first pod asks for when it comes again, as right-sizing may."""

    every_s = 600

    def act(self, replay: Replay) -> None:
        replay.specs[0] = replace(replay.specs[0], request=_spec("", cpu=2000).request)


@pytest.mark.parametrize("who", ["rollouts", "kills"])
def test_a_pod_whose_replacement_preempts_the_next_to_be_evicted_leaves_nobody_to_evict(who):
    specs = [replace(_spec("grows", cpu=1000), priority=100), _spec("preempted", cpu=3000)]
    trace = _trace(specs, [100, 100], [9, 9] if who == "kills" else [1, 1], hours=3)
    evicts = UsageTruth(trace.usage) if who == "kills" else Rollouts(hours=1)
    outcome = _run(trace, Grows(), evicts, end_s=HOUR_S)
    assert outcome.num_preemptions == 1
    assert outcome.num_evictions > 1


def test_packing_the_past_asks_for_less_than_peaks_where_they_do_not_coincide():
    steps = 12 * 40
    rng = np.random.default_rng(0)
    use = np.where(rng.random((60, steps)) < 0.02, 4000.0, 300.0).astype(np.float32)
    sized = np.full(60, 320.0)

    def over(scale):
        shares = np.stack([sized * scale / 16_000, np.full(60, 0.01)])
        return share_over(use, shares, 16_000)

    assert over(1.0) > over(4.0)
    assert over(4.0) < 0.01
    together = np.repeat(use[:1], 60, axis=0)
    assert share_over(together, np.stack([sized * 4 / 16_000, np.full(60, 0.01)]), 16_000) > 0.01


@pytest.mark.parametrize("sizer", ["vpa", "vpa-tuned", "packed"])
def test_each_sizer_lowers_what_restarts_and_waits_for_its_past(sizer):
    trace = _trace([_spec("idle", cpu=3000)], [300], [0.5], hours=24 * 9)
    truth = UsageTruth(trace.usage)
    learner = _learner(truth)
    sizing = Rightsizing(learner, sizer, node_cpu=4000, node_memory=8 * GIB, tuned_at_s=7 * 24 * HOUR_S)
    policies = (truth, learner, sizing, Rollouts(seed=3))
    replay = Replay(trace, STRATEGIES["best-fit"], ReplayOptions(policies=policies, end_s=2 * HOUR_S))
    replay.run()
    assert replay.specs[0] == trace.specs[0], "two hours are too little"
    replay = Replay(trace, STRATEGIES["best-fit"], ReplayOptions(policies=policies, end_s=8 * 24 * HOUR_S))
    replay.run()
    assert 300 <= replay.specs[0].amount(CPU) < 1500


def test_a_sizer_that_does_not_exist_is_named():
    with pytest.raises(ConfigError, match="'magic' is not one of forecast, vpa, vpa-tuned, packed"):
        Rightsizing(_learner(UsageTruth(Usage.empty())), "magic")


def test_coach_forecasts_each_part_of_the_day_from_the_past_of_that_part():
    trace = _trace([_spec("nightly", cpu=3000)], [300], [0.5], hours=24 * 4)
    usage = trace.usage
    busy = usage.time_s // HOUR_S % 24 < 4
    trace = trace.but(
        usage=Usage(usage.pod, usage.time_s, np.where(busy, 2000, usage.cpu_millicores), usage.memory_bytes)
    )
    truth = UsageTruth(trace.usage)
    learner = UsageLearner(truth, Rungs.of_history(HORIZON, parts=True), factor=1.0)
    replay = Replay(trace, STRATEGIES["coach-6x4h"], ReplayOptions(policies=(truth, learner), end_s=72 * HOUR_S))
    replay.run()
    (forecast,) = forecasts_of(replay).of.values()
    assert [cpu for cpu, _ in forecast.windows] == [2000, 300, 300, 300, 300, 300]


def test_pods_without_a_forecast_heat_nothing_beyond_what_their_requests_keep_free():
    state = ClusterState(knowledge=Knowledge.neutral())
    state.add_node(NODE)
    state.bind("a", _spec("unknown", cpu=3000), "n")
    columns, hot = Columns(state), Hot()
    rows = np.array([0])
    spec = _spec("new")
    assert hot.score(columns, Demand(spec, state.delta(spec)), rows).tolist() == [0]
    busy = Forecasts({"default/StatefulSet/new": Forecast(3000, GIB, 2000, GIB, rung="history")})
    state.learn(state.knowledge.but(forecasts=busy))
    columns = Columns(state)
    assert hot.score(columns, Demand(spec, state.delta(spec)), rows)[0] < 0


@pytest.mark.parametrize("sizer", SIZERS)
def test_the_rung_falls_when_nodes_are_crowded_and_what_was_lowered_gets_its_request_back(sizer):
    specs = [_spec("a", cpu=3000), _spec("b", cpu=3000)]
    trace = _trace(specs, [800, 800], [0.5, 0.5], hours=24 * 9, nodes=2)
    usage = trace.usage
    risen_s = 8 * 24 * HOUR_S + 1800
    cpu = np.where(usage.time_s >= risen_s, 2900, usage.cpu_millicores)
    trace = trace.but(usage=Usage(usage.pod, usage.time_s, cpu, usage.memory_bytes))
    truth = UsageTruth(trace.usage)
    learner = _learner(truth)
    sizing = Rightsizing(learner, sizer, node_cpu=4000, node_memory=8 * GIB, tuned_at_s=5 * 24 * HOUR_S)
    policies = (truth, learner, sizing, Restoring(sizing), Rollouts(seed=3))
    options = ReplayOptions(policies=policies, end_s=risen_s + 12 * HOUR_S)
    replay = Replay(trace, STRATEGIES["best-fit"], options)
    outcome = replay.run()
    assert truth.over_cpu_steps > 0, "both were lowered onto one node"
    ((fell_s, rung, _, over),) = learner.fallen
    assert rung == "request"
    assert 0 < fell_s - risen_s <= 3 * HOUR_S
    assert over > learner.budget
    assert sizing.restored == 2, (
        "the first comes back to the same node, where its request still fits beside a lowered one"
    )
    assert outcome.num_evictions > 1
    assert {r.row for r in replay.state.residents.values()} == {0, 1}
    assert truth.series[-1][2] == 0, "nothing is crowded any more"


def test_guaranteed_pods_and_kept_namespaces_keep_their_requests_under_both_mechanisms():
    plain = [_spec(f"w{i}") for i in range(12)]
    kept = [*(replace(s, guaranteed=True) for s in plain), *(replace(s, namespace="kept") for s in plain)]
    assert any(is_reclaimed(s) for s in batch_on_reclaimed(_trace(plain, [1] * 12, [1] * 12), 0).specs)
    trace = _trace(kept, [1] * 24, [1] * 24)
    assert batch_on_reclaimed(trace, 0, frozenset({"kept"})).specs == trace.specs
    names = ("default", "kept", "free")
    specs = [replace(_spec("web", cpu=3000), namespace=n, guaranteed=n == "default") for n in names]
    trace = _trace(specs, [300] * 3, [0.5] * 3, hours=48, nodes=3)
    truth = UsageTruth(trace.usage)
    sizing = Rightsizing(_learner(truth), kept_namespaces=frozenset({"kept"}))
    offers = Reclaiming(truth, kept_namespaces=frozenset({"kept"}))
    replay = Replay(
        trace,
        STRATEGIES["worst-fit"],
        ReplayOptions(policies=(truth, sizing.learner, sizing, offers), end_s=40 * HOUR_S),
    )
    replay.run()
    assert set(sizing.lowered) == {2}
    room = {
        r.spec.namespace: offers.offers[replay.state.names[r.row]].cpu_milli for r in replay.state.residents.values()
    }
    assert room["default"] == room["kept"] < 1000 < room["free"]


@pytest.mark.parametrize("mechanism", ["none", "rightsized", "reclaimed"])
def test_a_replay_until_all_has_ended_ends_and_names_who_never_fitted(tmp_path, mechanism):
    trace = _trace([_spec("a"), _spec("huge", cpu=5000), _spec("b")], [500, 500, 500], [1, 1, 1], hours=4)
    trace.save(tmp_path / "huge.ullage")
    result = compare(
        Question((str(tmp_path / "huge.ullage"),), ("best-fit",), until="empty", mechanism=mechanism), jobs=1
    )
    metrics = result.rows[0]["metrics"]
    asked = {spec.owner: spec for spec in batch_on_reclaimed(trace, 0).specs} if mechanism == "reclaimed" else {}
    sold = [pod for pod, spec in zip(("p0", "p1", "p2"), asked.values(), strict=False) if is_reclaimed(spec)]
    assert {"p1"} <= set(metrics["unplaced_pods"]) <= {"p1", *sold}
    assert sum(metrics["unplaced"].values()) == len(metrics["unplaced_pods"]) == 3 - metrics["placed"]
    assert metrics["hours"] == pytest.approx(4, abs=1.1), "one more act of each policy, not a day"
    why = ", ".join(f"{n} × {reason}" for reason, n in metrics["unplaced"].items())
    assert never_placed(result) == [f"t, best-fit: never placed ({why}): {', '.join(metrics['unplaced_pods'])}"]


def test_interruptions_of_nodes_that_have_gone_keep_no_replay_going():
    pods = [("p0", _spec("a"), 0, HOUR_S), ("p1", _spec("huge", cpu=5000), 0, HOUR_S)]
    elastic = Elastic((Shape("m", NODE.allocatable, 1.0, 0.3),), spot_share=1.0)
    options = ReplayOptions(policies=(Rollouts(seed=3),), elastic=elastic, spot=Interruptions(per_node_hour=0.01))
    replay = Replay(Trace.of("spot", [], pods), STRATEGIES["best-fit"], options)
    assert replay.run().unplaced_pods == ("p1",)
    assert HOUR_S < replay.time_s < 4 * HOUR_S, "the node would have been taken back after days"


def test_who_waits_for_a_node_that_comes_back_gets_it_and_who_waits_for_none_is_given_up():
    late, spot = NodeSpec("late", NODE.allocatable), replace(NODE, name="spot", spot=True)
    pods = [("p0", _spec("a"), 0, HOUR_S), ("p1", _spec("huge", cpu=5000), 0, HOUR_S)]
    events = (NodeEvent(HOUR_S, "fail", "late"), NodeEvent(90 * HOUR_S, "repair", "late"))
    waits = Trace.of("late", [late], [*pods, ("p2", _spec("b"), 2 * HOUR_S, 3 * HOUR_S)]).but(failures=events)
    outcome = Replay(waits, STRATEGIES["best-fit"], ReplayOptions(policies=(Rollouts(seed=3),))).run()
    assert (outcome.num_placed, outcome.unplaced_pods) == (2, ("p1",))
    flickers = Trace.of("spot", [spot], pods)
    options = ReplayOptions(policies=(Rollouts(seed=3),), spot=Interruptions(per_node_hour=2.0, return_s=600))
    replay = Replay(flickers, STRATEGIES["best-fit"], options)
    outcome = replay.run()
    assert (outcome.num_placed, outcome.unplaced_pods) == (1, ("p1",))
    assert GIVE_UP_S < replay.time_s < GIVE_UP_S + 12 * HOUR_S
