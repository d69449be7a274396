"""Rows that a choice of nodes must satisfy: at some prices, displaced pods are worth no more than what nodes that stay hold.

Whatever fits satisfies such a row at any prices, if the room of a node is the most that pods there can be worth. The
prices are at first the resources, one by one, of the classes that are confined to a set of nodes, and the room is
that set's. Then the room is cut down to what whole pods can use of it, and rows are added for prices at which a choice
is too dear.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from placement.planning.fleet import CENT, FILLING_S, Fleet
from placement.planning.plans import ROUNDING, Deadline
from placement.planning.repacking import scarcity_of
from placement.planning.solver import INFINITY, Limits, Master, Model, Status, solve_linear
from placement.resources import BoolArray, FloatArray, IntArray

MOST_SETS = 64
"""Sets of nodes, that classes are confined to, with rows of their own."""
MOST_POOLS = 16
"""Sets of nodes that accept the same classes up to which pods are dealt out to them in fractions."""
FITS = 1e-4
"""An overfull share that counts as none."""
LEAST_LOST, LOST_SHARE = 1e-3, 0.9
"""Largest pods that a choice must lose to be cut off, and the share of what it seems to lose that is proof enough."""


class RoomRows:
    """``prices`` ``(C,)`` of pods and ``rooms`` ``(N,)`` of nodes at these prices, row by row."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self.prices: list[FloatArray] = []
        self.rooms: list[FloatArray] = []
        self.price: FloatArray | None = None
        """``(C,)`` mean of the prices that were added, the dearest class at 1."""
        self._added: list[FloatArray] = []
        self._usable = fleet.free.astype(np.float64)
        self._displaced = np.asarray(fleet.count[:, fleet.deletable].sum(axis=1), np.int64)
        present = fleet.count.sum(axis=1) > 0
        patterns = np.unique(fleet.allowed[present], axis=0)
        everywhere = np.ones((1, fleet.free.shape[1]), np.bool_)
        for pattern in np.unique(np.concatenate([patterns, everywhere]), axis=0)[:MOST_SETS]:
            confined = ~(fleet.allowed & ~pattern).any(axis=1)
            for request, free in zip(fleet.request, fleet.free, strict=True):
                self.prices.append(np.where(confined, request, 0).astype(np.float64))
                self.rooms.append(np.where(pattern, free, 0).astype(np.float64))

    def spare(self, gone: BoolArray) -> float:
        """Share of the room that stays free when ``gone`` goes, where least does; below 0 where it is too little."""
        left = []
        for price, room in zip(self.prices, self.rooms, strict=True):
            total = max(float(room.sum()), 1.0)
            left.append(float(room.sum() - (price @ self._fleet.count + room) @ gone) / total)
        return min(left)

    def sharpen(self, deadline: Deadline) -> None:
        """Count as room only what whole pods can use: a node with memory and no cores to go with it offers little."""
        for price, room in zip(self.prices, self.rooms, strict=True):
            if price.any():
                self._take(price, room, deadline)
        for usable, request in zip(self._usable, self._fleet.request, strict=True):
            for price, room in zip(self.prices, self.rooms, strict=True):
                if (price == request).all():
                    np.minimum(usable, room, out=usable)

    def _take(self, price: FloatArray, room: FloatArray, deadline: Deadline) -> None:
        """Lower ``room`` ``(N,)`` to the most that pods on a node are worth: a knapsack, whose bound holds if cut short."""
        for n in np.flatnonzero(room > 0).tolist():
            if deadline.is_over:
                return
            deadline.spend(FILLING_S)
            room[n] = min(room[n], self._fleet.filling(n, price, self._displaced).upper * (1 + 1e-9))

    def add(self, price: FloatArray, deadline: Deadline) -> bool:
        """A row for these prices, unless time is over first."""
        room = np.where(self._fleet.allowed.any(axis=0), np.inf, 0.0)
        self._take(price, room, deadline)
        if not np.isfinite(room).all():
            return False
        self.prices.append(price)
        self.rooms.append(room)
        self._added.append(price / price.max())
        self.price = np.mean(self._added, axis=0)
        return True

    def cut(self, gone: BoolArray, deadline: Deadline) -> bool:
        """Add prices at which the pods of ``gone`` are worth more than what the nodes that stay can hold; False if none."""
        price = self._too_dear(gone, deadline)
        return price is not None and self.add(price, deadline)

    def _too_dear(self, gone: BoolArray, deadline: Deadline) -> FloatArray | None:
        """``(C,)`` prices that :meth:`cut` off a choice, or None.

        Column generation over fillings of single nodes (Gilmore & Gomory 1961), drawn towards the best prices so far
        (Wentges 1997). At any prices, what the pods are worth less the best filling of each node is lost at least.
        """
        fleet, stay = self._fleet, np.flatnonzero(~gone)
        moved = np.asarray(fleet.count[:, gone].sum(axis=1), np.int64)
        size, waits = scarcity_of(fleet.request, moved, fleet.free[:, stay]) @ fleet.request, np.flatnonzero(moved)
        low = np.append(moved[waits].astype(np.float64), np.full(len(stay), -INFINITY))
        master = Master(low, np.append(np.full(len(waits), INFINITY), np.ones(len(stay))))
        for i, c in enumerate(waits):
            master.add(np.array([i]), np.ones(1), objective=-float(size[c]))
        best, best_price = 0.0, None
        while not deadline.is_over:
            answer = master.solve()
            if answer.status != Status.OPTIMAL or -answer.value < LEAST_LOST:
                return None
            price = np.zeros(len(moved))
            price[waits] = np.clip(-answer.duals[: len(waits)], 0.0, size[waits])
            point = price if best_price is None else (best_price + price) / 2
            lost = float(point @ moved)
            is_better = False
            for i, n in enumerate(stay.tolist()):
                filling = fleet.filling(n, point, self._displaced)
                deadline.spend(FILLING_S)
                lost -= filling.upper
                if price @ filling.counts > answer.duals[len(waits) + i] + ROUNDING:
                    rows = np.flatnonzero(filling.counts[waits])
                    values = np.append(filling.counts[waits[rows]], 1)
                    master.add(np.append(rows, len(waits) + i), values, objective=0.0)
                    is_better = True
            if lost > best:
                best, best_price, is_better = lost, point, True
            if not is_better or best > -answer.value * LOST_SHARE:
                break
        if best_price is None or best < LEAST_LOST:
            return None
        return np.asarray(best_price / best_price.max() * CENT, np.float64)

    @cached_property
    def _pools(self) -> tuple[BoolArray, IntArray]:
        """``(C, G)`` what nodes that accept the same classes accept, and ``(N,)`` which of these pools a node is of."""
        pools, pool_of = np.unique(self._fleet.allowed, axis=1, return_inverse=True)
        return pools, pool_of.ravel()

    @property
    def has_few_pools(self) -> bool:
        """Few enough for :meth:`overfull`."""
        return bool(self._pools[0].shape[1] <= MOST_POOLS)

    def overfull(self, gone: FloatArray, limits: Limits) -> FloatArray | None:
        """``(C,)`` prices at which pods of ``gone`` ``(N,)`` are worth more than the room of the rest; None when they fit.

        A linear program deals the displaced pods, in fractions, out to pools; where that overfills them, its duals are
        such prices (Benders 1962).
        """
        fleet, model, (pools, pool_of) = self._fleet, Model(), self._pools
        moved = fleet.count @ gone
        slack = model.add_columns(np.array([1e3]), objective=1.0, lower=-1e3, integer=False)
        columns = np.full(pools.shape, -1)
        for g in range(pools.shape[1]):
            takes = np.flatnonzero(pools[:, g] & (moved > ROUNDING))
            columns[takes, g] = model.add_columns(moved[takes], integer=False)
        for c in np.flatnonzero(moved > ROUNDING):
            if not (columns[c] >= 0).any():
                return None
            model.add_row(columns[c][columns[c] >= 0], 1.0, lower=float(moved[c]), upper=float(moved[c]))
        rows: dict[int, tuple[int, int, float]] = {}
        for g in range(pools.shape[1]):
            takes = np.flatnonzero(columns[:, g] >= 0)
            for r, usable in enumerate(self._usable):
                room = max(float(usable[pool_of == g] @ (1.0 - gone[pool_of == g])), ROUNDING)
                values = np.append(fleet.request[r, takes] / room, 1.0)
                rows[model.add_row(np.append(columns[takes, g], slack), values, upper=1.0)] = g, r, room
        answer = solve_linear(model, limits, relax=True)
        if answer.status != Status.OPTIMAL or answer.value > -FITS:
            return None
        dual = np.zeros((pools.shape[1], len(fleet.request)))
        for row, (g, r, room) in rows.items():
            dual[g, r] = max(0.0, float(answer.duals[row])) / room
        price = np.where(pools, (dual @ fleet.request).T, np.inf).min(axis=1, initial=np.inf)
        price = np.where(np.isfinite(price), price, 0.0)
        return np.asarray(price / price.max() * CENT, np.float64) if price.any() else None
