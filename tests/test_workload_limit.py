"""What becomes of workload 2,001: it counts with its request, a metric and the log say so, and a place may become free."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

import simulator.compare as comparing
from placement.knowledge import Knowledge
from placement.learning.baselines import Target
from placement.learning.forecasting import Forecaster
from placement.learning.horizons import MOST_WORKLOADS
from placement.learning.lifetimes import LifetimeForecaster
from placement.pods import PodSpec
from placement.resources import CPU, MEMORY
from scheduler.learning.telemetry import Sample, Subject, UsageStore
from scheduler.learning.usage_learner import UsageLearner
from scheduler.ledger import Seen
from scheduler.metrics import Metrics
from scheduler.settings import UsageSettings
from simulator.cli.simulate import learned_notes
from simulator.compare import compare
from simulator.comparison import Question
from simulator.learning.recordings import read_learnable, train
from simulator.learning.training import Effort
from simulator.traces.trace import Trace, Usage
from tests.life_traces import by_the_hour
from tests.live_engine import GIB, Live
from tests.test_lifetime_training import with_usage
from tests.test_one_forecaster import busy_trace

DAY_S = 86_400


def exposed(metrics: Metrics, name: str) -> float:
    (line,) = [line for line in metrics.expose().decode().splitlines() if line.startswith(f"{name} ")]
    return float(line.split()[-1])


def test_one_number_is_the_default_of_all_who_serve() -> None:
    made = (Forecaster(Target(1)).max_workloads, LifetimeForecaster().max_workloads, UsageSettings().max_workloads)
    assert set(made) == {MOST_WORKLOADS}


def test_who_finds_no_place_is_counted_until_one_is_free() -> None:
    made = Forecaster(Target(1), max_workloads=2)
    for now, names in ((300, "abc"), (2 * DAY_S, "bc"), (2 * DAY_S + 300, "bc")):
        for name in names:
            made.add(name, now, now, cpu_millicores=10)
        made.keep(list(names))
        assert made.num_left_out == (1 if now == 300 else 0)
    assert made.num_turned_away == 2
    assert len(made) == 2
    assert made.add("c", 2 * DAY_S + 600, 2 * DAY_S + 600, cpu_millicores=10), "a is gone for a day"


async def test_a_service_says_whom_it_leaves_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    live, now = Live(tmp_path / "r.db"), [600.0]
    live.state.learn(Knowledge.neutral())
    learner = UsageLearner(live.engine, UsageSettings(max_workloads=2), lambda: True, clock=lambda: now[0])
    learner.store = UsageStore(100, live.metrics, lambda: now[0])
    for i in range(3):
        spec = PodSpec(((CPU, 100), (MEMORY, GIB)), owner=f"StatefulSet/db{i}")
        live.ledger.see(Seen(f"u{i}", f"p{i}", "default", 1, spec, "n2"))
    for _ in range(2):
        for i in range(3):
            await learner.store.put(Sample(Subject("pod", f"u{i}"), now[0], cpu_millicores=10, memory_bytes=GIB))
        with caplog.at_level(logging.INFO):
            await learner.turn()
        now[0] += 300
    assert len([r for r in caplog.records if "max_workloads" in r.message]) == 1, "said once"
    assert exposed(live.metrics, "ullage_prediction_left_out_workloads") == 1
    assert exposed(live.metrics, 'ullage_usage_refused_total{reason="too many workloads"}') == 2


def test_a_replay_says_that_a_service_would_keep_fewer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trace = busy_trace(4)
    path = tmp_path / "t.ullage"
    trace.save(path)
    question = Question((str(path),), ("best-fit",))
    monkeypatch.setattr(comparing, "MOST_WORKLOADS", 3)
    comparison = compare(question)
    assert any(note.startswith("4 workloads were learned of") for note in comparison.rows[0]["trace_notes"])
    (said,) = learned_notes(comparison)
    assert said.startswith(f"note: {trace.manifest.name}: 4 workloads were learned of")
    monkeypatch.setattr(comparing, "MOST_WORKLOADS", 4)
    (row,) = compare(question).rows
    assert not any("were learned of" in note for note in row["trace_notes"])


def test_a_replay_says_what_a_strategy_would_have_read(tmp_path: Path) -> None:
    path = tmp_path / "t.ullage"
    trace = busy_trace(4).but(usage=Usage.empty())
    trace.save(path)
    said = learned_notes(compare(Question((str(path),), ("best-fit", "predicted", "nilas")), jobs=1))
    assert [note.removeprefix(f"note: {trace.manifest.name}: ") for note in said] == [
        "predicted reads predicted use, of which there is none here (no usage): requests counted",
        "nilas reads lifetimes, which nobody learned: --learn-lifetimes does, or a --model",
    ]
    assert learned_notes(compare(Question((str(path),), ("nilas",), learn_lifetimes=True))) == []


REMEMBERED = ("partly remembered", "learned from this time", "may be remembered")


def test_a_replay_says_that_a_model_was_fitted_on_its_trace(tmp_path: Path) -> None:
    with_usage(tmp_path / "both.ullage")
    trace = Trace.load(tmp_path / "both.ullage")
    source, model = read_learnable(str(tmp_path / "both.ullage")), str(tmp_path / "model")
    train(source, Path(model), seed=3, effort=Effort(1500, 400), targets=[Target(1)])

    def notes(replayed: Trace) -> list[str]:
        path = tmp_path / f"{replayed.digest}-{replayed.manifest.begins_s}.ullage"
        replayed.save(path)
        (row,) = compare(Question((str(path),), ("predicted",), model=model, horizon="1h-peak")).rows
        return [note for note in row["trace_notes"] if any(told in note for told in REMEMBERED)]

    found = notes(trace)
    assert len(found) == 2
    assert found[1].endswith("of usage it says nothing before 2026-03-03 08:40 UTC")
    later = trace.but(manifest=replace(trace.manifest, begins_s=trace.manifest.begins_s + 7 * DAY_S))
    few = replace(later.usage, **{name: column[:-1] for name, column in vars(later.usage).items()})
    assert notes(later.but(usage=few, pods=by_the_hour(owners=30, hours=47, every_s=3600).pods)) == []
    assert notes(later.but(usage=few, manifest=replace(later.manifest, begins_s=0))) == [], "the model has a date"
    timeless = trace.but(manifest=replace(trace.manifest, begins_s=0))
    timeless.save(tmp_path / "timeless.ullage")
    source = read_learnable(str(tmp_path / "timeless.ullage"))
    train(source, Path(model), seed=3, effort=Effort(1500, 400), targets=[Target(1)])
    assert any(note.endswith("convert it with --begins-at and train again") for note in notes(timeless))
