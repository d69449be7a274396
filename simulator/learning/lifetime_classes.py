"""Trees that say, of a pod that arrives, in which class its life will end: what they may learn from, and growing them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from placement.learning.boosted import ClassTrees, FitOptions, fit_classes
from placement.learning.lifetime_history import feature_names
from placement.learning.lineage import LIMITS_S, NUM_CLASSES
from placement.resources import BoolArray, FloatArray, IntArray
from simulator.learning.lifetime_samples import HALF_LIFE_S, LifeSamples

YOUNGEST_S = 300.0
LEAST_SHARE = 0.02
"""Classes less likely than this are left out for a pod that still runs."""
MOST_ROWS = 60_000
OPTIONS = FitOptions(trees=60, learning_rate=0.08, leaves=7, min_leaf=60)


def grown(samples: LifeSamples, now_s: float, seed: int) -> ClassTrees | None:
    """Trees of the arrivals among the samples, as known at ``now_s``; None if there are too few."""
    arrivals = samples.pick(samples.age_s == 0)
    pod, label, weight = known_at(arrivals, now_s)
    if len(pod) < 2 * OPTIONS.min_leaf:
        return None
    if len(pod) > MOST_ROWS:
        chosen = np.sort(np.random.default_rng([seed, int(now_s)]).choice(len(pod), MOST_ROWS, replace=False))
        pod, label, weight = pod[chosen], label[chosen], weight[chosen]
    recent = 0.5 ** ((now_s - arrivals.arrival_s[pod]) / HALF_LIFE_S)
    return fit_classes(
        arrivals.features[pod], label.astype(float), weight * recent,
        names=feature_names(), num_classes=NUM_CLASSES, options=replace(OPTIONS, seed=seed),
    )  # fmt: skip


def known_at(arrivals: LifeSamples, now_s: float) -> tuple[IntArray, IntArray, FloatArray]:
    """(rows, classes, weights) that may be learned from at ``now_s``: pods that arrived five minutes ago or earlier.

    A pod that still runs is entered with every class that is left to it, by the shares in which pods that reached its age
    went on (Kaplan and Meier's estimate over all that is known at ``now_s``). Leaving the young out instead would teach
    that whoever is young ends soon.
    """
    age = now_s - arrivals.arrival_s
    known = age >= YOUNGEST_S
    ended = known & arrivals.is_ended & (arrivals.lifetime_s <= age)
    running = np.flatnonzero(known & ~ended)
    survives = survival(np.where(ended, arrivals.lifetime_s, age)[known], ended[known])
    bounds = np.array([0.0, *LIMITS_S])
    at_bound = np.append(survives(bounds), 0.0)
    lived = np.maximum(survives(age[running]), 1e-9)
    own = np.searchsorted(bounds[1:], age[running], side="left")
    index, classes, weights = [np.flatnonzero(ended)], [], [np.ones(int(ended.sum()))]
    classes.append(np.searchsorted(bounds[1:], arrivals.lifetime_s[ended], side="left"))
    for c in range(NUM_CLASSES):
        left = np.where(c > own, at_bound[c], np.where(c == own, lived, at_bound[c + 1])) - at_bound[c + 1]
        likely = left / lived > LEAST_SHARE
        index.append(running[likely])
        classes.append(np.full(int(likely.sum()), c))
        weights.append((left / lived)[likely])
    return np.concatenate(index), np.concatenate(classes).astype(np.int64), np.concatenate(weights)


def survival(time_s: FloatArray, ended: BoolArray) -> Callable[[FloatArray], FloatArray]:
    """Kaplan and Meier: the share that lives longer than a time, from times of those that ended and of those that run."""
    order = np.argsort(time_s, kind="stable")
    times, died = time_s[order], ended[order]
    at_risk = np.arange(len(times), 0, -1)
    log_alive = np.concatenate([[0.0], np.cumsum(np.log1p(-np.where(died, 1 / (at_risk + 1), 0.0)))])
    return lambda at: np.exp(log_alive[np.searchsorted(times, at, side="right")])
