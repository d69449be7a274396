"""Whom the guard of ``ullage serve`` lets a lifetime model answer for, on arrivals that it was asked about.

What stood when a pod arrived is held against what came of it in each part of its life, when that is known, by
:class:`placement.learning.drift.LossMonitor`; new workloads apart. Refits go on with the record of the model before.
"""

from __future__ import annotations

import numpy as np

from placement.knowledge import AGES_S
from placement.learning.drift import LossMonitor
from placement.learning.lifetime_history import NUM_HAZARDS
from placement.learning.lifetime_model import losses
from placement.resources import BoolArray, FloatArray, IntArray
from simulator.learning.lifetime_samples import LifeSamples

EVERY_S = 300
"""Between looks."""


def trusted(model: FloatArray, lives: LifeSamples, kin: IntArray) -> BoolArray:
    """(P,) whether the model was trusted when each pod arrived, of (P, NUM_HAZARDS) hazards; NaN where it was not asked.

    ``kin`` numbers the classes of pods: those of one class, part of life and look count once.
    """
    look, part, mine, rule, pod = _outcomes(model, lives)
    keys = np.stack([look, kin[pod], part, lives.is_new[pod]], axis=1)
    trials, inverse = np.unique(keys, axis=0, return_inverse=True)
    inverse = inverse.reshape(-1)
    count = np.bincount(inverse)
    means = np.stack([np.bincount(inverse, weights=x) / count for x in (mine, rule)], axis=1)
    monitors = {True: LossMonitor(), False: LossMonitor()}
    found = np.zeros(len(lives), np.bool_)
    done = 0
    for i in np.argsort(lives.moment_s, kind="stable").tolist():
        now = lives.moment_s[i] // EVERY_S
        while done < len(trials) and trials[done, 0] <= now:
            monitors[bool(trials[done, 3])].observe(float(means[done, 0]), float(means[done, 1]))
            done += 1
        found[i] = monitors[bool(lives.is_new[i])].trusted
    return found & np.isfinite(model[:, 0])


def _outcomes(model: FloatArray, lives: LifeSamples) -> tuple[IntArray, IntArray, FloatArray, FloatArray, IntArray]:
    """Look at which it is known, part of life, loss of the model, loss of the rule, pod: of each part that was outlived or
    ended in."""
    columns: list[list[np.ndarray[tuple[int, ...], np.dtype[np.float64]]]] = []
    asked = np.isfinite(model[:, 0])
    for k in range(NUM_HAZARDS):
        ended = lives.is_ended & (lives.lifetime_s <= AGES_S[k + 1])
        known = asked & (lives.lifetime_s > AGES_S[k]) & (ended | (lives.lifetime_s > AGES_S[k + 1]))
        pod = np.flatnonzero(known)
        until = lives.arrival_s[pod] + np.minimum(lives.lifetime_s[pod], AGES_S[k + 1])
        each = [losses(hazards[pod, k], ended[pod]) for hazards in (model, lives.rule)]
        columns.append([np.ceil(until / EVERY_S), np.full(len(pod), float(k)), *each, pod.astype(float)])
    look, part, mine, rule, of = (np.concatenate(column) for column in zip(*columns, strict=True))
    return look.astype(np.int64), part.astype(np.int64), mine, rule, of.astype(np.int64)
