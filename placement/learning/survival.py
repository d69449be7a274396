"""Lifespans from what ends and what goes on living, as it happens: hazards per owner, leaning on what is more general.

A pod's life is cut at :data:`~placement.knowledge.AGES_S`. Each time a pod ends within a part, or reaches the end of
it, the part's hazard is updated for all of the pod's keys (its workload, newcomers, its size, everyone), with old
outcomes fading. Pods that still run have told of every part they lived through, and of the share of the part they are
in, so nothing is censored away. A key that has seen little leans on the next more general one
as if it had seen :data:`PRIOR` pods of that (actuarial life table with shrinkage).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from placement.knowledge import AGES_S, HORIZONS_S, Lifespan
from placement.learning.by_level import ByLevel
from placement.resources import FloatArray

NUM_PARTS = len(AGES_S)
PRIOR = 4.0
LONGEST_S = 10 * AGES_S[-1]
"""Where the last, open part is taken to end."""
UNKNOWN = 0.3
"""Hazard of a part of which nothing was ever seen."""


def part_of(age_s: float) -> int:
    """Index of the part of life in which a pod of this age ends: part k is (AGES_S[k], AGES_S[k + 1]]."""
    return next((k - 1 for k in range(1, NUM_PARTS) if age_s <= AGES_S[k]), NUM_PARTS - 1)


@dataclass(slots=True)
class _Key:
    ended: list[float] = field(default_factory=lambda: [0.0] * NUM_PARTS)
    seen: list[float] = field(default_factory=lambda: [0.0] * NUM_PARTS)
    """Both fade with each outcome."""
    outcomes: list[int] = field(default_factory=lambda: [0] * NUM_PARTS)
    inside: list[int] = field(default_factory=lambda: [0] * NUM_PARTS)
    entered_s: list[int] = field(default_factory=lambda: [0] * NUM_PARTS)
    """Pods that are within each part now, and the sum of the times at which they entered it."""


class Survival:
    """Hazards by key. ``keep`` is what an outcome still weighs after the next one, per level of keys.

    A pod within a part has lived through some of it, and counts with that share: of those that entered together the
    short-lived have ended first, and to count them alone would say that all end soon (the actuarial estimate of a life
    table, with the true share instead of a half). It weighs what outcomes so far weigh on average after fading, so that
    many that run do not drown the few outcomes that are remembered.
    """

    def __init__(self, keep: Sequence[float]) -> None:
        self.keep = tuple(keep)
        self._keys = ByLevel(len(keep), _Key)

    def enter(self, keys: Sequence[Hashable], part: int, at_s: int) -> None:
        """A pod entered a part of life; ``keys`` as in :class:`~placement.learning.by_level.ByLevel`."""
        for found in self._keys.meet_each(keys):
            if found is not None:
                found.inside[part] += 1
                found.entered_s[part] += at_s

    def leave(self, keys: Sequence[Hashable], part: int, at_s: int) -> None:
        """A pod that entered the part at ``at_s`` is no longer in it."""
        for found, key in zip(self._keys.find_each(keys), keys, strict=True):
            if key is not None:
                assert found is not None, f"a pod of {key!r} left a part of life that it never entered"
                found.inside[part] -= 1
                found.entered_s[part] -= at_s

    def outcome(self, keys: Sequence[Hashable], part: int, *, ended: bool, weights: Sequence[float] = ()) -> None:
        """A pod ended in a part of life, or lived through it; ``weights`` say by level how much it counts, 1 if not given.

        Older outcomes fade by as much.
        """
        each = zip(self._keys.meet_each(keys), self.keep, weights or [1.0] * len(self.keep), strict=True)
        for found, keep, weight in each:
            if found is not None:
                kept = keep**weight
                found.ended[part] = found.ended[part] * kept + weight * ended
                found.seen[part] = found.seen[part] * kept + weight
                found.outcomes[part] += 1

    def has_met(self, level: int, key: Hashable) -> bool:
        """Whether a pod of a key ever entered a part of life, as far as is remembered."""
        return self._keys.find(level, key) is not None

    def forget(self, level: int, key: Hashable) -> None:
        """All that is known of a key, none of whose pods run."""
        self._keys.forget(level, key)

    def num_outcomes(self, level: int, key: Hashable) -> int:
        """How many outcomes a key has had."""
        found = self._keys.find(level, key)
        return 0 if found is None else sum(found.outcomes)

    def hazards(self, keys: Sequence[Hashable], now_s: int) -> list[float]:
        """Chance to end in each part of life, of those who reach it; the last part's is 1."""
        hazards = [UNKNOWN] * (NUM_PARTS - 1) + [1.0]
        for found in reversed(self._keys.find_each(keys)):
            if found is not None:
                for k in range(NUM_PARTS - 1):
                    seen = found.seen[k] + _partly(found, k, now_s)
                    hazards[k] = (found.ended[k] + PRIOR * hazards[k]) / (seen + PRIOR)
        return hazards

    def seen(self, level: int, key: Hashable, now_s: int) -> list[float]:
        """How many pods a key's hazards stand on, per part but the last."""
        found = self._keys.find(level, key)
        if found is None:
            return [0.0] * (NUM_PARTS - 1)
        return [found.seen[k] + _partly(found, k, now_s) for k in range(NUM_PARTS - 1)]


def _partly(key: _Key, part: int, now_s: int) -> float:
    """Pods within a part, each as the share of it that it has lived through, weighed like a remembered outcome."""
    num = key.inside[part]
    if not num:
        return 0.0
    lived = (now_s * num - key.entered_s[part]) / (AGES_S[part + 1] - AGES_S[part])
    weight = key.seen[part] / key.outcomes[part] if key.outcomes[part] else 1.0
    return min(max(lived, 0.0), num) * weight


def _position(age_s: float) -> tuple[int, float]:
    """Part of life and how far into it, 0–1: linear in the first part, by the logarithm in the others."""
    if age_s >= LONGEST_S:
        return NUM_PARTS - 1, 1.0
    k = max(i for i in range(NUM_PARTS) if AGES_S[i] <= age_s)
    low, high = AGES_S[k], AGES_S[k + 1] if k + 1 < NUM_PARTS else LONGEST_S
    return k, (age_s / high if not low else math.log(age_s / low) / math.log(high / low))


def _middles() -> list[float]:
    bounds = [*AGES_S, LONGEST_S]
    return [math.log(high / 2 if not low else math.sqrt(low * high)) for low, high in pairwise(bounds)]


_LOG_MIDDLES = np.array(_middles())
_PLACES = [[_position(age + horizon) for horizon in HORIZONS_S] for age in AGES_S]


def lifespans(hazards: FloatArray, rungs: Sequence[str] = ()) -> list[Lifespan]:
    """One lifespan per row of ``(B, NUM_PARTS)`` hazards, of which the last is 1; ``rungs`` says what each stands on.

    The expected lifetime is the geometric mean over the parts that are left; chances are interpolated within a part.
    """
    alive = np.concatenate([np.ones((len(hazards), 1)), np.cumprod(1 - hazards, axis=1)], axis=1)
    ends = alive[:, :-1] - alive[:, 1:]
    life = np.empty((len(hazards), NUM_PARTS))
    gone = np.empty((len(hazards), NUM_PARTS, len(HORIZONS_S)))
    for k in range(NUM_PARTS):
        left = np.maximum(ends[:, k:], 1e-12)
        life[:, k] = np.exp((left * _LOG_MIDDLES[k:]).sum(axis=1) / left.sum(axis=1))
        for h, (part, share) in enumerate(_PLACES[k]):
            later = alive[:, part] + (alive[:, part + 1] - alive[:, part]) * share
            gone[:, k, h] = 1 - later / np.maximum(alive[:, k], 1e-12)
    lives = np.rint(life).astype(np.int64).tolist()
    chances = np.clip(np.rint(1000 * gone), 0, 1000).astype(np.int64).tolist()
    named = rungs or [""] * len(lives)
    return [Lifespan(tuple(a), tuple(map(tuple, b)), rung) for a, b, rung in zip(lives, chances, named, strict=True)]


CLASS_STARTS = (0, 2, 3, 6)
"""First part of life of each class of :mod:`placement.learning.lineage`: to 15 minutes, to an hour, to a day, longer."""


def part_shares(hazards: FloatArray) -> FloatArray:
    """``(B, NUM_PARTS)`` shares of pods that end in each part of life, for hazards of all or all but the last part."""
    h = np.concatenate([hazards[:, : NUM_PARTS - 1], np.ones((len(hazards), 1))], axis=1)
    alive = np.concatenate([np.ones((len(h), 1)), np.cumprod(1 - h, axis=1)[:, :-1]], axis=1)
    found: FloatArray = alive * h
    return found


def class_shares(hazards: FloatArray) -> FloatArray:
    """``(B, 4)`` shares of pods that end in each class of lifetime."""
    found: FloatArray = np.add.reduceat(part_shares(hazards), CLASS_STARTS, axis=1)
    return found


def with_classes(hazards: FloatArray, shares: FloatArray) -> FloatArray:
    """``(B, NUM_PARTS - 1)`` hazards of pods that end in the classes by ``(B, 4)`` shares, and within each as they did.

    One distribution over the parts of life, so its answers at all ages fit together.
    """
    parts, tiny = part_shares(hazards), np.finfo(float).tiny
    factor = shares / np.maximum(class_shares(hazards), tiny)
    ends = parts * np.repeat(factor, np.diff([*CLASS_STARTS, NUM_PARTS]), axis=1)
    alive = np.cumsum(ends[:, ::-1], axis=1)[:, ::-1]
    found: FloatArray = (ends / np.maximum(alive, tiny))[:, :-1]
    return found


def certain(life_s: int) -> Lifespan:
    """Of a pod whose lifetime is known."""
    gone = tuple(tuple(1000 * (life_s <= age + horizon) for horizon in HORIZONS_S) for age in AGES_S)
    return Lifespan((life_s,) * NUM_PARTS, gone, "truth")
