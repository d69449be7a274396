"""``ullage reproduce cold-start``: the next six hours of a workload that has run for 15, 60 or 180 minutes.

PlanetLab: each series is cut off before its start, at several hours of the day, as if the workload had just begun. What
is known beside its few samples: its owner's (slice's) other workloads and its host's, up to now and on earlier recorded
days, and the population. Names in four folds; fitted on 0303, 0306 and 0309, tested on 0322 and 0325.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from placement.baselines import P95, Target, forecast, tuned_scale
from placement.boosted import FitOptions
from placement.errors import ConfigError
from placement.features import Context, FeatureSchema, featurize
from placement.resources import CPU, BoolArray, FloatArray, IntArray
from placement.stacking import conformal, pinball, stack
from placement.usage import HOUR, STEP_S, SingleArray, UsageSeries
from placement.windows import Past
from simulator.forecast_samples import Samples, concatenate, folds_of
from simulator.reproduce_forecast import FOLDS, LEVEL, PLANETLAB_TEST, PLANETLAB_TRAIN
from simulator.training import Effort, fit_bases, predictions
from simulator.usage_readers import host_of, read_planetlab

MINUTES = (15, 60, 180)
START_HOURS = (0, 3, 6, 9, 12, 15)
TARGET = Target(6, P95)
RULES = ("last", "max24h", "p95_24h", "p99_24h", "nsigma-2-24h", "nsigma-3-24h", "nsigma-5-24h", "vpa-p90", "vpa-p95")
BASES = ("anchor", "population_p95")

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Cold:
    """Cold samples with the forecasts of every simple rule."""

    samples: Samples
    rules: Mapping[str, FloatArray] = field(repr=False)


def group_mean(values: FloatArray, keys: IntArray) -> FloatArray:
    """(N,) mean over the *other* members of each key; NaN for a member without others."""
    count = np.bincount(keys)
    total = np.bincount(keys, values)
    others = count[keys] - 1
    return np.where(others > 0, (total[keys] - values) / np.maximum(others, 1), np.nan)


def _codes(names: Sequence[str]) -> IntArray:
    return np.unique(np.array(names), return_inverse=True)[1].astype(np.int64)


def cold_samples(
    day: UsageSeries, earlier: Mapping[str, float], minutes: int, start_hour: int, number: Mapping[str, int], index: int
) -> Cold:
    """All series of a day, begun at ``start_hour`` and ``minutes`` old; ``earlier`` is each owner's P95 on earlier days."""
    share = day.share(CPU)
    begin, length = start_hour * HOUR, minutes * 60 // STEP_S
    now = begin + length
    pad = -length % HOUR
    seen = np.concatenate([np.full((len(share), pad), np.nan, np.float32), share[:, begin:now]], axis=1)
    origin = np.array([seen.shape[1]])
    past = Past(seen, origin, np.ones(len(share)), CPU, day.start_s + (begin - pad) * STEP_S)
    table = featurize(past, TARGET, Context(np.ones(len(share)), np.full(len(share), np.nan)))
    near = _neighbours(day, share[:, :now], earlier)
    largest = np.nanmax(seen, axis=1)
    near["anchor"] = 0.5 * largest + 0.5 * np.where(
        np.isfinite(near["owner_p95"]), near["owner_p95"], near["population_p95"]
    )
    schema = FeatureSchema((*table.schema.names, *near))
    rows = np.concatenate([table.values[:, 0, :], np.stack(list(near.values()), axis=1)], axis=1).astype(np.float32)
    truth = np.percentile(share[:, now : now + TARGET.horizon_h * HOUR], 95, axis=1).astype(np.float32)
    count = np.full(len(share), index)
    workload = np.array([number[name] for name in day.workloads])
    samples = Samples(
        schema, rows, truth, np.ones(len(share)), workload, np.full(len(share), start_hour), count, count,
        np.full(len(share), day.name, dtype=object),
    )  # fmt: skip
    rules = {name: forecast(name, past, TARGET)[:, 0].astype(float) for name in RULES}
    rules |= {"request": np.ones(len(share)), "population-q95": near["population_p95"].astype(float)}
    rules["owner"] = np.where(np.isfinite(near["owner_p95"]), near["owner_p95"], near["population_p95"]).astype(float)
    return Cold(samples, rules)


def _neighbours(day: UsageSeries, known: SingleArray, earlier: Mapping[str, float]) -> dict[str, FloatArray]:
    """Owner, host and population features from the day so far (the workload itself left out) and from earlier days.

    Only the last six hours of the others count. They are shares; :mod:`placement.features` treats them as such.
    """
    recent = known[:, -6 * HOUR :]
    level = np.percentile(recent, 95, axis=1).astype(float)
    mean = recent.mean(axis=1).astype(float)
    owners, hosts = _codes(day.groups), _codes([host_of(name) for name in day.workloads])
    return {
        "owner_p95": group_mean(level, owners),
        "owner_mean": group_mean(mean, owners),
        "host_p95": group_mean(level, hosts),
        "host_mean": group_mean(mean, hosts),
        "owner_earlier_p95": np.array([earlier.get(owner, np.nan) for owner in day.groups]),
        "population_p95": np.full(len(level), np.percentile(level, 95)),
        "population_mean": np.full(len(level), mean.mean()),
    }


def _earlier(days: Sequence[UsageSeries]) -> dict[str, float]:
    """Each owner's mean P95 over earlier recorded days."""
    sums: dict[str, list[float]] = {}
    for day in days:
        for owner, value in zip(day.groups, np.percentile(day.share(CPU), 95, axis=1), strict=True):
            sums.setdefault(owner, []).append(float(value))
    return {owner: float(np.mean(values)) for owner, values in sums.items()}


def one(days: Sequence[UsageSeries], minutes: int, *, effort: Effort, seed: int) -> dict[str, Any]:
    """One length of history: the model, every tuned rule, and the ratio to the best of them."""
    stamps = [day.name.rsplit("-", 1)[-1] for day in days]
    names = sorted({name for day in days for name in day.workloads})
    number = {name: i for i, name in enumerate(names)}
    parts = [
        cold_samples(day, _earlier(days[:i]), minutes, hour, number, i)
        for i, day in enumerate(days)
        for hour in START_HOURS
    ]
    samples = concatenate([part.samples for part in parts])
    rules = {name: np.concatenate([part.rules[name] for part in parts]) for name in parts[0].rules}
    train_days = [i for i, stamp in enumerate(stamps) if stamp in PLANETLAB_TRAIN]
    test = np.isin(samples.start_day, [i for i, stamp in enumerate(stamps) if stamp in PLANETLAB_TEST])
    past = np.isin(samples.start_day, train_days)
    if len(train_days) < 2 or not test.any():
        raise ConfigError(
            f"cold start needs two of {PLANETLAB_TRAIN} and one of {PLANETLAB_TEST}; the folder has {stamps}"
        )
    held = samples.start_day == train_days[-1]
    fold = folds_of(len(names), FOLDS, seed)[samples.workload]
    truth, weight = samples.truth.astype(float), samples.weight
    tuned = {name: values.copy() for name, values in rules.items()}
    model = np.full(len(samples), np.nan)
    for k in range(FOLDS):
        mine, others = fold == k, fold != k
        for name, values in rules.items():
            scale = tuned_scale(values[past & others], truth[past & others], weight[past & others], LEVEL)
            tuned[name][mine] = np.minimum(values[mine] * scale, 1)
        model[mine & test] = _fold(samples, past & others, held & others, mine & test, held, effort, seed + 10 * k)
    losses = {name: pinball(truth[test], values[test], weight[test], LEVEL) for name, values in tuned.items()}
    best = min(losses, key=lambda n: losses[n])
    mine_loss = pinball(truth[test], model[test], weight[test], LEVEL)
    return {
        "model": mine_loss,
        "best_rule": best,
        "best_rule_pinball": losses[best],
        "ratio": mine_loss / losses[best],
        "coverage": float((truth[test] <= model[test]).mean()),
        "samples": int(test.sum()),
        "tuned_rules": losses,
    }


def _fold(
    samples: Samples, train: BoolArray, stop: BoolArray, use: BoolArray, held: BoolArray, effort: Effort, seed: int
) -> FloatArray:
    """Forecasts of one fold: stacked and calibrated on the last training day by models that left it out."""
    settings = {"resource": CPU, "target": TARGET, "effort": effort, "bases": BASES}
    tuning = fit_bases(samples, train=train & ~held, stop=stop, seed=seed, **settings)  # type: ignore[arg-type]
    final = fit_bases(samples, train=train, stop=np.zeros(len(samples), bool), seed=seed + 5, **settings)  # type: ignore[arg-type]
    chosen = samples.pick(stop)
    parts = predictions(tuning, chosen.rows)
    truth = chosen.truth.astype(float)
    weights = stack(parts, truth, chosen.weight, LEVEL)
    factor = conformal(weights @ parts, truth, chosen.groups, LEVEL, min_group=len(chosen) + 1).cluster
    out: FloatArray = np.clip(weights @ predictions(final, samples.rows[use]) * factor, 0, 1)
    return out


def run(
    data: Path, *, seed: int = 9, effort: Effort | None = None, progress: Progress = lambda message: None
) -> dict[str, Any]:
    """All three lengths of history; the JSON report.

    Raises
    ------
    TraceError : PlanetLab is missing or damaged. ConfigError : a day that the protocol needs is not there.
    """
    days = read_planetlab(data / "planetlab")
    effort = effort or Effort(40_000, 8_000, FitOptions(trees=100, learning_rate=0.08, leaves=15, min_leaf=80))
    found = {}
    for minutes in MINUTES:
        found[f"{minutes}min"] = one(days, minutes, effort=effort, seed=seed)
        progress(f"{minutes} minutes: ratio {found[f'{minutes}min']['ratio']:.3f}")
    return {"history": found, "level": LEVEL, "seed": seed}
