"""``ullage reproduce forecast``: learned quantiles against every simple rival, on workloads and days never seen.

The protocols stand in :mod:`simulator.reproduce.forecast_bitbrains` and
:mod:`simulator.reproduce.forecast_planetlab`; here the tasks are chosen, run and reported.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from placement.errors import ConfigError
from placement.learning.baselines import P95, PEAK, Target
from placement.learning.forecasting import LEVEL
from placement.learning.usage import DAY, HOUR
from placement.resources import CPU, MEMORY, FloatArray
from simulator.kept import code_version, kept
from simulator.learning.forecast_samples import Recording
from simulator.learning.training import Effort
from simulator.reproduce.data_sets import Once, data_set
from simulator.reproduce.forecast_bitbrains import FIRST_FIT_DAY, bitbrains_task, generations
from simulator.reproduce.forecast_judging import TaskResult, ratio
from simulator.reproduce.forecast_planetlab import Days, planetlab_task, split_days
from simulator.reproduce.parts import Omitted, Progress, silent
from simulator.traces.usage_readers import planetlab_paths, read_bitbrains_rnd, read_planetlab

ROUNDS = 2000
"""Draws of a bootstrap."""


def coverage_intervals(results: Sequence[TaskResult], *, seed: int, by_day: bool = False) -> list[tuple[float, float]]:
    """Simultaneous 95 % intervals of every task's coverage, workloads resampled with replacement.

    ``by_day`` resamples the days too, independently (pigeonhole bootstrap: Owen, 2007): all workloads share a day.
    The half-widths are one multiple of each task's bootstrap standard error: the 95 % quantile of the largest
    standardised deviation over the family (max-t). Tasks of one data set share the resampled workloads.
    """
    rng = np.random.default_rng(seed)
    draws: dict[tuple[str, int], FloatArray] = {}
    day_draws: dict[tuple[str, int], FloatArray] = {}
    deviations, errors = [], []
    for result in results:
        count = int(result.workload.max()) + 1
        key = (result.name.split("-")[0], count)
        if key not in draws:
            draws[key] = rng.multinomial(count, np.full(count, 1 / count), ROUNDS).astype(float)
        days, day = np.unique(result.day, return_inverse=True)
        cell, shape = result.workload * len(days) + day, (count, len(days))
        hits = np.bincount(cell, result.truth <= result.model, count * len(days)).reshape(shape)
        total = np.bincount(cell, minlength=count * len(days)).reshape(shape)
        times = np.ones((1, len(days)))
        if by_day:
            which = (key[0], len(days))
            if which not in day_draws:
                day_draws[which] = rng.multinomial(len(days), np.full(len(days), 1 / len(days)), ROUNDS).astype(float)
            times = day_draws[which]
        found = ((draws[key] @ hits) * times).sum(axis=1)
        sampled = found / np.maximum(((draws[key] @ total) * times).sum(axis=1), 1)
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
    keep: Path | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """All tasks (or those whose name contains one of ``only``) on a folder of traces; the JSON report.

    A task whose data set is absent, or has too few names, days or samples, is left out; ``omitted`` says why. ``keep`` is
    a folder where each task's result is left as soon as it is there, and taken from in a later run.

    Raises
    ------
    TraceError : a data set is unreadable. ConfigError, ModelError : no task can be judged, or none is chosen.
    """
    effort = effort or Effort(60_000, by_weight=True)
    wanted = _Wanted.of(only)
    if not wanted.bitbrains and not wanted.planetlab:
        raise ConfigError(
            f"no task matches {', '.join(only)}; names are like bitbrains-cpu-1h-peak and planetlab-6h-p95"
        )
    key = "" if keep is None else _key(data, seed, effort)
    results, omitted = [], Omitted()
    whole = len(wanted.bitbrains) + len(wanted.planetlab)
    for number, (name, made) in enumerate(_tasks(data, seed, effort, wanted, progress), 1):
        result = omitted.unless(name, partial(_kept, keep, f"{name}-{key}", made))
        if result is None:
            progress(f"{name} is left out", number, whole)
            continue
        progress(f"{name}: ratio {ratio(result.loss, result.best[1]):.3f}", number, whole)
        results.append(result)
    why = omitted.reasons(results)
    days = {"planetlab_days": _planetlab_days(data)} if any(r.name.startswith("planetlab") for r in results) else {}
    return {**report(results, seed), **days, "omitted": why}


def _key(data: Path, seed: int, effort: Effort) -> str:
    """Stands for all that results depend on, but for their task."""
    found = hashlib.sha256(repr((code_version(), seed, effort)).encode())
    for path in (*sorted((data / "bitbrains-rnd").glob("*.parquet")), *sorted((data / "planetlab").glob("*.tar.gz"))):
        found.update(path.name.encode() + b"\0" + path.read_bytes())
    return found.hexdigest()[:16]


def _kept(folder: Path | None, key: str, made: Callable[[], TaskResult]) -> TaskResult:
    row = kept(
        folder, key, lambda: {n: v.tolist() if isinstance(v, np.ndarray) else v for n, v in vars(made()).items()}
    )
    fields: dict[str, Any] = {n: np.array(v) if isinstance(v, list) else v for n, v in row.items()}
    return TaskResult(**fields)


@dataclass(frozen=True)
class _Wanted:
    """Tasks by data set: name → what to forecast."""

    bitbrains: Mapping[str, tuple[str, Target]]
    planetlab: Mapping[str, Target]

    @classmethod
    def of(cls, only: Sequence[str]) -> _Wanted:
        targets = [Target(h, s) for h in (1, 6, 24) for s in (PEAK, P95)]
        short = {CPU: "cpu", MEMORY: "mem"}
        bitbrains = {f"bitbrains-{short[r]}-{t.name}": (r, t) for r in (CPU, MEMORY) for t in targets}
        planetlab = {f"planetlab-{t.name}": t for t in targets if t.horizon_h < 24}

        def chosen(name: str) -> bool:
            return not only or any(part in name for part in only)

        return cls({n: v for n, v in bitbrains.items() if chosen(n)}, {n: t for n, t in planetlab.items() if chosen(n)})


def _tasks(
    data: Path, seed: int, effort: Effort, wanted: _Wanted, progress: Progress
) -> Iterator[tuple[str, Callable[[], TaskResult]]]:
    """Name of each task, and what judges it; data sets are read when the first task of theirs is judged."""
    recording = Once(partial(_bitbrains, data, progress))
    days = Once(lambda: Days(read_planetlab(data_set(data, "planetlab"))))
    for name, (resource, target) in wanted.bitbrains.items():
        yield (
            name,
            lambda r=resource, t=target: bitbrains_task(recording(), r, t, effort=effort, seed=seed, progress=progress),  # type: ignore[misc]
        )
    for name, target in wanted.planetlab.items():
        yield name, lambda t=target: planetlab_task(days(), t, effort=effort, seed=seed, progress=progress)  # type: ignore[misc]


def _planetlab_days(data: Path) -> dict[str, list[str]]:
    """Which were fitted on and which tested."""
    stamps = [path.name.partition(".")[0] for path in planetlab_paths(data / "planetlab")]
    return {part: [stamps[i] for i in of] for part, of in zip(("fitted", "tested"), split_days(stamps), strict=True)}


def _bitbrains(data: Path, progress: Progress) -> Recording:
    series = read_bitbrains_rnd(data_set(data, "bitbrains-rnd"))
    progress(f"read {len(series.workloads)} Bitbrains workloads")
    generations(int(series.num_days))
    return Recording(series, np.arange(FIRST_FIT_DAY * DAY, series.num_steps, HOUR))


def report(results: Sequence[TaskResult], seed: int) -> dict[str, Any]:
    """The JSON document: what is asked for, and beside it every rival and what calibration changed."""
    intervals = coverage_intervals(results, seed=seed)
    by_day = coverage_intervals(results, seed=seed, by_day=True)
    tasks = {r.name: _entry(r, *of) for r, *of in zip(results, intervals, by_day, strict=True)}
    ratios = np.array([ratio(r.loss, r.best[1]) for r in results])
    versus_vpa, versus_floors = (
        float(np.exp(np.log([ratio(r.loss, r.raw[name]) for r in results]).mean()))
        for name in ("vpa-p90", "vpa-p90-floors")
    )
    hour = [ratio(r.loss, r.best[1]) for r in results if "-1h-" in r.name]
    return {
        "tasks": tasks,
        "geomean": float(np.exp(np.log(ratios).mean())),
        "worst": float(ratios.max()),
        "worst_1h": max(hour) if hour else None,
        "vs_vpa": versus_vpa,
        "vs_vpa_floors": versus_floors,
        "level": LEVEL,
        "seed": seed,
        "protocol": "unseen workloads (4 folds) and later days; see simulator/reproduce/forecast.py",
    }


def _entry(result: TaskResult, interval: tuple[float, float], by_day: tuple[float, float]) -> dict[str, Any]:
    best_name, best = result.best
    weight = result.weight
    error = result.truth - result.model
    total = max(float((weight * result.truth).sum()), 1e-12)
    return {
        "model": result.loss,
        "best_baseline": best,
        "best_baseline_name": best_name,
        "ratio": ratio(result.loss, best),
        "coverage": result.coverage,
        "coverage_low": interval[0],
        "coverage_high": interval[1],
        "coverage_by_day_low": by_day[0],
        "coverage_by_day_high": by_day[1],
        "coverage_by_cores": float((weight * (error <= 0)).sum() / weight.sum()),
        "uncalibrated": result.uncalibrated,
        "seen_workloads": result.seen,
        "slack": float((weight * np.maximum(-error, 0)).sum() / total),
        "severity": float((weight * np.maximum(error, 0)).sum() / total),
        "vs_vpa": ratio(result.loss, result.raw["vpa-p90"]),
        "samples": len(result.truth),
        "workloads": len(np.unique(result.workload)),
        "baselines": {
            n: {"raw": v, "tuned": result.tuned[n], "scale": result.scales[n]} for n, v in result.raw.items()
        },
    }
