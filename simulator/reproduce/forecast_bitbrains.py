"""The Bitbrains tasks: workloads never seen, later days.

Workloads in four folds; a fold is predicted by models that never saw it. Models are fitted on days up to 52 and
calibrated on days 53–61; days 62–90 are the test. At its begin and every fifteen days models are fitted again on all days
so far; stacking weights and conformal factors are renewed every day, from forecasts of other folds' workloads whose
outcome was known by then. Nothing is fitted on an outcome that the forecast precedes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from placement.errors import ConfigError
from placement.learning.baselines import Target, baselines_within
from placement.learning.forecasting import LEVEL
from placement.resources import CPU, AnyArray, BoolArray, FloatArray, IntArray
from simulator.learning.forecast_samples import STRIDE_H, Recording, Samples, folds_of
from simulator.learning.stacking import pinball
from simulator.learning.training import Effort, bases_for, effort_for, fit_bases, predictions
from simulator.reproduce.forecast_judging import (
    FOLDS,
    STACKED_BASELINES,
    TWINS,
    Bands,
    TaskResult,
    applied,
    calibrate,
    level_now,
    require_folds,
    rival_losses,
    stack_on,
)
from simulator.reproduce.parts import Progress

LAST_TRAIN_DAY = 52
LAST_CALIBRATION_DAY = 61
FIRST_FIT_DAY = 14
"""Models are fitted on forecasts from this day on: half of the longest look back is enough to learn from."""
FIRST_HISTORY_DAY = 28
"""Rules are judged from this day on, when each has the history it needs."""
REFIT_DAYS = 15
TREES = {1: 40, 6: 60, 24: 30}
"""Trees a model grows, by horizon; the longer the window, the fewer independent ones there are to learn from."""
BAND_SHRINK = {1: 0.2, 6: 0.2, 24: 0.6}
"""How far a band's factor is drawn to the one for all, by horizon: two weeks hold 14 windows of a day."""
CALIBRATION_DAYS = 14
"""Conformal factors come from the last two weeks at most, so that they follow the cluster."""

STACKABLE = tuple(n for n in baselines_within(FIRST_HISTORY_DAY) if n not in TWINS)
"""Rules that may join the stack."""

Number = TypeVar("Number", int, float)


@dataclass(frozen=True)
class Generation:
    """Models fitted on days to ``last_fit`` and used on the days after it, to ``last_use``."""

    last_fit: int
    last_use: int


def generations(num_days: int) -> list[Generation]:
    """The generations of a recording; the first is used in the calibration, the others replace it in the test.

    Raises
    ------
    ConfigError : the recording ends before the test begins.
    """
    last = num_days - 1
    if last <= LAST_CALIBRATION_DAY:
        raise ConfigError(
            f"the Bitbrains recording has {num_days} days; the protocol needs more than {LAST_CALIBRATION_DAY + 1}"
        )
    fits = [LAST_TRAIN_DAY, *range(LAST_CALIBRATION_DAY, last, REFIT_DAYS)]
    return [Generation(fit, use) for fit, use in zip(fits, [*fits[1:], last], strict=True)]


@dataclass(frozen=True)
class _Parts:
    """(K, S) what is mixed at each judged sample: models that never saw the workload (or did), then simple rules."""

    unseen: FloatArray = field(repr=False)
    seen: FloatArray = field(repr=False)
    models: int
    """How many of the parts are models; the rules come after them."""


def bitbrains_task(
    recording: Recording, resource: str, target: Target, *, effort: Effort, seed: int, progress: Progress
) -> TaskResult:
    """One task, all folds and generations.

    Raises
    ------
    ConfigError : too few workloads, or none with a usable sample in the test. ModelError : too few samples to fit.
    """
    name = f"bitbrains-{'cpu' if resource == CPU else 'mem'}-{target.name}"
    require_folds(name, len(recording.series.workloads))
    samples = recording.samples(resource, target)
    fold_of = folds_of(len(recording.series.workloads), FOLDS, seed)
    judged = samples.pick((samples.start_day > LAST_TRAIN_DAY) & (samples.hour % STRIDE_H == 0))
    rivals = recording.baselines(resource, target, judged, baselines_within(FIRST_HISTORY_DAY))
    test = judged.start_day > LAST_CALIBRATION_DAY
    if not test.any():
        raise ConfigError(
            f"{name}: no usable sample after day {LAST_CALIBRATION_DAY}: the recording ends too soon after it "
            f"({recording.series.num_days:g} days for a window of {target.horizon_h} h), or is full of gaps"
        )
    past = ~test & (judged.end_day <= LAST_CALIBRATION_DAY)
    fold = fold_of[judged.workload]
    raw, tuned, scales = rival_losses(judged, rivals, test, past, fold)
    leaders = _leading_rules(recording, resource, target, samples)
    unseen, seen = _generations(samples, judged, fold_of, resource, target, effort, seed)
    progress(f"{name}: fitted")
    extra = np.stack([rivals[n].astype(float) for n in leaders])
    parts = _Parts(np.concatenate([unseen, extra]), np.concatenate([seen, extra]), len(unseen))
    out, plain, known = (np.full(len(judged), np.nan) for _ in range(3))
    for mask, forecast, uncalibrated, of_seen in _renewed(parts, judged, fold, _of_horizon(BAND_SHRINK, target)):
        out[mask], plain[mask], known[mask] = forecast, uncalibrated, of_seen
    truth, weight = judged.truth[test].astype(float), judged.weight[test]
    return TaskResult(
        name, out[test], truth, weight, judged.workload[test], judged.start_day[test], raw, tuned, scales,
        pinball(truth, plain[test], weight, LEVEL), pinball(truth, known[test], weight, LEVEL),
    )  # fmt: skip


def _leading_rules(recording: Recording, resource: str, target: Target, samples: Samples) -> list[str]:
    """The rules that did best on all days to the end of the calibration; the days that models are fitted on judge too."""
    early = samples.pick(
        (samples.hour % STRIDE_H == 0)
        & (samples.start_day >= FIRST_HISTORY_DAY)
        & (samples.end_day <= LAST_CALIBRATION_DAY)
    )
    tables = recording.baselines(resource, target, early, STACKABLE)
    truth = early.truth.astype(float)
    loss = {n: pinball(truth, values.astype(float), early.weight, LEVEL) for n, values in tables.items()}
    return sorted(loss, key=lambda n: loss[n])[:STACKED_BASELINES]


def _generations(
    samples: Samples,
    judged: Samples,
    fold_of: IntArray,
    resource: str,
    target: Target,
    effort: Effort,
    seed: int,
) -> tuple[FloatArray, FloatArray]:
    """(K, S) forecasts at the judged samples by models that never saw the workload, and by models that did."""
    bases = bases_for(target)
    unseen, seen = (np.full((len(bases), len(judged)), np.nan) for _ in range(2))
    sample_fold, fold = fold_of[samples.workload], fold_of[judged.workload]
    for k in range(FOLDS):
        others = sample_fold != k
        for number, generation in enumerate(generations(int(judged.start_day.max()) + 1)):
            train = (samples.end_day <= generation.last_fit) & others
            models = fit_bases(
                samples,
                resource=resource,
                target=target,
                train=train,
                stop=None,
                effort=_effort(target, effort, int(train.sum())),
                seed=seed + 10 * k + 100 * number,
                bases=bases,
            )
            use = (judged.start_day > generation.last_fit) & (judged.start_day <= generation.last_use)
            for table, those in ((unseen, fold == k), (seen, fold == (k + 1) % FOLDS)):
                table[:, use & those] = predictions(models, judged.rows[use & those])
    return unseen, seen


def _effort(target: Target, effort: Effort, num_samples: int) -> Effort:
    """The effort with trees that suit the horizon, as many as :data:`TREES` says."""
    suited = effort_for(target, effort, num_samples)
    most = _of_horizon(TREES, target)
    return replace(suited, options=replace(suited.options, trees=min(suited.options.trees, most)))


def _of_horizon(table: Mapping[int, Number], target: Target) -> Number:
    """The entry of the target's horizon; of the longest one for a horizon that is not listed."""
    return table.get(target.horizon_h, table[max(table)])


Renewed = tuple[BoolArray, AnyArray, AnyArray, AnyArray]
"""Mask over the judged samples; the forecast there, the same uncalibrated, and of models that saw the workload."""


def _renewed(parts: _Parts, samples: Samples, fold: IntArray, shrink: float) -> Iterator[Renewed]:
    """Stack and calibrate anew each day, per fold, on other folds' outcomes known by then."""
    for k in range(FOLDS):
        others = fold != k
        given = np.full(len(samples), np.nan)
        for day in range(LAST_CALIBRATION_DAY + 1, int(samples.start_day.max()) + 1):
            today = samples.start_day == day
            known = others & (samples.end_day < day)
            weights = stack_on(samples, parts.unseen, known, parts.models)
            mixed = weights @ parts.unseen
            recent = known & (samples.start_day >= day - CALIBRATION_DAYS)
            days_given = len(np.unique(samples.start_day[known & np.isfinite(given)]))
            level = level_now(samples, given, known, days_given)
            bands = Bands.of(samples, mixed, recent)
            calibration = calibrate(samples, mixed, recent, bands, level=level, shrink=shrink)
            given[today] = applied(calibration, bands, mixed[today], samples.weight[today])
            now = today & (fold == k)
            of_seen = applied(calibration, bands, weights @ parts.seen[:, now], samples.weight[now])
            yield now, given[now], np.clip(mixed[now], 0, 1), of_seen
