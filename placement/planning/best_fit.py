"""Placing a batch greedily, class after class: a start for the programs, what they leave over, and what nobody had time for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from placement.planning.batch import Batch, by_zone
from placement.planning.nearness import Counts
from placement.planning.plans import Deadline
from placement.planning.solver import INFINITY
from placement.resources import FloatArray, IntArray

FIRST_PODS = 100
"""So many the first placement deals out whatever the clock says, some milliseconds: who is cancelled at once gets a plan, too."""
POINT = 2.0
"""A point of a wish against the cost where pods are placed one by one: more than a pod can cost at all."""


def best_fit(batch: Batch, deadline: Deadline | None = None, *, is_quick: bool = False) -> IntArray:
    """``(C, N)`` greedy placement, the most important first, each pod where it likes best, then where stranding grows least
    (or, of a batch that ``fills``, where least stays free).

    Of one priority the largest classes come first, as most often that places all; where it does not, the smallest first if
    that places more (``is_quick``: not tried). Gangs are placed all or none, when the first of their classes is up. Classes
    with a zone spread go to the emptiest zone that still has room. Wishes count for nothing where fewer pods would be placed
    for them. After the deadline no further class is begun, but for the first :data:`FIRST_PODS` pods.
    """
    placed, seen = one_by_one(batch, deadline, is_quick=True), batch
    if batch.has_wishes and placed.sum() < batch.count.sum():
        blind = replace(batch, wish=None, near=())
        plain = one_by_one(blind, deadline, is_quick=True)
        if batch.counts(plain) > batch.counts(placed):
            placed, seen = plain, blind
    if not is_quick and placed.sum() < batch.count.sum():
        other = one_by_one(seen, deadline)
        placed = other if batch.counts(other) > batch.counts(placed) else placed
    return placed


@dataclass(frozen=True)
class _Saved:
    """Of some ``classes``: where they are ``(c, N)``; and what is left of nodes ``(R, N)``, and who is near whom."""

    classes: list[int]
    placed: IntArray
    left: IntArray
    counts: Counts | None


class _OneByOne:
    """Class after class, gangs whole. ``deadline`` None = there is none."""

    def __init__(self, batch: Batch, deadline: Deadline | None, start: IntArray | None) -> None:
        self.batch = batch
        self.deadline = deadline
        self.placed = np.zeros(batch.most.shape, np.int64) if start is None else start.copy()
        self.left = batch.free.copy() if start is None else batch.free - batch.request @ self.placed
        self.counts = Counts(batch.near, self.placed) if batch.near else None
        self.missing = batch.count - self.placed.sum(axis=1)
        self.begun = 0

    def saved(self, classes: list[int]) -> _Saved:
        """To go back to, as far as only these classes change."""
        counts = None if self.counts is None else self.counts.copy()
        return _Saved(classes, self.placed[classes], self.left.copy(), counts)

    def restore(self, saved: _Saved) -> None:
        """Back to what was saved."""
        self.placed[saved.classes] = saved.placed
        self.left, self.counts = saved.left, saved.counts

    def groups(self, *, largest_first: bool) -> list[list[list[int]]]:
        """Classes that are placed together, by the highest priority among them."""
        batch, size = self.batch, self.batch.request.T @ self.batch.weights
        found: dict[tuple[int, int], list[int]] = {}
        for c in np.lexsort((-size if largest_first else size, batch.rank)).tolist():  # stable
            gang = int(batch.gang[c])
            found.setdefault((gang, -1) if gang >= 0 else (-1, c), []).append(c)
        by_rank: list[list[list[int]]] = [[] for _ in range(batch.num_ranks)]
        for classes in found.values():
            by_rank[int(batch.rank[classes[0]])].append(classes)
        return by_rank

    def _ends(self, pods: int, is_over: bool) -> bool:
        self.begun += pods
        return is_over and self.begun > FIRST_PODS

    def _is_late(self) -> bool:
        return self.deadline is not None and self._ends(1, self.deadline.is_late)

    def keep(self, classes: list[int], placed: IntArray) -> None:
        """Put pods where ``placed`` ``(C, N)`` has them, as far as there is room: of a gang or a spread all of them or none."""
        batch, rows = self.batch, placed[classes]
        nodes = np.flatnonzero(rows.any(axis=0))
        before = self.saved(classes)
        for k, c in enumerate(classes):
            for n in nodes[rows[k, nodes] > 0].tolist():
                self._put(c, n, int(rows[k, n]))
        kept = self.placed[classes].sum() == rows.sum()
        if not kept and (batch.gang[classes[0]] >= 0 or any(s.pod_class in classes for s in batch.spreads)):
            self.restore(before)
        self.missing[classes] = batch.count[classes] - self.placed[classes].sum(axis=1)

    def _put(self, c: int, n: int, pods: int) -> None:
        batch, request = self.batch, self.batch.request[:, c]
        asked = request > 0
        pods = int(np.min(self.left[asked, n] // request[asked], initial=pods))
        self.placed[c, n] += pods
        while pods and not batch.packs(n, self.placed[:, n]):
            self.placed[c, n] -= 1
            pods -= 1
        self.left[:, n] -= pods * request
        if self.counts is not None and pods:
            self.counts.change(c, n, pods)

    def fill(self, groups: list[list[int]]) -> bool:
        """Place what is missing of ``groups``; True when all found a node."""
        batch, missing, whole = self.batch, self.missing, True
        for classes in groups:
            if not missing[classes].any():
                continue
            if self.deadline is not None and self._ends(int(missing[classes].sum()), self.deadline.is_over):
                return False
            before = self.saved(classes) if batch.gang[classes[0]] >= 0 else None
            complete = all(
                _fill_class(batch, c, int(missing[c]), self.placed, self.left, self.counts, self._is_late)
                for c in classes
            )
            whole = whole and complete
            if before is not None and not complete:
                self.restore(before)
        return whole


def one_by_one(
    batch: Batch, deadline: Deadline | None, start: IntArray | None = None, *, is_quick: bool = False
) -> IntArray:
    """The pods that ``start`` ``(C, N)`` does not place, put beside those that it does."""
    filling = _OneByOne(batch, deadline, start)
    largest, smallest = (filling.groups(largest_first=first) for first in (True, False))
    for one, other in zip(largest, smallest, strict=True):
        has_orders = len(one) > 1 and not is_quick
        classes = [c for group in one for c in group]
        before = filling.saved(classes) if has_orders else None
        if filling.fill(one) or before is None or (deadline is not None and deadline.is_over):
            continue
        first = filling.saved(classes)
        filling.restore(before)
        filling.fill(other)
        pods = [
            np.bincount(batch.rank[classes], found.sum(axis=1), batch.num_ranks).tolist()
            for found in (filling.placed[classes], first.placed)
        ]
        if pods[0] <= pods[1]:
            filling.restore(first)
    return filling.placed


def _fill_class(
    batch: Batch,
    c: int,
    pods: int,
    placed: IntArray,
    left: IntArray,
    counts: Counts | None = None,
    is_late: Callable[[], bool] = lambda: False,
) -> bool:
    """Place so many pods of one class in ``placed``, ``left`` and ``counts``; True when all found a node in time.

    ``is_late`` is asked before each pod that takes devices.
    """
    request = batch.request[:, c]
    spread = next((s for s in batch.spreads if s.pod_class == c), None)
    cost = _cost(batch, left, slice(None), request)
    if batch.wish is not None:
        cost -= POINT * batch.wish[c]
    full = (left < request[:, None]).any(axis=0) | (placed[c] >= batch.most[c])
    takes_devices = batch.devices is not None and bool(batch.devices.count[c])
    cost[full] = INFINITY
    while pods:
        if takes_devices and is_late():
            return False
        open_cost = cost
        if spread is not None:
            zones = by_zone(placed[c], batch.zone_of, len(spread.present)) + spread.present
            open_cost = np.where((zones - zones.min() < spread.max_skew)[batch.zone_of], cost, INFINITY)
        if counts is not None and counts.concerns(c):
            open_cost = open_cost - POINT * counts.pull(c, slice(None))
        best = int(np.argmin(open_cost))
        if not np.isfinite(open_cost[best]):
            return False
        placed[c, best] += 1
        if takes_devices and not batch.packs(best, placed[:, best]):
            placed[c, best] -= 1
            cost[best] = INFINITY
            continue
        pods -= 1
        left[:, best] -= request
        if counts is not None:
            counts.change(c, best, 1)
        fits = (left[:, best] >= request).all() and placed[c, best] < batch.most[c, best]
        node = np.array([best])
        again = _cost(batch, left[:, node], node, request)[0] if fits else INFINITY
        cost[best] = again if batch.wish is None else again - POINT * batch.wish[c, best]
    return True


def repacked(batch: Batch, placed: IntArray, deadline: Deadline) -> IntArray:
    """``placed`` as it is, or with the pods that the devices of their nodes do not take put elsewhere, as far as they fit.

    Pods of nodes that there is no time to look at are left out.
    """
    devices = batch.devices
    if devices is None:
        return placed
    used = np.flatnonzero(placed.any(axis=0)).tolist()
    wrong = [n for n in used if deadline.is_late or not batch.packs(n, placed[:, n])]
    if not wrong:
        return placed
    kept = placed.copy()
    largest_first = np.argsort(-devices.milli * devices.count, kind="stable").tolist()
    for n in wrong:
        kept[devices.count > 0, n] = 0
        for c in (c for c in largest_first if devices.count[c] and not deadline.is_late):
            for _ in range(int(placed[c, n])):
                kept[c, n] += 1
                if not batch.packs(n, kept[:, n]):
                    kept[c, n] -= 1
                    break
    left = batch.free - batch.request @ kept
    for c, missing in enumerate((placed - kept).sum(axis=1).tolist()):
        _fill_class(batch, c, missing, kept, left, is_late=lambda: deadline.is_late)
    return kept


def claimed(batch: Batch, placed: IntArray) -> IntArray:
    """``placed``, or one with better counts: whoever has no place takes one where that is free, or where it is once those
    of lower priority make way. Everybody else stays where that is possible."""
    filling = _OneByOne(batch, None, None)
    for groups in filling.groups(largest_first=True):
        for classes in groups:
            filling.keep(classes, placed)
        filling.fill(groups)
    found = filling.placed
    return found if batch.counts(found) > batch.counts(placed) and not batch.violations(found) else placed


def _cost(batch: Batch, left: IntArray, nodes: IntArray | slice, request: IntArray) -> FloatArray:
    """``(n,)`` what it costs that a pod goes to each of ``nodes``: stranding, or where nodes are to fill, what stays free."""
    if batch.fills:
        return np.asarray(((left - request[:, None]) * batch.weights[:, None]).sum(axis=0), np.float64)
    offered = batch.offered[:, nodes]
    usable = (left / offered).min(axis=0) - ((left - request[:, None]) / offered).min(axis=0)
    return np.asarray(usable * batch.worth[nodes] - float(request @ batch.weights), np.float64)
