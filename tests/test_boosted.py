"""Boosted quantiles: fitting, files, the single-row fast path."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.forecasts import FastRow
from placement.errors import ModelError
from placement.learning import boosted
from placement.learning.baselines import PEAK, Target
from placement.learning.boosted import (
    FLOOR,
    FitOptions,
    QuantileModel,
    base_of,
    files_of,
    fit,
    load,
    scale_free,
)
from placement.learning.features import FeatureSchema

SCHEMA = FeatureSchema(("max_24h", "mean_24h", "hour", "cores"))
TARGET = Target(6, PEAK)


def sample(num: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    level = rng.uniform(0.01, 0.5, num)
    hour = rng.integers(0, 24, num)
    truth = level * np.where(hour < 12, 0.5, 1.0) * rng.uniform(0.5, 1.2, num)
    rows = np.stack([level, level / 2, hour, rng.integers(1, 9, num)], axis=1)
    return rows.astype(np.float32), truth.astype(np.float32), np.ones(num)


def fitted(seed: int = 0) -> QuantileModel:
    rows, truth, weight = sample(4000)
    options = FitOptions(trees=60, min_leaf=40, feature_share=1.0, seed=seed)
    return fit(
        rows, truth, weight, resource="cpu", target=TARGET, base="max_24h", schema=SCHEMA, options=options,
        held_out=sample(1000, 1),
    )  # fmt: skip


def save(models: list[QuantileModel], folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for name, text in files_of(models, {"seed": 0}).items():
        (folder / name).write_text(text)


@pytest.fixture(scope="module")
def model() -> QuantileModel:
    return fitted()


def test_a_fitted_quantile_covers_its_level_and_knows_the_hour(model: QuantileModel) -> None:
    rows, truth, _ = sample(4000, 2)
    found = model.predict(rows)
    assert 0.92 < (truth <= found).mean() < 0.975
    morning, evening = rows[0].copy(), rows[0].copy()
    morning[2], evening[2] = 3, 20
    low, high = model.predict(np.stack([morning, evening]))
    assert low < 0.7 * high


def test_scaling_a_workload_scales_its_forecast(model: QuantileModel) -> None:
    row = np.array([[0.2, 0.1, 20, 4]], np.float32)
    half = np.array([[0.1, 0.05, 20, 4]], np.float32)
    assert model.predict(half)[0] == pytest.approx(model.predict(row)[0] / 2, rel=0.1)


def test_the_same_seed_gives_the_same_file(model: QuantileModel, tmp_path: Path) -> None:
    save([model], tmp_path / "a")
    save([fitted()], tmp_path / "b")
    name = f"{model.name}.txt"
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_a_saved_model_predicts_the_same_after_loading_and_through_the_fast_path(
    model: QuantileModel, tmp_path: Path
) -> None:
    save([model], tmp_path)
    (loaded,) = load(tmp_path)
    rows = sample(50, 5)[0]
    np.testing.assert_allclose(loaded.predict(rows), model.predict(rows), rtol=1e-6)
    fast = FastRow(loaded)
    for row in rows:
        fast.load(row)
        assert fast.predict() == pytest.approx(float(loaded.predict(row[None, :])[0]), rel=1e-6)


def test_a_base_of_several_features_is_the_mean_of_those_known_and_survives_saving(tmp_path: Path) -> None:
    rows = np.array([[0.4, 0.2, 3, 1], [np.nan, 0.2, 3, 1], [np.nan, np.nan, 3, 1], [0, 0, 3, 1]], np.float32)
    base = base_of(SCHEMA, rows, "max_24h+mean_24h")
    np.testing.assert_allclose(base, [0.3, 0.2, 1, FLOOR], rtol=1e-6)
    free = scale_free(SCHEMA, rows, base, "max_24h+mean_24h")
    np.testing.assert_allclose(free[0], [0.3, 0.2 / 0.3, 3, 1], rtol=1e-6)
    many, truth, weight = sample(1000)
    options = FitOptions(trees=10, min_leaf=40)
    grown = fit(
        many, truth, weight, resource="cpu", target=TARGET, base="max_24h+mean_24h", schema=SCHEMA, options=options
    )
    save([grown], tmp_path)
    (loaded,) = load(tmp_path)
    assert loaded.base == grown.base
    fast = FastRow(loaded)
    fast.load(many[0])
    assert fast.predict() == pytest.approx(float(grown.predict(many[:1])[0]), rel=1e-6)


def test_rows_of_another_width_are_refused(model: QuantileModel) -> None:
    with pytest.raises(ModelError, match="expects 4 features, got 3"):
        model.predict(np.zeros((1, 3), np.float32))


def test_a_damaged_file_a_foreign_schema_and_a_foreign_format_are_refused(model: QuantileModel, tmp_path: Path) -> None:
    save([model], tmp_path)
    other = FeatureSchema(("max_24h", "something else"))
    with pytest.raises(ModelError, match="fitted for feature schema"):
        load(tmp_path, lambda resource, target: other)
    card = json.loads((tmp_path / boosted.CARD).read_text())
    path = tmp_path / card["models"][0]["file"]
    text = path.read_text()
    path.write_text(text.replace("leaf_value=", "leaf_value=9", 1))
    with pytest.raises(ModelError, match="does not match its checksum"):
        load(tmp_path)
    path.unlink()
    with pytest.raises(ModelError, match="cannot be read"):
        load(tmp_path)
    whole = (tmp_path / boosted.CARD).read_text()
    old = {key: value for key, value in json.loads(whole).items() if key != "sha256"}
    (tmp_path / boosted.CARD).write_text(json.dumps(old))
    with pytest.raises(ModelError, match="an older build wrote it"):
        load(tmp_path)
    for at in range(0, len(whole), 7):
        (tmp_path / boosted.CARD).write_text(whole[:at] + chr(ord(whole[at]) ^ 1) + whole[at + 1 :])
        with pytest.raises(ModelError):
            boosted.load_card(tmp_path)
    (tmp_path / boosted.CARD).write_text(boosted.card_text({**card, "models": [{**card["models"][0], "level": "x"}]}))
    path.write_text(text)
    with pytest.raises(ModelError, match="lacks or garbles could not convert"):
        load(tmp_path)
    (tmp_path / boosted.CARD).write_text(json.dumps({**card, "format": 99}))
    with pytest.raises(ModelError, match="has format 99"):
        load(tmp_path)
    (tmp_path / boosted.CARD).write_text("{")
    with pytest.raises(ModelError, match="cannot be read as a model card"):
        load(tmp_path)


def test_too_few_samples_and_gaps_are_refused() -> None:
    rows, truth, weight = sample(100)
    arguments: dict[str, Any] = {"resource": "cpu", "target": TARGET, "base": "max_24h", "schema": SCHEMA}
    with pytest.raises(ModelError, match="too few to fit 6h-peak of cpu"):
        fit(rows, truth, weight, options=FitOptions(), **arguments)
    truth[3] = np.nan
    with pytest.raises(ModelError, match="not finite"):
        fit(rows, truth, weight, options=FitOptions(min_leaf=5), **arguments)
