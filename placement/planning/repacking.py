"""Ruin and recreate for displaced pods: refill a few nodes at disturbed prices until nobody waits.

Filling node after node leaves the last pods without a place although there is room in sum. Each step (Schrimpf et al.
2000) empties a few of the nodes that received pods, wasteful ones more often, and gives each the filling that is
worth most to it (:func:`placement.planning.patterns.best_pattern`); what then waits is never more than before. A
third of a millisecond a step. Nodes may go or stay after all in between; the caller decides which.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from placement.planning.patterns import best_pattern
from placement.resources import BoolArray, FloatArray, IntArray

FEWEST_NODES, MOST_NODES = 2, 3
EXPONENT, PRICE_NOISE, ORDER_NOISE = 1.05, 0.08, 8.0
"""Pods of much worth are worth a little more still; prices, and the order of nodes, vary."""
PULL = 0.3
"""A class of which pods wait is dearer by up to so much."""
LEAST_WASTE = 0.02
"""Added to what a node wastes, in units of the largest pod: full nodes are refilled, too."""
VISITS = 300
"""Search nodes per filling: many quick tries beat a few thorough ones."""


def scarcity_of(request: IntArray, pods: IntArray, free: IntArray) -> FloatArray:
    """``(R,)`` what a unit of room is worth where ``pods`` ``(C,)`` share ``free`` ``(R, n)``; the largest pod takes 1."""
    room = np.maximum(free.sum(axis=1), 1).astype(np.float64)
    scarcity = (request @ pods) / room**2
    return np.asarray(scarcity / max(float((scarcity @ request).max(initial=0.0)), 1e-300), np.float64)


@dataclass
class Repacking:
    """Which nodes are gone, where their pods arrive, and who waits; changed by its methods.

    ``request`` ``(R, C)``, ``count`` ``(C, N)`` pods at home, ``free`` ``(R, N)`` beside them, ``allowed`` ``(C, N)``;
    ``gone`` ``(N,)`` bool, ``arrivals`` ``(C, N)``, ``waiting`` ``(C,)``. ``scarcity`` ``(R,)`` is what a unit of room is
    worth, so that the largest pod takes 1; ``worth`` ``(C,)`` what it is worth to place a pod; ``left`` ``(R, N)`` what
    arrivals leave free.
    """

    request: IntArray
    count: IntArray
    free: IntArray
    allowed: BoolArray
    gone: BoolArray
    arrivals: IntArray
    waiting: IntArray
    scarcity: FloatArray
    worth: FloatArray
    left: IntArray
    chance: np.random.Generator

    @classmethod
    def of(
        cls,
        request: IntArray,
        count: IntArray,
        free: IntArray,
        allowed: BoolArray,
        gone: BoolArray,
        *,
        price: FloatArray | None = None,
        seed: int = 0,
    ) -> Repacking:
        """All pods of the nodes that are gone wait. A pod is worth its size; with ``price`` ``(C,)``, half of that."""
        moved = np.asarray(count[:, gone].sum(axis=1), np.int64)
        scarcity = scarcity_of(request, moved, free[:, ~gone])
        worth = np.asarray(scarcity @ request, np.float64)
        if price is not None and price.any():
            worth = 0.5 * worth + 0.5 * price / price.max()
        none, chance = np.zeros_like(count), np.random.default_rng(seed)
        return cls(request, count, free, allowed, gone.copy(), none, moved, scarcity, worth, free.copy(), chance)

    def copy(self) -> Repacking:
        """The same state, to be changed by itself; chances go on from where they are."""
        arrays = {name: getattr(self, name).copy() for name in ("gone", "arrivals", "waiting", "left")}
        return replace(self, **arrays)

    def place(self, arrivals: IntArray) -> None:
        """Begin with these ``arrivals`` ``(C, N)`` of pods that wait, where nobody has arrived yet."""
        self.arrivals, self.waiting = arrivals, self.waiting - arrivals.sum(axis=1)
        self.left = self.free - self.request @ arrivals

    @property
    def shortage(self) -> float:
        """What it would be worth to place all that wait."""
        return float(self.worth @ self.waiting)

    def empty(self, n: int) -> None:
        """Node ``n`` goes; its own pods and those that arrived there wait."""
        self.waiting = self.waiting + self.count[:, n] + self.arrivals[:, n]
        self.arrivals[:, n] = 0
        self.left[:, n] = self.free[:, n]
        self.gone[n] = True

    def keep(self, n: int) -> None:
        """Node ``n`` stays after all; its own pods are back, those that wait first."""
        self.gone[n] = False
        for c in np.flatnonzero(self.count[:, n]):
            back = int(self.count[c, n])
            from_waiting = min(back, int(self.waiting[c]))
            self.waiting[c] -= from_waiting
            order = self.chance.permutation(np.flatnonzero(self.arrivals[c]))
            held = self.arrivals[c, order]
            freed = np.clip(back - from_waiting - (np.cumsum(held) - held), 0, held)
            self.arrivals[c, order] -= freed
            self.left[:, order] += np.outer(self.request[:, c], freed)

    def top_up(self, n: int) -> None:
        """Pods that wait go to node ``n``, as many as are worth most there."""
        worth = np.where(self.allowed[:, n], self.worth, 0.0)
        counts = best_pattern(worth, self.request, self.waiting, self.left[:, n], limit=VISITS).counts
        self.arrivals[:, n] += counts
        self.waiting = self.waiting - counts
        self.left[:, n] -= self.request @ counts

    def run(self, is_over: Callable[[], bool], *, rounds: int, spend: Callable[[int], None] = lambda _n: None) -> None:
        """At most ``rounds`` steps, until nobody waits; ``spend`` is told of the nodes that were refilled."""
        for _ in range(rounds):
            if not self.waiting.any() or is_over():
                return
            nodes = self._choose()
            if not len(nodes):
                return
            self._refill(nodes)
            spend(len(nodes))

    def _choose(self) -> IntArray:
        """A node that takes some class that waits, and a few others; none when nobody takes that class."""
        c = self.chance.choice(np.flatnonzero(self.waiting))
        weight = np.where(self.gone, 0.0, self.scarcity @ self.left + LEAST_WASTE)
        summed = np.cumsum(np.where(self.allowed[c], weight, 0.0))
        if not summed[-1] > 0:
            return np.zeros(0, np.int64)
        first = int(np.searchsorted(summed, self.chance.random() * summed[-1], side="right"))
        weight[first] = 0.0
        others = min(int(self.chance.integers(FEWEST_NODES, MOST_NODES + 1)) - 1, int((weight > 0).sum()))
        if not others:
            return np.array([first], np.int64)
        drawn = self.chance.choice(len(weight), others, replace=False, p=weight / weight.sum())
        return np.append(drawn, first).astype(np.int64)

    def _refill(self, nodes: IntArray) -> None:
        """Deal the pods on ``nodes``, and those that wait, out anew; kept unless more waits than before."""
        value = self.worth**EXPONENT * np.exp(self.chance.normal(0.0, PRICE_NOISE, len(self.worth)))
        value = np.where(self.waiting > 0, value * (1 + PULL * self.chance.random()), value)
        accepts = self.allowed[:, nodes].sum(axis=0) + self.chance.normal(0.0, ORDER_NOISE, len(nodes))
        pods = self.waiting + self.arrivals[:, nodes].sum(axis=1)
        fresh = np.zeros((len(pods), len(nodes)), np.int64)
        for i in np.argsort(accepts, kind="stable"):
            n = nodes[i]
            worth = np.where(self.allowed[:, n], value, 0.0)
            fresh[:, i] = best_pattern(worth, self.request, pods, self.free[:, n], limit=VISITS).counts
            pods = pods - fresh[:, i]
        if float(self.worth @ pods) <= self.shortage + 1e-12:
            self.arrivals[:, nodes], self.waiting = fresh, pods
            self.left[:, nodes] = self.free[:, nodes] - self.request @ fresh
