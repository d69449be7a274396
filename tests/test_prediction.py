"""Rungs of prediction: who answers, how old data widens, how a rung falls and rises."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from placement.errors import ModelError
from placement.knowledge import NUM_WINDOWS, Forecast
from placement.learning.baselines import PEAK, Target
from placement.learning.drift import LEAST, WINDOW
from placement.learning.forecasting import Forecaster
from placement.learning.prediction import (
    HISTORY,
    MODEL,
    REQUEST,
    HistoryPredictor,
    ModelPredictor,
    Question,
    Rungs,
    ask,
    batch_of,
    load_predictor,
    load_rungs,
)
from placement.learning.usage import DAY, STEP_S, PastUsage, UsageHistory, UsageSeries
from placement.resources import CPU, MEMORY
from simulator.learning.training import Effort, train

TARGET = Target(6, PEAK)
REQUESTED = {CPU: 4000, MEMORY: 2**33}
STALE_S = 6 * 3600


def history(days: int = 2, cpu: int = 1000) -> PastUsage:
    past = UsageHistory("w")
    for slot in range(1, days * DAY + 1):
        past.add(slot * STEP_S, cpu_millicores=cpu, memory_bytes=2**31)
    snapshot = past.snapshot()
    assert snapshot is not None
    return snapshot


def forecaster(days: float = 2, cpu: int = 1000, memory: int = 2**31, factor: float = 1.0) -> Forecaster:
    """One workload ``w``, asked at the end of its history."""
    made = Forecaster(TARGET, factor=factor)
    end_s = int(days * 86_400)
    for at in range(STEP_S, end_s + 1, STEP_S):
        made.add("w", at, end_s, cpu_millicores=cpu, memory_bytes=memory)
    made.take(ask(made.rungs, made.questions({"w": REQUESTED})))
    made.settle(end_s)
    return made


def forecast(made: Forecaster, now_s: float) -> Forecast:
    return made.forecasts(now_s).of["w"]


def test_history_predicts_in_ledger_units_and_names_its_rung() -> None:
    (found,) = ask(Rungs.of_history(TARGET), [Question("w", REQUESTED, history())])
    assert found.of[CPU].uppers == {HISTORY: pytest.approx(1000)}
    assert found.of[CPU].mean == pytest.approx(1000)
    assert found.of[MEMORY].uppers == {HISTORY: pytest.approx(2**31)}
    made = forecast(forecaster(), 2 * 86_400)
    assert (made.rung, made.cpu, made.mean_cpu, made.age_s) == (HISTORY, 1000, 1000, 0)


def test_what_is_usual_is_that_of_the_last_day_and_of_the_last_week_by_parts_of_the_day() -> None:
    part = DAY // NUM_WINDOWS
    bursts = {5: 3500, 2 * DAY: 4000, 2 * DAY + 1: 700, 8 * DAY + part + 3: 900, 9 * DAY: 300}
    past = UsageHistory("w")
    for slot in range(1, 9 * DAY + 1):
        past.add(slot * STEP_S, cpu_millicores=bursts.get(slot, 100), memory_bytes=-1)
    snapshot = past.snapshot()
    assert snapshot is not None
    (found,) = ask(Rungs.of_history(TARGET, parts=True), [Question("w", REQUESTED, snapshot)])
    cpu, last = found.of[CPU], np.full(DAY, 100.0)
    last[[part + 2, -1]] = 900, 300
    assert (cpu.mean, cpu.ordinary) == pytest.approx((last.mean(), 100))
    assert cpu.parts == pytest.approx((700, 900, *(100,) * (NUM_WINDOWS - 2))), "700 and 300 are at midnight"
    assert MEMORY not in found.of
    (found,) = ask(Rungs.of_history(TARGET), [Question("w", REQUESTED, snapshot)])
    assert (found.of[CPU].ordinary, found.of[CPU].parts) == (0, ())


class Constant:
    """A model that always says the same."""

    def __init__(self, share: float) -> None:
        self.share = share

    def predict(self, rows: np.ndarray) -> np.ndarray:
        return np.full(len(rows), self.share)


@pytest.mark.parametrize(("weights", "share"), [((0.5, 0.25), 0.45), ((0.0, 0.0), 0.2), ((0.75, 0.5), 0.7)])
def test_a_mix_gives_models_their_weights_and_the_baseline_what_is_left(
    weights: tuple[float, float], share: float
) -> None:
    models: Any = {CPU: (Constant(0.4), Constant(0.8))}
    mix = ModelPredictor(TARGET, models, {CPU: weights}, {CPU: 1.0}, HistoryPredictor.plain(TARGET))
    found = mix._mixed(models, CPU, np.zeros((2, 3, 1), np.float32), np.full((2, 3), 0.2, np.float32))
    assert found == pytest.approx(np.full((2, 3), share))


def test_before_there_are_outcomes_the_request_answers() -> None:
    assert forecast(forecaster(days=1, factor=0.0), 86_400).rung == REQUEST
    made = forecast(forecaster(days=12, factor=0.0), 12 * 86_400)
    assert (made.rung, made.cpu) == (HISTORY, 1000), "one workload of ten days has 47 of them"


def test_a_few_samples_are_no_history() -> None:
    assert forecast(forecaster(days=0.9), 77_760).rung == REQUEST
    assert forecast(forecaster(days=1.1), 95_040).rung == HISTORY


def test_what_runs_four_hours_a_day_is_predicted_once_that_makes_a_day() -> None:
    made = Forecaster(TARGET, factor=1.0)
    for day in range(7):
        for at in range(STEP_S, 4 * 3600 + 1, STEP_S):
            made.add("w", day * 86_400 + at, 7 * 86_400, cpu_millicores=700, memory_bytes=2**31)
        made.take(ask(made.rungs, made.questions({"w": REQUESTED})))
        found = forecast(made, day * 86_400 + 4 * 3600)
        assert (found.rung, found.cpu) == ((HISTORY, 700) if day >= 5 else (REQUEST, 4000))


def test_old_history_widens_towards_the_request_and_then_gives_way_to_it() -> None:
    made, end_s = forecaster(), 2 * 86_400
    found = [forecast(made, end_s + age) for age in (0, 3600, 3 * 3600, STALE_S)]
    assert found[0].cpu < found[1].cpu < found[2].cpu < found[3].cpu == 4000
    assert [f.rung for f in found] == [HISTORY, HISTORY, HISTORY, REQUEST]


def test_a_mean_that_moves_below_the_same_peak_is_told() -> None:
    """Who places by means, as Koordinator does, would else read one of long ago; what others read stays as it was."""
    made, end_s = forecaster(cpu=100), 2 * 86_400
    made.add("w", end_s, end_s, cpu_millicores=3000, memory_bytes=2**31)
    made.take(ask(made.rungs, made.questions({"w": REQUESTED})))
    before = made.forecasts(end_s)
    later_s = end_s + 6 * 3600
    for at in range(end_s + STEP_S, later_s + 1, STEP_S):
        made.add("w", at, later_s, cpu_millicores=2000, memory_bytes=2**31)
    made.take(ask(made.rungs, made.questions({"w": REQUESTED})))
    old, new, fresh = before.of["w"], made.forecasts(later_s, before).of["w"], forecast(made, later_s)
    assert old.mean_cpu < 200
    assert new.mean_cpu == fresh.mean_cpu > 500
    assert (new.cpu, new.memory, new.windows) == (old.cpu, old.memory, old.windows)


def test_a_resource_without_samples_keeps_its_request_beside_one_that_is_predicted() -> None:
    found = forecast(forecaster(cpu=500, memory=-1), 2 * 86_400)
    assert (found.cpu, found.memory, found.mean_memory) == (500, 2**33, 2**33)


def test_a_factor_does_not_lift_a_forecast_over_the_request_but_use_beyond_it_is_told() -> None:
    end_s = 2 * 86_400
    assert forecast(forecaster(cpu=3900, factor=1.5), end_s).cpu == 4000
    assert forecast(forecaster(cpu=8000, factor=1.5), end_s).cpu == 12_000


def test_a_kill_for_want_of_memory_counts_as_more_than_was_used() -> None:
    made, end_s = forecaster(), 2 * 86_400
    assert made.add_oom("w", end_s, end_s, 2**31)
    made.take(ask(made.rungs, made.questions({"w": REQUESTED})))
    assert forecast(made, end_s).memory == pytest.approx(1.2 * 2**31, rel=1e-5)
    assert not made.add_oom("w", end_s + 3600, end_s, 2**31), "from the future"


def test_a_rung_that_under_covers_is_shut_and_opens_again_when_it_recovers() -> None:
    made, end_s = forecaster(), 2 * 86_400
    monitor = made.monitor
    for _ in range(LEAST):
        monitor.observe("history/cpu", True)
    assert forecast(made, end_s).rung == HISTORY
    for _ in range(LEAST // 3):
        monitor.observe("history/cpu", False)
    assert forecast(made, end_s).rung == made.rung == REQUEST
    assert monitor.falls == 1
    for _ in range(WINDOW):
        monitor.observe("history/cpu", True)
    assert forecast(made, end_s).rung == made.rung == HISTORY


def test_crowded_nodes_shut_every_rung_for_a_day_and_for_longer_if_it_happens_again() -> None:
    made = forecaster()

    def day(full: int, first: int) -> None:
        """``full`` looks at a node that is used up, then calm."""
        for slot in range(first, first + DAY):
            made.crowding.look(slot * STEP_S, int(slot - first < full), 1)
            made.crowding.look(slot * STEP_S + 30, 0, 1)
            made.settle(0)

    day(2, 0)
    assert made.rung == HISTORY, "two of 288 are within the budget"
    assert made.crowding.share == pytest.approx(2 / 288), "the worst look of five minutes counts"
    day(4, DAY)
    assert made.rung == REQUEST
    day(0, 2 * DAY)
    assert made.rung == HISTORY
    day(4, 3 * DAY)
    day(0, 4 * DAY)
    assert made.rung == REQUEST, "again within a week: two days"
    day(0, 5 * DAY)
    assert made.rung == HISTORY
    day(0, 6 * DAY)
    for quiet in range(7, 14):
        day(0, quiet * DAY)
    day(4, 14 * DAY)
    day(0, 15 * DAY)
    assert made.rung == HISTORY, "a week later it is forgiven"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, UsageSeries]:
    """Made-up workloads with a daily burst, twelve days, in whole millicores; a model of their 6 h peak."""
    rng = np.random.default_rng(4)
    steps = np.arange(12 * DAY)
    bursts = [(steps % DAY) // 12 == hour for hour in rng.integers(0, 24, 16)]
    level = rng.uniform(0.1, 0.5, 16)
    share = np.stack([np.where(b, x * 1.8, x * 0.3) for b, x in zip(bursts, level, strict=True)])
    share = (share * rng.uniform(0.8, 1.1, share.shape)).astype(np.float32)
    cores = np.full(16, 4.0)
    names = tuple(f"w{i}" for i in range(16))
    series = UsageSeries("made-up", names, 0, {CPU: np.round(share * 4, 3).astype(np.float32)}, {CPU: cores})
    folder = tmp_path_factory.mktemp("model")
    train(series, folder, seed=1, effort=Effort(2500, 800), targets=[TARGET])
    return folder, series


def test_a_trained_folder_serves_the_model_rung_from_a_live_history(trained: tuple[Path, UsageSeries]) -> None:
    folder, series = trained
    past = UsageHistory("w0")
    for slot, cores in enumerate(series.usage[CPU][0], start=1):
        past.add(slot * STEP_S, cpu_millicores=round(float(cores) * 1000))
    snapshot = past.snapshot()
    assert snapshot is not None
    (found,) = ask(load_rungs(str(folder), TARGET), [Question("w0", {CPU: 4000}, snapshot)])
    assert set(found.of[CPU].uppers) == {MODEL, HISTORY}
    assert 0 < found.of[CPU].uppers[MODEL] < 4000
    assert MEMORY not in found.of


def test_a_baseline_can_be_what_predicts() -> None:
    past = UsageHistory("w0")
    for slot in range(1, 3 * DAY):
        past.add(slot * STEP_S, cpu_millicores=3000 if slot == 9 else 1000)
    snapshot = past.snapshot()
    assert snapshot is not None
    said = {}
    for model in ("", "rule:max7d", "rule:p95_24h"):
        rungs = load_rungs(model, TARGET)
        assert [name for name, _ in rungs.predictors] == [HISTORY]
        (answers,) = ask(rungs, [Question("w0", {CPU: 4000}, snapshot)])
        said[model] = answers.of[CPU].uppers[HISTORY]
    assert said[""] == said["rule:max7d"] == pytest.approx(3000, rel=0.01)
    assert said["rule:p95_24h"] == pytest.approx(1000, rel=0.01)
    with pytest.raises(ModelError, match="did you mean 'vpa-p95'"):
        load_rungs("rule:vpa-p59", TARGET)


def test_a_live_row_has_the_features_of_the_training_table(trained: tuple[Path, UsageSeries]) -> None:
    folder, series = trained
    model, _ = load_predictor(folder, TARGET)
    from placement.learning.features import Context, featurize
    from placement.learning.windows import Past

    past = UsageHistory("w0")
    for slot, cores in enumerate(series.usage[CPU][0], start=1):
        past.add(slot * STEP_S, cpu_millicores=round(float(cores) * 1000))
    snapshot = past.snapshot()
    assert snapshot is not None
    live = model.features(batch_of([Question("w0", {CPU: 4000}, snapshot)], 12 * DAY), CPU)[:, 0]
    end = np.array([series.num_steps])
    table = Past(series.share(CPU)[:1], end, np.array([4.0]), CPU, STEP_S)
    offline = featurize(table, TARGET, Context(np.array([4.0]), np.array([np.nan]))).values[:, 0, :]
    np.testing.assert_allclose(live, offline, atol=1e-4, rtol=1e-3)


def test_a_model_of_another_horizon_and_an_empty_folder_are_refused(
    trained: tuple[Path, UsageSeries], tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="no model for 24h-peak"):
        load_predictor(trained[0], Target(24, PEAK))
    with pytest.raises(ModelError, match=r"no card\.json is there"):
        load_predictor(tmp_path, TARGET)
