"""The Bitbrains tasks: workloads never seen, later days.

Workloads in four folds; a fold is predicted by models that never saw it. Models are fitted on days up to 52 and
calibrated on days 53–61; days 62–90 are the test. In its course models are fitted again on all days so far, every fifteen
days; stacking weights are renewed every week, conformal factors every day, from forecasts of other folds' workloads
whose outcome was known by then. Nothing is fitted on an outcome that the forecast precedes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from placement.baselines import Target, baselines_within
from placement.errors import ConfigError
from placement.resources import CPU, AnyArray, BoolArray, FloatArray, IntArray
from placement.stacking import pinball, stack
from simulator.forecast_judging import (
    FOLDS,
    LEVEL,
    STACKED_BASELINES,
    TaskResult,
    calibrate,
    level_now,
    rival_losses,
    stack_on,
)
from simulator.forecast_samples import STRIDE_H, Recording, Samples, folds_of
from simulator.training import Effort, bases_for, effort_for, fit_bases, predictions

LAST_TRAIN_DAY = 52
LAST_CALIBRATION_DAY = 61
FIRST_FIT_DAY = 14
"""Models are fitted on forecasts from this day on: half of the longest look back is enough to learn from."""
FIRST_HISTORY_DAY = 28
"""Rules are judged from this day on, when each has the history it needs."""
REFIT_DAYS = 15
WEEK = 7
CALIBRATION_DAYS = 14
"""Conformal factors come from the last two weeks at most, so that they follow the cluster."""

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Generation:
    """Models fitted on days to ``last_fit`` and used on the days after it, to ``last_use``."""

    last_fit: int
    last_use: int


def generations(num_days: int) -> list[Generation]:
    """The generations of a recording; the first is calibrated before it is tested, the others replace it in use.

    Raises
    ------
    ConfigError : the recording ends before the test begins.
    """
    last = num_days - 1
    if last <= LAST_CALIBRATION_DAY:
        raise ConfigError(
            f"the Bitbrains recording has {num_days} days; the protocol needs more than {LAST_CALIBRATION_DAY + 1}"
        )
    fits = [LAST_TRAIN_DAY, *range(LAST_CALIBRATION_DAY + REFIT_DAYS, last, REFIT_DAYS)]
    return [Generation(fit, use) for fit, use in zip(fits, [*fits[1:], last], strict=True)]


@dataclass(frozen=True)
class _Parts:
    """(K, S) what is mixed at each judged sample: models that never saw the workload (or did), then simple rules."""

    unseen: FloatArray = field(repr=False)
    seen: FloatArray = field(repr=False)
    priors: FloatArray
    """(FOLDS, R) weights of the rules, which are the last R parts, before any model was judged."""


def bitbrains_task(
    recording: Recording, resource: str, target: Target, *, effort: Effort, seed: int, progress: Progress
) -> TaskResult:
    """One task, all folds and generations."""
    name = f"bitbrains-{'cpu' if resource == CPU else 'mem'}-{target.name}"
    samples = recording.samples(resource, target)
    fold_of = folds_of(len(recording.series.workloads), FOLDS, seed)
    judged = samples.pick((samples.start_day > LAST_TRAIN_DAY) & (samples.hour % STRIDE_H == 0))
    rivals = recording.baselines(resource, target, judged, baselines_within(FIRST_HISTORY_DAY))
    test = judged.start_day > LAST_CALIBRATION_DAY
    past = ~test & (judged.end_day <= LAST_CALIBRATION_DAY)
    fold = fold_of[judged.workload]
    raw, tuned, scales = rival_losses(judged, rivals, test, past, fold)
    leaders, priors = _leading_rules(recording, resource, target, samples, fold_of)
    unseen, seen = _generations(samples, judged, fold_of, resource, target, effort, seed)
    progress(f"{name}: fitted")
    extra = np.stack([rivals[n].astype(float) for n in leaders])
    parts = _Parts(np.concatenate([unseen, extra]), np.concatenate([seen, extra]), priors)
    out, plain, known = (np.full(len(judged), np.nan) for _ in range(3))
    for mask, forecast, uncalibrated, of_seen in _renewed(parts, judged, fold):
        out[mask], plain[mask], known[mask] = forecast, uncalibrated, of_seen
    truth, weight = judged.truth[test].astype(float), judged.weight[test]
    return TaskResult(
        name, out[test], truth, weight, judged.workload[test], raw, tuned, scales,
        pinball(truth, plain[test], weight, LEVEL), pinball(truth, known[test], weight, LEVEL),
    )  # fmt: skip


def _leading_rules(
    recording: Recording, resource: str, target: Target, samples: Samples, fold_of: IntArray
) -> tuple[list[str], FloatArray]:
    """The rules that did best on all days to the end of the calibration, and (FOLDS, R) convex weights of them.

    Rules need no fitting, so the days on which models are fitted can judge them too: 34 days instead of nine, which
    a day ahead is 34 draws instead of nine. Each fold's weights come from the other folds' workloads.
    """
    early = samples.pick(
        (samples.hour % STRIDE_H == 0)
        & (samples.start_day >= FIRST_HISTORY_DAY)
        & (samples.end_day <= LAST_CALIBRATION_DAY)
    )
    tables = recording.baselines(resource, target, early, baselines_within(FIRST_HISTORY_DAY))
    truth, fold = early.truth.astype(float), fold_of[early.workload]
    loss = {n: pinball(truth, values.astype(float), early.weight, LEVEL) for n, values in tables.items()}
    leaders = sorted(loss, key=lambda n: loss[n])[:STACKED_BASELINES]
    parts = np.stack([tables[n].astype(float) for n in leaders])
    others = [fold != k for k in range(FOLDS)]
    return leaders, np.stack([stack(parts[:, o], truth[o], early.weight[o], LEVEL) for o in others])


def _generations(
    samples: Samples,
    judged: Samples,
    fold_of: IntArray,
    resource: str,
    target: Target,
    effort: Effort,
    seed: int,
) -> tuple[FloatArray, FloatArray]:
    """(K, S) forecasts at the judged samples by models that never saw the workload, and by models that did.

    The first generation is stopped early on the calibration days; later ones grow as many trees as it did.
    """
    bases = bases_for(target)
    unseen, seen = (np.full((len(bases), len(judged)), np.nan) for _ in range(2))
    sample_fold, fold = fold_of[samples.workload], fold_of[judged.workload]
    first = samples.start_day > LAST_TRAIN_DAY
    for k in range(FOLDS):
        others = sample_fold != k
        rounds: Sequence[int] = ()
        for number, generation in enumerate(generations(int(judged.start_day.max()) + 1)):
            train = (samples.end_day <= generation.last_fit) & others
            models = fit_bases(
                samples,
                resource=resource,
                target=target,
                train=train,
                stop=first & (samples.end_day <= LAST_CALIBRATION_DAY) & others,
                effort=effort_for(target, effort, int(train.sum())),
                seed=seed + 10 * k + 100 * number,
                bases=bases,
                rounds=rounds,
            )
            rounds = [model.rounds for model in models]
            use = (judged.start_day > generation.last_fit) & (judged.start_day <= generation.last_use)
            for table, those in ((unseen, fold == k), (seen, fold == (k + 1) % FOLDS)):
                table[:, use & those] = predictions(models, judged.rows[use & those])
    return unseen, seen


Renewed = tuple[BoolArray, AnyArray, AnyArray, AnyArray]
"""Mask over the judged samples; the forecast there, the same uncalibrated, and of models that saw the workload."""


def _renewed(parts: _Parts, samples: Samples, fold: IntArray) -> Iterator[Renewed]:
    """Stack anew each week and calibrate anew each day, per fold, on other folds' outcomes known by then."""
    for k in range(FOLDS):
        others = fold != k
        given = np.full(len(samples), np.nan)
        weights = np.zeros(len(parts.unseen))
        for day in range(LAST_CALIBRATION_DAY + 1, int(samples.start_day.max()) + 1):
            known = others & (samples.end_day < day)
            if (day - LAST_CALIBRATION_DAY - 1) % WEEK == 0:
                weights = stack_on(samples, parts.unseen, known, parts.priors[k])
            mixed = weights @ parts.unseen
            recent = known & (samples.start_day >= day - CALIBRATION_DAYS)
            days_given = len(np.unique(samples.start_day[known & np.isfinite(given)]))
            level = level_now(samples, given, known, days_given)
            calibration = calibrate(samples, mixed, recent, level=level)
            today = samples.start_day == day
            given[today] = calibration.apply(mixed[today].astype(np.float32), samples.groups[today])
            now = today & (fold == k)
            groups = samples.groups[now]
            of_seen = calibration.apply((weights @ parts.seen[:, now]).astype(np.float32), groups)
            yield now, given[now], np.clip(mixed[now], 0, 1), of_seen
