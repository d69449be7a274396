"""One object learns lifetimes live and in replays: equal news, equal knowledge; rungs, guards, gaps in time, bounds."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from placement import log
from placement.errors import ConfigError
from placement.knowledge import Knowledge, Lifetimes, size_of
from placement.learning import boosted
from placement.learning.boosted import load_card
from placement.learning.drift import LEAST, WINDOW, LossMonitor
from placement.learning.lifetime_history import NUM_HAZARDS, Kin, LifeHistory, feature_names
from placement.learning.lifetime_model import LifetimeModel, load_lifetimes
from placement.learning.lifetimes import KEPT_S, LifeAnswer, LifetimeForecaster, answer, loss
from placement.learning.lineage import Lineage
from placement.learning.survival import certain
from placement.learning.usage import SingleArray
from placement.log import Event, EventLog
from placement.log_lines import read_log
from placement.pods import PodSpec
from placement.resources import CPU, MEMORY, FloatArray
from placement.strategies import STRATEGIES
from scheduler.learning.lifetime_learner import LifetimeLearner as LiveLearner
from simulator.compare import cells_of, compare
from simulator.comparison import Question
from simulator.learning.recordings import Learnable, train
from simulator.learning.training import Effort
from simulator.replay import Replay, ReplayOptions
from simulator.traces.trace import Trace
from simulator.usage.lifetime_learner import LifetimeLearner
from tests.life_traces import GIB, by_the_hour, spec_of
from tests.live_engine import Live

pytestmark = pytest.mark.timeout(90)
"""Trees are fitted."""

WEB = "default/StatefulSet/job0"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lifetimes")
    train(Learnable("by-the-hour", None, by_the_hour(owners=8)), path, seed=3, effort=Effort(2000, 500))
    return path


def model_of(folder: Path) -> LifetimeModel:
    model = load_lifetimes(folder)
    assert model is not None
    return model


def lifetimes_of(knowledge: Knowledge) -> Lifetimes:
    assert knowledge.lifetimes is not None
    return knowledge.lifetimes


def replayed(trace: Trace, model: LifetimeModel | None, end_s: int) -> tuple[Replay, LifetimeLearner]:
    learner = LifetimeLearner(model=model)
    replay = Replay(trace, STRATEGIES["nilas"], ReplayOptions(policies=(learner,), end_s=end_s))
    replay.run()
    return replay, learner


def live_of(path: Path, trace: Trace, model: str) -> tuple[Live, LiveLearner]:
    live = Live(path)
    live.engine.strategy = STRATEGIES["nilas"]
    live.state.learn(Knowledge.neutral())
    for name in ("n0", "n1", "n2"):
        live.ledger.lose_node(name)
    for node in trace.nodes:
        live.ledger.see_node(node)
    return live, LiveLearner(live.engine, 300, lambda: True, model=model, clock=lambda: 0.0)


# ── live = simulated ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("with_model", [False, True])
async def test_serve_and_replay_know_the_same_at_every_look(tmp_path: Path, folder: Path, with_model: bool) -> None:
    trace = by_the_hour(owners=6, hours=10, seed=8)
    end_s = 10 * 3600
    replay, learner = replayed(trace, model_of(folder) if with_model else None, end_s)
    live, serving = live_of(tmp_path / "r.db", trace, str(folder) if with_model else "")
    now = [0.0]
    live.ledger.clock = lambda: now[0]
    looks, rungs = 0, set()
    for event in replay.state.log:
        now[0] = float(event.time_s)
        if event.kind == log.POD_BOUND and event.time_s == int(trace.pods.arrival_s[0]):
            live.state.bind(event.subject, event.detail, event.node, event.devices, time_s=event.time_s, was_there=True)
        elif event.kind == log.POD_BOUND and event.detail is not None:
            live.state.assume(event.subject, event.detail, event.node, event.devices, time_s=event.time_s)
            live.state.confirm(event.subject, time_s=event.time_s)
        elif event.kind == log.POD_RELEASED:
            live.state.release(event.subject, time_s=event.time_s)
        elif event.kind == log.KNOWLEDGE and event.detail.lifetimes is not None:
            await serving.turn()
            assert live.state.knowledge.digest == event.detail.digest
            looks += 1
            rungs |= {one.rung for one in event.detail.lifetimes.of.values()}
    assert looks >= end_s // 300 - 1
    assert rungs == {"population", "history"} | ({"model"} if with_model else set())
    if with_model:
        assert serving.forecaster.source == f"hazards, model {folder.name}"
        text = live.metrics.expose().decode()
        assert 'ullage_lifetime_trusted{workloads="known"} 1.0' in text
        assert 'ullage_lifetime_workloads{rung="model"} 6.0' in text, "sizes are told by the population"
        loss = dict(zip(("model", "history"), learner.forecaster.monitors[False].losses, strict=True))
        assert loss["model"] < 0.5 * loss["history"]


async def test_live_news_are_passed_on_while_the_ledger_is_incomplete(tmp_path: Path) -> None:
    trace = by_the_hour(owners=1, hours=2)
    live, serving = live_of(tmp_path / "r.db", trace, "")
    live.state.assume("a", spec_of(0), "n0")
    live.state.assume("b", spec_of(0), "n0")
    live.state.forget("b")
    live.state.confirm("a")
    await serving._catch_up()
    assert set(serving.forecaster.history.running) == {"a"}
    assert live.state.knowledge.lifetimes is None


# ── rungs ─────────────────────────────────────────────────────────────────────────────────────


def test_trees_that_are_ahead_are_trusted_and_say_so(folder: Path) -> None:
    trace = by_the_hour(owners=6, hours=14, seed=9)
    by_model, _ = replayed(trace, model_of(folder), 13 * 3600 + 900)
    by_rule, _ = replayed(trace, None, 13 * 3600 + 900)
    mine, rule = (lifetimes_of(r.state.knowledge).of[WEB] for r in (by_model, by_rule))
    assert (mine.rung, rule.rung) == ("model", "history")
    assert mine.life_s[0] > 2000 > rule.life_s[0], "in odd hours pods live long"
    assert mine.life_s[0] > 3 * rule.life_s[0]


class Backwards(LifetimeModel):
    """Says of each part the contrary of what the rule says."""

    def hazards(self, features: SingleArray, rule: FloatArray) -> FloatArray:
        return 1 - rule


def test_a_model_that_does_worse_than_the_history_is_never_asked(folder: Path) -> None:
    wrong = Backwards(model_of(folder).trees, 1.0, "wrong")
    replay, learner = replayed(by_the_hour(owners=6, hours=8), wrong, 8 * 3600)
    known = lifetimes_of(replay.state.knowledge)
    assert known.of[WEB].rung == "history"
    mine, rule = learner.forecaster.monitors[False].losses
    assert mine > rule
    assert not learner.forecaster.monitors[False].trusted


def test_a_model_that_was_trusted_falls_when_its_outcomes_turn_and_rises_again() -> None:
    monitor = LossMonitor()
    assert all(np.isnan(monitor.losses))
    for _ in range(LEAST - 1):
        monitor.observe(0.1, 0.5)
    assert not monitor.trusted, "too few outcomes"
    monitor.observe(0.1, 0.5)
    assert monitor.trusted
    for _ in range(WINDOW):
        monitor.observe(0.9, 0.5)
    assert (monitor.trusted, monitor.falls) == (False, 1)
    assert monitor.losses == (0.9, 0.5), "the latest alone count"
    for _ in range(WINDOW - 1):
        monitor.observe(0.5, 0.5)
    assert not monitor.trusted
    monitor.observe(0.5, 0.5)
    assert monitor.trusted


def test_a_fall_is_counted_by_what_answers_instead() -> None:
    forecaster = LifetimeForecaster()
    kin = Kin.of(spec_of(0))
    for is_new, rung in ((False, "history"), (True, "population")):
        forecaster.monitors[is_new] = trusted_monitor()
        forecaster._trials[kin, 0, is_new] = _trial(900.0, 0.5)
        forecaster.settle()
        assert forecaster.counts.falls[rung] == 1


def trusted_monitor() -> LossMonitor:
    monitor = LossMonitor()
    for _ in range(LEAST):
        monitor.observe(0.1, 0.5)
    assert monitor.trusted
    return monitor


def _trial(mine: float, rule: float):  # type: ignore[no-untyped-def]  # a private type
    from placement.learning.lifetimes import _Trial

    return _Trial(1, mine, rule)


def test_another_model_has_to_earn_trust_anew_and_none_falls_to_the_history(folder: Path) -> None:
    trace = by_the_hour(owners=6, hours=8, seed=9)
    replay, learner = replayed(trace, model_of(folder), 8 * 3600)
    forecaster = learner.forecaster
    assert forecaster.by_rung()["model"] == 6
    forecaster.use(None)
    known = lifetimes_of(forecaster.renewed(replay.state.knowledge, 8 * 3600))
    assert {one.rung for one in known.of.values()} == {"history", "population"}
    assert forecaster.source == "hazards"


def test_a_refit_goes_on_with_the_trust_of_the_model_before_and_a_foreign_model_does_not(folder: Path) -> None:
    model = model_of(folder)
    assert len(model.owners) == 8
    _, learner = replayed(by_the_hour(owners=6, hours=8, seed=9), model, 8 * 3600)
    forecaster = learner.forecaster
    record = forecaster.monitors[False].losses
    some = sorted(model.owners)
    forecaster.use(replace(model, owners=frozenset([*some[:4], "a", "b", "c", "d"])))
    assert forecaster.monitors[False].trusted
    assert forecaster.monitors[False].losses == record
    forecaster.learn(8 * 3600 + 300)
    forecaster.renewed(Knowledge.neutral(), 8 * 3600 + 300)
    assert forecaster.by_rung()["model"] == 6
    forecaster.use(replace(model, owners=frozenset([*some[:3], "e", "f", "g", "h", "i"])))
    assert not forecaster.monitors[False].trusted
    forecaster.monitors[False] = trusted_monitor()
    forecaster.use(replace(model, owners=frozenset()))
    assert not forecaster.monitors[False].trusted, "of whom it tells is not known"


def test_a_model_that_comes_later_finds_features_from_then_on(folder: Path) -> None:
    forecaster = LifetimeForecaster()
    forecaster.began("a", spec_of(0), 0)
    forecaster.learn(300)
    assert forecaster.history.lineage is None
    forecaster.use(model_of(folder))
    forecaster.learn(600)
    assert forecaster.history.lineage is not None
    forecaster.ended("a", 900)
    assert lifetimes_of(forecaster.renewed(Knowledge.neutral(), 900)).of[WEB].rung in ("population", "history")


def test_without_outcomes_nothing_is_known() -> None:
    forecaster = LifetimeForecaster()
    found = forecaster.lifetimes(0)
    assert (found.everyone.rung, found.of) == ("none", {})
    forecaster.began("a", spec_of(0), 0)
    forecaster.learn(100)
    assert forecaster.lifetimes(100).of[WEB].rung == "none"
    forecaster.ended("a", 200)
    forecaster.began("b", spec_of(1), 200)
    forecaster.learn(300)
    found = forecaster.lifetimes(300)
    assert {name: one.rung for name, one in found.of.items()} == {
        WEB: "history",
        "default/StatefulSet/job1": "population",
        size_of((500, GIB, 0)): "population",
    }


# ── promises ──────────────────────────────────────────────────────────────────────────────────


class Says(LifetimeModel):
    """Nine in ten end in whatever part of life."""

    def hazards(self, features: SingleArray, rule: FloatArray) -> FloatArray:
        return np.full((len(features), NUM_HAZARDS), 0.9)


SAYS = Says(cast("boosted.HazardTrees", None), 1.0)
RIGHT, WRONG = -math.log(0.9), -math.log(0.1)


def promising() -> LifetimeForecaster:
    """It has answered about a workload of which nobody has told anything."""
    forecaster = LifetimeForecaster(SAYS)
    forecaster.began("first", spec_of(0), 0)
    forecaster.learn(10)
    return forecaster


def test_outcomes_of_one_round_count_once_for_each_part_of_life() -> None:
    forecaster = promising()
    for uid in "abc":
        forecaster.began(uid, spec_of(0), 20)
    forecaster.ended("a", 100)
    forecaster.ended("b", 100)
    forecaster.ended("c", 500)
    forecaster.settle()
    monitor = forecaster.monitors[True]
    assert monitor.losses[0] == pytest.approx(((2 * RIGHT + WRONG) / 3 + RIGHT) / 2, abs=1e-6)
    assert math.isnan(forecaster.monitors[False].losses[0]), "what is promised is of who was new then"
    forecaster.settle()
    assert len(monitor._losses) == 2, "and only once"


def test_who_was_there_or_has_no_part_of_life_left_to_live_through_is_promised_nothing() -> None:
    forecaster = promising()
    forecaster.began("a", spec_of(0), 20)
    forecaster.began("old", spec_of(0), 20, was_there=True)
    assert list(forecaster._promised) == ["a"]
    forecaster.changed(400)
    assert sorted(forecaster._promised) == ["a", "first"]
    forecaster.changed(5 * 86_400)
    forecaster.ended("a", 5 * 86_400)
    assert not forecaster._promised
    forecaster.settle()
    assert forecaster.monitors[True].losses[0] == pytest.approx(WRONG, abs=1e-6), "it ended in the last part"


def test_another_model_is_not_judged_by_what_the_one_before_promised() -> None:
    forecaster = promising()
    for uid in "ab":
        forecaster.began(uid, spec_of(0), 20)
    forecaster.ended("a", 100)
    forecaster.use(replace(SAYS, source="another"))
    forecaster.ended("b", 110)
    forecaster.settle()
    assert math.isnan(forecaster.monitors[True].losses[0])


def test_what_never_happened_may_happen_at_a_finite_loss() -> None:
    assert [loss(0.0, True), loss(1.0, False)] == pytest.approx([-math.log(0.005)] * 2)
    assert [loss(0.0, False), loss(1.0, True)] == pytest.approx([-math.log(0.995)] * 2)


def test_what_was_promised_before_a_gap_is_not_judged_by_those_who_are_still_there_after_it() -> None:
    forecaster, week = promising(), 7 * 86_400
    forecaster.began("a", spec_of(0), 20)
    forecaster.begin_round(300)
    forecaster.begin_round(week)
    forecaster.changed(week + 301)
    forecaster.settle()
    assert forecaster.history.running["a"].part == 1
    assert math.isnan(forecaster.monitors[True].losses[0])


def test_another_model_is_asked_about_everybody_at_once() -> None:
    forecaster = promising()
    kin = Kin.of(spec_of(0))
    assert forecaster.changed(20) == []
    forecaster.use(replace(SAYS, source="another"))
    assert forecaster.changed(20) == [kin, kin.alike]


def test_kin_are_asked_about_when_a_pod_passes_a_part_of_life_and_once_an_hour() -> None:
    forecaster, kin = promising(), Kin.of(spec_of(0))
    assert forecaster.changed(300) == [], "a part of life is closed above"
    assert forecaster.changed(301) == [kin, kin.alike]
    forecaster.learn(3700)
    assert forecaster.changed(7299) == []
    assert forecaster.changed(7300) == [kin, kin.alike]
    forecaster.learn(260_000)
    assert forecaster.changed(260_001 + 2 * 86_400) == [kin, kin.alike], "also of a pod that runs on and on"


def test_kin_are_asked_about_as_they_were_last_seen() -> None:
    forecaster, kin = promising(), Kin.of(spec_of(0))
    forecaster.began("b", replace(spec_of(0), priority=7, gang_size=3), 20)
    (question,) = forecaster.questions([kin], 30)
    assert question.features is not None
    told = dict(zip(feature_names(), question.features.tolist(), strict=True))
    assert (told["priority"], told["gang_size"]) == (7, 3)
    assert question.rule == forecaster.history.hazards(replace(kin, gang_size=3), 30)
    assert question.rule != forecaster.history.hazards(kin, 30)


# ── who is told ───────────────────────────────────────────────────────────────────────────────


def test_new_workloads_and_bare_pods_are_told_by_their_size() -> None:
    forecaster = LifetimeForecaster()
    for i in range(60):
        forecaster.began(f"s{i}", spec_of(0), 100 * i)
        forecaster.ended(f"s{i}", 100 * i + 50)
        forecaster.began(f"l{i}", spec_of(1, 4000), 100 * i)
    now = 100_000
    forecaster.learn(now)
    found = forecaster.lifetimes(now)
    new, large = spec_of(7), spec_of(7, 4000)
    bare = PodSpec(((CPU, 500), (MEMORY, GIB)))
    assert found.of_pod(new) == found.of_pod(bare) == found.of[size_of((500, GIB, 0))]
    assert found.of_pod(large).life_s[0] > 100 * found.of_pod(new).life_s[0]
    assert found.of_pod(PodSpec(((CPU, 1), (MEMORY, 1)))) == found.everyone
    assert found.of_pod(spec_of(0)).rung == "history"


def test_sizes_of_one_workload_are_told_apart_and_the_latest_stands_for_it() -> None:
    forecaster = LifetimeForecaster()
    for i in range(50):
        forecaster.began(f"s{i}", spec_of(0, 500), 1000 * i)
        forecaster.ended(f"s{i}", 1000 * i + 50)
    forecaster.began("b", spec_of(0, 4000), 60_000)
    forecaster.learn(61_000)
    found = forecaster.lifetimes(61_000)
    small, large = (f"{WEB} {size_of((cpu, GIB, 0))}" for cpu in (500, 4000))
    assert found.of[WEB] == found.of[large] == found.of_pod(spec_of(0, 4000))
    assert found.of_pod(spec_of(0, 500)) == found.of[small]
    assert found.of_pod(spec_of(0, 9)) == found.of[WEB], "another size of a known workload"


def test_who_is_gone_is_told_for_two_days_and_forgotten_after_two_weeks(folder: Path) -> None:
    forecaster = LifetimeForecaster(model_of(folder))
    history = forecaster.history
    forecaster.began("a", spec_of(0), 0)
    forecaster.began("c", spec_of(0, 900), 0)
    forecaster.ended("a", 100)
    forecaster.ended("c", 100)
    for day in range(16):
        forecaster.begin_round(86_400 * day + 300)
        forecaster.learn(86_400 * day + 300)
        told = WEB in forecaster.lifetimes(86_400 * day + 300).of
        assert told == (day < 2)
        assert (len(forecaster) == 1) == (day * 86_400 < KEPT_S)
        assert history.knows(Kin.of(spec_of(0))) == (len(forecaster) == 1)
    plain = LifeHistory()
    plain.forget("x")
    plain.forget_size(Kin.of(spec_of(0)))


def test_workloads_beyond_the_limit_are_told_by_their_size() -> None:
    forecaster = LifetimeForecaster(max_workloads=1)
    for owner in range(3):
        forecaster.began(f"p{owner}", spec_of(owner), 0)
    forecaster.learn(600)
    assert set(forecaster.lifetimes(600).of) == {WEB, size_of((500, GIB, 0))}
    assert forecaster.counts.turned_away == 2
    assert len(forecaster) == 1


def test_a_known_workload_is_never_turned_away() -> None:
    forecaster = LifetimeForecaster(max_workloads=1)
    for number in range(3):
        forecaster.began(f"p{number}", spec_of(0, 500 + number), 0)
    assert forecaster.counts.turned_away == 0


def test_a_size_that_comes_back_stands_for_its_workload_again() -> None:
    forecaster = LifetimeForecaster()
    for number, cpu in enumerate((500, 4000, 500)):
        forecaster.began(f"p{number}", spec_of(0, cpu), 1000 * number)
    forecaster.learn(4000)
    found = forecaster.lifetimes(4000)
    assert found.of[WEB] is found.of[f"{WEB} {size_of((500, GIB, 0))}"]


def test_workloads_without_pods_make_room_for_others_the_longest_idle_first() -> None:
    forecaster = LifetimeForecaster(max_workloads=3)
    for owner in range(3):
        forecaster.began(f"p{owner}", spec_of(owner), 0)
    forecaster.ended("p1", 50)
    forecaster.ended("p0", 100)
    forecaster.learn(300)
    forecaster.began("p3", spec_of(3), 400)
    forecaster.learn(600)
    told = set(forecaster.lifetimes(600).of)
    assert told == {f"default/StatefulSet/job{owner}" for owner in (2, 3)} | {size_of((500, GIB, 0))}
    assert forecaster.counts.turned_away == 0


def test_the_workload_that_is_idle_for_longest_goes_first_by_its_latest_size_and_a_tenth_at_once() -> None:
    forecaster = LifetimeForecaster(max_workloads=20)
    for owner in range(19):
        forecaster.began(f"p{owner}", spec_of(owner), 0)
    forecaster.began("a", spec_of(19, 900), 0)
    forecaster.began("b", spec_of(19, 500), 0)
    for uid, at_s in (("p7", 30), ("b", 50), ("p5", 100), ("p6", 200), ("a", 300)):
        forecaster.ended(uid, at_s)
    forecaster.learn(400)
    gone = {f"default/StatefulSet/job{owner}" for owner in range(20)} - set(forecaster.lifetimes(400).of)
    assert gone == {"default/StatefulSet/job7", "default/StatefulSet/job5"}


def test_who_runs_is_never_forgotten_though_another_size_is() -> None:
    forecaster = LifetimeForecaster()
    forecaster.began("small", spec_of(0, 500), 0)
    forecaster.began("large", spec_of(0, 4000), 0)
    forecaster.ended("large", 100)
    for day in (4, 30):
        forecaster.learn(day * 86_400)
    found = forecaster.lifetimes(30 * 86_400)
    assert set(found.of) == {WEB, size_of((500, GIB, 0))}
    assert (found.of[WEB].rung, found.as_of_s) == ("history", 30 * 86_400)
    forecaster.ended("small", 31 * 86_400)


def test_trust_in_what_is_said_of_known_workloads_is_none_in_what_is_said_of_new_ones() -> None:
    forecaster = promising()
    forecaster.monitors[False] = trusted_monitor()
    assert forecaster.lifetimes(20).of[WEB].rung == "none"
    forecaster.monitors[True] = trusted_monitor()
    assert forecaster.lifetimes(20).of[WEB].rung == "model"


def test_pods_that_were_there_before_speak_for_their_own_workload_alone() -> None:
    """A hundred that outlived others say that their workload lives on, not that all do; their ends say nothing."""
    forecaster, spec = LifetimeForecaster(), spec_of(0)
    forecaster.history.follow_features()
    lineage = forecaster.history.lineage
    assert lineage is not None
    for i in range(100):
        forecaster.hear(Event(i % 7, log.POD_FOUND, f"old-{i}", "n0", 0, spec))
    forecaster.learn(86_400)
    assert forecaster.history.is_blank, "nothing is known of everyone"
    kin = Kin.of(spec)
    assert forecaster.history.knows(kin)
    assert max(forecaster.history.hazards(kin, 86_400)[:4]) < 0.15
    assert forecaster.history.hazards(kin.alike, 86_400) == forecaster.history.hazards(None, 86_400)
    told = dict(zip(feature_names(), forecaster.history.features(kin, 86_400).tolist(), strict=True))
    assert (told["owner:running"], told["owner:arrivals"], told["owner:ended"]) == (100, 0, 0)
    assert math.isnan(told["owner:burst_0_pods"])
    forecaster.history.skip(2 * 86_400)
    for i in range(100):
        forecaster.hear(Event(2 * 86_400 + 10, log.POD_RELEASED, f"old-{i}"))
    forecaster.learn(2 * 86_400 + 600)
    assert forecaster.history.is_blank
    assert not forecaster.history.running
    outcomes = forecaster.history.survival.num_outcomes(0, kin.workload)
    assert lineage.rule("last", kin.values, 2e5) is None
    forecaster.hear(Event(2 * 86_400 + 700, log.POD_BOUND, "new", "n0", 0, spec))
    forecaster.hear(Event(2 * 86_400 + 800, log.POD_RELEASED, "new"))
    assert not forecaster.history.is_blank
    assert forecaster.history.survival.num_outcomes(0, kin.workload) == outcomes + 1


def test_sizes_that_are_gone_are_forgotten_and_a_pod_that_begins_twice_can_be() -> None:
    forecaster = LifetimeForecaster()
    forecaster.history.follow_features()
    forecaster.began("twice", spec_of(0, 1), 0)
    for number in range(1, 50):
        forecaster.began(f"p{number}", spec_of(-1 if number % 2 else number, number), 0)
        forecaster.ended(f"p{number}", 50)
    forecaster.began("twice", spec_of(0, 2), 60)
    forecaster.ended("twice", 90)
    forecaster.learn(300)
    forecaster.learn(300 + KEPT_S)
    history = forecaster.history
    assert history.lineage is not None
    assert len(history.survival._keys) == 2, "everyone and newcomers are remembered"
    assert len(history.lineage._kin) == 1
    assert not forecaster._known
    assert not history._bursts
    forecaster.began("again", spec_of(0, 1), 400 + KEPT_S)
    forecaster.ended("again", 450 + KEPT_S)


async def test_the_hour_that_models_look_at_is_the_day_s_and_not_the_service_s(tmp_path: Path, folder: Path) -> None:
    live, _ = live_of(tmp_path / "r.db", by_the_hour(owners=1, hours=1), "")
    now = [100.0]
    live.ledger.clock = lambda: now[0]
    half_past_six = 1_000_000 * 86_400 + 6.5 * 3600
    serving = LiveLearner(live.engine, 300, lambda: True, model=str(folder), clock=lambda: half_past_six)
    live.state.bind("a", spec_of(0), "n0", time_s=100)
    now[0] = 100.0 + 2 * 3600
    await serving.turn()
    forecaster = serving.forecaster
    (question,) = forecaster.questions([Kin.of(spec_of(0))], live.ledger.time_s)
    assert question.features is not None
    assert question.features[-1] == 8.5


def test_knowledge_of_older_builds_keeps_its_digest() -> None:
    one = certain(600)
    assert replace(one, rung="").text == f"{one.life_s}{one.gone_milli}"


# ── time ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("with_model", [False, True])
def test_a_gap_in_which_nobody_looked_counts_in_no_age(folder: Path, with_model: bool) -> None:
    forecaster = LifetimeForecaster(model_of(folder) if with_model else None)
    week = 7 * 86_400
    for uid in ("stays", "ends", "old"):
        forecaster.began(uid, spec_of(0), 0)
    forecaster.begin_round(300)
    forecaster.learn(300)
    forecaster.begin_round(week)
    forecaster.ended("ends", week - 1000)
    forecaster.learn(week)
    assert forecaster.counts.jumps == 1
    history = forecaster.history
    assert history.survival.num_outcomes(0, WEB) == 0, "nobody knows when it ended, and nobody lived for a week"
    assert history.running["stays"].since_s == week - 300
    forecaster.begin_round(week + 300)
    forecaster.ended("stays", week + 300)
    forecaster.learn(week + 1200)
    each = 2**-0.5  # three came together, of which one tells nothing
    assert history.survival.seen(0, WEB, week + 1200)[:2] == pytest.approx([each * (1 + 0.95**each)] * 2)


@pytest.mark.parametrize(("every_s", "longest_s"), [(300, 6 * 3600), (7200, 6 * 3600), (4 * 3600, 12 * 3600)])
def test_a_gap_is_longer_than_six_hours_and_than_three_rounds(every_s: int, longest_s: int) -> None:
    forecaster = LifetimeForecaster(every_s=every_s)
    forecaster.begin_round(100)
    forecaster.begin_round(100 + longest_s)
    assert forecaster.counts.jumps == 0
    forecaster.begin_round(50)
    forecaster.begin_round(100 + 2 * longest_s)
    assert forecaster.counts.jumps == 0, "the clock was back for a moment"
    forecaster.begin_round(101 + 3 * longest_s)
    assert forecaster.counts.jumps == 1


@pytest.mark.parametrize("with_model", [False, True])
def test_a_clock_that_goes_back_ages_nobody(with_model: bool) -> None:
    forecaster = LifetimeForecaster(SAYS if with_model else None)
    forecaster.begin_round(10_000)
    forecaster.learn(10_000)
    forecaster.begin_round(2000)
    forecaster.began("a", spec_of(0), 2000)
    forecaster.ended("a", 2100)
    forecaster.ended("unknown", 2100)
    forecaster.learn(2300)
    survival = forecaster.history.survival
    assert survival.seen(0, WEB, 10_000) == [1] + [0] * (NUM_HAZARDS - 1)
    assert forecaster.counts.jumps == 0


def test_who_begins_twice_begins_anew(folder: Path) -> None:
    history = LifeHistory(with_features=True)
    kin = Kin.of(spec_of(0))
    history.began("a", kin, 0)
    history.began("b", kin, 0)
    history.began("a", kin, 500)
    history.ended("never seen", 500)
    assert history.running["a"].since_s == 500
    assert history.pass_some(10**6, 1), "one at a time"


def test_a_lineage_can_take_back_what_never_was() -> None:
    lineage = Lineage(("owner", "all"))
    lineage.arrive(("x", None), 10)
    lineage.arrive(("x", None), 10)
    before = lineage.describe(("x", None), 50)
    lineage.arrive(("x", None), 30)
    for _ in range(20):
        lineage.arrive(("x", None), 40)
    lineage.withdraw(("x", None), 10)
    for _ in range(20):
        lineage.withdraw(("x", None), 40)
    lineage.withdraw(("x", None), 30)
    after = dict(zip(lineage.feature_names, lineage.describe(("x", None), 50), strict=True))
    assert after["owner:running"] == 1
    assert after["owner:burst_0_pods"] == 1
    assert len(before) == len(after)
    assert after["all:arrivals"] == 0


# ── events and models ─────────────────────────────────────────────────────────────────────────


def test_events_are_heard_in_any_order_that_a_log_may_have() -> None:
    forecaster, spec = LifetimeForecaster(), spec_of(0)
    for event in (
        Event(0, log.POD_ASSUMED, "a", "n0", 0, spec),
        Event(1, log.POD_FORGOTTEN, "a"),
        Event(1, log.POD_BOUND, "a", "n0"),
        Event(2, log.POD_ASSUMED, "b", "n0", 0, spec),
        Event(3, log.POD_RELEASED, "b"),
        Event(3, log.POD_BOUND, "c", "n0", 0, spec),
        Event(4, log.NODE_REMOVED, "n0"),
        Event(4, log.POD_BOUND, "b", "n0"),
        Event(4, log.POD_BOUND, "d", "n0", 0, spec),
        Event(5, log.POD_ENDED, "d"),
        Event(6, log.POD_FOUND, "c", "n0", 0, spec),
    ):
        forecaster.hear(event)
    (running,) = forecaster.history.running.items()
    assert (running[0], running[1].since_s, running[1].was_there) == ("c", 3, False), "it came back with its node"


def test_a_log_tells_others_too() -> None:
    events, heard = EventLog(), []
    events.also_tell(lambda event: heard.append(event.subject))
    events.append(Event(0, log.POD_RELEASED, "a"))
    assert heard == ["a"]
    assert len(events) == 1


def test_answers_do_not_depend_on_who_else_is_asked_about(folder: Path) -> None:
    forecaster = LifetimeForecaster(model_of(folder))
    for owner in range(4):
        forecaster.began(f"p{owner}", spec_of(owner, 500 + owner), 10 * owner)
    questions = forecaster.questions(forecaster.changed(100), 100)
    together = answer(forecaster.model, questions)
    assert together == [one for question in questions for one in answer(forecaster.model, [question])]
    assert all(one.model is not None for one in together)
    forecaster.take([LifeAnswer(Kin("gone", (1, 1, 1)), (0.5,) * 8)])
    assert answer(forecaster.model, []) == []


async def test_a_model_that_cannot_be_used_is_counted_and_the_history_answers(tmp_path: Path, folder: Path) -> None:
    broken = tmp_path / "model"
    broken.mkdir()
    card = load_card(folder)
    (broken / "card.json").write_text(boosted.card_text({**card, "lifetimes": {**card["lifetimes"], "features": "x"}}))
    live, serving = live_of(tmp_path / "r.db", by_the_hour(owners=1, hours=1), str(broken))
    live.state.bind("a", spec_of(0), "n0")
    await serving.turn()
    await serving.turn()
    assert 'ullage_fallback_total{reason="lifetime model refused"} 1.0' in live.metrics.expose().decode()
    assert serving.forecaster.source == "hazards"
    (broken / "card.json").write_text(boosted.card_text(card))
    await serving.turn()
    assert 'ullage_fallback_total{reason="lifetime model refused"} 2.0' in live.metrics.expose().decode()
    for name in ("lifetimes.txt", "lifetime-classes.txt"):  # the card came first
        (broken / name).write_bytes((folder / name).read_bytes())
    await serving.turn()
    assert serving.forecaster.source == "hazards, model model"


async def test_falls_jumps_and_limits_are_metrics(tmp_path: Path) -> None:
    live, serving = live_of(tmp_path / "r.db", by_the_hour(owners=1, hours=1), str(tmp_path / "missing"))
    counts = serving.forecaster.counts
    counts.falls["history"], counts.jumps, counts.turned_away = 2, 1, 3
    await serving.turn()
    await serving.turn()
    text = live.metrics.expose().decode()
    assert 'ullage_lifetime_falls_total{rung="history"} 2.0' in text
    assert 'ullage_fallback_total{reason="lifetimes on history"} 2.0' in text
    assert 'ullage_usage_refused_total{reason="too many workloads for lifetimes"} 3.0' in text
    assert 'ullage_fallback_total{reason="lifetime model refused"} 1.0' in text


def test_a_comparison_learns_lifetimes_where_it_is_asked_to_or_the_model_tells_of_them(
    tmp_path: Path, folder: Path
) -> None:
    path = str(tmp_path / "t.ullage")
    by_the_hour(owners=4, hours=3).save(tmp_path / "t.ullage")
    question = Question((path,), ("nilas",), until="empty")
    asked, told = replace(question, learn_lifetimes=True), replace(question, model=str(folder))
    learned = {"history", "population"}
    for number, (changed, rungs) in enumerate(((question, set()), (asked, learned), (told, {*learned, "model"}))):
        log_folder = tmp_path / f"log-{number}"
        (row,) = compare(changed, jobs=1, log=str(log_folder)).rows
        assert row["metrics"]["placed"] == row["metrics"]["pods"]
        _, events, _ = read_log(log_folder)
        known = [e.detail.lifetimes for e in events if e.kind == log.KNOWLEDGE and e.detail.lifetimes]
        assert {lifespan.rung for lifetimes in known for lifespan in lifetimes.of.values()} == rungs
    with pytest.raises(ConfigError, match=r"best-fit would not read them; choose one of .*nilas"):
        cells_of(replace(asked, strategies=("best-fit",)))
