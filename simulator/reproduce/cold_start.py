"""``ullage reproduce cold-start``: the next six hours of a workload that has run for 15, 60 or 180 minutes.

What is known of it stands in :mod:`simulator.reproduce.cold_samples`. Names in four folds; fitted on 0303, 0306 and 0309 with a
start at every hour, tested on 0322 and 0325 with one at every third. After each test day everything is fitted, and rivals
are tuned, on that day as well, as a service would that trains daily; what comes without that is told beside it. The days
that are fitted on are looked up in each other, whichever was first; the conformal factor comes from models that left a day
out, on that day and on names of another fold that they have not seen either. Rivals are tuned on the same days of the
other names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from placement.learning.baselines import tuned_scale
from placement.learning.boosted import FitOptions
from placement.learning.forecasting import LEVEL
from placement.learning.usage import HOUR, STEP_S, SingleArray, UsageSeries
from placement.resources import CPU, BoolArray, FloatArray, IntArray
from simulator.learning.forecast_samples import Samples, folds_of
from simulator.learning.stacking import conformal, pinball
from simulator.learning.training import Effort, fit_bases, predictions
from simulator.reproduce.cold_samples import MIXED_RULES, OUTCOME, TARGET, Population
from simulator.reproduce.cold_siblings import judge_siblings
from simulator.reproduce.data_sets import data_set
from simulator.reproduce.forecast_judging import FOLDS, ratio
from simulator.reproduce.forecast_planetlab import split_days
from simulator.reproduce.parts import Omitted, Progress, silent
from simulator.reproduce.seeds import pooled
from simulator.traces.usage_readers import read_planetlab

MINUTES = (15, 60, 180)
START_HOURS = (0, 3, 6, 9, 12, 15)
"""Starts that are judged; models are fitted on every hour's."""
EFFORT = Effort(40_000, options=FitOptions(trees=200, learning_rate=0.06, leaves=15, min_leaf=300, feature_share=0.3))


MODEL, SEEN = "model", "seen_workloads"
"""Beside the rules: models that never saw the name, and ones that did."""


@dataclass(frozen=True)
class _Judged:
    """What was said of the names of the tested days, by who said it."""

    day: IntArray
    truth: SingleArray
    weight: FloatArray
    said: Mapping[str, FloatArray]

    def but(self, later: _Judged) -> _Judged:
        """The same, but what ``later`` says of its days."""
        said = {name: values.copy() for name, values in self.said.items()}
        for name, values in said.items():
            values[np.isin(self.day, later.day)] = later.said[name]
        return replace(self, said=said)


def _stamps(days: Sequence[UsageSeries]) -> list[str]:
    return [day.name.rsplit("-", 1)[-1] for day in days]


def one(population: Population, minutes: int, *, effort: Effort, seed: int) -> dict[str, Any]:
    """One length of history: the model, every tuned rule, and the ratio to the best of them.

    Beside them stand the better of :data:`MIXED_RULES`, which are no single rules and much harder to beat, and
    :data:`OUTCOME`, what the trees start from, all tuned likewise. ``fitted_once`` is the same where later test days are
    judged by what was fitted and tuned before the first.

    Raises
    ------
    ConfigError : too few days are there.
    """
    train, test = split_days(_stamps(population.days))
    once = renewed = _judged(population, minutes, train, test, effort=effort, seed=seed)
    for number, day in enumerate(test[1:], 1):
        fitted = [*train, *test[:number]]
        renewed = renewed.but(_judged(population, minutes, fitted, [day], effort=effort, seed=seed))
    return {**_scores(renewed), "fitted_once": _scores(once)}


def _scores(judged: _Judged) -> dict[str, Any]:
    losses = {n: pinball(judged.truth.astype(float), of, judged.weight, LEVEL) for n, of in judged.said.items()}
    model, seen, outcome = (losses.pop(name) for name in (MODEL, SEEN, OUTCOME))
    mixed, mixed_rule = min((losses.pop(name), name) for name in MIXED_RULES)
    best = min(losses, key=lambda n: losses[n])
    return {
        "model": model,
        "seen_workloads": seen,
        "best_rule": best,
        "best_rule_pinball": losses[best],
        "ratio": ratio(model, losses[best]),
        "mixed_rule": mixed_rule,
        "mixed_rule_pinball": mixed,
        "ratio_to_mixed_rule": ratio(model, mixed),
        "outcome_pinball": outcome,
        "ratio_to_outcome": ratio(model, outcome),
        "coverage": float((judged.truth <= judged.said[MODEL].astype(np.float32)).mean()),
        "samples": len(judged.truth),
        "tuned_rules": losses,
    }


def _judged(
    population: Population, minutes: int, fitted: Sequence[int], tested: Sequence[int], *, effort: Effort, seed: int
) -> _Judged:
    """Models and rules of the days ``fitted``, which are looked up in each other, on the days ``tested``."""
    cold = population.told(minutes * 60 // STEP_S, fitted, tested)
    samples = cold.samples
    fold = folds_of(len(population.names), FOLDS, seed)[samples.workload]
    judged = np.isin(samples.hour, [hour * HOUR for hour in START_HOURS])
    past, test = np.isin(samples.start_day, fitted), np.isin(samples.start_day, tested) & judged
    truth, weight = samples.truth.astype(float), samples.weight
    said = {name: np.full(len(samples), np.nan) for name in (MODEL, SEEN, *cold.rules)}
    for k in range(FOLDS):
        mine, others, neighbours = fold == k, fold != k, fold == (k + 1) % FOLDS
        fit = past & judged & others
        for name, values in cold.rules.items():
            scale = tuned_scale(values[fit], truth[fit], weight[fit], LEVEL)
            said[name][mine] = np.minimum(values[mine] * scale, 1)
        forecast = _fold(samples, past, fold, k, effort, seed + 10 * k)
        for name, those in ((MODEL, mine & test), (SEEN, neighbours & test)):
            said[name][those] = forecast(samples.pick(those))
    of_test = {name: values[test] for name, values in said.items()}
    return _Judged(samples.start_day[test], samples.truth[test], weight[test], of_test)


def _fold(
    samples: Samples, past: BoolArray, fold: IntArray, mine: int, effort: Effort, seed: int
) -> Callable[[Samples], FloatArray]:
    """The forecast for the names of fold ``mine``; its factor is from days and names that its like have not seen."""
    others, fresh = fold != mine, fold == (mine + 1) % FOLDS
    truths, said = [], []
    for day in np.unique(samples.start_day[past]):
        held = samples.start_day == day
        chosen = samples.pick(past & held & fresh)
        truths.append(chosen.truth.astype(float))
        said.append(_trees(samples, past & ~held & others & ~fresh, effort, seed)(chosen))
    truth, forecasts = np.concatenate(truths), np.concatenate(said)
    factor = conformal(forecasts, truth, LEVEL)
    final = _trees(samples, past & others, effort, seed + 5)
    return lambda wanted: np.asarray(np.clip(final(wanted) * factor, 0, 1), float)


def _trees(samples: Samples, train: BoolArray, effort: Effort, seed: int) -> Callable[[Samples], FloatArray]:
    models = fit_bases(
        samples, resource=CPU, target=TARGET, train=train, stop=None, effort=effort, seed=seed, bases=(OUTCOME,)
    )
    return lambda wanted: np.asarray(predictions(models, wanted.rows)[0], float)


def run(
    data: Path,
    *,
    seed: int = 9,
    seeds: int = 1,
    effort: Effort = EFFORT,
    minutes: Sequence[int] = MINUTES,
    progress: Progress = silent,
) -> dict[str, Any]:
    """All lengths of history, and what the deployed forecaster says of new names; the JSON report.

    A length that leaves too few samples to fit is left out; ``omitted`` says why. With several ``seeds``, from ``seed`` on,
    every figure is their mean (see :mod:`simulator.reproduce.seeds`).

    Raises
    ------
    TraceError : PlanetLab is missing or damaged. ConfigError : too few days are there. ModelError : no length can be judged.
    """
    days: list[UsageSeries] = read_planetlab(data_set(data, "planetlab"))
    train, test = split_days(_stamps(days))
    judged = {part: [_stamps(days)[i] for i in index] for part, index in (("fitted", train), ("tested", test))}
    population = Population(days)
    siblings = judge_siblings(days)
    reports, omitted = list[dict[str, Any]](), Omitted()
    for number in range(seed, seed + seeds):
        found: dict[str, dict[str, Any]] = {}
        for place, length in enumerate(minutes, 1):
            name = f"{length}min"
            result = omitted.unless(name, partial(one, population, length, effort=effort, seed=number))
            if result is not None:
                found[name] = result
            what = "left out" if result is None else f"ratio {result['ratio']:.3f}"
            progress(
                f"seed {number}, {length} minutes: {what}", len(reports) * len(minutes) + place, seeds * len(minutes)
            )
        reports.append({"history": found, "siblings": siblings, "days": judged, "level": LEVEL, "seed": number})
    for report in reports:
        report["history"] = {name: entry for name, entry in report["history"].items() if name not in omitted}
    why = omitted.reasons(reports[0]["history"])
    return {**pooled(reports, range(seed, seed + seeds), ("history",)), "omitted": why}
