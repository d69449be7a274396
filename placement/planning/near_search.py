"""Batches whose pods wish to be near or away from each other: search, an exact program for small ones, and their layout.

Three tools for :func:`placement.planning.batches.place_batch`; each keeps the number of placed pods. :func:`improve`
takes a few pods out, those that miss points first, and puts them back one by one where all points gain most (ruin and
recreate); :func:`exact` is CP-SAT over counts per class and node, with the products of counts per place written out
in unary; :func:`split` fixes who is in which place, after which only linear wishes are left.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from placement.planning.nearness import Counts, Nearness
from placement.planning.plans import ROUNDING, Deadline
from placement.planning.solver import Answer, Limits, Model, solve_integer
from placement.resources import BoolArray, FloatArray, IntArray

if TYPE_CHECKING:
    from placement.planning.batch import Batch

TOP_NODES, TOP_OF_PLACE = 256, 24
"""Nodes that a pod is tried on: the best liked, and the best liked of each place of rules with few places."""
SMALL_RUIN, LARGE_RUIN = 6, 24
"""Most pods that are taken out at once: some, or those of one class."""
LOOK_ROUNDS = 16
"""Rounds after which it is looked again who misses points."""
STEP_S = 1e-4
"""Work of putting one pod back, for clocks that count work."""
PATIENCE = 400
"""Rounds without a gain after which the search ends."""
MAX_PAIRS, MAX_UNARY = 2000, 4000
"""Largest exact program: (class, node) pairs, and columns of products."""
MAX_UNIT = 2**40
"""Amounts above this, after division by what they have in common, are no numbers for CP-SAT."""


class _Search:
    """A placement under change."""

    def __init__(self, batch: Batch, placed: IntArray, fitting: IntArray, seed: int) -> None:
        self.batch = batch
        self.placed = placed.copy()
        self.left = batch.free - batch.request @ placed
        self.counts = Counts(batch.near, placed)
        self.draws = np.random.default_rng(seed)
        self.wish = np.zeros_like(batch.most) if batch.wish is None else batch.wish
        self.spread = {spread.pod_class: spread for spread in batch.spreads}
        self.candidates = [self._candidates(c, fitting[c]) for c in range(len(batch.count))]
        self.undo: list[tuple[int, int, int]] = []
        """What a round has done, and what takes it back."""
        self.best = batch.hopes.max(axis=1)
        self._seen: tuple[IntArray, IntArray, FloatArray] | None = None
        self._age = 0

    def _candidates(self, c: int, room: IntArray) -> IntArray:
        """Nodes that a pod of class ``c`` is tried on."""
        open_ = np.flatnonzero(room)
        order = open_[np.argsort(-self.batch.hopes[c, open_], kind="stable")]
        chosen = [order[:TOP_NODES], np.flatnonzero(self.placed[c])]
        places = [rule.seat for rule in self.batch.near if rule.pod_class == c and not rule.has_many_places]
        places += [rule.look for rule in self.batch.near if rule.gains[c] and not rule.has_many_places]
        places += [self.batch.zone_of] if c in self.spread else []
        for place in {id(p): p for p in places}.values():
            chosen += [order[place[order] == d][:TOP_OF_PLACE] for d in np.unique(place[order]).tolist()]
        found = np.unique(np.concatenate(chosen))
        return np.asarray(found[np.argsort(-self.wish[c, found], kind="stable")])

    def change(self, c: int, n: int, pods: int) -> None:
        """So many more pods of a class on a node, or fewer."""
        self.placed[c, n] += pods
        self.left[:, n] -= pods * self.batch.request[:, c]
        self.counts.change(c, n, pods)

    def take(self, c: int, n: int) -> int:
        """Take a pod out; the points that are lost."""
        self.change(c, n, -1)
        self.undo.append((c, n, 1))
        node = np.array([n])
        return int(self.wish[c, n] + self.counts.pull(c, node)[0])

    def put(self, c: int, n: int) -> int:
        """Put a pod on a node; the points that are won."""
        won = int(self.wish[c, n] + self.counts.pull(c, np.array([n]))[0])
        self.change(c, n, 1)
        self.undo.append((c, n, -1))
        return won

    def open_nodes(self, c: int) -> IntArray:
        """Candidates that take one more pod of class ``c``."""
        batch, nodes = self.batch, self.candidates[c]
        fits = (self.left[:, nodes] >= batch.request[:, [c]]).all(axis=0)
        fits &= self.placed[c, nodes] < batch.most[c, nodes]
        if c in self.spread:
            zones = self._zones(c)
            fits &= (zones - zones.min() < self.spread[c].max_skew)[batch.zone_of[nodes]]
        return np.asarray(nodes[fits])

    def _zones(self, c: int) -> IntArray:
        present = self.spread[c].present
        used = np.flatnonzero(self.placed[c])
        counted = np.bincount(self.batch.zone_of[used], weights=self.placed[c, used], minlength=len(present))
        return np.asarray(present + counted.astype(np.int64))

    def best_node(self, c: int, focus: BoolArray | None = None) -> int:
        """Where one more pod of class ``c`` gains most; -1 = nowhere. ``focus`` ``(N,)`` comes first where it has room."""
        nodes = self.open_nodes(c)
        if focus is not None and focus[nodes].any():
            nodes = nodes[focus[nodes]]
        if len(nodes) == 0:
            return -1
        return int(nodes[np.argmax(self.wish[c, nodes] + self.counts.pull(c, nodes))])

    def is_valid(self) -> bool:
        """Rules that single steps do not see, of what has changed."""
        for c in {c for c, _, _ in self.undo} & self.spread.keys():
            zones = self._zones(c)
            if zones.max() - zones.min() > self.spread[c].max_skew and self.placed[c].any():
                return False
        return all(self.batch.packs(n, self.placed[:, n]) for n in {n for _, n, pods in self.undo if pods < 0})

    def roll_back(self) -> None:
        """As it was before the round."""
        for c, n, pods in reversed(self.undo):
            self.change(c, n, pods)

    def round(self) -> int:
        """Take pods out and put them back; the points that are won, never negative."""
        self.undo = []
        self._age += 1
        draw = self.draws.random()
        won = self._some() if draw < 0.5 else self._whole_class() if draw < 0.8 else self._push_in()
        if won is None or won < 0 or not self.is_valid():
            self.roll_back()
            return 0
        return won

    def _look(self) -> tuple[IntArray, IntArray, FloatArray]:
        """Where pods are, or were a few rounds ago, and how likely each (class, node) is chosen, summed up: more if more points
        are missed there."""
        if self._seen is None or self._age >= LOOK_ROUNDS:
            classes, nodes = (np.asarray(axis, np.int64) for axis in np.nonzero(self.placed))
            has = self.wish[classes, nodes]
            for rule, near in zip(self.batch.near, self.counts.near, strict=True):
                mine = np.flatnonzero((classes == rule.pod_class) & (rule.seat[nodes] >= 0))
                seat, look = rule.seat[nodes[mine]], rule.look[nodes[mine]]
                has[mine] += near[seat] - rule.gains[rule.pod_class] * (seat == look)
            missing = np.maximum(self.best[classes] - has, 0) * self.placed[classes, nodes]
            self._seen = classes, nodes, np.cumsum(missing + max(1.0, 0.1 * float(missing.mean())))
            self._age = 0
        return self._seen

    def _unhappy(self) -> tuple[int, int]:
        """A pod, more likely one that misses many points."""
        while True:
            classes, nodes, weight = self._look()
            i = int(np.searchsorted(weight, self.draws.random() * weight[-1], side="right"))
            if self.placed[classes[i], nodes[i]]:
                return int(classes[i]), int(nodes[i])
            self._seen = None

    def _put_back(self, classes: list[int], focus: BoolArray | None = None) -> int | None:
        won = 0
        for c in classes:
            n = self.best_node(c, focus)
            if n < 0:
                return None
            won += self.put(c, n)
        return won

    def _some(self) -> int | None:
        """An unhappy pod and a few others."""
        first = self._unhappy()
        classes, nodes, _ = self._look()
        others = self.draws.integers(len(classes), size=int(self.draws.integers(1, SMALL_RUIN))).tolist()
        taken = dict.fromkeys([first, *((int(classes[i]), int(nodes[i])) for i in others)])
        taken = {(c, n): None for c, n in taken if self.placed[c, n]}
        lost = sum(self.take(c, n) for c, n in taken)
        back = self._put_back([c for c, _ in taken])
        return None if back is None else back - lost

    def _whole_class(self) -> int | None:
        """All pods of an unhappy one's class, put back into one place first."""
        c, _ = self._unhappy()
        rules = [rule for rule in self.batch.near if rule.pod_class == c or rule.gains[c]]
        if not rules:
            return None
        rule = rules[int(self.draws.integers(len(rules)))]
        others = np.flatnonzero(rule.gains > 0).tolist() if self.draws.random() < 0.5 else []
        classes = list(dict.fromkeys([c, rule.pod_class, *others] if others else [c]))
        lost, out = 0, list[int]()
        for k in classes:
            for n in np.flatnonzero(self.placed[k]).tolist():
                for _ in range(int(self.placed[k, n])):
                    if len(out) < LARGE_RUIN:
                        lost += self.take(k, n)
                        out.append(k)
        seats = rule.seat[self.candidates[c]]
        seats = seats[seats >= 0]
        if len(seats) == 0:
            return None
        focus = rule.seat == seats[int(self.draws.integers(len(seats)))] if rule.gains.max() > 0 else None
        back = self._put_back(out, focus)
        return None if back is None else back - lost

    def _push_in(self) -> int | None:
        """An unhappy pod goes where it would gain most, and whoever of the batch is in its way elsewhere."""
        c, home = self._unhappy()
        lost = self.take(c, home)
        nodes = self.candidates[c]
        value = self.wish[c, nodes] + self.counts.pull(c, nodes)
        top = nodes[np.argsort(-value, kind="stable")[:SMALL_RUIN]]
        target = int(top[int(self.draws.integers(len(top)))])
        out = list[int]()
        for k in np.flatnonzero(self.placed[:, target]).tolist():
            for _ in range(int(self.placed[k, target])):
                lost += self.take(k, target)
                out.append(k)
        if target not in self.open_nodes(c):
            return None
        won = self.put(c, target)
        back = self._put_back(out)
        return None if back is None else won + back - lost


def improve(batch: Batch, placed: IntArray, fitting: IntArray, deadline: Deadline, *, seed: int = 0) -> IntArray:
    """A placement ``(C, N)`` of the same pods per class with at least as many points, by ruin and recreate."""
    search = _Search(batch, placed, fitting, seed)
    most = batch.most_wishes(fitting, batch.counts(placed))
    met = batch.wishes_met(placed)
    idle = 0
    while met < most and idle < PATIENCE and not deadline.is_over:
        won = search.round()
        deadline.spend(STEP_S * max(len(search.undo), 1))
        met += won
        idle = 0 if won else idle + 1
    assert met == batch.wishes_met(search.placed), "points were kept in step"
    return search.placed


# ── small ones exactly ────────────────────────────────────────────────────────────────────────────────────────


def is_small(batch: Batch, fitting: IntArray) -> bool:
    """Whether :func:`exact` takes the batch."""
    if np.count_nonzero(fitting) > MAX_PAIRS or batch.devices is not None:
        return False
    unary = 0
    for rule in batch.near:
        places = np.unique(rule.seat[(rule.seat >= 0) & (fitting[rule.pod_class] > 0)])
        unary += len(places) * int(batch.count[rule.pod_class]) * len(np.unique(rule.gains[rule.gains != 0]))
    return unary <= MAX_UNARY and int(_in_units(batch)[1].max(initial=0)) < MAX_UNIT


def _in_units(batch: Batch) -> tuple[IntArray, IntArray]:
    """Requests and free amounts, each row divided by what all requests have in common."""
    unit = np.maximum(np.gcd.reduce(batch.request, axis=1), 1)[:, None]
    return batch.request // unit, batch.free // unit


def exact(batch: Batch, placed: IntArray, fitting: IntArray, limits: Limits) -> tuple[IntArray, int]:
    """The placement with most points among those with as many pods of each priority as ``placed``, and a bound (CP-SAT)."""
    model = Model()
    classes, nodes = np.nonzero(fitting)
    wish = np.zeros(len(classes), np.int64) if batch.wish is None else batch.wish[classes, nodes]
    x = model.add_columns(fitting[classes, nodes], objective=wish)
    column = np.full(fitting.shape, -1, np.int64)
    column[classes, nodes] = x
    for rank, pods in enumerate(batch.counts(placed)):
        model.add_row(x[batch.rank[classes] == rank], 1.0, lower=float(pods), upper=float(pods))
    for c, pods in enumerate(batch.count.tolist()):
        model.add_row(x[classes == c], 1.0, upper=float(pods))
    request, free = _in_units(batch)
    for r, n in np.argwhere(free < (request @ fitting)).tolist():
        mine = (nodes == n) & (request[r, classes] > 0)
        model.add_row(x[mine], request[r, classes[mine]], upper=float(free[r, n]))
    for gang in np.unique(batch.gang[batch.gang >= 0]):
        whole = model.add_columns(np.ones(1))
        for c in np.flatnonzero(batch.gang == gang).tolist():
            mine = x[classes == c]
            values = np.append(np.ones(len(mine)), -float(batch.count[c]))
            model.add_row(np.append(mine, whole), values, lower=0.0, upper=0.0)
    for spread in batch.spreads:
        c = spread.pod_class
        least = model.add_columns(np.array([int(spread.present.max(initial=0) + batch.count[c])]))
        for z, present in enumerate(spread.present.tolist()):
            mine = x[(classes == c) & (batch.zone_of[nodes] == z)]
            values = np.append(np.ones(len(mine)), -1.0)
            upper = float(spread.max_skew - present)
            model.add_row(np.append(mine, least), values, lower=-float(present), upper=upper)
    for rule in batch.near:
        _add_rule(model, rule, batch, column)
    answer: Answer = solve_integer(model, limits)
    best = placed
    if answer.has_solution:
        found = np.zeros(fitting.shape, np.int64)
        found[classes, nodes] = np.round(answer.x[x]).astype(np.int64)
        if not batch.violations(found) and batch.wishes_met(found) > batch.wishes_met(placed):
            best = found
    bound = (
        int(np.floor(answer.bound + ROUNDING))
        if np.isfinite(answer.bound)
        else batch.most_wishes(fitting, batch.counts(placed))
    )
    return best, bound


def _add_rule(model: Model, rule: Nearness, batch: Batch, column: IntArray) -> None:
    """Gains of one rule: per place, pods that are judged times pods that count, the former in unary."""
    c = rule.pod_class
    own = column[c]
    for place in np.unique(rule.seat[(rule.seat >= 0) & (own >= 0)]).tolist():
        judged = own[(rule.seat == place) & (own >= 0)]
        for gain in np.unique(rule.gains[rule.gains != 0]).tolist():
            members = np.flatnonzero(rule.gains == gain)
            counted = column[members][:, rule.look == place].ravel()
            counted = counted[counted >= 0]
            if len(counted) == 0:
                continue
            most = int(batch.count[c])
            others = int(batch.count[members].sum())
            steps = model.add_columns(np.ones(most))
            model.add_row(
                np.append(judged, steps), np.append(np.ones(len(judged)), -np.ones(most)), lower=0.0, upper=0.0
            )
            for j in range(most - 1):
                model.add_row(steps[[j, j + 1]], np.array([1.0, -1.0]), lower=0.0)
            parts = model.add_columns(np.full(most, others), objective=float(gain))
            for step, part in zip(steps.tolist(), parts.tolist(), strict=True):
                some = np.append(counted, part)
                if gain > 0:  # part <= counted, part <= others * step
                    model.add_row(some, np.append(np.ones(len(counted)), -1.0), lower=0.0)
                    model.add_row(np.array([part, step]), np.array([1.0, -float(others)]), upper=0.0)
                else:  # part >= counted - others * (1 - step)
                    values = np.concatenate([np.ones(len(counted)), [-1.0, float(others)]])
                    model.add_row(np.append(some, step), values, upper=float(others))
            if rule.gains[c] == gain:  # nobody is his own company
                itself = own[(rule.seat == place) & (rule.look == place) & (own >= 0)]
                total = model.add_columns(np.array([most]), objective=-float(gain))
                values = np.append(np.ones(len(itself)), -1.0)
                model.add_row(np.append(itself, total), values, lower=0.0, upper=0.0)


# ── once everybody's place is fixed ───────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Layout:
    """A batch in which each class keeps its places, so that company is what it is. ``owner`` ``(K,)`` is the class that each
    of its classes is a part of."""

    batch: Batch
    owner: IntArray
    placed: IntArray
    num_classes: int

    def merge(self, placed: IntArray) -> IntArray:
        """``(C, N)`` of the whole batch."""
        whole = np.zeros((self.num_classes, placed.shape[1]), np.int64)
        np.add.at(whole, self.owner, placed)
        return whole


def split(batch: Batch, placed: IntArray) -> Layout:
    """Classes that a rule judges or counts, cut into parts that stay in the places they have in ``placed``.

    A class that only repels itself, one node a place, need not stay on its nodes: it stays at one pod a node.
    """
    owner, count, most, rows = [], [], [], []
    gang = batch.gang.copy()
    room = batch.most.copy()
    for c in range(len(batch.count)):
        keys = _cells(batch, placed, c, room)
        if not keys:
            owner.append(c)
            count.append(int(batch.count[c]))
            most.append(room[c])
            rows.append(placed[c])
            continue
        if gang[c] >= 0 and not placed[c].any():  # the rest of a gang that has no place stays out, too
            room[batch.gang == gang[c]] = 0
        used = np.flatnonzero(placed[c])
        for places in dict.fromkeys(zip(*(key[used].tolist() for key in keys), strict=True)):
            here = np.logical_and.reduce([key == place for key, place in zip(keys, places, strict=True)])
            owner.append(c)
            count.append(int(placed[c, here].sum()))
            most.append(np.where(here, room[c], 0))
            rows.append(np.where(here, placed[c], 0))
    index = np.array(owner, np.int64)
    room = np.stack([np.where(room[c].any(), row, 0) for c, row in zip(owner, most, strict=True)])
    parts = {c: np.asarray(np.flatnonzero(index == c), np.int64) for c in range(len(batch.count))}
    spreads = tuple(
        replace(s, pod_class=int(parts[s.pod_class][0])) for s in batch.spreads if _is_whole(batch, parts, s.pod_class)
    )
    wish = None if batch.wish is None else batch.wish[index]
    cut = replace(
        batch,
        request=batch.request[:, index],
        count=np.array(count, np.int64),
        most=room,
        gang=gang[index],
        spreads=spreads,
        wish=wish,
        near=(),
        devices=None if batch.devices is None else batch.devices.only_classes(index),
        priority=None if batch.priority is None else batch.priority[index],
    )
    return Layout(cut, index, np.stack(rows), len(batch.count))


def _is_whole(batch: Batch, parts: dict[int, IntArray], c: int) -> bool:
    """Whether a class with a spread was not cut; a cut one keeps its zones, and so its spread."""
    return not any(rule.pod_class == c or rule.gains[c] for rule in batch.near) and len(parts[c]) == 1


def _cells(batch: Batch, placed: IntArray, c: int, room: IntArray) -> list[IntArray]:
    """Place systems whose places class ``c`` must keep; empty = the class stays whole. May lower ``room`` ``(C, N)``."""
    keys: dict[int, IntArray] = {}
    touched = False
    for rule in batch.near:
        if rule.pod_class != c and not rule.gains[c]:
            continue
        touched = True
        alone = rule.pod_class == c and rule.repels_itself_only and bool((rule.seat >= 0).all())
        if alone and np.bincount(rule.seat).max() == 1 and placed[c].max(initial=0) <= 1:
            room[c] = np.minimum(room[c], 1)
            continue
        if rule.pod_class == c:
            keys[id(rule.seat)] = rule.seat
        if rule.gains[c]:
            keys[id(rule.look)] = rule.look
    if touched and any(spread.pod_class == c for spread in batch.spreads):
        keys[id(batch.zone_of)] = batch.zone_of
    if touched and not keys:
        keys[id(batch.zone_of)] = np.zeros_like(batch.zone_of)
    return list(keys.values())
