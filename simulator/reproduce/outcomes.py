"""What others went on to need after they had looked alike: a histogram by owner (or host) and look, drawn to all.

A pair is what a workload looked like in its first minutes and what it needed in the hours after. Pairs of all names
and starts are counted in cells of their look; a workload is given the counts of its owner's *other* workloads in its own
cell and the cells around, and :data:`PRIOR` pairs' worth of what the whole population does there, as quantiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from placement.learning.usage import DAY, HOUR, SingleArray
from placement.resources import BoolArray, FloatArray, IntArray
from simulator.reproduce.neighbours import NOISE

PRIOR = 8.0
"""Pairs of the population that count beside an owner's; a name gives up to 18 a day, which overlap."""
QUANTILES = (50, 80, 95)
STATISTICS = ("max", "mean", "deviation")


def looks_of(samples: FloatArray | SingleArray) -> FloatArray:
    """(n, 3) logarithms of maximum, mean and deviation of (n, L) samples."""
    statistics = samples.max(axis=1), samples.mean(axis=1), samples.std(axis=1)
    return np.log(np.stack(statistics, axis=1).astype(float) + NOISE)


@dataclass(frozen=True)
class Pairs:
    """Looks (P, 3) and logarithms of outcomes (P,) of the workloads ``name`` (P,) begun at sample ``begin`` (P,)."""

    name: IntArray
    begin: IntArray
    looks: FloatArray
    outcome: FloatArray
    weight: FloatArray

    def __len__(self) -> int:
        return len(self.name)

    def pick(self, mask: BoolArray) -> Pairs:
        """Some of the pairs."""
        return Pairs(self.name[mask], self.begin[mask], self.looks[mask], self.outcome[mask], self.weight[mask])


def pairs_of(share: SingleArray, name: IntArray, length: int, horizon: int) -> Pairs:
    """Pairs of every whole hour of a day, from (n, 288) shares of the workloads ``name`` (n,)."""
    parts = []
    for begin in range(0, DAY - horizon - length + 1, HOUR):
        now = begin + length
        outcome = np.percentile(share[:, now : now + horizon], 95, axis=1)
        looks = looks_of(share[:, begin:now])
        parts.append(Pairs(name, np.full(len(name), begin), looks, np.log(outcome + NOISE), np.ones(len(name))))
    return together(parts)


def together(parts: Sequence[Pairs]) -> Pairs:
    """Pairs of several starts or days, at least one."""
    fields = ("name", "begin", "looks", "outcome", "weight")
    return Pairs(*(np.concatenate([getattr(part, field) for part in parts]) for field in fields))


@dataclass(frozen=True)
class Look:
    """Cells that tell first minutes apart: a ``level``, and how far a ``burst`` is above the mean, cut at ``limits``.

    Both are names of :data:`STATISTICS`; ``levels`` is a number of cells, ``widths`` the reach of the smoothing over
    both, in cells. A ``relative`` outcome is one over the maximum so far.
    """

    level: str
    levels: int
    burst: str
    limits: tuple[float, ...]
    widths: tuple[float, float]
    relative: bool = False

    def cells(self, looks: FloatArray) -> IntArray:
        """(n,) cell of each look."""
        level = np.digitize(_column(looks, self.level), np.log(np.geomspace(0.008, 0.6, self.levels - 1) + NOISE))
        burst = np.digitize(_column(looks, self.burst) - _column(looks, "mean"), self.limits)
        return np.asarray(level * (len(self.limits) + 1) + burst, np.int64)

    def kernel(self) -> FloatArray:
        """(cells, cells) how much a pair of one cell counts in another."""
        bursts = _kernel(len(self.limits) + 1, self.widths[1])
        return np.asarray(np.kron(_kernel(self.levels, self.widths[0]), bursts), float)


STEADINESS = (-1.2, -0.75, -0.35, 0.0)
LOOKS = {
    "peak": Look("max", 16, "deviation", STEADINESS, (1.0, 0.7)),
    "mean": Look("mean", 16, "deviation", STEADINESS, (1.0, 0.7)),
    "growth": Look("mean", 11, "max", (0.35, 0.65, 1.05), (1.0, 0.7), relative=True),
}
LEVELS = np.log(np.concatenate([[0, 0.005, 0.015, 0.025, 0.035, 0.045], np.geomspace(0.055, 0.98, 24), [1]]) + NOISE)
RATIOS = np.concatenate([[-5.3], np.linspace(-2, 2.5, 46), [5.3]])
"""Limits of the bins of outcomes, logarithms of shares and of their ratios to the maximum so far."""


def outcomes_of_others(pairs: Pairs, name: IntArray, looks: FloatArray, owners: IntArray) -> dict[str, FloatArray]:
    """(n,) quantiles of what the owner's others came to need, of the workloads ``name`` (n,) that look like ``looks``.

    Keys are ``outcome_LOOK_qQQ``, and ``outcome``: the mean of the looks' highest quantiles. All NaN without pairs.
    ``owners``, a number for each name (or host, or any other kinship), is indexed by ``name`` and the pairs' names.
    """
    found = {f"outcome_{look}_q{q}": np.full(len(name), np.nan) for look in LOOKS for q in QUANTILES}
    if len(pairs):
        for key, look in LOOKS.items():
            edges = RATIOS if look.relative else LEVELS
            base = _column(looks, "max") if look.relative else 0.0
            counts = _counts(look, pairs, name, looks, owners, edges)
            for q in QUANTILES:
                value = np.exp(_quantile(counts, edges, q / 100) + base) - NOISE
                found[f"outcome_{key}_q{q}"] = np.clip(value, 0, 1)
    found["outcome"] = np.mean([found[f"outcome_{look}_q{QUANTILES[-1]}"] for look in LOOKS], axis=0)
    return found


def _counts(
    look: Look, pairs: Pairs, name: IntArray, looks: FloatArray, owners: IntArray, edges: FloatArray
) -> FloatArray:
    """(n, bins) outcomes of pairs that look alike, of the owner's others and the population."""
    then, now, kernel = look.cells(pairs.looks), look.cells(looks), look.kernel()
    outcome = pairs.outcome - _column(pairs.looks, "max") if look.relative else pairs.outcome
    bins, cells = len(edges) - 1, len(kernel)
    bin_of = np.clip(np.searchsorted(edges, outcome, side="right") - 1, 0, bins - 1)
    keys, owner = np.unique(owners, return_inverse=True)
    table = np.bincount((owner[pairs.name] * cells + then) * bins + bin_of, pairs.weight, len(keys) * cells * bins)
    by_owner = np.einsum("st,uty->usy", kernel, table.reshape(len(keys), cells, bins), optimize=True)
    row = np.full(len(owners), -1)
    row[name] = np.arange(len(name))
    mine = row[pairs.name]
    its = mine >= 0
    weight = pairs.weight[its] * kernel[now[mine[its]], then[its]]
    own = np.bincount(mine[its] * bins + bin_of[its], weight, len(name) * bins).reshape(len(name), bins)
    others = np.maximum(by_owner[owner[name], now] - own, 0)
    population = np.maximum(by_owner.sum(axis=0)[now] - own, 0) + 0.1
    return np.asarray(others + PRIOR * population / population.sum(axis=1, keepdims=True), float)


def _column(looks: FloatArray, statistic: str) -> FloatArray:
    return np.asarray(looks[:, STATISTICS.index(statistic)], float)


def _kernel(size: int, width: float) -> FloatArray:
    distance = np.arange(size)[:, None] - np.arange(size)[None, :]
    return np.asarray(np.exp(-0.5 * (distance / width) ** 2), float)


def _quantile(counts: FloatArray, edges: FloatArray, level: float) -> FloatArray:
    """(n,) quantile of (n, bins) counts, linear within a bin."""
    below = np.cumsum(counts, axis=1) / counts.sum(axis=1, keepdims=True)
    rows = np.arange(len(counts))
    last = np.minimum((below < level).sum(axis=1), counts.shape[1] - 1)
    before = np.where(last > 0, below[rows, last - 1], 0.0)
    part = np.clip((level - before) / np.maximum(below[rows, last] - before, 1e-12), 0, 1)
    return np.asarray(edges[last] + part * (edges[last + 1] - edges[last]), float)
