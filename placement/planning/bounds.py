"""How many pods can be placed at most: proofs that need no search.

Both bounds look at one tier at a time, given how many pods of the more important tiers are placed:

* :func:`counting_bound`: the smallest requests, resource by resource, against the sum of all nodes.
* :class:`PatternBound`: the linear program over fillings of whole nodes (Gilmore & Gomory 1961), by column generation.
  Its Lagrangian value is a valid bound in every round (Farley 1990), so it may be stopped at any time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from placement.planning.patterns import best_pattern
from placement.planning.plans import ROUNDING, Deadline
from placement.planning.repair import Packing
from placement.planning.solver import INFINITY, SMOOTHING, Master, Status
from placement.resources import FloatArray, IntArray

MAX_GROUPS = 16
PRICING_S = 5e-4
"""What a filling for a group counts for on a clock of work, its share of the linear program included."""
HOPELESS_SHARE = 0.15
"""Of the time left, what a bound still gets once it is known that it cannot become tight."""


def class_counts(packing: Packing) -> IntArray:
    """``(C,)`` pods per class."""
    return np.bincount(packing.class_of, minlength=packing.request.shape[1]).astype(np.int64)


def counting_bound(packing: Packing, counts: tuple[int, ...], stage: int) -> int:
    """Most pods of tier number ``stage``, when ``counts[:stage]`` pods of the tiers above are placed."""
    tier = packing.tier[packing.class_of]
    eligible = packing.allowed[packing.class_of].any(axis=1)
    own = (tier == packing.tiers[stage]) & eligible
    most = int(own.sum())
    total = packing.free.sum(axis=1)
    for r, row in enumerate(packing.request):
        request = row[packing.class_of]
        room = int(total[r])
        for t, count in zip(packing.tiers[:stage], counts, strict=False):
            room -= int(np.sort(request[tier == t])[:count].sum())
        most = min(most, int(np.searchsorted(np.cumsum(np.sort(request[own])), room, side="right")))
    return most


@dataclass(frozen=True)
class _Group:
    """Nodes that are alike: same room, same eligibility."""

    capacity: IntArray
    size: int
    nodes: IntArray


def node_groups(packing: Packing) -> list[_Group]:
    """Groups of nodes with equal columns of ``free`` and ``allowed``."""
    key = np.concatenate([packing.free, packing.allowed.astype(np.int64)])
    _, first, inverse = np.unique(key, axis=1, return_index=True, return_inverse=True)
    inverse = inverse.ravel()
    return [
        _Group(packing.free[:, i], int((inverse == g).sum()), np.flatnonzero(inverse == g)) for g, i in enumerate(first)
    ]


class PatternBound:
    """Bound on the pods of one tier, given the counts of the tiers above; improves round by round.

    Rows: per class, patterns supply at least the pods placed; per incomplete tier above, its count is placed; per
    group of nodes, at most as many patterns as nodes.
    """

    def __init__(self, packing: Packing, node_of: IntArray, stage: int) -> None:
        tiers, counts = packing.tiers, packing.counts(node_of)
        size = class_counts(packing)
        active = np.flatnonzero((packing.tier >= tiers[stage]) & (size > 0))
        self._classes = active
        self._request = np.ascontiguousarray(packing.request[:, active])
        self._count = size[active]
        self._tier = packing.tier[active]
        self._allowed = packing.allowed[active]
        self._own = self._tier == tiers[stage]
        self._partial = [
            (t, c) for t, c in zip(tiers[:stage], counts, strict=False) if c < int(self._count[self._tier == t].sum())
        ]
        self._groups = node_groups(packing)
        self.target = counts[stage]
        self.value = INFINITY
        self._duals: FloatArray | None = None
        self._build(packing, node_of)

    @property
    def is_small_enough(self) -> bool:
        """Pricing per group pays only when nodes are alike."""
        return len(self._groups) <= MAX_GROUPS

    @property
    def most(self) -> int:
        """Most pods of the tier."""
        return int(min(np.floor(self.value + ROUNDING), self._count[self._own].sum()))

    @property
    def is_tight(self) -> bool:
        """The placement at hand is proved best in this tier."""
        return self.most <= self.target

    def _build(self, packing: Packing, node_of: IntArray) -> None:
        num_classes, num_groups = len(self._classes), len(self._groups)
        partial = {t for t, _ in self._partial}
        self._complete = np.array([not own and t not in partial for own, t in zip(self._own, self._tier, strict=True)])
        low = np.concatenate(
            [np.where(self._complete, self._count, 0), [c for _, c in self._partial], np.full(num_groups, -INFINITY)]
        )
        sizes = [float(g.size) for g in self._groups]
        high = np.concatenate([np.full(num_classes + len(self._partial), INFINITY), sizes])
        self._master = Master(low.astype(np.float64), high.astype(np.float64))
        row_of_tier = {t: num_classes + i for i, (t, _) in enumerate(self._partial)}
        for i in np.flatnonzero(~self._complete):
            rows, values = [int(i)], [-1.0]
            if not self._own[i]:
                rows.append(row_of_tier[self._tier[i]])
                values.append(1.0)
            own = 1.0 if self._own[i] else 0.0
            self._master.add(np.array(rows), np.array(values), objective=own, upper=float(self._count[i]))
        self._first_group_row = num_classes + len(self._partial)
        per_node = packing.per_node(node_of)[self._classes]
        for g, group in enumerate(self._groups):
            for column in np.unique(per_node[:, group.nodes], axis=1).T:
                self._add(g, column)

    def _add(self, group: int, counts: IntArray) -> None:
        rows = np.flatnonzero(counts)
        self._master.add(
            np.append(rows, self._first_group_row + group), np.append(counts[rows], 1).astype(np.float64), objective=0.0
        )

    def _outside(self, price: FloatArray) -> float:
        """What is left of the objective when each supplied pod of a class costs its price: the choice of pods."""
        own, complete = self._own, self._complete
        value = float((self._count[own] * np.maximum(0.0, 1.0 - price[own])).sum())
        value -= float((price[complete] * self._count[complete]).sum())
        for t, count in self._partial:
            members = np.flatnonzero(self._tier == t)
            cheapest = np.sort(np.repeat(price[members], self._count[members]))[:count]
            value -= float(cheapest.sum())
        return value

    def _price(self, price: FloatArray) -> tuple[float, list[IntArray]]:
        """Lagrangian bound at these prices, and the best pattern of each group."""
        bound, patterns = self._outside(price), []
        for group in self._groups:
            value = np.where(self._allowed[:, group.nodes[0]], price, 0.0)
            pattern = best_pattern(value, self._request, self._count, group.capacity)
            bound += group.size * (pattern.upper + 1e-9)
            patterns.append(pattern.counts)
        return bound, patterns

    def improve(self, deadline: Deadline) -> None:
        """Generate columns until tight, converged, or out of time; ``value`` only falls.

        The value of the master only rises, and no bound falls below it: once it is a whole pod above the placement at
        hand, nothing can be proved any more, and the rest of the time is mostly left to others.
        """
        num_classes = len(self._classes)
        hopeful = True
        while not (self.is_tight or deadline.is_over):
            answer = self._master.solve()
            if answer.status != Status.OPTIMAL:
                return
            if hopeful and answer.value >= self.target + 1 - ROUNDING:
                hopeful, deadline = False, deadline.part(HOPELESS_SHARE)
            price = np.maximum(0.0, -answer.duals[:num_classes])
            smooth = price if self._duals is None else SMOOTHING * self._duals + (1 - SMOOTHING) * price
            found = False
            for point in (smooth, price):
                bound, patterns = self._price(point)
                deadline.spend(PRICING_S * len(self._groups))
                if bound < self.value:
                    self.value, self._duals = bound, point
                for g, counts in enumerate(patterns):
                    if counts @ price > answer.duals[self._first_group_row + g] + 1e-7:
                        self._add(g, counts)
                        found = True
                if found or self.is_tight:
                    break
            if not found:
                return
