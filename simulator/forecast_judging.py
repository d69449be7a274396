"""How forecasts are mixed, calibrated and judged: always on outcomes that were known by then, of other workloads.

Three things are renewed while time goes on, as a deployed system would: convex weights of models and simple rules, a
conformal factor, and the level that the factor aims at (adaptive conformal inference: Gibbs and Candès, NeurIPS 2021).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from placement.baselines import tuned_scale
from placement.resources import AnyArray, BoolArray, FloatArray, IntArray
from placement.stacking import Calibration, adapted_level, conformal, pinball, stack
from simulator.forecast_samples import Samples

LEVEL = 0.95
FOLDS = 4
STACKED_BASELINES = 6
"""How many baselines, the best of the days before, join the models in the stack."""
PRIOR_DAYS = 10.0
"""Days of outcomes that weigh as much as the prior of the stack."""
MODELS_SHARE = 0.8
"""What the prior gives the models together; the rest goes to the simple rules."""


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


def stack_on(samples: Samples, parts: FloatArray, known: BoolArray, rules: FloatArray) -> FloatArray:
    """Convex weights of the parts from the samples ``known``, drawn towards a prior where little is known.

    The prior gives the models, which come first, :data:`MODELS_SHARE` in equal parts and the simple rules the rest in
    the proportions ``rules`` (R,), which sum to one. Its weight is ``1 / (1 + n / PRIOR_DAYS)`` with ``n`` the number
    of days that are known: weights fitted to nine days are fitted to nine draws that all workloads share, however many
    samples they make, and mixtures of equal parts are hard to beat with so few.
    """
    found = stack(parts[:, known], samples.truth[known].astype(float), samples.weight[known], LEVEL)
    models = len(parts) - len(rules)
    prior = np.concatenate([np.full(models, MODELS_SHARE / models), (1 - MODELS_SHARE) * rules])
    days = float(np.ptp(samples.hour[known])) / 24 + 1 if known.any() else 0.0
    share = 1 / (1 + days / PRIOR_DAYS)
    return np.asarray((1 - share) * found + share * prior, float)


def calibrate(
    samples: Samples, forecast: FloatArray, known: BoolArray, *, level: float = LEVEL, by_group: bool = True
) -> Calibration:
    """Conformal factors of a forecast from the samples ``known``."""
    groups = samples.groups[known] if by_group else np.full(int(known.sum()), "", dtype=object)
    least = {} if by_group else {"min_group": int(known.sum()) + 1}
    return conformal(forecast[known], samples.truth[known].astype(float), groups, level, **least)


def level_now(samples: Samples, given: FloatArray, known: BoolArray, windows: float) -> float:
    """The level to aim at, from how the forecasts ``given`` so far came out at the samples ``known``.

    ``windows`` is the number of windows (days, hours) those samples lie in. NaN forecasts, not given yet, do not count.
    """
    judged = known & np.isfinite(given)
    if not judged.any():
        return LEVEL
    covered = float((samples.truth[judged] <= given[judged].astype(np.float32)).mean())
    return adapted_level(LEVEL, covered, windows)
