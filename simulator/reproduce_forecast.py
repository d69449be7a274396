"""``ullage reproduce forecast``: learned quantiles against every simple rival, on workloads and days never seen.

Protocol. Bitbrains: workloads in four folds; a fold is predicted by models that never saw it. Models are fitted on
days up to 52 and calibrated on days 53–61; days 62–90 are the test. Half-way through it models are fitted again on
days up to 66 (retraining); stacking weights are renewed every week and conformal factors every day from forecasts
whose outcome was known by then. PlanetLab: names in four folds, fitted on 0303, 0306 and 0309 (calibrated by leaving
0309 out), tested on 0322 and 0325; conformal factors are renewed every hour from the recorded day before and from what
has come true on the day itself. Nothing is fitted on an outcome that the forecast precedes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from placement.baselines import P95, PEAK, Target, baselines_within, tuned_scale
from placement.errors import ConfigError
from placement.resources import CPU, MEMORY, AnyArray, BoolArray, FloatArray, IntArray
from placement.stacking import Calibration, conformal, pinball, stack
from placement.usage import DAY, HOUR, UsageSeries
from simulator.forecast_samples import STRIDE_H, Recording, Samples, concatenate, folds_of
from simulator.training import Effort, bases_for, fit_bases, predictions
from simulator.usage_readers import read_bitbrains_rnd, read_planetlab

LEVEL = 0.95
FOLDS = 4
LAST_TRAIN_DAY = 52
LAST_CALIBRATION_DAY = 61
FIRST_HISTORY_DAY = 28
WEEK = 7
CALIBRATION_DAYS = 14
"""Conformal factors come from the last two weeks at most, so that they follow the cluster."""
PLANETLAB_TRAIN = ("20110303", "20110306", "20110309")
PLANETLAB_TEST = ("20110322", "20110325")
STACKED_BASELINES = 6
"""How many baselines, the best of the calibration period, join the models in the stack."""
PLANETLAB_ROWS = 30_000
PRIOR = 10.0
"""Successive windows that weigh as much as the prior of the stack."""

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Version:
    """One generation of models: fitted to day ``last_fit``, calibrated to ``last_stop``, used to ``last_use``."""

    last_fit: int
    last_stop: int
    last_use: int


@dataclass(frozen=True)
class TaskResult:
    """One task's forecasts on its test samples, with every rival."""

    name: str
    model: FloatArray = field(repr=False)
    truth: FloatArray = field(repr=False)
    weight: FloatArray = field(repr=False)
    workload: IntArray = field(repr=False)
    raw: Mapping[str, float]
    tuned: Mapping[str, float]
    scales: Mapping[str, float]
    uncalibrated: float
    seen: float | None = None

    @property
    def loss(self) -> float:
        """The model's pinball loss."""
        return pinball(self.truth, self.model, self.weight, LEVEL)

    @property
    def best(self) -> tuple[str, float]:
        """The best baseline in hindsight, raw or tuned."""
        entries = [(v, n) for n, v in self.raw.items()] + [(v, f"{n} (tuned)") for n, v in self.tuned.items()]
        value, name = min(entries)
        return name, value

    @property
    def coverage(self) -> float:
        """Share of the truth at or below the forecast."""
        return float((self.truth <= self.model).mean())


def bitbrains_versions(num_days: int) -> list[Version]:
    """Two generations; a shorter recording keeps the first."""
    last = num_days - 1
    if last <= LAST_CALIBRATION_DAY:
        raise ConfigError(
            f"the Bitbrains recording has {num_days} days; the protocol needs more than {LAST_CALIBRATION_DAY + 1}"
        )
    shift = 2 * WEEK
    if last < LAST_CALIBRATION_DAY + shift + 1:
        return [Version(LAST_TRAIN_DAY, LAST_CALIBRATION_DAY, last)]
    middle = LAST_CALIBRATION_DAY + shift
    return [Version(LAST_TRAIN_DAY, LAST_CALIBRATION_DAY, middle), Version(LAST_TRAIN_DAY + shift, middle, last)]


@dataclass
class _Work:
    """Out-of-fold forecasts of one generation at its judged samples (calibration and use)."""

    samples: Samples
    parts: FloatArray
    seen: FloatArray
    priors: FloatArray
    """(FOLDS, R) weights of the rules, which are the last R parts, before any model was judged."""
    horizon_h: int
    fold: IntArray


def bitbrains_task(
    recording: Recording,
    resource: str,
    target: Target,
    *,
    effort: Effort,
    seed: int,
    progress: Progress,
    versions: Sequence[Version],
) -> TaskResult:
    """One Bitbrains task, all folds and generations."""
    name = f"bitbrains-{'cpu' if resource == CPU else 'mem'}-{target.name}"
    samples = recording.samples(resource, target)
    fold_of = folds_of(len(recording.series.workloads), FOLDS, seed)
    judged = samples.pick(_judged(samples.hour, versions))
    rivals = recording.baselines(resource, target, judged, baselines_within(FIRST_HISTORY_DAY))
    test = judged.start_day > LAST_CALIBRATION_DAY
    past = (judged.start_day > LAST_TRAIN_DAY) & (judged.end_day <= LAST_CALIBRATION_DAY)
    fold = fold_of[judged.workload]
    raw, tuned, scales = _rival_losses(judged, rivals, test, past, fold)
    leaders, priors = _leading_rules(recording, resource, target, samples, fold_of)
    out = np.full(len(judged), np.nan)
    plain = np.full(len(judged), np.nan)
    seen = np.full(len(judged), np.nan)
    for number, version in enumerate(versions):
        work = _fit_version(
            samples,
            judged,
            version,
            fold_of,
            {n: rivals[n] for n in leaders},
            resource,
            target,
            effort,
            seed + 100 * number,
            priors,
        )
        progress(f"{name}: fitted on days to {version.last_fit}")
        for mask, forecast, uncalibrated, known in _renewed(work, judged, version):
            out[mask], plain[mask], seen[mask] = forecast, uncalibrated, known
    use = test & np.isfinite(out)
    truth, weight = judged.truth[use].astype(float), judged.weight[use]
    return TaskResult(
        name, out[use], truth, weight, judged.workload[use], raw, tuned, scales,
        pinball(truth, plain[use], weight, LEVEL), pinball(truth, seen[use], weight, LEVEL),
    )  # fmt: skip


def _leading_rules(
    recording: Recording, resource: str, target: Target, samples: Samples, fold_of: IntArray
) -> tuple[list[str], FloatArray]:
    """The rules that did best on all days to the end of the calibration, and (FOLDS, R) convex weights of them.

    Rules need no fitting, so the days on which models are fitted can judge them too: 34 days instead of nine, which
    a day ahead is 34 draws instead of nine. Each fold's weights come from the other folds' workloads.
    """
    early = samples.pick((samples.hour % STRIDE_H == 0) & (samples.end_day <= LAST_CALIBRATION_DAY))
    tables = recording.baselines(resource, target, early, baselines_within(FIRST_HISTORY_DAY))
    truth, fold = early.truth.astype(float), fold_of[early.workload]
    loss = {n: pinball(truth, values.astype(float), early.weight, LEVEL) for n, values in tables.items()}
    leaders = sorted(loss, key=lambda n: loss[n])[:STACKED_BASELINES]
    parts = np.stack([tables[n].astype(float) for n in leaders])
    others = [fold != k for k in range(FOLDS)]
    return leaders, np.stack([stack(parts[:, o], truth[o], early.weight[o], LEVEL) for o in others])


def _judged(hour: IntArray, versions: Sequence[Version]) -> BoolArray:
    first = (versions[0].last_fit + 1) * 24
    mask: BoolArray = (hour >= first) & (hour % STRIDE_H == 0)
    return mask


def _rival_losses(
    judged: Samples, rivals: Mapping[str, AnyArray], test: BoolArray, past: BoolArray, fold: IntArray
) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    """Losses of each baseline on the test, raw and with one scalar fitted on the past of other folds' workloads."""
    raw, tuned, scales = {}, {}, {}
    truth, weight = judged.truth.astype(float), judged.weight
    for name, values in rivals.items():
        forecast = values.astype(float)
        scaled = forecast.copy()
        for k in range(FOLDS):
            fit = past & (fold != k)
            scale = tuned_scale(forecast[fit], truth[fit], weight[fit], LEVEL)
            scaled[fold == k] = np.minimum(scale * forecast[fold == k], 1)
        raw[name] = pinball(truth[test], forecast[test], weight[test], LEVEL)
        tuned[name] = pinball(truth[test], scaled[test], weight[test], LEVEL)
        scales[name] = tuned_scale(forecast[past], truth[past], weight[past], LEVEL)
    return raw, tuned, scales


def _fit_version(
    samples: Samples,
    judged: Samples,
    version: Version,
    fold_of: IntArray,
    leaders: Mapping[str, AnyArray],
    resource: str,
    target: Target,
    effort: Effort,
    seed: int,
    priors: FloatArray,
) -> _Work:
    inside = (judged.start_day > version.last_fit) & (judged.start_day <= version.last_use)
    mine = judged.pick(inside)
    bases = bases_for(target)
    parts = np.full((len(bases), len(mine)), np.nan)
    seen = np.full((len(bases), len(mine)), np.nan)
    sample_fold = fold_of[samples.workload]
    fold = fold_of[mine.workload]
    for k in range(FOLDS):
        models = fit_bases(
            samples,
            resource=resource,
            target=target,
            train=(samples.end_day <= version.last_fit) & (sample_fold != k),
            stop=(samples.start_day > version.last_fit) & (samples.end_day <= version.last_stop) & (sample_fold != k),
            effort=effort,
            seed=seed + 10 * k,
            bases=bases,
        )
        parts[:, fold == k] = predictions(models, mine.rows[fold == k])
        other = fold == (k + 1) % FOLDS
        seen[:, other] = predictions(models, mine.rows[other])
    extra = np.stack([values[inside].astype(float) for values in leaders.values()])
    stacked, stacked_seen = np.concatenate([parts, extra]), np.concatenate([seen, extra])
    return _Work(mine, stacked, stacked_seen, priors, target.horizon_h, fold)


Renewed = tuple[BoolArray, AnyArray, AnyArray, AnyArray]
"""Mask over the judged samples; the forecast there, the same uncalibrated, and of models that saw the workload."""


def _renewed(work: _Work, judged: Samples, version: Version) -> Iterator[Renewed]:
    """Stack anew each week and calibrate anew each day, per fold, on other folds' outcomes known by then."""
    samples = work.samples
    position = np.flatnonzero((judged.start_day > version.last_fit) & (judged.start_day <= version.last_use))
    for k in range(FOLDS):
        others = work.fold != k
        weights = np.zeros(len(work.parts))
        for day in range(version.last_stop + 1, version.last_use + 1):
            known = others & (samples.end_day < day)
            if (day - version.last_stop - 1) % WEEK == 0:
                weights = stack_on(samples, work.parts, known, work.priors[k], work.horizon_h)
            recent = known & (samples.start_day >= day - CALIBRATION_DAYS)
            calibration = calibrate(samples, weights @ work.parts, recent)
            now = (samples.start_day == day) & (work.fold == k)
            mask = np.zeros(len(judged), bool)
            mask[position[now]] = True
            groups = samples.groups[now]
            plain = weights @ work.parts[:, now]
            seen = calibration.apply((weights @ work.seen[:, now]).astype(np.float32), groups)
            yield mask, calibration.apply(plain.astype(np.float32), groups), np.clip(plain, 0, 1), seen


def stack_on(samples: Samples, parts: FloatArray, known: BoolArray, rules: FloatArray, horizon_h: int) -> FloatArray:
    """Convex weights of the parts from the samples ``known``, drawn towards a prior where little is known.

    The prior gives the models, which come first, one half together and the simple rules the other half in the
    proportions ``rules`` (R,), which sum to one. Its share is
    ``1 / (1 + n / PRIOR)`` with ``n`` the number of successive windows that are known: a day ahead, nine days of
    outcomes are nine draws that all workloads share, however many samples they make.
    """
    found = stack(parts[:, known], samples.truth[known].astype(float), samples.weight[known], LEVEL)
    models = len(parts) - len(rules)
    prior = np.concatenate([np.full(models, 0.5 / models), 0.5 * rules])
    days = float(np.ptp(samples.hour[known])) / 24 + 1 if known.any() else 0.0
    share = 1 / (1 + days * 24 / horizon_h / PRIOR)
    return np.asarray((1 - share) * found + share * prior, float)


def calibrate(samples: Samples, forecast: FloatArray, known: BoolArray) -> Calibration:
    """Conformal factors of a forecast from the samples ``known``."""
    return conformal(forecast[known], samples.truth[known].astype(float), samples.groups[known], LEVEL)


def planetlab_samples(days: Sequence[UsageSeries], target: Target) -> tuple[list[Samples], list[Recording], list[str]]:
    """Samples of each day; workloads are names, the same over days, and ``start_day`` counts the files."""
    names = sorted({name for day in days for name in day.workloads})
    number = {name: i for i, name in enumerate(names)}
    samples, recordings = [], []
    for index, day in enumerate(days):
        origins = np.arange(2 * HOUR, DAY - target.horizon_h * HOUR + 1, HOUR)
        recording = Recording(day, origins)
        part = recording.samples(CPU, target, first_day=index)
        recordings.append(recording)
        lookup = np.array([number[name] for name in day.workloads])
        samples.append(replace(part, workload=lookup[part.workload], groups=np.full(len(part), day.name, dtype=object)))
    return samples, recordings, names


def planetlab_task(
    days: Sequence[UsageSeries], target: Target, *, effort: Effort, seed: int, progress: Progress
) -> TaskResult:
    """One PlanetLab task: names unseen and days later; history is what the day has shown so far."""
    effort = replace(effort, rows=min(effort.rows, PLANETLAB_ROWS))
    parts, recordings, names = planetlab_samples(days, target)
    stamps = [day.name.rsplit("-", 1)[-1] for day in days]
    train_days = [i for i, stamp in enumerate(stamps) if stamp in PLANETLAB_TRAIN]
    test_days = [i for i, stamp in enumerate(stamps) if stamp in PLANETLAB_TEST]
    if len(train_days) < 2 or not test_days:
        raise ConfigError(
            f"PlanetLab needs two of {PLANETLAB_TRAIN} and one of {PLANETLAB_TEST}; the folder has {stamps}"
        )
    rival_names = baselines_within(1)
    rivals: dict[str, list[AnyArray]] = {name: [] for name in rival_names}
    for index, recording in enumerate(recordings):
        local = recording.samples(CPU, target, first_day=index)
        for name, values in recording.baselines(CPU, target, local, rival_names).items():
            rivals[name].append(values)
    samples = concatenate(parts)
    tables = {name: np.concatenate(values) for name, values in rivals.items()}
    fold_of = folds_of(len(names), FOLDS, seed)
    fold = fold_of[samples.workload]
    test = np.isin(samples.start_day, test_days)
    past = np.isin(samples.start_day, train_days)
    held = samples.start_day == train_days[-1]
    raw, tuned, scales = _rival_losses(samples, tables, test, past, fold)
    leaders = sorted(
        tables,
        key=lambda n: pinball(
            samples.truth[past].astype(float), tables[n][past].astype(float), samples.weight[past], LEVEL
        ),
    )
    extra = np.stack([tables[n].astype(float) for n in leaders[:STACKED_BASELINES]])
    calibrating = _oof(samples, fold, past & ~held, held, held, target, effort, seed)
    final = _oof(samples, fold, past, held, test, target, effort, seed + 100)
    progress(f"planetlab-{target.name}: fitted")
    alike = np.full(len(extra), 1 / len(extra))
    then, today = np.concatenate([calibrating, extra]), np.concatenate([final, extra])
    out, plain = np.full(len(samples), np.nan), np.full(len(samples), np.nan)
    for k in range(FOLDS):
        weights = stack_on(samples, then, held & (fold != k), alike, target.horizon_h)
        mixed = np.where(held, weights @ then, weights @ today)
        for day, before in zip(test_days, (train_days[-1], *test_days), strict=False):
            for hour in np.unique(samples.hour[samples.start_day == day]):
                done = (samples.start_day == day) & (samples.hour + target.horizon_h <= hour)
                known = (fold != k) & (done | (samples.start_day == before))
                now = (samples.start_day == day) & (samples.hour == hour) & (fold == k)
                plain[now] = np.clip(mixed[now], 0, 1)
                out[now] = np.clip(mixed[now] * calibrate(samples, mixed, known).cluster, 0, 1)
    truth, weight = samples.truth[test].astype(float), samples.weight[test]
    return TaskResult(
        f"planetlab-{target.name}", out[test], truth, weight, samples.workload[test], raw, tuned, scales,
        pinball(truth, plain[test], weight, LEVEL),
    )  # fmt: skip


def _oof(
    samples: Samples,
    fold: IntArray,
    train: BoolArray,
    stop: BoolArray,
    use: BoolArray,
    target: Target,
    effort: Effort,
    seed: int,
) -> FloatArray:
    """(K, S) forecasts at ``use`` by models that never saw the workload's fold; NaN elsewhere."""
    bases = ("max_24h", "p95_24h")
    out = np.full((len(bases), len(samples)), np.nan)
    for k in range(FOLDS):
        models = fit_bases(
            samples,
            resource=CPU,
            target=target,
            train=train & (fold != k),
            stop=stop & (fold != k),
            effort=effort,
            seed=seed + 10 * k,
            bases=bases,
        )
        now = use & (fold == k)
        out[:, now] = predictions(models, samples.rows[now])
    return out


def coverage_intervals(results: Sequence[TaskResult], *, seed: int, rounds: int = 2000) -> list[tuple[float, float]]:
    """Simultaneous 95 % intervals of every task's coverage, workloads resampled with replacement.

    The half-widths are one multiple of each task's bootstrap standard error: the 95 % quantile of the largest
    standardised deviation over the family (max-t). Tasks of one data set share the resampled workloads.
    """
    rng = np.random.default_rng(seed)
    draws: dict[tuple[str, int], FloatArray] = {}
    deviations, errors = [], []
    for result in results:
        count = int(result.workload.max()) + 1
        key = (result.name.split("-")[0], count)
        if key not in draws:
            draws[key] = rng.multinomial(count, np.full(count, 1 / count), rounds).astype(float)
        hits = np.bincount(result.workload, result.truth <= result.model, count)
        total = np.bincount(result.workload, minlength=count)
        sampled = (draws[key] @ hits) / np.maximum(draws[key] @ total, 1)
        error = max(float(sampled.std()), 1e-9)
        deviations.append(np.abs(sampled - result.coverage) / error)
        errors.append(error)
    multiple = float(np.quantile(np.max(deviations, axis=0), 0.95))
    return [
        (max(0.0, r.coverage - multiple * e), min(1.0, r.coverage + multiple * e))
        for r, e in zip(results, errors, strict=True)
    ]


def run(
    data: Path,
    *,
    seed: int = 7,
    effort: Effort | None = None,
    only: Sequence[str] = (),
    progress: Progress = lambda message: None,
) -> dict[str, Any]:
    """All tasks (or those whose name contains one of ``only``) on a folder of traces; the JSON report.

    Raises
    ------
    TraceError : a data set is missing or unreadable. ConfigError : too short for the protocol, or nothing chosen.
    """
    effort = effort or Effort()
    results = list(_results(data, seed, effort, only, progress))
    if not results:
        raise ConfigError(
            f"no task matches {', '.join(only)}; names are like bitbrains-cpu-1h-peak and planetlab-6h-p95"
        )
    return report(results, seed)


def _wanted(name: str, only: Sequence[str]) -> bool:
    return not only or any(part in name for part in only)


def _results(data: Path, seed: int, effort: Effort, only: Sequence[str], progress: Progress) -> Iterator[TaskResult]:
    targets = [Target(h, s) for h in (1, 6, 24) for s in (PEAK, P95)]
    chosen = [
        (r, t)
        for r in (CPU, MEMORY)
        for t in targets
        if _wanted(f"bitbrains-{'cpu' if r == CPU else 'mem'}-{t.name}", only)
    ]
    if chosen:
        series = read_bitbrains_rnd(data / "bitbrains-rnd")
        progress(f"read {len(series.workloads)} Bitbrains workloads")
        versions = bitbrains_versions(int(series.num_days))
        origins = np.arange(FIRST_HISTORY_DAY * DAY, series.num_steps, HOUR)
        recording = Recording(series, origins)
        for resource, target in chosen:
            yield bitbrains_task(
                recording, resource, target, effort=effort, seed=seed, progress=progress, versions=versions
            )
    days_targets = [t for t in targets if t.horizon_h < 24 and _wanted(f"planetlab-{t.name}", only)]
    if days_targets:
        days = read_planetlab(data / "planetlab")
        for target in days_targets:
            yield planetlab_task(days, target, effort=effort, seed=seed, progress=progress)


def report(results: Sequence[TaskResult], seed: int) -> dict[str, Any]:
    """The JSON document: the issue's keys, and beside them every rival and what calibration changed."""
    intervals = coverage_intervals(results, seed=seed)
    tasks = {r.name: _entry(r, *interval) for r, interval in zip(results, intervals, strict=True)}
    ratios = np.array([r.loss / r.best[1] for r in results])
    versus_vpa = np.array([r.loss / r.raw["vpa-p90"] for r in results])
    hour = [r.loss / r.best[1] for r in results if "-1h-" in r.name]
    return {
        "tasks": tasks,
        "geomean": float(np.exp(np.log(ratios).mean())),
        "worst": float(ratios.max()),
        "worst_1h": max(hour) if hour else None,
        "vs_vpa": float(np.exp(np.log(versus_vpa).mean())),
        "level": LEVEL,
        "seed": seed,
        "protocol": "unseen workloads (4 folds) and later days; see simulator/reproduce_forecast.py",
    }


def _entry(result: TaskResult, low: float, high: float) -> dict[str, Any]:
    best_name, best = result.best
    weight = result.weight
    error = result.truth - result.model
    total = float((weight * result.truth).sum())
    return {
        "model": result.loss,
        "best_baseline": best,
        "best_baseline_name": best_name,
        "ratio": result.loss / best,
        "coverage": result.coverage,
        "coverage_low": low,
        "coverage_high": high,
        "coverage_by_cores": float((weight * (error <= 0)).sum() / weight.sum()),
        "uncalibrated": result.uncalibrated,
        "seen_workloads": result.seen,
        "slack": float((weight * np.maximum(-error, 0)).sum() / total),
        "severity": float((weight * np.maximum(error, 0)).sum() / total),
        "vs_vpa": result.loss / result.raw["vpa-p90"],
        "samples": len(result.truth),
        "workloads": len(np.unique(result.workload)),
        "baselines": {
            n: {"raw": v, "tuned": result.tuned[n], "scale": result.scales[n]} for n, v in result.raw.items()
        },
    }
