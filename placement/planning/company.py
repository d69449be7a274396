"""What the pods of a batch wish of nodes, of what runs there, and of each other: columns for a batch plan.

Preferred pod affinity and anti-affinity between pods of the batch, both ways, and ``ScheduleAnyway`` spreading that a pod
states itself, in kube-scheduler's points and weights. kube-scheduler scales a score by the candidates of the moment, which
depends on the order of the pods. Here the scale of a class is fixed before anything is placed: 0 to 100 is the least to the
most that a pod of the class could find on the nodes that take it, the pods that run there and all of the batch included.
Points are then sums over pairs of pods (:mod:`placement.planning.nearness`), and each pod is judged with everybody in place.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from placement.owners import HOSTNAME
from placement.planning.nearness import Nearness
from placement.pods import PodSpec, Spread
from placement.resources import BoolArray, IntArray
from placement.rules import Match, RuleIndex
from placement.soft import (
    INTER_POD_WEIGHT,
    MAX_SCORE,
    SPREAD_WEIGHT,
    fixed_wishes,
    inter_pod_raw,
    node_points,
    spread_counts,
    spread_weight,
)

PARTS = 1000
"""Of a point: what one pod of many is to another is a small part of one."""
LOG_UNIT = 1000
"""Spreading counts pods times the logarithm of the number of places, in thousandths."""


class Wishes(NamedTuple):
    """``wish`` ``(C, N)`` in ``parts`` of a point (None = nobody wishes anything), and what pods have for each other."""

    wish: IntArray | None
    near: tuple[Nearness, ...] = ()
    parts: int = 1


def is_wishing(rules: RuleIndex, specs: Iterable[PodSpec]) -> bool:
    """Whether :func:`wishes_of` may find anything."""
    stated = (s.node_rules.preferred or s.pod_rules.preferred or _soft_spread(s) for s in specs)
    return rules.has_wishes or any(stated)


def wishes_of(rules: RuleIndex, specs: list[PodSpec], count: IntArray, fits: BoolArray, rows: IntArray) -> Wishes:
    """Wishes of ``count`` ``(C,)`` pods of each class over ``rows`` ``(N,)``; ``fits`` ``(C, N)`` where a pod fits now."""
    feasible = np.zeros((len(specs), rules.num_rows), np.bool_)
    feasible[:, rows] = fits
    meant = _Meant(rules, specs)
    pairs = _pairs(specs, count, meant)
    spread = [c for c, spec in enumerate(specs) if _soft_spread(spec)]
    if not pairs and not spread:
        wish = np.zeros(fits.shape, np.int64)
        for c, spec in enumerate(specs):
            points = fixed_wishes(rules, spec, feasible[c])
            if points is not None:
                wish[c] = points[rows]
        return Wishes(wish if wish.any() else None)
    made = _Columns(rules, specs, count, rows, meant)
    wish = np.zeros((len(specs), rules.num_rows), np.int64)
    for c, spec in enumerate(specs):
        if not feasible[c].any():
            continue
        if c in pairs or c in spread:
            wish[c] = made.of_class(c, pairs.get(c, {}), feasible[c])
        elif (points := fixed_wishes(rules, spec, feasible[c])) is not None:
            wish[c] = PARTS * points
    return Wishes(wish[:, rows], tuple(made.near), PARTS)


def _soft_spread(spec: PodSpec) -> list[Spread]:
    return [c for c in spec.pod_rules.spread if not c.hard and not c.is_default]


class _Meant:
    """Which classes terms speak of, found once per term and per set of labels."""

    def __init__(self, rules: RuleIndex, specs: list[PodSpec]) -> None:
        self.rules = rules
        self.kinds: dict[object, tuple[PodSpec, list[int]]] = {}
        for c, spec in enumerate(specs):
            self.kinds.setdefault((spec.namespace, spec.labels), (spec, []))[1].append(c)
        self.num_classes = len(specs)
        self._known: dict[Match, IntArray] = {}

    def __call__(self, match: Match) -> IntArray:
        """``(C,)`` 1 for the classes that a term speaks of, else 0."""
        if match not in self._known:
            found = np.zeros(self.num_classes, np.int64)
            for spec, classes in self.kinds.values():
                found[classes] = match.covers(spec, self.rules.namespaces)
            self._known[match] = found
        return self._known[match]


def _pairs(specs: list[PodSpec], count: IntArray, meant: _Meant) -> dict[int, dict[str, IntArray]]:
    """Class → topology key → ``(C,)`` weight of another pod of a class near by: its own terms, and theirs."""
    found: dict[int, dict[str, IntArray]] = defaultdict(lambda: defaultdict(lambda: np.zeros(len(specs), np.int64)))
    for c, spec in enumerate(specs):
        for wish in spec.pod_rules.preferred:
            others = meant(Match.of(wish.term, spec.namespace)).copy()
            others[c] &= int(count[c] > 1)
            if others.any():
                found[c][wish.term.topology_key] += wish.weight * others
            for other in np.flatnonzero(others).tolist():
                found[other][wish.term.topology_key][c] += wish.weight
    kept = {c: {key: w for key, w in by_key.items() if w.any()} for c, by_key in found.items()}
    return {c: by_key for c, by_key in kept.items() if by_key}


class _Columns:
    """The rules between pods that come out, and what they share: one array per topology key."""

    def __init__(self, rules: RuleIndex, specs: list[PodSpec], count: IntArray, rows: IntArray, meant: _Meant) -> None:
        self.rules = rules
        self.specs = specs
        self.count = count
        self.rows = rows
        self.meant = meant
        self.near: list[Nearness] = []
        self._places: dict[str, tuple[IntArray, int]] = {}

    def _place(self, key: str) -> tuple[IntArray, int]:
        """``(N,)`` place of each node by a topology key, -1 without the key, and how many there are."""
        if key not in self._places:
            values, place = np.unique(self.rules.places(key)[self.rows], return_inverse=True)
            has_none = int(values[0] < 0)
            self._places[key] = np.asarray(place - has_none, np.int64), max(len(values) - has_none, 1)
        return self._places[key]

    def of_class(self, c: int, pairs: dict[str, IntArray], feasible: BoolArray) -> IntArray:
        """``(rows,)`` what a pod of class ``c`` has for a node by itself, in parts; its rules about others are added."""
        rules, spec = self.rules, self.specs[c]
        fixed = PARTS * node_points(rules, spec, feasible)
        raw = inter_pod_raw(rules, spec)
        alone = 0
        low, high = int(raw[feasible].min()), int(raw[feasible].max())
        others = self.count - (np.arange(len(self.count)) == c)
        span = high - low + sum(int(np.abs(weight) @ others) for weight in pairs.values())
        most = INTER_POD_WEIGHT * MAX_SCORE * PARTS
        if pairs:
            fixed += most * (raw - low) // span
            for key, weight in pairs.items():
                place, number = self._place(key)
                gains = np.sign(weight) * (most * np.abs(weight) // span)
                self.near.append(Nearness(c, gains, place, place, number))
                alone += int(np.maximum(-gains, 0) @ others)
        elif high > low:
            fixed += INTER_POD_WEIGHT * PARTS * (float(MAX_SCORE) * ((raw - low) / float(high - low))).astype(np.int64)
        spread, spread_alone = self._spread(c, feasible, others)
        fixed = np.where(feasible, fixed + spread, 0)
        return np.where(feasible, fixed - fixed[feasible].min() + alone + spread_alone, 0)

    def _spread(self, c: int, feasible: BoolArray, others: IntArray) -> tuple[IntArray, IntArray]:
        """``(rows,)`` parts for ``ScheduleAnyway`` constraints by what runs, and for there being nobody of the batch."""
        rules, spec = self.rules, self.specs[c]
        nothing = np.zeros(len(feasible), np.int64)
        constraints = _soft_spread(spec)
        keys = [constraint.topology_key for constraint in constraints]
        scored = feasible.copy()
        for key in keys:
            scored &= rules.has_key(key)
        if not constraints or not scored.any():
            return nothing, nothing
        raw = nothing.copy()
        counting: list[tuple[Spread, IntArray]] = []
        for constraint in constraints:
            weight = round(LOG_UNIT * spread_weight(rules, constraint, scored))
            raw += weight * spread_counts(rules, spec, constraint, keys)
            match = Match((spec.namespace,), None, constraint.selector)
            counts = self.meant(match)
            counting.append((constraint, weight * counts if constraint.selector else 0 * counts))
        low, high = int(raw[scored].min()), int(raw[scored].max())
        span = high - low + sum(int(weight @ others) for _, weight in counting)
        if span == 0:
            return nothing, nothing
        most = SPREAD_WEIGHT * MAX_SCORE * PARTS
        alone = 0
        for constraint, weights in counting:
            place, number = self._place(constraint.topology_key)
            losses = most * weights // span
            if not losses.any():
                continue
            counted = rules.has_key(constraint.topology_key)
            if constraint.topology_key != HOSTNAME:
                counted = rules.spread_nodes(spec, constraint, keys)
            seat, look = (np.where(mask[self.rows], place, -1) for mask in (scored, counted))
            self.near.append(Nearness(c, -losses, seat, seat if np.array_equal(seat, look) else look, number))
            alone += int(losses @ others)
        return np.where(scored, most * (high - raw) // span, 0), np.where(scored, alone, 0)
