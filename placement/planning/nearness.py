"""Wishes among the pods of a batch: who would be near whom, in points that add up over pairs of pods.

A :class:`Nearness` says what each pod of one class gains for each other pod of the batch that is in its *place*, a topology
domain: more than nothing for preferred affinity, less for preferred anti-affinity and for ``ScheduleAnyway`` spreading.
Each pod is judged with all others where they are in the end, so the points of a placement do not depend on an order.

They are a quadratic form in the counts per class and place, which is what everything here works on. The bound takes
attraction at its best, class by class, and repulsion at its least, place by place (the convex cost of ``x`` equal pods in a
place is spread evenly); both are never below what any placement has.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np

from placement.resources import IntArray

FEW_PLACES = 64


@dataclass(frozen=True, eq=False)
class Nearness:
    """One rule of one class.

    Parameters
    ----------
    pod_class : the class whose pods are judged.
    gains : ``(C,)`` int64, parts of a point for each other pod of a class in the same place.
    seat : ``(N,)`` int64, the place that a pod of ``pod_class`` has on a node; -1 = the rule gives nothing there.
    look : ``(N,)`` int64, the place in which pods on a node count as others; -1 = they do not count.
    num_places : places are ``0 … num_places - 1``.
    """

    pod_class: int
    gains: IntArray
    seat: IntArray
    look: IntArray
    num_places: int

    def points(self, placed: IntArray, nodes: IntArray) -> int:
        """Parts of a point that ``placed`` ``(C, n)`` on some ``nodes`` has by this rule."""
        seat, look = self.seat[nodes], self.look[nodes]
        own = placed[self.pod_class]
        near = sums(self.gains @ placed, look, self.num_places)
        seated = seat >= 0
        itself = self.gains[self.pod_class] * (seat == look)
        return int((own * np.where(seated, near[seat] - itself, 0)).sum())

    @property
    def has_many_places(self) -> bool:
        """Hosts, mostly: such a rule enters programs in sum over all its places, and only what it gives."""
        return self.num_places > FEW_PLACES

    @property
    def repels_itself_only(self) -> bool:
        """Nothing but fewer pods of its own class in the same place is wished for."""
        others = np.delete(self.gains, self.pod_class)
        return bool(self.gains[self.pod_class] < 0 and not others.any() and np.array_equal(self.seat, self.look))


def sums(values: IntArray, place: IntArray, num_places: int) -> IntArray:
    """``(num_places,)`` sums of ``values`` ``(N,)``; whole numbers, exact below 2^53."""
    there = place >= 0
    return np.asarray(np.bincount(place[there], weights=values[there], minlength=num_places), np.float64).astype(
        np.int64
    )


def points(rules: Sequence[Nearness], placed: IntArray) -> int:
    """Parts of a point that ``placed`` ``(C, N)`` has by all rules."""
    if not rules:
        return 0
    nodes = np.flatnonzero(placed.any(axis=0))
    some = placed[:, nodes]
    return sum(rule.points(some, nodes) for rule in rules)


class Counts:
    """Pods per place and rule, kept in step with a placement that changes pod by pod."""

    def __init__(self, rules: Sequence[Nearness], placed: IntArray) -> None:
        self.rules = rules
        nodes = np.flatnonzero(placed.any(axis=0))
        some = placed[:, nodes]
        self.near = [sums(rule.gains @ some, rule.look[nodes], rule.num_places) for rule in rules]
        """Per rule ``(places,)``: what a pod that is judged finds there."""
        self.judged = [sums(some[rule.pod_class], rule.seat[nodes], rule.num_places) for rule in rules]
        """Per rule ``(places,)``: pods that are judged there."""
        self._own: dict[int, list[int]] = {}
        self._counting: dict[int, list[int]] = {}
        for i, rule in enumerate(rules):
            self._own.setdefault(rule.pod_class, []).append(i)
            for c in np.flatnonzero(rule.gains).tolist():
                self._counting.setdefault(c, []).append(i)

    def copy(self) -> Counts:
        """To change it and keep this one."""
        other = copy(self)
        other.near = [counts.copy() for counts in self.near]
        other.judged = [counts.copy() for counts in self.judged]
        return other

    def concerns(self, c: int) -> bool:
        """Whether any rule judges or counts pods of class ``c``."""
        return c in self._own or c in self._counting

    def change(self, c: int, node: int, pods: int) -> None:
        """So many more pods of class ``c`` on ``node``, or fewer."""
        for i in self._own.get(c, ()):
            place = self.rules[i].seat[node]
            if place >= 0:
                self.judged[i][place] += pods
        for i in self._counting.get(c, ()):
            place = self.rules[i].look[node]
            if place >= 0:
                self.near[i][place] += pods * self.rules[i].gains[c]

    def pull(self, c: int, nodes: IntArray | slice) -> IntArray:
        """``(n,)`` what all points change by when one more pod of class ``c`` goes to each of ``nodes``."""
        total: IntArray = np.zeros(len(self.rules[0].seat[nodes]), np.int64)
        for i in self._own.get(c, ()):
            place = self.rules[i].seat[nodes]
            total += np.where(place >= 0, self.near[i][place], 0)
        for i in self._counting.get(c, ()):
            place = self.rules[i].look[nodes]
            total += np.where(place >= 0, self.judged[i][place], 0) * self.rules[i].gains[c]
        return total


def best_company(rules: Sequence[Nearness], count: IntArray, fitting: IntArray) -> IntArray:
    """``(C, N)`` parts that a pod gains at most by those around it: all that wished-for company which fits in its place."""
    best: IntArray = np.zeros(fitting.shape, np.int64)
    for rule in rules:
        for c in np.flatnonzero(rule.gains > 0).tolist():
            itself = int(c == rule.pod_class)
            room = sums(fitting[c], rule.look, rule.num_places)[rule.seat] - itself * (rule.seat == rule.look)
            company = np.clip(room, 0, int(count[c]) - itself)
            best[rule.pod_class] += np.where(rule.seat >= 0, rule.gains[c] * company, 0)
    return best


def least_crowding(rules: Sequence[Nearness], surely: IntArray, fitting: IntArray) -> int:
    """Parts that repulsion within a class costs at least when ``surely`` ``(C,)`` pods of each class are placed.

    With ``x`` pods of the class in a place it costs ``x (x - 1)`` times the loss per pair; that is convex, so spreading the
    pods evenly over the places, as far as they fit, costs least.
    """
    cost = 0
    for rule in rules:
        c, loss = rule.pod_class, -int(rule.gains[rule.pod_class])
        left = int(surely[c])
        if loss <= 0 or left <= 0:
            continue
        judged = (rule.seat >= 0) & (rule.seat == rule.look)
        left -= int(fitting[c, ~judged].sum())
        room = sums(np.where(judged, fitting[c], 0), rule.seat, rule.num_places)
        level = 0
        while left > 0 and (open_ := int((room > level).sum())):
            cost += 2 * level * min(left, open_) * loss
            left -= open_
            level += 1
    return cost
