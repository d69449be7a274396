"""Rungs of prediction: who answers, how old data widens, how a rung falls and rises."""

from pathlib import Path

import numpy as np
import pytest

from placement.baselines import PEAK, Target
from placement.errors import ModelError
from placement.features import schema_of
from placement.prediction import (
    HISTORY,
    MODEL,
    REQUEST,
    STALE_S,
    CoverageMonitor,
    HistoryPredictor,
    Prediction,
    capped_at_request,
    load_predictor,
    with_fallback,
    with_margin,
)
from placement.resources import CPU, MEMORY
from placement.usage import DAY, STEP_S, HistorySnapshot, UsageHistory, UsageSeries
from simulator.training import Effort, train

TARGET = Target(6, PEAK)
REQUESTED = {CPU: 4000, MEMORY: 2**33}
BY_HISTORY = HistoryPredictor(TARGET, {CPU: ("max24h", 1.0), MEMORY: ("max24h", 1.0)})


def history(days: int = 2, cpu: int = 1000) -> HistorySnapshot:
    past = UsageHistory("w")
    for slot in range(1, days * DAY + 1):
        past.add(slot * STEP_S, cpu_millicores=cpu, memory_bytes=2**31)
    snapshot = past.snapshot()
    assert snapshot is not None
    return snapshot


def answer(found: Prediction | None) -> Prediction:
    assert found is not None
    return found


def test_history_predicts_in_ledger_units_and_names_its_rung() -> None:
    past = history()
    found = answer(BY_HISTORY.predict("w", REQUESTED, past, past.end_s))
    assert found.rung == HISTORY
    assert found.upper(CPU) == pytest.approx(1000, abs=1)
    assert found.amounts[CPU].mean == 1000
    assert found.upper(MEMORY) == pytest.approx(2**31, rel=1e-5)
    assert found.age_s == 0


def test_without_history_the_request_answers() -> None:
    ladder = with_fallback((HISTORY, BY_HISTORY), target=TARGET)
    found = ladder.predict("w", REQUESTED, None, 0)
    assert (found.rung, found.upper(CPU), found.upper(MEMORY)) == (REQUEST, 4000, 2**33)


def test_old_history_widens_towards_the_request_and_then_gives_way_to_it() -> None:
    past = history()
    ladder = with_fallback((HISTORY, BY_HISTORY), target=TARGET)
    uppers = [ladder.predict("w", REQUESTED, past, past.end_s + age).upper(CPU) for age in (0, 3600, 3 * 3600, STALE_S)]
    assert uppers == sorted(uppers)
    assert uppers[0] < uppers[1] < uppers[2]
    assert uppers[-1] == 4000
    assert ladder.predict("w", REQUESTED, past, past.end_s + STALE_S + 1).rung == REQUEST


def test_a_resource_without_samples_keeps_its_request_beside_one_that_is_predicted() -> None:
    past = UsageHistory("w")
    for slot in range(1, DAY):
        past.add(slot * STEP_S, cpu_millicores=500)
    snapshot = past.snapshot()
    assert snapshot is not None
    found = answer(BY_HISTORY.predict("w", REQUESTED, snapshot, snapshot.end_s))
    assert found.upper(CPU) < 1000
    assert found.upper(MEMORY) == 2**33


def test_a_margin_is_capped_at_the_request_when_asked() -> None:
    past = history(cpu=3900)
    wide = with_margin(BY_HISTORY, 1.5)
    assert answer(wide.predict("w", REQUESTED, past, past.end_s)).upper(CPU) > 5000
    assert answer(capped_at_request(wide).predict("w", REQUESTED, past, past.end_s)).upper(CPU) == 4000


def test_a_rung_that_under_covers_is_shut_and_opens_again_when_it_recovers() -> None:
    monitor = CoverageMonitor(window=200, least=100)
    ladder = with_fallback((HISTORY, BY_HISTORY), target=TARGET, trusted=monitor.trusted)
    past = history()
    for _ in range(100):
        monitor.observe(HISTORY, True)
    assert ladder.predict("w", REQUESTED, past, past.end_s).rung == HISTORY
    for _ in range(30):
        monitor.observe(HISTORY, False)
    assert ladder.predict("w", REQUESTED, past, past.end_s).rung == REQUEST
    assert monitor.falls == 1
    for _ in range(200):
        monitor.observe(HISTORY, True)
    assert ladder.predict("w", REQUESTED, past, past.end_s).rung == HISTORY


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
    model, fallback = load_predictor(folder, TARGET)
    past = UsageHistory("w0")
    for slot, cores in enumerate(series.usage[CPU][0], start=1):
        past.add(slot * STEP_S, cpu_millicores=round(float(cores) * 1000))
    snapshot = past.snapshot()
    assert snapshot is not None
    ladder = with_fallback((MODEL, model), (HISTORY, fallback), target=TARGET)
    found = ladder.predict("w0", {CPU: 4000}, snapshot, snapshot.end_s)
    assert found.rung == MODEL
    assert 0 < found.upper(CPU) < 4000
    assert ladder.predict("w0", {CPU: 4000}, None, 0).rung == REQUEST


def test_a_live_row_has_the_features_of_the_training_table(trained: tuple[Path, UsageSeries]) -> None:
    folder, series = trained
    model, _ = load_predictor(folder, TARGET)
    from placement.features import Context, featurize
    from placement.prediction import past_of
    from placement.windows import Past

    past = UsageHistory("w0")
    for slot, cores in enumerate(series.usage[CPU][0], start=1):
        past.add(slot * STEP_S, cpu_millicores=round(float(cores) * 1000))
    snapshot = past.snapshot()
    assert snapshot is not None
    live = model.features(past_of(snapshot, CPU, 4000), None, {CPU: 4000})
    end = np.array([series.num_steps])
    table = Past(series.share(CPU)[:1], end, np.array([4.0]), CPU, STEP_S)
    offline = featurize(table, TARGET, Context(np.array([4.0]), np.array([np.nan]))).values[:, 0, :]
    np.testing.assert_allclose(live, offline, atol=1e-4, rtol=1e-3)


def test_a_model_of_another_horizon_and_an_empty_folder_are_refused(
    trained: tuple[Path, UsageSeries], tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="no model for 24h-peak"):
        load_predictor(trained[0], Target(24, PEAK))
    with pytest.raises(ModelError, match="cannot be read as a model card"):
        load_predictor(tmp_path, TARGET)


def test_the_schema_does_not_depend_on_what_is_known_beside_the_series() -> None:
    assert len(schema_of(TARGET)) > 100
    assert schema_of(TARGET).digest == schema_of(TARGET).digest
    assert schema_of(TARGET).digest != schema_of(Target(24, PEAK)).digest
