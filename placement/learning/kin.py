"""What its kin tell of a workload: how much of their requests those of the same namespace, name or image use.

A *standing* is what a workload shows of itself at a moment: four levels of use as shares of its request, from its past
alone. The features of another one are means over the standings of its kin, drawn to the mean of everybody by
:data:`PRIOR` pseudo-members, and how many kin there are. The workload itself is left out of all of them, so nothing of
it, least of all its future, comes back as a feature; no name is a feature either (:mod:`placement.learning.facts`). What is not
known is NaN.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from placement.learning.baselines import Target, mean_and_deviation
from placement.learning.facts import FAMILIES, Facts
from placement.learning.usage import DAY, SingleArray
from placement.learning.windows import Past, trailing_max, trailing_sum, window_percentiles
from placement.resources import FloatArray, IntArray

LEVELS = ("mean_24h", "p95_24h", "max_24h", "window_p95_28d")
"""Of a standing: mean, 95th percentile and maximum of a day, 95 % quantile of the target's statistic over 28 days."""
NAMES = (
    *(f"{family}_{level}" for family in FAMILIES for level in LEVELS),
    *(f"others_{family}" for family in FAMILIES),
    "guaranteed",
    "priority",
)
"""Of the features."""
PRIOR = 3.0
MANY = 8
"""More kin than this are told as so many: an exact number would name a namespace, and trees learn names by heart."""
FRESH_H = 8
"""A standing without a sample in so many hours counts no more."""
LAG_H = 1
"""When models are fitted, kin are looked at as of so long before: a cluster is asked about round by round, so what the
others show is never newer than the last round."""
CHUNK = 32
"""Moments that are summed up at once."""


def standing(past: Past, target: Target) -> SingleArray:
    """(N, O, :data:`LEVELS`) of each workload at each origin; NaN where it has not been measured of late."""
    before = past.hours - 1
    at = np.maximum(before, 0)
    is_fresh = (before >= 0) & (trailing_sum(past.hour_count, FRESH_H)[:, at] > 0)
    windows = past.statistic(target.horizon_h, target.statistic)
    tables = (
        mean_and_deviation(past, 24)[0],
        window_percentiles(past.share, past.origins, DAY, (95.0,))[0],
        trailing_max(past.hour_max, 24)[:, at],
        window_percentiles(windows, past.hours - target.horizon_h + 1, 672, (95.0,))[0],
    )
    values = np.stack(tables, axis=2).astype(np.float32)
    values[~is_fresh] = np.nan
    values[~np.isfinite(values)] = np.nan
    return values


def codes_of(facts: Sequence[Facts]) -> IntArray:
    """(families, N) number of each workload's kin; −1 where the fact is not known."""
    table = np.full((len(FAMILIES), len(facts)), -1, np.int64)
    for row, keys in zip(table, zip(*(f.keys() for f in facts), strict=True), strict=False):
        numbers: dict[str, int] = {}
        row[:] = [numbers.setdefault(key, len(numbers)) if key else -1 for key in keys]
    return table


def own_facts(facts: Sequence[Facts]) -> SingleArray:
    """(N, 2) what is a feature as it is: whether Guaranteed, and the priority."""
    rows = [(f.guaranteed, f.priority) for f in facts]
    return np.array([[np.nan if value is None else value for value in row] for row in rows], np.float32).reshape(-1, 2)


def from_kin(codes: IntArray, own: SingleArray, standings: SingleArray) -> SingleArray:
    """(N, M, :data:`NAMES`) float32 features of all workloads from their ``(N, M, LEVELS)`` standings."""
    num, moments, _ = standings.shape
    out = np.full((num, moments, len(NAMES)), np.nan, np.float32)
    for first in range(0, moments, CHUNK):
        part = slice(first, first + CHUNK)
        _levels(codes, standings[:, part].astype(np.float64), out[:, part])
    out[:, :, -2:] = own[:, None]
    return out


def _levels(codes: IntArray, values: FloatArray, out: SingleArray) -> None:
    """Write the means over the others, and their number, of one stretch of moments."""
    known = np.isfinite(values)
    filled = np.where(known, values, 0.0)
    with np.errstate(invalid="ignore"):
        everybody = (filled.sum(axis=0) - filled) / (known.sum(axis=0) - known)  # NaN: nobody else
        for family, code in enumerate(codes):
            rows = np.flatnonzero(code >= 0)
            if not len(rows):
                continue
            total, count = (_sums(table[rows], code[rows]) - table[rows] for table in (filled, known))
            mean = (total + PRIOR * everybody[rows]) / (count + PRIOR)
            out[rows, :, family * len(LEVELS) : (family + 1) * len(LEVELS)] = mean
            out[rows, :, len(FAMILIES) * len(LEVELS) + family] = np.minimum(count[:, :, 0], MANY)


def _sums(values: FloatArray, code: IntArray) -> FloatArray:
    """(N, ...) sum over all rows of the same code, itself included."""
    order = np.argsort(code, kind="stable")
    begins = np.flatnonzero(np.diff(code[order], prepend=-1))
    sums = np.add.reduceat(values[order].astype(np.float64), begins, axis=0)
    found: FloatArray = sums[np.searchsorted(code[order][begins], code)]
    return found


SLOT_S, NUM_SLOTS = 6 * 3600, 16
"""One standing in six hours is kept for four days: models are tried on moments of the past."""
LATEST, BEFORE = NUM_SLOTS, NUM_SLOTS + 1
"""Beside them the newest, and the one before it."""


class Standings:
    """The standings of a cluster's workloads as they come in, and what they say of each other at a moment."""

    def __init__(self, num_resources: int) -> None:
        self._row: dict[str, int] = {}
        self._facts: list[Facts] = []
        self._times = np.zeros((0, NUM_SLOTS + 2), np.int64)
        self._values = np.zeros((0, NUM_SLOTS + 2, num_resources, len(LEVELS)), np.float32)
        self._order: IntArray | None = None
        self._codes: IntArray = np.zeros((len(FAMILIES), 0), np.int64)
        self._own: SingleArray = np.zeros((0, 2), np.float32)

    def __len__(self) -> int:
        return len(self._row)

    def meet(self, facts: Mapping[str, Facts]) -> None:
        """These workloads are there; known ones may have other facts now."""
        new = [name for name in facts if name not in self._row]
        changed = [name for name in facts if name in self._row and self._facts[self._row[name]] != facts[name]]
        if not new and not changed:
            return
        for name in changed:
            self._facts[self._row[name]] = facts[name]
        for name in new:
            self._row[name] = len(self._facts)
            self._facts.append(facts[name])
        times, values = self._times, self._values
        self._times = np.concatenate([times, np.full((len(new), times.shape[1]), -1, np.int64)])
        self._values = np.concatenate([values, np.full((len(new), *values.shape[1:]), np.nan, np.float32)])
        self._order = None

    def keep(self, workloads: Iterable[str]) -> None:
        """Forget all others."""
        kept = set(workloads)
        rows = [row for name, row in self._row.items() if name in kept]
        if len(rows) == len(self._row):
            return
        names = [name for name in self._row if name in kept]
        self._facts = [self._facts[row] for row in rows]
        self._row = {name: i for i, name in enumerate(names)}
        self._times, self._values, self._order = self._times[rows], self._values[rows], None

    def add(self, workload: str, time_s: int, values: SingleArray) -> None:
        """``(R, LEVELS)``: how a workload that was met stood at a moment."""
        row = self._row.get(workload)
        if row is None:
            return
        times, slot = self._times[row], time_s // SLOT_S % NUM_SLOTS
        if time_s > times[LATEST]:
            times[BEFORE], self._values[row, BEFORE] = times[LATEST], self._values[row, LATEST]
            times[LATEST], self._values[row, LATEST] = time_s, values
        if times[slot] // SLOT_S != time_s // SLOT_S or time_s < times[slot]:
            times[slot], self._values[row, slot] = time_s, values

    def rewind(self, now_s: float) -> None:
        """Forget what was noted of the time after now: the clock was ahead."""
        self._times[self._times > now_s] = -1

    def features(self, time_s: int) -> SingleArray:
        """(W, R, :data:`NAMES`) of all workloads (:meth:`row`) at a moment, from what was known by then."""
        if self._order is None:
            # Sums of floats depend on their order, which must not be that of arrival.
            self._order = np.array([self._row[name] for name in sorted(self._row)], np.int64)
            facts = [self._facts[row] for row in self._order]
            self._codes, self._own = codes_of(facts), own_facts(facts)
        order, times = self._order, self._times[self._order]
        usable = (times <= time_s) & (times > time_s - FRESH_H * 3600)
        newest = np.where(usable, times, -1).argmax(axis=1)
        at = np.arange(len(order))
        now = self._values[order, newest]
        now[~usable[at, newest]] = np.nan
        found = np.empty((len(order), now.shape[1], len(NAMES)), np.float32)
        found[order] = from_kin(self._codes, self._own, now)
        return found

    def row(self, workload: str) -> int:
        """Of a workload that was met in :meth:`features`."""
        return self._row[workload]
