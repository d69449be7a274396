"""The simple rules that learned lifetimes are held against: a lineage's, and survival over the latest bursts of a key.

:class:`~placement.learning.lineage.Lineage` remembers sixteen pods, which may all be of one batch. A rival is to be met at
its best, so here are windows of many bursts, with all their pods.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np

from placement.learning.by_level import ByLevel
from placement.learning.lineage import BURST_S, LIMITS_S, NUM_CLASSES, Lineage, class_of
from placement.resources import FloatArray

WINDOWS = {f"survival-{bursts}": bursts for bursts in (64, 256)}
"""Rule → bursts that are looked back at."""
OF_LINEAGE = ("last", "majority", "mean", "survival")
RULES = (*OF_LINEAGE, *WINDOWS)
"""On the pods of an owner, or else of its size, or else of everyone."""
Answers = dict[str, tuple[float, ...] | None]
"""Rule → shares of the classes, None where it knows nothing."""


def answers(
    lineage: Lineage, bursts: SiblingBursts, values: Sequence[Hashable], now_s: float, age_s: int = 0
) -> Answers:
    """Every rule's, of a pod of an age whose keys have ``values``, from what is known at ``now_s``."""
    found: Answers = {name: bursts.survival(values, now_s, window, age_s) for name, window in WINDOWS.items()}
    return found | {name: lineage.rule(name, values, now_s) for name in OF_LINEAGE}


@dataclass
class _Bursts:
    """Rows of first arrival, pods, and ended pods by class; the first ``num`` are in use."""

    rows: FloatArray = field(default_factory=lambda: np.zeros((4, 2 + NUM_CLASSES)))
    num: int = 0

    def arrive(self, now_s: float) -> None:
        if not self.num or now_s - self.rows[self.num - 1, 0] >= BURST_S:
            if self.num == len(self.rows):
                self.rows = np.concatenate([self.rows, np.zeros_like(self.rows)])
            self.rows[self.num, 0] = now_s
            self.num += 1
        self.rows[self.num - 1, 1] += 1

    def end(self, started_s: float, now_s: float) -> None:
        burst = int(np.searchsorted(self.rows[: self.num, 0], started_s, side="right")) - 1
        self.rows[burst, 2 + class_of(max(now_s - started_s, 1.0))] += 1


class SiblingBursts:
    """Bursts of pods by several keys, from the most particular to the most general. Times never go back."""

    def __init__(self, num_levels: int) -> None:
        self._keys = ByLevel(num_levels, _Bursts)

    def arrive(self, values: Sequence[Hashable], now_s: float) -> None:
        """A pod arrived."""
        for found in self._keys.meet_each(values):
            if found is not None:
                found.arrive(now_s)

    def end(self, values: Sequence[Hashable], started_s: float, now_s: float) -> None:
        """A pod that arrived at ``started_s`` ended."""
        for found in self._keys.find_each(values):
            if found is not None:
                found.end(started_s, now_s)

    def survival(
        self, values: Sequence[Hashable], now_s: float, window: int, age_s: int = 0
    ) -> tuple[float, ...] | None:
        """Shares of the classes by the latest ``window`` bursts of the first key of which a pod among them has ended, at more
        than ``age_s``: who has reached it learns nothing from those of its own batch that have not."""
        outlived = sum(limit <= age_s for limit in LIMITS_S)
        for found in self._keys.find_each(values):
            latest = found.rows[max(found.num - window, 0) : found.num] if found is not None else np.zeros((0, 2))
            if latest[:, 2 + outlived :].any():
                return _shares(latest, now_s)
        return None


def _shares(bursts: FloatArray, now_s: float) -> tuple[float, ...]:
    """Kaplan and Meier's estimate at the limits of the classes; nobody at risk there: half pass."""
    age, ended = now_s - bursts[:, 0], bursts[:, 2:]
    running = bursts[:, 1] - ended.sum(axis=1)
    alive, out = 1.0, []
    for c, limit in enumerate(LIMITS_S):
        passed = float(ended[:, c + 1 :].sum() + running[age > limit].sum())
        at_risk = passed + float(ended[:, c].sum())
        passing = passed / at_risk if at_risk else 0.5
        out.append(alive * (1 - passing))
        alive *= passing
    return (*out, alive)
