"""Combining and calibrating forecasts: convex stacking, and conformal scaling.

Both are fitted on a period before the one that is predicted, on workloads that the models have not seen. Stacking
gives each model and baseline a weight >= 0 that sum to 1, so that the result is not worse than its best part by
more than noise. Conformal scaling multiplies an upper quantile by the factor that would have covered the wanted
share of the past (split conformal prediction with a ratio score; Romano, Patterson and Candès, 2019).
"""

from __future__ import annotations

import numpy as np

from placement.resources import FloatArray


def pinball(truth: FloatArray, forecast: FloatArray, weight: FloatArray, level: float) -> float:
    """Weighted mean pinball loss over the weighted mean of the truth."""
    error = truth - forecast
    loss = np.where(error > 0, level * error, (level - 1) * error)
    return float((weight * loss).sum() / max(float((weight * truth).sum()), 1e-12))


def stack(
    parts: FloatArray,
    truth: FloatArray,
    weight: FloatArray,
    level: float,
    *,
    prior: FloatArray | None = None,
    pull: float = 0.0,
    rounds: int = 300,
    rate: float = 15.0,
    burn_in: int = 0,
) -> FloatArray:
    """(K,) convex weights that minimise the pinball loss of ``weights @ parts``; exponentiated gradient.

    ``parts`` is (K, S). The average of the iterates after the first ``burn_in`` is returned: with few rounds and none
    dropped it stays near the start, which keeps the weights from the corners of the simplex where one lucky part would
    rule, but also leaves weight with parts that are plainly bad.

    Parameters
    ----------
    prior : (K,) weights to start from, all positive and summing to one; equal ones if not given.
    pull : what a unit of relative entropy to the prior costs, in pinball loss over the mean of the truth.
    rate : length of the first step; step ``s`` is ``rate / sqrt(1 + s)`` long.
    """
    num = len(parts)
    scale = max(float((weight * truth).sum()), 1e-12)
    share = weight / scale
    start = np.log(np.full(num, 1 / num) if prior is None else prior)
    logits = start.copy()
    total = np.zeros(num)
    for step in range(rounds):
        logits -= logits.max()
        current = np.exp(logits)
        current /= current.sum()
        if step >= burn_in:
            total += current
        over = (current @ parts) >= truth
        gradient = parts @ (share * np.where(over, 1 - level, -level))
        if pull > 0:
            gradient = gradient + pull * (np.log(np.maximum(current, 1e-12)) - start)
        logits -= rate / np.sqrt(1 + step) * (gradient - current @ gradient)
    return total / (rounds - burn_in)


def conformal(forecast: FloatArray, truth: FloatArray, level: float) -> float:
    """Factor with which ``forecast`` would have covered ``level`` of ``truth``; both (S,), forecast > 0. Without samples 1.

    It is the ``ceil((S + 1) level)``-th smallest ratio: the finite-sample correction of split conformal prediction.
    """
    if not len(forecast):
        return 1.0
    ratio = truth / np.maximum(forecast, 1e-6)
    rank = min(len(ratio), int(np.ceil((len(ratio) + 1) * level)))
    return float(np.partition(ratio, rank - 1)[rank - 1])


ADAPTATION = 0.1
"""How far the level moves for a window that was missed entirely; see :func:`adapted_level`."""

LEVEL_BAND = (0.5, 0.3)
"""An adapted level stays between ``1 - (1 - level) / LEVEL_BAND[0]`` and ``1 - (1 - level) * LEVEL_BAND[1]``."""


def adapted_level(level: float, covered: float, windows: float) -> float:
    """The level to calibrate for, so that coverage comes out at ``level`` in the long run.

    Adaptive conformal inference (Gibbs and Candès, NeurIPS 2021): the level rises by :data:`ADAPTATION` times every window's
    shortfall. ``covered`` is the share that was covered of the ``windows`` whose outcomes are known.
    """
    wanted = level + ADAPTATION * windows * (level - covered)
    miss = 1 - level
    return float(np.clip(wanted, 1 - miss / LEVEL_BAND[0], 1 - miss * LEVEL_BAND[1]))
