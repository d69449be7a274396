"""What a model may be judged on, and asked about: not what it was fitted on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from placement.errors import ConfigError, ModelError
from placement.learning.baselines import PEAK, Target
from placement.learning.prediction import HISTORY, MODEL, YOUNG, Question, ask, load_predictor, load_rungs
from placement.learning.spans import JUDGED, NOBODY, SERVED, Span
from placement.learning.usage import DAY, HOUR, STEP_S, UsageHistory, UsageSeries
from placement.resources import CPU, MEMORY
from placement.strategies import STRATEGIES
from simulator.cli.learn import train as train_command
from simulator.cli.reproduce_replays import placement_command
from simulator.cli.trace import convert, info
from simulator.compare import compare
from simulator.comparison import Question as Asked
from simulator.learning import recordings as learning
from simulator.learning.accuracy import evaluate, html
from simulator.learning.forecast_samples import Recording
from simulator.learning.recordings import read_learnable, undated
from simulator.learning.sight import Judged, digest_of, sight_of
from simulator.learning.training import Effort, content_of, deployable_recording, span_of, train
from simulator.learning.training import Split as TrainingSplit
from simulator.replay import Replay, ReplayOptions
from simulator.traces.recorded import usage_of_trace
from simulator.traces.trace import Trace
from simulator.usage.usage_learner import UsageLearner
from simulator.usage.usage_truth import UsageTruth
from tests.test_one_forecaster import busy_trace
from tests.test_training import made_up

TARGET = Target(6, PEAK)
BEGINS_S = 1_772_409_600
EFFORT = Effort(3000, 800)
SPAN = Span(1000, 1700, 2000, "d")
DATA = Judged("other", "e", True, 1000, 1670, 2000, [digest_of("a")])


@pytest.fixture(scope="module")
def series() -> UsageSeries:
    return replace(made_up(days=12), start_s=BEGINS_S)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, series: UsageSeries) -> Path:
    path = tmp_path_factory.mktemp("sight")
    train(series, path, seed=2, effort=EFFORT, targets=[TARGET])
    return path


def part(series: UsageSeries, first: int, after: int) -> UsageSeries:
    """Days ``[first, after)``."""
    usage = {r: table[:, first * DAY : after * DAY] for r, table in series.usage.items()}
    return replace(series, start_s=series.start_s + first * DAY * STEP_S, usage=usage)


def test_who_may_be_asked_about_a_moment() -> None:
    assert SPAN.who(np.array([999, 1000, 1699, 1700, 1999, 2000])).tolist() == [
        SERVED, NOBODY, NOBODY, JUDGED, JUDGED, SERVED,
    ]  # fmt: skip
    assert Span.of({}) is None
    assert Span.of({"span": SPAN.card}) == SPAN
    with pytest.raises(ModelError, match="cannot be read"):
        Span.of({"span": {"from_s": 0}})


def test_how_a_recording_is_judged_follows_from_what_was_learned_from_it() -> None:
    known = [digest_of("a"), digest_of("b")]
    assert sight_of(None, "", [], DATA).from_s == 1670
    assert sight_of(SPAN, "", known, replace(DATA, members=["x"])).note == "", "nobody of it was fitted on"
    assert sight_of(SPAN, "", known, replace(DATA, calendar=False)).note == "", "another clock"
    same = sight_of(SPAN, "", known, DATA)
    assert (same.before_refit, same.from_s) == (True, 1700)
    longer = sight_of(SPAN, "", known, replace(DATA, end_s=2400))
    assert (longer.before_refit, longer.from_s) == (False, 2000)
    assert "judged on the" in longer.note
    later = sight_of(SPAN, "", known, replace(DATA, begin_s=2000, end_s=2400))
    assert (later.before_refit, later.from_s, later.note) == (False, 2000, "")
    assert later.knows_past, "some of the days before it were fitted on"
    fresh = sight_of(SPAN, "", known, replace(DATA, first_s=2000, begin_s=2300, end_s=2400))
    assert not fresh.knows_past
    early = replace(SPAN, from_s=BEGINS_S, judged_s=BEGINS_S + 60, to_s=BEGINS_S + 100)
    with pytest.raises(ConfigError, match="goes on after 2026-03-02 00:01 UTC"):
        sight_of(early, "", known, replace(DATA, first_s=0, begin_s=BEGINS_S, end_s=BEGINS_S + 30))
    with pytest.raises(ConfigError, match="the model was fitted on all of it"):
        sight_of(SPAN, "", known, replace(DATA, begin_s=1400, end_s=1600))
    shifted = replace(DATA, digest="d", first_s=0, begin_s=670, end_s=1000, calendar=False)
    assert sight_of(SPAN, "", [], shifted).from_s == 700, "the same content by another clock"
    unknown = replace(SPAN, calendar=False)
    assert sight_of(unknown, "other", [], replace(DATA, calendar=False)).before_refit, "the same name by its own clock"
    kept = replace(SPAN, to_s=1700)
    assert not sight_of(kept, "", known, DATA).before_refit, "what was judged is served"
    assert sight_of(kept, "", known, DATA).from_s == 1700


def test_models_are_fitted_again_on_everything_and_judged_before(folder: Path, series: UsageSeries) -> None:
    card = json.loads((folder / "card.json").read_text())
    assert "no figure of that can be had from this recording" in card["figures"]
    assert [entry["file"] for entry in card["judged_models"]] == ["judged-" + e["file"] for e in card["models"]]
    model, _ = load_predictor(folder, TARGET)
    (served,), (judged,) = model.models[CPU], model.judged[CPU]
    assert served.rounds == judged.rounds
    assert served.booster.model_to_string() != judged.booster.model_to_string()
    report = evaluate(series, folder)
    assert report["judged"]["models"] == "before the refit"
    assert report["judged"]["note"] in html(report)
    unseen = report["tasks"]["cpu-6h-peak"]["novelty"]["unseen"]
    assert unseen["pinball"] == pytest.approx(card["tasks"]["cpu-6h-peak"]["pinball_unseen"])
    assert unseen["coverage"] == pytest.approx(card["tasks"]["cpu-6h-peak"]["coverage_unseen"])
    with pytest.raises(ConfigError, match="fitted on all of it"):
        evaluate(part(series, 0, 7), folder)


def test_what_is_served_is_judged_on_what_came_later(folder: Path) -> None:
    whole = replace(made_up(days=24), start_s=BEGINS_S)
    report = evaluate(part(whole, 12, 24), folder)
    assert report["judged"] == {"models": "served", "note": ""}
    report = evaluate(part(whole, 3, 15), folder)
    assert report["judged"]["models"] == "served"
    assert "judged on the 3.0 days" in report["judged"]["note"]
    every = evaluate(part(whole, 12, 24), folder)["tasks"]["cpu-6h-peak"]["samples"]
    assert 0 < report["tasks"]["cpu-6h-peak"]["samples"] < every


def test_the_past_of_a_later_recording_is_not_told_by_who_was_fitted_on_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from simulator.learning import accuracy

    whole = replace(made_up(days=24), start_s=BEGINS_S)
    model, _ = load_predictor(folder, TARGET)
    asked_s = []
    mixed = accuracy._mixed

    def spy(models, part, base, card):  # type: ignore[no-untyped-def]
        asked_s.append(models[0].booster.model_to_string())
        return mixed(models, part, base, card)

    monkeypatch.setattr(accuracy, "_mixed", spy)
    report = evaluate(part(whole, 0, 19), folder)
    assert report["judged"] == {"models": "served", "note": ""}
    served, judged = model.models[CPU][0], model.judged[CPU][0]
    assert asked_s[:2] == [judged.booster.model_to_string(), served.booster.model_to_string()]


def asked(series: UsageSeries, days: int) -> Question:
    history = UsageHistory("w3")
    for step, share in enumerate(series.share(CPU)[3, : days * DAY].tolist()):
        if np.isfinite(share):
            at = series.start_s + step * STEP_S
            history.add(at, cpu_millicores=round(2000 * share), memory_bytes=2**28)
    snapshot = history.snapshot()
    assert snapshot is not None
    return Question("w3", {CPU: 2000, MEMORY: 2**30}, snapshot, judges=True)


def test_a_model_is_tried_on_the_past_by_what_had_not_seen_it(folder: Path, series: UsageSeries) -> None:
    rungs = load_rungs(str(folder), TARGET)
    judged_s = json.loads((folder / "card.json").read_text())["span"]["judged_s"]
    (answer,) = ask(rungs, [asked(series, 10)])
    moments = [ratio.made_s for ratio in answer.tried if ratio.rung == "model"]
    assert moments
    assert min(moments) >= judged_s, "not on what was fitted on"
    assert min(r.made_s for r in answer.tried if r.rung == "history") < judged_s
    (model, _), (_, history) = rungs.predictors
    assert model == "model"
    plain = replace(rungs, predictors=(("model", load_predictor(folder, TARGET)[0]), ("history", history)))
    served = replace(plain.predictors[0][1], span=None, judged={})  # type: ignore[type-var]
    naive = replace(plain, predictors=(("model", served), ("history", history)))
    assert len([r for r in ask(naive, [asked(series, 10)])[0].tried if r.rung == "model"]) > len(moments)
    for days, is_served in ((12, True), (10, False)):
        mine, other = (ask(one, [asked(series, days)])[0].of[CPU].uppers["model"] for one in (rungs, naive))
        assert (mine == other) == is_served
    (early,) = ask(rungs, [asked(series, 6)])
    assert set(early.of[CPU].uppers) == {"history"}, "nobody answers about what all were fitted on"


def test_without_a_refit_what_was_judged_is_served_as_it_was(folder: Path, tmp_path: Path) -> None:
    card = json.loads((folder / "card.json").read_text())["tasks"]["cpu-6h-peak"]
    series = replace(made_up(days=12), start_s=BEGINS_S)
    trained = train(series, tmp_path, seed=2, effort=EFFORT, targets=[TARGET], refit=False)
    (kept,) = trained
    assert kept.served is kept.judged
    assert kept.judged.calibration == card["judged"]["calibration"]
    assert list(kept.judged.weights) == card["judged"]["weights"]
    assert card["calibration"] != card["judged"]["calibration"], "more outcomes are known"
    mine = json.loads((tmp_path / "card.json").read_text())
    assert mine["judged_models"] == []
    assert mine["figures"].startswith("The figures are of the models that are served")
    assert mine["span"]["to_s"] == mine["span"]["judged_s"]
    assert evaluate(series, tmp_path)["judged"] == {"models": "served", "note": ""}


def by_the_hour(begins_s: int) -> UsageSeries:
    """Workloads that use much in the morning: at once, and as much as never before."""
    rng = np.random.default_rng(0)
    by_day = rng.uniform(0.2, 0.9, (24, 12, 1)) * (np.arange(24) // 6 == 1)
    share = (by_day.reshape(24, -1).repeat(HOUR, axis=1) + 0.05).astype(np.float32)
    return replace(made_up(days=12), start_s=begins_s, usage={CPU: share * 2})


def test_trees_do_not_look_at_the_clock_of_a_recording_without_a_calendar(tmp_path: Path) -> None:
    for begins_s, reads in ((BEGINS_S, True), (0, False)):
        (trained,) = train(by_the_hour(begins_s), tmp_path, seed=2, effort=EFFORT, targets=[Target(1)])
        for model in (*trained.served.models, *trained.judged.models):
            assert model.reads(("hour", "weekday")) == reads
    assert json.loads((tmp_path / "card.json").read_text())["span"]["calendar"] is False
    assert load_predictor(tmp_path, Target(1))[0].span is None, "its times mean nothing elsewhere"


def rungs_that_answer(folder: Path, end_s: int) -> set[str]:
    """About two days of steady use that end then, of a workload that is known and of one that is new."""
    rungs, found = load_rungs(str(folder), TARGET), set[str]()
    for steps in (2 * DAY, DAY // 2):
        history = UsageHistory("w")
        for at in range(end_s - steps * STEP_S, end_s, STEP_S):
            history.add(at, cpu_millicores=500, memory_bytes=2**30)
        snapshot = history.snapshot()
        assert snapshot is not None
        question = Question("w", {CPU: 2000, MEMORY: 2**31}, snapshot, judges=True, is_new=True)
        (answer,) = ask(rungs, [question])
        found |= {*answer.of[CPU].uppers} if answer.of else set()
        found |= {ratio.rung for ratio in answer.tried if ratio.resource == CPU}
    return found


def test_a_model_that_looks_at_the_clock_says_nothing_by_a_clock_without_a_calendar(tmp_path: Path) -> None:
    """A missing hour is taken for midnight by trees that never missed it, so leaving it out is no way to say so."""
    late_s = BEGINS_S + 90 * 86_400
    train(by_the_hour(BEGINS_S), tmp_path / "knows", seed=2, effort=EFFORT, targets=[TARGET])
    train(by_the_hour(0), tmp_path / "timeless", seed=2, effort=EFFORT, targets=[TARGET])
    assert load_rungs(str(tmp_path / "knows"), TARGET).reads_clock
    assert rungs_that_answer(tmp_path / "knows", late_s) == {MODEL, HISTORY, YOUNG}
    assert rungs_that_answer(tmp_path / "knows", 90 * 86_400) == {HISTORY}
    assert rungs_that_answer(tmp_path / "timeless", 90 * 86_400) == {MODEL, HISTORY, YOUNG}
    with pytest.raises(ConfigError, match=r"does not say when it began, and the models of .* look at hours"):
        evaluate(by_the_hour(0), tmp_path / "knows")
    words = ["--data", str(tmp_path), "--model", str(tmp_path / "knows"), "-q"]
    assert "looks at hours and weekdays" in str(CliRunner().invoke(placement_command, words).exception)
    trace = busy_trace(2)
    for begins_s in (0, BEGINS_S):
        path = tmp_path / f"{begins_s}.ullage"
        trace.but(manifest=replace(trace.manifest, begins_s=begins_s)).save(path)
        (row,) = compare(Asked((str(path),), ("predicted",), model=str(tmp_path / "knows"))).rows
        assert any("of usage it says nothing here" in note for note in row["trace_notes"]) == (begins_s == 0)


def test_features_of_a_replay_still_count_hours_where_there_is_no_calendar() -> None:
    series = made_up()
    for as_live in (True, False):
        table = Recording(series, np.arange(3 * DAY, series.num_steps, DAY), as_live=as_live).common(CPU)
        assert np.isnan(table.values[:, :, table.schema.names.index("hour")]).all() == as_live
    dated = deployable_recording(replace(series, start_s=BEGINS_S), TrainingSplit.of(10)).common(CPU)
    assert np.isfinite(dated.values[:, :, dated.schema.names.index("weekday")]).all()


def test_content_tells_recordings_apart_whatever_they_are_called() -> None:
    series = made_up()
    assert content_of(series) == content_of(replace(series, name="other", start_s=7))
    usage = {CPU: series.usage[CPU].copy()}
    usage[CPU][3, 5] += 1
    assert content_of(replace(series, usage=usage)) != content_of(series)
    split = TrainingSplit.of(series.num_days)
    assert span_of(series, split, refit=True).to_s == series.end_s


def test_a_recording_is_told_once_when_it_began(tmp_path: Path) -> None:
    trace = "demo"
    assert undated(read_learnable(trace))
    told = read_learnable(trace, BEGINS_S)
    assert told.trace is not None
    assert told.trace.manifest.begins_s == BEGINS_S
    assert not undated(told)
    told_path = tmp_path / "told.ullage"
    assert not CliRunner().invoke(convert, [trace, str(told_path), "--begins-at", "2026-03-02T01:00+01:00"]).exception
    assert Trace.load(told_path).manifest.begins_s == BEGINS_S
    began = [CliRunner().invoke(info, [one]).stdout for one in (trace, str(told_path))]
    assert "not known, so models learn no hours of the day" in began[0]
    assert "2026-03-02 00:00:00 UTC" in began[1]
    with pytest.raises(ConfigError, match="says itself when it began"):
        read_learnable(str(told_path), BEGINS_S)
    for text, complaint in (("yesterday", "is no date and time"), ("1970-01-02", "lies before 1990")):
        found = CliRunner().invoke(train_command, [trace, "-m", str(tmp_path / "m"), "--begins-at", text])
        assert found.exit_code == 2
        assert complaint in found.output


def test_a_folder_of_usage_is_told_when_it_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "read_usage", lambda path: made_up())
    assert undated(read_learnable(str(tmp_path)))
    told = read_learnable(str(tmp_path), BEGINS_S)
    assert told.usage is not None
    assert (told.usage.start_s, undated(told)) == (BEGINS_S, [])


def test_usage_of_a_trace_is_by_the_calendar_in_training_and_in_a_replay() -> None:
    plain = busy_trace(2)
    dated = plain.but(manifest=replace(plain.manifest, begins_s=BEGINS_S))
    assert usage_of_trace(dated).start_s - usage_of_trace(plain).start_s == BEGINS_S
    clocks = []
    for trace in (plain, dated):
        truth = UsageTruth(trace.usage)
        learner = UsageLearner(truth)
        Replay(trace, STRATEGIES["predicted"], ReplayOptions(policies=(truth, learner), end_s=4 * 3600)).run()
        clocks.append(max(known.last_s for known in learner.forecaster._known.values()))
    assert clocks[1] - clocks[0] == BEGINS_S
