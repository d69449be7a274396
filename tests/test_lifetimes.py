"""Lifetimes: classes, outlooks conditioned on age, histories without look-ahead."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from placement.errors import ConfigError, ModelError
from placement.knowledge import AGES_S
from placement.learning.drift import LEAST
from placement.learning.lifetime_history import NUM_HAZARDS, Kin, LifeHistory, feature_names
from placement.learning.lineage import LIMITS_S, NUM_CLASSES, Lineage, class_of
from placement.pods import PodSpec
from simulator.learning.lifetime_classes import known_at
from simulator.learning.lifetime_scores import at_age, concordance
from simulator.learning.lifetime_training import model_at
from simulator.reproduce.lifetime_guard import trusted
from simulator.reproduce.lifetimes import Arrivals, one, stream
from simulator.reproduce.parts import silent
from simulator.traces.trace import NEVER, Manifest, Pods, Trace
from tests.life_traces import by_the_hour


def test_classes_are_those_of_resource_central() -> None:
    assert [class_of(x) for x in (1, 900, 901, 3600, 3601, 86_400, 86_401)] == [0, 0, 1, 1, 2, 2, 3]


@given(st.lists(st.floats(0.01, 1), min_size=NUM_CLASSES, max_size=NUM_CLASSES), st.integers(0, 200_000))
def test_what_was_outlived_is_ruled_out_and_the_rest_keeps_its_odds(raw: list[float], age_s: int) -> None:
    shares = np.array([raw]) / sum(raw)
    (later,) = at_age(shares, age_s)
    assert later.sum() == pytest.approx(1)
    outlived = [limit <= age_s for limit in (*LIMITS_S, math.inf)]
    assert [share == 0 for share in later.tolist()] == outlived
    left = np.flatnonzero(~np.array(outlived))
    assert later[left] / later[left[-1]] == pytest.approx(shares[0, left] / shares[0, left[-1]])


def test_a_lineage_tells_of_ended_and_running_kin() -> None:
    lineage = Lineage(("owner",))
    names = [name.split(":")[1] for name in lineage.feature_names]

    def told(now: float) -> dict[str, float]:
        return dict(zip(names, lineage.describe(["a"], now), strict=True))

    assert told(0)["ended"] == 0
    lineage.arrive(["a"], 0)
    lineage.arrive(["a"], 100)
    lineage.end(["a"], 0, 600)
    found = told(1100)
    assert (found["ended"], found["running"], found["arrivals"]) == (1, 1, 2)
    assert found["last_log"] == pytest.approx(math.log(600))
    assert found["running_mean_age_log"] == pytest.approx(math.log1p(1000))
    assert found["passes_900s"] == 0.5
    assert math.isnan(dict(zip(names, lineage.describe(["b"], 0), strict=True))["last_log"])


def test_rules_speak_of_the_most_particular_key_that_has_an_ended_pod() -> None:
    lineage = Lineage(("owner", "all"))
    lineage.arrive(("a", "x"), 0)
    lineage.end(("a", "x"), 0, 500)
    own, other = lineage.rule("last", ("a", "x"), 600), lineage.rule("majority", ("b", "x"), 600)
    assert own is not None
    assert other is not None
    assert np.argmax(own) == np.argmax(other) == 0
    assert lineage.rule("last", ("b", "y"), 600) is None


def test_an_end_without_an_arrival_is_refused() -> None:
    with pytest.raises(ConfigError, match="never arrived"):
        Lineage(("owner",)).end(["a"], 0, 1)


def made_up(departures: list[int]) -> Trace:
    num = len(departures)
    pods = Pods.of(
        name=np.array([f"p{i}" for i in range(num)], object),
        spec=np.zeros(num, np.int64),
        arrival_s=np.arange(1, num + 1) * 1000,
        departure_s=np.array(departures),
    )
    return Trace(Manifest("made-up", "made-up"), (PodSpec((("cpu", 1000),)),), (), pods)


def test_what_happens_later_does_not_change_how_an_arrival_is_described() -> None:
    values = [("a",)] * 4
    one = stream(made_up([1500, 9000, 9000, 9000]), ("owner",), values, 9e4, 0.0)
    two = stream(made_up([1500, 70_000, NEVER, 4500]), ("owner",), values, 9e4, 0.0)
    for name, said in one.rules.items():
        np.testing.assert_array_equal(said, two.rules[name])
    np.testing.assert_array_equal(one.lives.features, two.lives.features)
    np.testing.assert_array_equal(one.lives.rule, two.lives.rule)
    assert two.lives.is_ended.tolist() == [True, True, False, True]


def test_a_trace_in_which_nobody_arrives_later_is_refused() -> None:
    with pytest.raises(ConfigError, match="made-up: no pod arrives in the part that is judged"):
        stream(made_up([1500, 9000]), ("owner",), [("a",)] * 2, 9e4, 2000.0)


def test_labels_at_a_moment_hold_nothing_that_was_not_known_then() -> None:
    values = [("a",)] * 3
    found = stream(made_up([1500, 300_000, 3200]), ("owner",), values, 4e5, 0.0).lives
    index, classes, weight = known_at(found, 20_000)
    known = set(zip(index.tolist(), classes.tolist(), strict=True))
    assert {(0, 0), (2, 0)} <= known
    assert {c for i, c in known if i == 1} <= {2, 3}, "what it has lived through is ruled out"
    assert weight[np.asarray(index) == 1].sum() == pytest.approx(1)
    later, classes, _ = known_at(found, 200_000)
    assert sorted(zip(later.tolist(), classes.tolist(), strict=True)) == [(0, 0), (1, 3), (2, 0)]


def test_trees_do_not_read_the_hour_of_a_recording_without_a_calendar() -> None:
    dated = by_the_hour(owners=2, hours=8)
    hour = feature_names().index("hour")
    assert np.isfinite(told(dated).lives.features[:, hour]).all()
    undated = dated.but(manifest=replace(dated.manifest, begins_s=0))
    assert np.isnan(told(undated).lives.features[:, hour]).all(), "as in `ullage train`"


def told(trace: Trace) -> Arrivals:
    owners = [(trace.specs[c].owner, "all") for c in trace.pods.spec.tolist()]
    last = float(trace.pods.departure_s.max())
    return stream(trace, ("owner", "all"), owners, last, 0.0)


def test_a_model_of_a_moment_holds_nothing_that_was_not_known_then() -> None:
    trace, now = by_the_hour(owners=6, hours=24), 18 * 3600
    departure = np.where(trace.pods.departure_s > now, trace.pods.departure_s + 50_000, trace.pods.departure_s)
    other = trace.but(pods=replace(trace.pods, departure_s=departure))
    mine, same = (model_at(told(t).lives, now, most=500, seed=1) for t in (trace, other))
    assert (mine.trees.text, mine.share) == (same.trees.text, same.share)
    assert mine.classes is not None
    assert same.classes is not None
    assert (mine.classes.trees.text, mine.classes.owner_share) == (same.classes.trees.text, same.classes.owner_share)
    later = model_at(told(other).lives, now + 3 * 3600, most=500, seed=1)
    assert later.trees.text != mine.trees.text
    assert later.classes is not None
    assert later.classes.trees.text != mine.classes.trees.text
    with pytest.raises(ModelError, match="no pod arrived"):
        model_at(told(trace).lives, -1, most=500, seed=1)


def test_refitted_models_learn_what_rules_on_the_past_cannot_see() -> None:
    found = one(told(by_the_hour(owners=6)), 24 * 3600, 7200, seed=1, progress=silent)
    assert found["pods"] == 6 * 12 * 6
    assert found["points"] == pytest.approx(100 * (found["accuracy"] - found["best_rule_accuracy"]))
    assert found["points"] > 10
    assert found["hazards"]["accuracy"] > found["history"]["accuracy"] + 0.1


def test_the_guard_lets_a_model_answer_once_enough_of_its_answers_came_true() -> None:
    """A pod every 1000 s, which lives for 100 s; every third one is of a new workload."""
    num = 600
    trace = made_up([1000 * (i + 1) + 100 for i in range(num)])
    lives = stream(trace, ("owner",), [("a",)] * num, 7e5, 0.0).lives
    lives = replace(lives, is_new=np.arange(num) % 3 == 0)
    good, bad = (np.full((num, NUM_HAZARDS), chance) for chance in (0.99, 0.01))
    kin = np.arange(num)
    found = trusted(good, lives, kin)
    for mask in (lives.is_new, ~lives.is_new):
        earned = np.flatnonzero(found[mask])
        assert earned[0] == LEAST, "as many outcomes have to be known"
        assert len(earned) == mask.sum() - LEAST
    assert not trusted(bad, lives, kin).any()
    assert not trusted(np.where(np.arange(num)[:, None] < 100, np.nan, good), lives, kin)[:199].any(), (
        "nobody was asked"
    )
    many = np.zeros(num, np.int64)
    at_once = replace(lives, moment_s=np.full(num, 1000.0))
    assert not trusted(good, at_once, many).any(), "pods of one class at one look count once"


def test_concordance_is_one_for_the_true_order_and_half_for_none() -> None:
    life = np.arange(1.0, 500.0)
    ended = np.ones(499, np.bool_)
    rng = np.random.default_rng(0)
    assert concordance(life, life, ended, rng) == 1
    assert concordance(-life, life, ended, rng) == 0
    assert concordance(np.zeros(499), life, ended, rng) == 0.5


def newcomers(gang: int) -> LifeHistory:
    """A workload whose pods live on, and twenty that came later, one after the other, whose pods ended at once; they
    came in gangs of so many."""
    history = LifeHistory()
    for i in range(400):
        history.began(f"old-{i}", Kin("old", (1, 1, 0)), 100 * i)
    for i in range(20):
        for j in range(gang):
            history.began(f"{i}-{j}", Kin(f"new-{i}", (1, 1, 0)), 100_000 + i)
    for i in range(20):
        for j in range(gang):
            history.ended(f"{i}-{j}", 100_060)
    return history


def test_a_new_workload_is_told_by_the_latest_newcomers() -> None:
    history, now = newcomers(gang=1), 100_100
    assert history.hazards(Kin("newest", (1, 1, 0)), now)[0] > 0.7
    assert history.hazards(Kin("newest", (2, 2, 0)), now)[0] > 0.7, "of another size"
    assert history.hazards(Kin("", (1, 1, 0)), now)[0] < 0.3, "a bare pod is of no new workload"
    assert history.hazards(Kin("old", (1, 1, 0)), now)[0] < 0.1
    history.began("x", Kin("newest", (1, 1, 0)), now)
    history.began("y", Kin("newest", (1, 1, 0)), now)
    assert [history.running[uid].is_first for uid in "xy"] == [True, False]


def test_one_large_gang_is_one_newcomer() -> None:
    alone, many = (newcomers(gang).hazards(Kin("newest", (1, 1, 0)), 100_100)[0] for gang in (1, 30))
    assert many == pytest.approx(alone, abs=0.05)


def test_new_workloads_are_told_by_newcomers_in_gangs_of_about_as_many() -> None:
    history = LifeHistory()
    for i in range(20):
        history.began(f"large-{i}", Kin(f"large-{i}", (1, 1, 0), gang_size=100 + i), 1000 * i)
        history.ended(f"large-{i}", 1000 * i + 100)
        history.began(f"small-{i}", Kin(f"small-{i}", (1, 1, 0), gang_size=2), 1000 * i + 200)
    now = 30_000

    def first_hazard(gang: int) -> float:
        return history.hazards(Kin("newest", (1, 1, 0), gang_size=gang), now)[0]

    assert first_hazard(110) > 0.7 > first_hazard(0) > 0.3 > first_hazard(2)
    assert first_hazard(900) == pytest.approx(first_hazard(0)), "of such gangs nothing is known"
    large, small = (history.hazards(Kin("", (1, 1, 0), gang_size=gang), now)[0] for gang in (110, 2))
    assert large > 0.6 > 0.4 > small, "bare pods of such gangs lean on them too"
    for i in range(20):
        history.drop(f"small-{i}")
    history.forget_size(Kin("", (1, 1, 0)))
    assert first_hazard(110) == pytest.approx(first_hazard(0))


def test_a_burst_counts_as_the_root_of_its_pods() -> None:
    def outcomes(gap_s: int) -> float:
        """On how many the first part of life stands, of a workload of which 64 pods came so long after one another, and ended."""
        history = LifeHistory(with_features=True)
        events = sorted((i * gap_s + age, i, age) for i in range(64) for age in (0, 100))
        for at_s, i, age in events:
            if age:
                history.ended(f"a-{i}", at_s)
            else:
                history.began(f"a-{i}", Kin("a", (1, 1, 0)), at_s)
        return float(history.features(Kin("a", (1, 1, 0)), 10_000)[feature_names().index("owner:seen_0")])

    assert outcomes(gap_s=0) == pytest.approx(sum(0.95 ** (i / 8) / 8 for i in range(64)), rel=1e-5)
    assert outcomes(gap_s=60) == pytest.approx(sum(0.95**i for i in range(64)), rel=1e-5)


def test_who_is_dropped_takes_no_weight_from_its_burst() -> None:
    def outcomes(dropped: int, *, was_there: bool = False) -> float:
        """On how many the first part of life stands, of a workload of which nine pods lived through it beside those dropped."""
        history, kin = LifeHistory(with_features=True), Kin("a", (1, 1, 0))
        for i in range(9 + dropped):
            history.began(f"a-{i}", kin, 0, was_there=was_there)
        for i in range(dropped):
            history.drop(f"a-{9 + i}")
        history.pass_by(AGES_S[1] + 1)
        return float(history.features(kin, AGES_S[1] + 1)[feature_names().index("owner:seen_0")])

    alone = sum(0.95 ** (i / 3) / 3 for i in range(9))
    assert outcomes(0) == pytest.approx(alone, rel=1e-5)
    assert outcomes(27) == pytest.approx(alone, rel=1e-5), "as if they had never been"
    ended = sum(0.95 ** (i / 6) / 6 for i in range(9))
    assert outcomes(27, was_there=True) == pytest.approx(ended, rel=1e-5), "who was there was one of many alike"


def test_pods_that_come_within_a_minute_are_one_burst() -> None:
    lineage = Lineage(("owner",))
    for now in (0.0, 59.0, 60.0):
        lineage.arrive(("a",), now)
    lineage.end(("a",), 59.0, 100.0)
    found = dict(zip(lineage.feature_names, lineage.describe(("a",), 200.0), strict=True))
    assert [found[f"owner:burst_{i}_pods"] for i in range(2)] == [1, 2]
    assert [found[f"owner:burst_{i}_ended_share"] for i in range(2)] == [0, 0.5]
    lineage.withdraw(("a",), 60.0)
    assert lineage.describe(("a",), 200.0)[lineage.feature_names.index("owner:burst_0_pods")] == 2


def test_a_new_workload_is_told_by_gangs_of_about_its_size() -> None:
    history = LifeHistory(with_features=True)
    history.began("a", Kin("old", (1, 1, 0), gang_size=100), 0)
    history.began("b", Kin("other", (1, 1, 0), gang_size=2), 0)
    history.ended("b", 50)
    history.ended("a", 500)

    def last_life(kin: Kin) -> float:
        return float(history.features(kin, 600)[feature_names().index("size-gang:last_log")])

    assert last_life(Kin("new", (1, 1, 0), gang_size=105)) == pytest.approx(math.log(500))
    assert last_life(Kin("new", (1, 1, 0), gang_size=2)) == pytest.approx(math.log(50))
    assert math.isnan(last_life(Kin("new", (1, 1, 0))))
    history.forget_size(Kin("", (1, 1, 0)))
    assert math.isnan(last_life(Kin("new", (1, 1, 0), gang_size=100)))
    with pytest.raises(ConfigError, match="gang_size is -3"):
        PodSpec((), gang_size=-3)
