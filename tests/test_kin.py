"""What other workloads tell of one: never of itself or of the future, no matter what it is called, alike when fitted and live."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from math import ceil
from pathlib import Path

import numpy as np
import pytest

from placement.errors import ModelError
from placement.learning import boosted
from placement.learning.baselines import PEAK, Target
from placement.learning.facts import FAMILIES, Facts, facts_of, image_class
from placement.learning.forecasting import EACH, HOUR_S, LEAST_MOMENTS, LEAST_OUTCOMES, Forecaster, _Outcomes
from placement.learning.kin import LAG_H, LEVELS, MANY, NAMES, PRIOR, Standings, codes_of, from_kin, own_facts, standing
from placement.learning.prediction import HISTORY, LEARNED, MODEL, Question, Rungs, ask, load_rungs
from placement.learning.usage import DAY, HOUR, STEP_S, SingleArray, UsageSeries
from placement.learning.windows import Past
from placement.pods import PodSpec
from placement.resources import CPU, MEMORY
from simulator.learning.accuracy import NEW_OWNER, evaluate, html, table_rows
from simulator.learning.forecast_samples import Recording
from simulator.learning.training import Effort, held_out, train

GIB = 2**30
TARGET = Target(6, PEAK)
RNG = np.random.default_rng(6)
SHARE = np.clip(RNG.gamma(0.6, 0.2, (6, 3 * DAY)), 0, 1).astype(np.float32)
FACTS = (
    Facts("shop", "Deployment", "web-1", ("nginx",), False, 0),
    Facts("shop", "Deployment", "web-2", ("nginx",), True, 100),
    Facts("shop", "Deployment", "cart", ("java",), False, 0),
    Facts("shop", "CronJob", "cart", ("java",), False, 0),
    Facts("test", "Deployment", "web-1", ("nginx",)),
    Facts(),
)
ORIGINS = np.arange(2 * DAY, 3 * DAY, HOUR)


def series_of(share: SingleArray, facts: tuple[Facts, ...] = FACTS) -> UsageSeries:
    names = tuple(f"w{i}" for i in range(len(share)))
    return UsageSeries("s", names, 0, {CPU: share}, {CPU: np.ones(len(share))}, names, facts=facts)


def features_of(share: SingleArray, facts: tuple[Facts, ...] = FACTS) -> SingleArray:
    """(N, O, K)."""
    return Recording(series_of(share, facts), ORIGINS, as_live=True).kin(CPU, TARGET).values


def column(table: SingleArray, name: str) -> SingleArray:
    found: SingleArray = table[:, :, NAMES.index(name)]
    return found


@pytest.mark.parametrize(
    ("image", "repository"),
    [
        ("nginx", "nginx"),
        ("nginx:1.25", "nginx"),
        ("registry:5000/shop/web", "registry:5000/shop/web"),
        ("registry:5000/shop/web:v2@sha256:0f0f", "registry:5000/shop/web"),
    ],
)
def test_the_class_of_an_image_is_its_repository(image: str, repository: str) -> None:
    assert image_class(image) == repository


def test_facts_of_a_workload_come_from_all_of_its_classes_in_any_order() -> None:
    ask_for = ((CPU, 100), (MEMORY, GIB))
    one = PodSpec(
        ask_for, namespace="shop", owner="ReplicaSet/web-7c9d8bf6c4", images=("b:2", "a:1", "a:2"), priority=5
    )
    two = replace(one, images=("c@sha256:0",), guaranteed=True)
    expected = {"shop/Deployment/web": Facts("shop", "Deployment", "web", ("a", "b", "c"), False, 5)}
    assert facts_of([one, two, PodSpec(ask_for)]) == facts_of([two, one]) == expected
    assert Facts.of_workload("shop/Deployment/web").keys() == ("shop/Deployment", "Deployment/web", "")
    assert Facts.of_workload("vm-12").keys() == ("", "", "")


def test_a_feature_holds_nothing_of_the_workload_itself_and_nothing_after_its_kins_hour() -> None:
    before = features_of(SHARE)
    own = SHARE.copy()
    own[1] = RNG.uniform(0, 1, own.shape[1])
    np.testing.assert_array_equal(features_of(own)[1], before[1])
    later = SHARE.copy()
    later[:, ORIGINS[4] - LAG_H * HOUR :] = 1
    np.testing.assert_array_equal(features_of(later)[:, :5], before[:, :5])
    assert (features_of(later)[:4, 5:] != before[:4, 5:]).any()


def test_a_feature_is_the_mean_of_kin_drawn_to_everybody_elses() -> None:
    found = features_of(SHARE)
    stood = standing(Past(SHARE, ORIGINS - LAG_H * HOUR, np.ones(6)), TARGET).astype(float)
    for name, kin in {"namespace": [1, 2], "name": [1, 4], "image": [1, 4]}.items():
        everybody = stood[1:].mean(axis=0)
        for i, level in enumerate(LEVELS):
            expected = (stood[kin, :, i].sum(axis=0) + PRIOR * everybody[:, i]) / (len(kin) + PRIOR)
            np.testing.assert_allclose(column(found, f"{name}_{level}")[0], expected, rtol=1e-5)
        assert (column(found, f"others_{name}")[0] == len(kin)).all()
    assert column(found, "guaranteed")[:3, 0].tolist() == [0, 1, 0]
    assert column(found, "priority")[:2, 0].tolist() == [0, 100]
    np.testing.assert_allclose(
        column(found, "namespace_max_24h")[3], stood[[0, 1, 2, 4, 5], :, 2].mean(axis=0), rtol=1e-5
    )


def test_the_number_of_kin_names_nobody() -> None:
    facts = [Facts("a", "Job", f"x{i}-y") for i in range(12)] + [Facts("b", "Job", f"z{i}-y") for i in range(30)]
    told = from_kin(codes_of(facts), own_facts(facts), np.full((42, 1, len(LEVELS)), 0.5, np.float32))
    assert set(column(told, "others_namespace").ravel().tolist()) == {MANY}
    assert set(column(told, "namespace_max_24h").ravel().tolist()) == {0.5}


def test_what_is_not_known_is_nan_and_no_name_is_a_feature() -> None:
    found = features_of(SHARE)
    assert np.isnan(found[5]).all()
    assert np.isnan(column(found, "guaranteed")[4]).all()
    assert np.isnan(features_of(SHARE, ())).all()
    assert np.isnan(features_of(SHARE[:1], FACTS[:1])[:, :, : len(FAMILIES) * len(LEVELS)]).all(), "nobody else"
    renamed = [
        f if not f.name else replace(f, namespace=f"{f.namespace}-x", name=f"my-{f.name}", images=(f"x/{f.images[0]}",))
        for f in FACTS
    ]
    np.testing.assert_array_equal(features_of(SHARE, tuple(renamed)), found)
    gone = SHARE.copy()
    gone[1, ORIGINS[0] - 12 * HOUR :] = np.nan
    assert (column(features_of(gone), "others_namespace")[0] == 1).all(), "not measured for long"


def test_standings_that_come_in_tell_the_same_as_a_table_of_them_in_whatever_order() -> None:
    stood = RNG.uniform(0, 1, (6, len(LEARNED), len(LEVELS))).astype(np.float32)
    expected = from_kin(codes_of(FACTS), own_facts(FACTS), stood)
    now = 10 * 86_400
    names = [f"w{i}" for i in range(6)]
    for order in ((0, 1, 2, 3, 4, 5), (5, 3, 1, 0, 2, 4)):
        made = Standings(len(LEARNED))
        made.meet({names[i]: FACTS[i] for i in order})
        for i in order:
            made.add(names[i], now - 300, stood[i])
            made.add(names[i], now + 300, stood[i] / 2)
        found = made.features(now)
        for i, name in enumerate(names):
            np.testing.assert_array_equal(found[made.row(name)], expected[i])
        made.keep(names[1:])
        assert len(made) == 5
        left = from_kin(codes_of(FACTS[1:]), own_facts(FACTS[1:]), stood[1:])
        np.testing.assert_array_equal(made.features(now)[made.row("w2")], left[1])
        assert np.isnan(made.features(now + 9 * HOUR_S)[:, 0, : len(FAMILIES) * len(LEVELS)]).all(), "too old"


def test_standings_of_the_past_are_kept_for_as_long_as_models_are_tried_on_it() -> None:
    made = Standings(1)
    made.meet({"a": FACTS[0], "b": FACTS[1]})
    end = 40 * 86_400
    for time_s in range(end - 90 * HOUR_S, end + 1, 600):
        made.add("b", time_s, np.full((1, len(LEVELS)), time_s / end, np.float32))
    at = NAMES.index("namespace_mean_24h")
    for back_h in range(0, 84, 7):
        then = end - back_h * HOUR_S
        told = float(made.features(then)[made.row("a"), 0, at])
        assert then - 6 * HOUR_S <= told * end <= then + 60, "known by then, and not old"


def owned(num: int = 96, days: int = 8, seed: int = 1) -> UsageSeries:
    """Workloads whose peaks are what their namespace does, whatever they did themselves."""
    rng = np.random.default_rng(seed)
    owner = np.arange(num) % 12
    hours = days * 24
    level = rng.uniform(0.05, 0.9, (12, hours // 24)).repeat(24, axis=1)[owner][:, :, None]
    busy = np.where(rng.random((num, hours, 1)) < 0.12, rng.uniform(0.3, 1.0, (num, hours, 1)), 0.05)
    share = (level * busy * rng.uniform(0.8, 1.0, (num, hours, HOUR))).reshape(num, -1).astype(np.float32)
    names = tuple(f"ns{o}/Deployment/app-{i}" for i, o in enumerate(owner))
    given = {CPU: np.full(num, 4.0), MEMORY: np.full(num, 8.0 * GIB)}
    return UsageSeries(
        "owned", names, 0, {CPU: share * np.float32(4), MEMORY: share * np.float32(8 * GIB)}, given,
        tuple(f"ns{o}/Deployment" for o in owner), facts=tuple(map(Facts.of_workload, names)),
    )  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kin")
    train(owned(), folder, seed=1, effort=Effort(4000, 1500), targets=[Target(1)])
    return folder


def test_a_model_names_what_it_knows_of_and_whom_it_was_fitted_on(model: Path, tmp_path: Path) -> None:
    series = owned()
    card = json.loads((model / "card.json").read_text())
    assert card["data"]["facts"] == {"namespace": 96, "name": 96, "image": 0}
    (names,) = card["schemas"].values()
    assert set(NAMES) <= set(names)
    held = held_out(series, 1)
    whole = [owner for owner in set(series.groups) if held[np.array(series.groups) == owner].all()]
    assert whole
    assert len(card["judged_fitted_on"]["workloads"].split()) == (~held).sum()
    assert len(card["judged_fitted_on"]["owners"].split()) == 12 - len(whole)
    assert len(card["fitted_on"]["workloads"].split()) == 96, "what is served has seen everybody"
    report = evaluate(series, model)
    found = report["tasks"]["cpu-1h-peak"]["novelty"]
    assert found["unseen"]["samples"] == found["unseen, of a seen owner"]["samples"] + found[NEW_OWNER]["samples"]
    assert found["seen"]["coverage"] > 0.85
    assert NEW_OWNER in html(report)
    assert table_rows(report)[0]["unseen"] == f"{found['unseen']['pinball']:.4f}"
    (schema,) = card["schemas"]
    renamed = (model / "card.json").read_text().replace("namespace_mean_24h", "namespace_mean_12h")
    for path in model.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "card.json").write_text(boosted.card_text(json.loads(renamed)))
    with pytest.raises(ModelError, match=f"fitted for feature schema {schema}, this build computes .*; train again"):
        load_rungs(str(tmp_path), Target(1))


def test_without_owners_nothing_is_held_out_by_them_and_the_groups_are_as_before() -> None:
    series = replace(owned(), facts=())
    assert held_out(series, 1).sum() == 24


def history(forecaster: Forecaster, cpu: Mapping[str, SingleArray]) -> int:
    end_s = STEP_S * max(map(len, cpu.values()))
    for name, share in cpu.items():
        for step, value in enumerate(share.tolist(), 1):
            forecaster.add(
                name, step * STEP_S, end_s, cpu_millicores=round(4000 * value), memory_bytes=round(8 * GIB * value)
            )
    return end_s


def test_a_forecaster_asks_how_all_stood_before_it_tells_anybody(model: Path) -> None:
    series = owned(num=24, days=5, seed=3)
    rungs = load_rungs(str(model), Target(1))
    assert rungs.reads_kin, "trees look at kin"
    assert not Rungs.of_history(Target(1)).reads_kin
    made = Forecaster(Target(1), rungs=rungs)
    end_s = history(made, dict(zip(series.workloads, series.share(CPU), strict=True)))
    asks = {name: {CPU: 4000, MEMORY: 8 * GIB} for name in series.workloads}
    first = made.questions(asks)
    assert all(q.stands and not q.judges and q.kin is None for q in first)
    made.take(ask(rungs, first))
    assert not made.forecasts(end_s).of, "nothing was predicted yet"
    second = made.questions(asks)
    assert all(not q.stands and q.judges for q in second)
    made.take(ask(rungs, second))
    assert made.questions(asks) == []
    past = {r: Past(series.share(r), np.array([5 * DAY - 7 * HOUR, 5 * DAY]), np.ones(24), r) for r in LEARNED}
    stood = np.stack([standing(past[r], Target(1)) for r in LEARNED], axis=2)
    for moment, hours in ((1, 0), (0, 7)):
        told = from_kin(codes_of(series.facts), own_facts(series.facts), stood[:, moment])
        at = 0 if hours == 0 else 1 + rungs.moments_h.index(8)
        kin = np.stack([q.kin[at] for q in second if q.kin is not None])
        if hours == 0:
            np.testing.assert_allclose(kin, told, rtol=2e-3)
        else:
            assert np.isfinite(kin[:, :, : 2 * len(LEVELS)]).all()
    made.settle(end_s)
    assert made.factor(MODEL, CPU) is not None
    assert made.factor(HISTORY, CPU) is not None
    assert {f.rung for f in made.forecasts(end_s).of.values()} == {MODEL}


def test_what_kin_tell_changes_an_answer_of_such_a_model_and_a_lone_question_still_gets_one(model: Path) -> None:
    series = owned(num=24, days=5, seed=3)
    rungs = load_rungs(str(model), Target(1))
    made = Forecaster(Target(1), rungs=rungs)
    history(made, {series.workloads[0]: series.share(CPU)[0]})
    (question,) = made.questions({series.workloads[0]: {CPU: 4000, MEMORY: 8 * GIB}})
    alone = Question(question.workload, question.requested, question.history)
    kin = np.full((1, len(LEARNED), len(NAMES)), 0.02, np.float32)
    high = kin.copy()
    high[:, :, : len(FAMILIES) * len(LEVELS)] = 0.9
    low_answer, high_answer, plain = (
        ask(rungs, [replace(alone, kin=told)])[0].of[CPU].uppers[MODEL] for told in (kin, high, None)
    )
    assert low_answer < high_answer
    assert plain > 0


def test_a_factor_is_the_same_order_statistic_however_outcomes_come_and_go() -> None:
    rng = np.random.default_rng(2)
    made, kept = _Outcomes(), []
    for step in range(11 * 48):
        now = step * 1800.0
        for ratio in rng.lognormal(0, 1, rng.integers(0, 12)).tolist():
            made_s = max(0, int(now) - int(rng.integers(0, 3 * HOUR_S)))
            made.add(made_s, ratio)
            kept.append((made_s // HOUR_S, ratio))
        level = EACH if step % 7 else 1 - (1 - EACH) * rng.uniform()
        made.settle(now, level)
        kept = [(hour, ratio) for hour, ratio in kept if hour >= (now - 10 * 86_400) // HOUR_S]
        expected = None
        if len(kept) >= LEAST_OUTCOMES and len({hour for hour, _ in kept}) >= LEAST_MOMENTS:
            rank = min(ceil((len(kept) + 1) * level), len(kept))
            expected = sorted(ratio for _, ratio in kept)[rank - 1]
        assert made.quantile == expected
