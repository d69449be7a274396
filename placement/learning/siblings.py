"""Cold start: what others came to need after they had looked alike, for who has not yet a day of history of its own.

Pods of one workload share one history, whatever ReplicaSet or Job they came from (:func:`placement.knowledge.workload_of`),
so only a new *owner* is cold. Its siblings are the other workloads of its namespace whose owners are of the same kind.

A *pair* is what a workload looked like at some moment, by its last minutes, and what it then needed of its request in
the window that is forecast. Every workload gives a pair an hour, whatever its age, and the last :data:`PAIRS` of each are
kept. A newcomer is given the pairs of its siblings that looked as it does now, and :data:`PRIOR` pairs' worth of what all
others do who look so: a quantile of that is what is said of it, and never less than it used so far.

Looks are numbers of cells, outcomes numbers of bins, so a table of pairs is counts: whole numbers, the same in whatever
order they came.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import isnan

import numpy as np
from numpy.typing import NDArray

from placement.learning.usage import HOUR, SingleArray
from placement.resources import FloatArray, IntArray

SIBLINGS = "siblings"
"""The rung: below ``history``, above ``request``."""
PRIOR = 8.0
"""Pairs of all others that count beside those of the siblings; a workload gives 24 a day, which overlap."""
HIGH = 0.9
"""The quantile of a newcomer's pairs that is said, before the factor."""
PAIRS = 48
"""Of each workload, the latest."""
GROUPS = 64
"""Whose counts are kept at once, 56 KiB each and resource: newcomers may come in thousands of namespaces."""
LENGTHS = (HOUR // 4, HOUR, 3 * HOUR)
"""Samples that a look may be taken of. A newcomer is told by the most that it has."""
MEASURED = 0.75
"""A look stands on this share of its samples at least."""
UNSEEN = -1
"""Cell of who was not measured."""
NOISE = 0.005
"""Added to shares before logarithms are taken: half the step in which PlanetLab was recorded."""
STATISTICS = ("max", "mean", "deviation")


def group_of(workload: str) -> str:
    """Whose siblings a workload (``namespace/Kind/name``) has.

    >>> group_of("shop/Deployment/web")
    'shop/Deployment'
    """
    return "/".join(workload.split("/", 2)[:2])


# ── looks ─────────────────────────────────────────────────────────────────────────────────────


def looks_of(samples: FloatArray | SingleArray) -> FloatArray:
    """``(..., 3)`` logarithms of maximum, mean and deviation of ``(..., L)`` shares; NaN where one is."""
    statistics = samples.max(axis=-1), samples.mean(axis=-1), samples.std(axis=-1)
    return np.log(np.stack(statistics, axis=-1).astype(float) + NOISE)


def column(looks: FloatArray, statistic: str) -> FloatArray:
    """One of :data:`STATISTICS` of looks."""
    return np.asarray(looks[..., STATISTICS.index(statistic)], float)


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
        """``(...)`` cell of each of ``(..., 3)`` looks."""
        level = np.digitize(column(looks, self.level), np.log(np.geomspace(0.008, 0.6, self.levels - 1) + NOISE))
        burst = np.digitize(column(looks, self.burst) - column(looks, "mean"), self.limits)
        return np.asarray(level * (len(self.limits) + 1) + burst, np.int64)

    @cached_property
    def kernel(self) -> FloatArray:
        """``(cells, cells)`` how much a pair of one cell counts in another."""
        bursts = _kernel(len(self.limits) + 1, self.widths[1])
        return np.asarray(np.kron(_kernel(self.levels, self.widths[0]), bursts), float)


STEADINESS = (-1.2, -0.75, -0.35, 0.0)
PEAKS = Look("max", 16, "deviation", STEADINESS, (1.0, 0.7))
"""How newcomers are told apart: by their largest sample, and how steady they are."""
LEVELS = np.log(np.concatenate([[0, 0.005, 0.015, 0.025, 0.035, 0.045], np.geomspace(0.055, 0.98, 24), [1]]) + NOISE)
"""Limits of the bins of outcomes, logarithms of shares."""


def _kernel(size: int, width: float) -> FloatArray:
    distance = np.arange(size)[:, None] - np.arange(size)[None, :]
    return np.asarray(np.exp(-0.5 * (distance / width) ** 2), float)


def bins_of(outcome: FloatArray, edges: FloatArray) -> IntArray:
    """Bin of each outcome; what is beyond the edges is in the outermost."""
    return np.clip(np.searchsorted(edges, outcome, side="right") - 1, 0, len(edges) - 2)


def quantile(counts: FloatArray, edges: FloatArray, level: float) -> FloatArray:
    """``(n,)`` quantile of ``(n, bins)`` counts, linear within a bin."""
    below = np.cumsum(counts, axis=1) / counts.sum(axis=1, keepdims=True)
    rows = np.arange(len(counts))
    last = np.minimum((below < level).sum(axis=1), counts.shape[1] - 1)
    before = np.where(last > 0, below[rows, last - 1], 0.0)
    part = np.clip((level - before) / np.maximum(below[rows, last] - before, 1e-12), 0, 1)
    return np.asarray(edges[last] + part * (edges[last + 1] - edges[last]), float)


def drawn(others: FloatArray, everyone: FloatArray) -> FloatArray:
    """``(n, bins)`` counts of siblings, drawn to those of the whole population."""
    population = everyone + 0.1
    return np.asarray(others + PRIOR * population / population.sum(axis=1, keepdims=True), float)


def cells_at(share: SingleArray, origins: IntArray) -> IntArray:
    """``(N, O, LENGTHS)`` cells of what ``(N, T)`` shares of the request looked like before each origin."""
    longest = max(LENGTHS)
    padded = np.pad(share, ((0, 0), (longest, 0)), constant_values=np.nan)
    found = []
    for length in LENGTHS:
        windows = padded[:, longest + origins[:, None] - np.arange(length, 0, -1)].astype(np.float64)
        known = np.isfinite(windows)
        count = known.sum(axis=-1, keepdims=True)
        mean = np.where(known, windows, 0).sum(axis=-1, keepdims=True) / np.maximum(count, 1)
        cells = PEAKS.cells(looks_of(np.where(known, windows, mean)))
        found.append(np.where(count[..., 0] >= MEASURED * length, cells, UNSEEN))
    return np.stack(found, axis=-1)


# ── the table ─────────────────────────────────────────────────────────────────────────────────

NUM_CELLS, NUM_BINS = len(PEAKS.kernel), len(LEVELS) - 1
assert max(NUM_CELLS, NUM_BINS) <= 127, "cells and bins are kept as bytes"
Cells = Sequence[int]
"""A cell for each of :data:`LENGTHS`."""
Pairs = NDArray[np.int8]
"""``(PAIRS, LENGTHS + 1)`` cells and, last, the bin; the bin of a place that is empty is :data:`UNSEEN`."""


@dataclass
class _Ring:
    """The latest pairs of one workload."""

    pairs: Pairs = field(default_factory=lambda: np.full((PAIRS, len(LENGTHS) + 1), UNSEEN, np.int8))
    place: int = 0


class Siblings:
    """What workloads tell of each other's first day. One per :class:`placement.learning.forecasting.Forecaster`."""

    def __init__(self, resources: Iterable[str]) -> None:
        self._tables = {resource: _Table() for resource in resources}
        self.newest_s = float("nan")
        """Of the moments of looks of which it is known what came."""

    def learn(
        self,
        workload: str,
        made_s: int,
        cells: Mapping[str, Cells],
        outcome: Mapping[str, float],
        requested: Mapping[str, int],
    ) -> None:
        """What came of a look, by resource in its ledger unit; NaN and what was not asked for tell nothing."""
        self.newest_s = float(made_s) if isnan(self.newest_s) else max(self.newest_s, made_s)
        for resource, truth in outcome.items():
            asked = requested.get(resource, 0)
            if asked > 0 and not isnan(truth):
                self._tables[resource].learn(workload, cells[resource], truth / asked)

    def predict(self, workload: str, resource: str, cells: Cells, asked: int, used: float) -> float | None:
        """What is said of a look, in the ledger's unit, never below what was ``used``; None where nothing can be said."""
        share = self._tables[resource].predict(workload, cells) if asked > 0 else None
        return None if share is None else max(share * asked, used, 1.0)

    def forget(self, workload: str) -> None:
        """Drop its pairs."""
        for table in self._tables.values():
            table.forget(workload)

    def num_pairs(self, resource: str) -> int:
        """Of all workloads."""
        return self._tables[resource].num_pairs


class _Table:
    """Pairs of one resource, by workload."""

    def __init__(self) -> None:
        self._rings: dict[str, _Ring] = {}
        self._groups: dict[str, dict[str, None]] = {}
        """Group → its workloads that have pairs."""
        self._everyone = np.zeros((len(LENGTHS), NUM_CELLS, NUM_BINS), np.int64)
        self._counted: dict[str, IntArray] = {}
        """Group → counts of its pairs, until the next pair; of :data:`GROUPS` at most."""
        self.num_pairs = 0

    def learn(self, workload: str, cells: Cells, share: float) -> None:
        """A pair; its outcome is a share of the request."""
        if max(cells) == UNSEEN:
            return
        ring = self._rings.get(workload)
        if ring is None:
            ring = self._rings[workload] = _Ring()
            self._groups.setdefault(group_of(workload), {})[workload] = None
        into = ring.pairs[ring.place]
        self._count(into.tolist(), -1)
        outcome = int(bins_of(np.log(np.float64(share) + NOISE), LEVELS))
        into[:] = (*cells, outcome)
        self._count((*cells, outcome), 1)
        ring.place = (ring.place + 1) % PAIRS
        self._counted.clear()

    def _count(self, pair: Sequence[int], by: int) -> None:
        *cells, outcome = pair
        if outcome == UNSEEN:
            return
        self.num_pairs += by
        for length, cell in enumerate(cells):
            if cell != UNSEEN:
                self._everyone[length, cell, outcome] += by

    def forget(self, workload: str) -> None:
        """See :class:`Siblings`."""
        ring = self._rings.pop(workload, None)
        if ring is None:
            return
        for pair in ring.pairs.tolist():
            self._count(pair, -1)
        group = group_of(workload)
        del self._groups[group][workload]
        if not self._groups[group]:
            del self._groups[group]
        self._counted.clear()

    def predict(self, workload: str, cells: Cells) -> float | None:
        """Share of the request that is said of who looks like this, by others alone; None without any pair of theirs."""
        length = next((i for i in range(len(LENGTHS) - 1, -1, -1) if cells[i] != UNSEEN), None)
        if length is None:
            return None
        ring, group = self._rings.get(workload), group_of(workload)
        own = np.zeros_like(self._everyone) if ring is None else _counts([ring.pairs])
        everyone = self._everyone[length] - own[length]
        if not everyone.any():
            return None
        if group not in self._counted:
            if len(self._counted) == GROUPS:
                del self._counted[next(iter(self._counted))]
            self._counted[group] = _counts(self._rings[name].pairs for name in self._groups.get(group, {}))
        others = self._counted[group][length] - own[length]
        near = PEAKS.kernel[cells[length]]
        said = quantile(drawn((near @ others)[None], (near @ everyone)[None]), LEVELS, HIGH)
        return float(np.clip(np.exp(said[0]) - NOISE, 0, 1))


def _counts(pairs: Iterable[Pairs]) -> IntArray:
    """``(LENGTHS, cells, bins)`` how often each cell came to each bin."""
    every = np.concatenate([np.zeros((0, len(LENGTHS) + 1), np.int8), *pairs]).astype(np.int64)
    cells, outcome = every[:, :-1], every[:, -1:]
    known = (outcome != UNSEEN) & (cells != UNSEEN)
    at = (np.arange(len(LENGTHS)) * NUM_CELLS + cells) * NUM_BINS + outcome
    size = len(LENGTHS) * NUM_CELLS * NUM_BINS
    return np.bincount(at[known], minlength=size).reshape(len(LENGTHS), NUM_CELLS, NUM_BINS)
