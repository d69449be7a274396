"""How good predicted lifetimes are: order of pairs, classes, chances, and the logarithmic loss with pods that still run."""

from __future__ import annotations

import numpy as np

from placement.learning.lineage import LIMITS_S, NUM_CLASSES, TYPICAL_S
from placement.resources import BoolArray, FloatArray
from simulator.learning.lifetime_samples import LifeSamples


def concordance(predicted: FloatArray, lifetime_s: FloatArray, is_ended: BoolArray, rng: np.random.Generator) -> float:
    """Harrell's C over random comparable pairs: how often the pod predicted to live longer did.

    A pair is comparable when the shorter of the two lifetimes is known to have ended.
    """
    num = len(predicted)
    left, right = rng.integers(0, num, 400_000), rng.integers(0, num, 400_000)
    shorter = np.where(lifetime_s[left] <= lifetime_s[right], left, right)
    longer = np.where(lifetime_s[left] <= lifetime_s[right], right, left)
    usable = (lifetime_s[shorter] < lifetime_s[longer]) & is_ended[shorter]
    ahead, behind = predicted[longer][usable], predicted[shorter][usable]
    return float(((ahead > behind) + 0.5 * (ahead == behind)).mean()) if usable.any() else 0.5


HEDGE = 0.02
"""Share of equal chances that every answer is mixed with before its loss is taken: a rule that is certain, and wrong
once, would else have an infinite one."""
NUM_BINS = 10


def at_age(shares: FloatArray, age_s: int) -> FloatArray:
    """(S, 4) shares of the classes of pods that have lived so long: what they outlived is ruled out."""
    kept = shares.copy()
    kept[:, [i for i, limit in enumerate(LIMITS_S) if limit <= age_s]] = 0.0
    total = kept.sum(axis=1)
    kept[total <= 0, -1] = 1.0
    return np.asarray(kept / kept.sum(axis=1, keepdims=True), float)


def hedged(shares: FloatArray, age_s: int) -> FloatArray:
    """(S, 4) mixed with :data:`HEDGE` of equal shares of the classes that are left."""
    left = at_age(np.ones((1, NUM_CLASSES)), age_s)
    return np.asarray((1 - HEDGE) * shares + HEDGE * left, float)


def log_loss(shares: FloatArray, lifetime_s: FloatArray, is_ended: BoolArray, age_s: int) -> FloatArray:
    """(S,) minus the logarithm of the chance of what is known: the class, or for who still runs the classes left to it."""
    chances = hedged(shares, age_s)
    own = np.searchsorted(np.array(LIMITS_S), lifetime_s, side="left")
    later = np.cumsum(chances[:, ::-1], axis=1)[:, ::-1]
    row = np.arange(len(own))
    found: FloatArray = -np.log(np.where(is_ended, chances[row, own], later[row, own]))
    return found


def gone_by(
    shares: FloatArray, lifetime_s: FloatArray, is_ended: BoolArray, followed_s: FloatArray, age_s: int
) -> tuple[FloatArray, FloatArray]:
    """Chances to be gone by each limit of the classes above the age, and whether that came true: both (N,).

    Pods count that were followed for so long, ended or not; so nobody is left out for still running.
    """
    chances, came = [], []
    for c, limit in enumerate(LIMITS_S):
        if limit > age_s:
            known = followed_s >= limit
            chances.append(shares[known, : c + 1].sum(axis=1))
            came.append((is_ended & (lifetime_s <= limit))[known].astype(float))
    return np.concatenate(chances), np.concatenate(came)


def reliability(chance: FloatArray, came: FloatArray) -> list[list[float]]:
    """[mean chance, share that came true, pods] by tenths of the chance; empty tenths are left out."""
    tenth = np.minimum((chance * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    found = []
    for b in range(NUM_BINS):
        own = tenth == b
        if own.any():
            found.append([float(chance[own].mean()), float(came[own].mean()), int(own.sum())])
    return found


def calibration_error(points: list[list[float]]) -> float | None:
    """Mean distance between chance and truth over the points, by their pods."""
    total = sum(num for _, _, num in points)
    return sum(num * abs(chance - came) for chance, came, num in points) / total if total else None


Scores = dict[str, float | int | None]


def scores(shares: FloatArray, samples: LifeSamples, until_s: float, age_s: int, seed: int) -> Scores:
    """Bucket accuracy, C-index, loss, Brier score and calibration of (S, 4) shares at one age, and how many pods.

    None is what cannot be told: no pod was followed for long enough.
    """
    label, kept = samples.label, at_age(shares, age_s)
    known = label >= 0
    chance, came = gone_by(kept, samples.lifetime_s, samples.is_ended, until_s - samples.arrival_s, age_s)
    return {
        "accuracy": float((kept[known].argmax(axis=1) == label[known]).mean()) if known.any() else None,
        "c_index": concordance(
            kept @ np.log(TYPICAL_S), samples.lifetime_s, samples.is_ended, np.random.default_rng(seed)
        ),
        "log_loss": float(log_loss(kept, samples.lifetime_s, samples.is_ended, age_s).mean()),
        "brier": float(((chance - came) ** 2).mean()) if len(came) else None,
        "calibration_error": calibration_error(reliability(chance, came)),
        "pods": len(samples),
    }
