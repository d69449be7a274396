"""How forecasts are mixed, calibrated and judged: always on outcomes that were known by then, of other workloads.

Three things are renewed while time goes on, as a deployed system would: convex weights of models and simple rules, a
conformal factor, and the level that the factor aims at (adaptive conformal inference: Gibbs and Candès, NeurIPS 2021).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from placement.errors import ConfigError
from placement.learning.baselines import tuned_scale
from placement.learning.forecasting import LEVEL
from placement.learning.usage import SingleArray
from placement.resources import AnyArray, BoolArray, FloatArray, IntArray
from simulator.learning.forecast_samples import Samples, draw
from simulator.learning.stacking import adapted_level, conformal, pinball, stack

FOLDS = 4
STACKED_BASELINES = 6
"""How many baselines, the best of the days before, join the models in the stack."""
TWINS = ("replay-p99-7d", "vpa-p90-floors", "vpa-p95-floors")
"""Rules that join no stack: ``p99_7d`` by another name where a workload stands alone, and ``vpa-*`` but for tiny workloads."""
MODELS_SHARE = 0.9
"""What the prior of the stack gives the models together; the rest goes to the simple rules."""
PULL = 0.01
"""What a unit of relative entropy to the prior costs when one day is known, in pinball loss over the mean truth."""
HALF_LIFE_DAYS = 10.0
"""Age of outcomes at which they weigh half in the stack."""
MOST_STACKED = 8_000
"""Samples that a stack is fitted on."""
BANDS = 5
MIN_BAND = 300
"""Outcomes below which a band goes with the others' factor."""
LEAST_LOSS = 1e-4
"""Share of the mean truth below which losses are alike: nobody minds a hundredth of a per cent of constant usage."""


def ratio(loss: float, rival: float) -> float:
    """``loss / rival`` of losses relative to the mean truth; finite where a rival makes no error (constant usage)."""
    return max(loss, LEAST_LOSS) / max(rival, LEAST_LOSS)


@dataclass(frozen=True)
class TaskResult:
    """One task's forecasts on its test samples, with every rival."""

    name: str
    model: FloatArray = field(repr=False)
    truth: FloatArray = field(repr=False)
    weight: FloatArray = field(repr=False)
    workload: IntArray = field(repr=False)
    day: IntArray = field(repr=False)
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


def require_folds(task: str, num_workloads: int) -> None:
    """Each fold needs a workload.

    Raises
    ------
    ConfigError : there are fewer.
    """
    if num_workloads < FOLDS:
        raise ConfigError(f"{task}: {num_workloads} workloads are too few; the protocol needs at least {FOLDS}")


def rival_losses(
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


def stack_on(samples: Samples, parts: FloatArray, known: BoolArray, models: int) -> FloatArray:
    """Convex weights of the parts, the first ``models`` of which are models, from the samples ``known``.

    Outcomes fade with :data:`HALF_LIFE_DAYS`. The weights are drawn to equal ones of the models and, with a small
    share, of the simple rules, the more the fewer days are known: a day is one draw that all workloads share, however
    many samples it makes. With nothing known they are that prior.
    """
    rules = len(parts) - models
    share = MODELS_SHARE if rules else 1.0
    prior = np.concatenate([np.full(models, share / models), np.full(rules, (1 - share) / max(rules, 1))])
    index = np.flatnonzero(known)
    if not len(index):
        return prior
    day = samples.start_day[index]
    fade = 0.5 ** ((day.max() - day) / HALF_LIFE_DAYS)
    days = float((0.5 ** ((day.max() - np.unique(day)) / HALF_LIFE_DAYS)).sum())
    weight = samples.weight[index] * fade
    drawn, factor = draw(
        weight * (parts[:, index].mean(axis=0) + 1e-3), MOST_STACKED, np.random.default_rng(len(index))
    )
    index = index[drawn]
    return stack(
        parts[:, index], samples.truth[index].astype(float), weight[drawn] * factor, LEVEL,
        prior=prior, pull=PULL / days, rounds=200, rate=80.0, burn_in=100,
    )  # fmt: skip


@dataclass(frozen=True)
class Bands:
    """Bands of forecasts by amount (share times cores), as many samples in each; each gets a conformal factor.

    A factor for all is set by the many idle workloads and then scales the few busy ones, which make up the loss.
    """

    cuts: FloatArray

    @classmethod
    def of(cls, samples: Samples, forecast: FloatArray, known: BoolArray) -> Bands:
        """Bands that hold equally many of the samples ``known``."""
        amount = (forecast * samples.weight)[known]
        return cls(np.quantile(amount, np.arange(1, BANDS) / BANDS) if len(amount) else np.zeros(0))

    def names(self, forecast: FloatArray, weight: FloatArray) -> AnyArray:
        """(S,) the band of each forecast."""
        return np.searchsorted(self.cuts, forecast * weight).astype(str)


@dataclass(frozen=True)
class Calibration:
    """Factors by which an upper quantile is multiplied: one for all, one per band that is large enough."""

    for_all: float
    of: Mapping[str, float]


def calibrate(
    samples: Samples,
    forecast: FloatArray,
    known: BoolArray,
    bands: Bands,
    *,
    level: float = LEVEL,
    shrink: float,
) -> Calibration:
    """Conformal factors of a forecast from the samples ``known``: one for all, and one per band.

    ``shrink`` is how far a band's factor is drawn to the one for all, on the log scale.
    """
    mine, truth = forecast[known], samples.truth[known].astype(float)
    names, for_all, of = bands.names(mine, samples.weight[known]), conformal(mine, truth, level), {}
    for name in np.unique(names):
        at = names == name
        if np.count_nonzero(at) >= MIN_BAND:
            of[str(name)] = conformal(mine[at], truth[at], level) ** (1 - shrink) * for_all**shrink
    return Calibration(for_all, of)


def between(one: Calibration, other: Calibration, share: float) -> Calibration:
    """Factors between two calibrations, on the log scale: ``share`` of the other, the rest of the one."""
    names = one.of.keys() | other.of.keys()
    of = {n: (one.of.get(n, one.for_all), other.of.get(n, other.for_all)) for n in names}
    for_all = one.for_all ** (1 - share) * other.for_all**share
    return Calibration(for_all, {n: a ** (1 - share) * b**share for n, (a, b) in of.items()})


def applied(calibration: Calibration, bands: Bands, forecast: FloatArray, weight: FloatArray) -> SingleArray:
    """(S,) calibrated forecast, capped to the limit, in single precision as usage is kept."""
    names, inverse = np.unique(bands.names(forecast, weight), return_inverse=True)
    factor = np.array([calibration.of.get(str(name), calibration.for_all) for name in names], np.float32)
    return np.asarray(np.clip(forecast.astype(np.float32) * factor[inverse], 0, 1), np.float32)


def level_now(samples: Samples, given: FloatArray, known: BoolArray, windows: float) -> float:
    """The level to aim at, from how the forecasts ``given`` so far came out at the samples ``known``.

    ``windows`` is the number of windows (days, hours) those samples lie in. NaN forecasts, not given yet, do not count.
    """
    judged = known & np.isfinite(given)
    if not judged.any():
        return LEVEL
    covered = float((samples.truth[judged] <= given[judged].astype(np.float32)).mean())
    return adapted_level(LEVEL, covered, windows)
