"""Lifespans from what ends and what goes on living, as it happens: hazards per owner, leaning on what is more general.

A pod's life is cut at :data:`~placement.knowledge.AGES_S`. Each time a pod ends within a part, or reaches the end of
it, the part's hazard is updated for all of the pod's keys (its workload, its size, everyone), with old outcomes fading.
Pods that still run have told of every part they lived through, so nothing is censored away. A key that has seen little
leans on the next more general one as if it had seen :data:`PRIOR` pods of that (actuarial life table with shrinkage).
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from placement.knowledge import AGES_S, HORIZONS_S, Lifespan, Lifetimes, workload_of
from placement.pods import PodSpec
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


class Survival:
    """Hazards by key. ``keep`` is what an outcome still weighs after the next one, per level of keys."""

    def __init__(self, keep: Sequence[float]) -> None:
        self.keep = tuple(keep)
        self._keys: list[dict[Hashable, _Key]] = [{} for _ in keep]

    def outcome(self, keys: Sequence[Hashable], part: int, *, ended: bool) -> None:
        """A pod ended in a part of life, or lived through it; ``keys`` from the most particular to the most general.

        A key that is None tells of nobody, and nothing is kept under it.
        """
        for table, key, keep in zip(self._keys, keys, self.keep, strict=True):
            if key is None:
                continue
            found = table.get(key)
            if found is None:
                found = table[key] = _Key()
            found.ended[part] = found.ended[part] * keep + ended
            found.seen[part] = found.seen[part] * keep + 1.0

    def hazards(self, keys: Sequence[Hashable]) -> list[float]:
        """Chance to end in each part of life, of those who reach it; the last part's is 1."""
        hazards = [UNKNOWN] * (NUM_PARTS - 1) + [1.0]
        for table, key in zip(reversed(self._keys), reversed(keys), strict=True):
            found = table.get(key)
            if found is not None:
                for k in range(NUM_PARTS - 1):
                    hazards[k] = (found.ended[k] + PRIOR * hazards[k]) / (found.seen[k] + PRIOR)
        return hazards


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


def lifespans(hazards: FloatArray) -> list[Lifespan]:
    """One lifespan per row of ``(B, NUM_PARTS)`` hazards.

    The expected lifetime is the geometric mean over the parts that are left; chances are interpolated within a part.
    """
    alive = np.concatenate([np.ones((len(hazards), 1)), np.cumprod(1 - hazards, axis=1)], axis=1)
    alive[:, -1] = 0.0
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
    return [Lifespan(tuple(a), tuple(map(tuple, b))) for a, b in zip(lives, chances, strict=True)]


KEEP = (0.95, 0.99, 0.999)
"""Of outcomes of a workload, of a size, of all."""
FRESH_S = 3600
"""A lifespan is computed anew when its workload had an outcome, and at least so often."""
Keys = tuple[Hashable, ...]
EVERYONE: Keys = (None, None, "all")


def keys_of(spec: PodSpec) -> Keys:
    """A class's workload (None for bare pods, which have none in common), its size, and everyone."""
    return workload_of(spec.namespace, spec.owner) or None, spec.main_amounts, "all"


class LifeHistory:
    """Pods as they come and go, and the lifespans that this tells of. Times never go back."""

    def __init__(self) -> None:
        self.survival = Survival(KEEP)
        self._running: dict[str, tuple[Keys, int]] = {}
        self._passing: list[tuple[int, str, int, int]] = []
        self._known: dict[str, tuple[int, Lifespan]] = {}

    @property
    def running(self) -> set[str]:
        """UIDs of the pods that have not ended."""
        return set(self._running)

    def began(self, uid: str, spec: PodSpec, since_s: int) -> None:
        """A pod runs since then."""
        self._running[uid] = (keys_of(spec), since_s)
        heapq.heappush(self._passing, (since_s + AGES_S[1], uid, since_s, 0))

    def ended(self, uid: str, time_s: int) -> None:
        """A pod is gone; one that was never seen is ignored."""
        self.pass_by(time_s)
        if uid in self._running:
            keys, since_s = self._running.pop(uid)
            self._learn(keys, part_of(max(time_s - since_s, 1)), ended=True)

    def pass_by(self, now_s: int) -> None:
        """Note who has lived through a part of life by now."""
        while self._passing and self._passing[0][0] < now_s:
            _at, uid, since_s, part = heapq.heappop(self._passing)
            found = self._running.get(uid)
            if found is None or found[1] != since_s:
                continue
            self._learn(found[0], part, ended=False)
            if part + 2 < len(AGES_S):
                heapq.heappush(self._passing, (since_s + AGES_S[part + 2], uid, since_s, part + 1))

    def _learn(self, keys: Keys, part: int, *, ended: bool) -> None:
        self.survival.outcome(keys, part, ended=ended)
        if keys[0] is not None:
            self._known.pop(str(keys[0]), None)

    def lifetimes(self, more: Iterable[PodSpec], now_s: int) -> Lifetimes:
        """What is known now, of the workloads of the pods that run and of ``more`` classes."""
        all_keys = [keys for keys, _ in self._running.values()] + [keys_of(spec) for spec in more]
        wanted = {str(keys[0]): keys for keys in all_keys if keys[0] is not None}
        fresh = [n for n in wanted if n not in self._known or now_s - self._known[n][0] >= FRESH_S]
        rows = [self.survival.hazards(wanted[n]) for n in fresh]
        *found, everyone = lifespans(np.array([*rows, self.survival.hazards(EVERYONE)]))
        self._known |= {name: (now_s, one) for name, one in zip(fresh, found, strict=True)}
        return Lifetimes({n: self._known[n][1] for n in wanted}, everyone, now_s, "hazards")


def certain(life_s: int) -> Lifespan:
    """Of a pod whose lifetime is known."""
    gone = tuple(tuple(1000 * (life_s <= age + horizon) for horizon in HORIZONS_S) for age in AGES_S)
    return Lifespan((life_s,) * NUM_PARTS, gone)
