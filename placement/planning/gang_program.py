"""Rescues of small clusters, exactly: an integer program in which a gang is one decision.

The search of :mod:`placement.planning.rescue` knows pods, one by one; where the important pods of a gang bring others along, or
a gang gives way for somebody, it can only be led there, and of small clusters it proves little. Here the pods of a class that
have a place on a node are one integer, and of each gang that waits, or that may give way, all have a place or none: a binary.
Stages are the tiers, the highest first, each at the counts of those above; last, as many pods as possible stay where they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from placement.planning.plans import ROUNDING, Deadline
from placement.planning.repair import Packing
from placement.planning.solver import INFINITY, Answer, Limits, Model, Status, solve_integer
from placement.resources import IntArray

MOST_PAIRS = 2_000
"""(class, node) pairs up to which the program is made; beyond, a search finds more in the same time."""


@dataclass(frozen=True)
class Whole:
    """``node_of`` ``(P,)``; ``is_proved``: no placement has lexicographically better counts, gangs whole; ``fewest`` running
    pods, as far as proved, are displaced by any placement with these counts."""

    node_of: IntArray
    is_proved: bool
    fewest: int = 0


def is_small_enough(packing: Packing) -> bool:
    """Whether a program is made for it."""
    return packing.allowed.size <= MOST_PAIRS


@dataclass(frozen=True)
class Shared:
    """A disruption budget of gangs: at most ``allowed`` pods go, of which each gang has so many (``pods``)."""

    pods: Mapping[int, int]
    allowed: int


def solve_whole(
    packing: Packing,
    gangs: IntArray,
    may_go: Mapping[int, bool],
    shared: Sequence[Shared],
    deadline: Deadline,
    seed: int,
) -> Whole | None:
    """The best placement in which gangs are whole; None where none was found in time.

    ``gangs`` ``(P,)`` has the gang of each pod, -1 for none. Pods of a gang that run must keep a place, all or, where
    ``may_go`` says so of the gang, none, within budgets that are ``shared``; those that wait get one, all or none.
    """
    program = _Program(packing, gangs, may_go, shared)
    counts: list[int] = []
    x, is_proved = None, True
    for stage in range(len(packing.tiers) + 1):
        if deadline.is_over:
            return None if x is None else Whole(program.node_of(x), False)
        limits = Limits(max(deadline.left_s, 1e-6), seed, work=deadline.work, stop=deadline.cancelled)
        answer = solve_integer(program.model(stage, counts), limits)
        if not answer.has_solution:
            return None if x is None else Whole(program.node_of(x), False)
        x = np.rint(answer.x).astype(np.int64)
        is_proved = is_proved and (answer.status == Status.OPTIMAL or stage == len(packing.tiers))
        counts.append(program.count(x, stage))
    assert x is not None, "there is a stage at least"
    return Whole(program.node_of(x), is_proved, program.fewest(answer))


def bring_home(packing: Packing, node_of: IntArray, deadline: Deadline, seed: int) -> Whole:
    """A placement with no fewer pods of any tier than ``node_of`` ``(P,)`` that displaces as few as found, each pod by itself."""
    program = _Program(packing, np.full(len(node_of), -1, np.int64), {}, ())
    model = program.model(len(packing.tiers), list(packing.counts(node_of)))
    limits = Limits(max(deadline.left_s, 1e-6), seed, work=deadline.work, stop=deadline.cancelled)
    answer = solve_integer(model, limits, hint=program.hint(node_of))
    found = program.node_of(np.rint(answer.x).astype(np.int64)) if answer.has_solution else node_of
    return Whole(found, False, program.fewest(answer))


class _Program:
    """Columns: pods of each allowed (class, node) pair, of these who stay, and a binary for each gang."""

    def __init__(self, packing: Packing, gangs: IntArray, may_go: Mapping[int, bool], shared: Sequence[Shared]) -> None:
        self.packing, self.shared = packing, shared
        self.classes, self.nodes = np.nonzero(packing.allowed)
        self.at_home = packing.per_node(packing.node_of)[self.classes, self.nodes]
        num_classes = len(packing.allowed)
        self.size = np.bincount(packing.class_of, minlength=num_classes)
        self.must = np.bincount(packing.class_of[(packing.node_of >= 0) & ~packing.evictable], minlength=num_classes)
        self.gang = np.full(num_classes, -1, np.int64)
        self.gang[packing.class_of] = gangs
        self.runs = np.zeros(num_classes, np.bool_)
        self.runs[packing.class_of] = packing.node_of >= 0
        self.may_go = may_go

    def model(self, stage: int, counts: list[int]) -> Model:
        """The program of a stage, with at least ``counts`` in the tiers above; the last one is of who stays."""
        packing, model = self.packing, Model()
        is_last = stage == len(packing.tiers)
        tier_of = packing.tier[self.classes]
        wanted = np.zeros(len(self.classes)) if is_last else (tier_of == packing.tiers[stage]).astype(np.float64)
        x = model.add_columns(self.size[self.classes], objective=wanted)
        for n in range(packing.num_nodes):
            here = np.flatnonzero(self.nodes == n)
            for r in np.flatnonzero(packing.request[:, self.classes[here]].any(axis=1)):
                need, room = packing.request[r, self.classes[here]], int(packing.free[r, n])
                unit = int(np.gcd.reduce(need)) or 1
                model.add_row(x[here], need // unit, upper=room // unit)
        for t, count in zip(packing.tiers, counts, strict=False):
            model.add_row(x[tier_of == t], 1, lower=count)
        wholes: dict[tuple[int, bool], IntArray] = {}
        for c, size in enumerate(self.size.tolist()):
            columns, gang, runs = x[self.classes == c], int(self.gang[c]), bool(self.runs[c])
            if gang < 0 or (runs and not self.may_go.get(gang, False)):
                must = size if gang >= 0 else int(self.must[c])
                model.add_row(columns, 1, lower=must, upper=size)
                continue
            if (gang, runs) not in wholes:
                wholes[gang, runs] = model.add_columns(np.ones(1))
            whole = wholes[gang, runs]
            values = np.append(np.ones(len(columns), np.int64), -size)
            model.add_row(np.append(columns, whole), values, lower=0, upper=0)
        for budget in self.shared:
            stay = [(wholes[gang, True], pods) for gang, pods in budget.pods.items() if (gang, True) in wholes]
            if stay:
                columns, pods = (np.array(part).ravel() for part in zip(*stay, strict=True))
                model.add_row(columns, pods, lower=int(pods.sum()) - budget.allowed, upper=INFINITY)
        if is_last:
            stays = np.flatnonzero(self.at_home)
            s = model.add_columns(self.at_home[stays], objective=1.0)
            for column, pair in zip(s.tolist(), x[stays].tolist(), strict=True):
                model.add_row(np.array([pair, column]), np.array([1, -1]), lower=0, upper=INFINITY)
        return model

    def count(self, x: IntArray, stage: int) -> int:
        """Pods with a place in the tier of a stage."""
        if stage == len(self.packing.tiers):
            return 0
        return int(x[: len(self.classes)][self.packing.tier[self.classes] == self.packing.tiers[stage]].sum())

    def fewest(self, answer: Answer) -> int:
        """Running pods that are displaced at least, by the bound of the last stage."""
        running = int((self.packing.node_of >= 0).sum())
        return running - int(np.floor(min(answer.bound, running) + ROUNDING))

    def hint(self, node_of: IntArray) -> IntArray:
        """A placement ``(P,)`` in which gangs play no part as a solution of the last stage."""
        pods = self.packing.per_node(node_of)[self.classes, self.nodes]
        return np.concatenate([pods, np.minimum(pods, self.at_home)[self.at_home > 0]])

    def node_of(self, x: IntArray) -> IntArray:
        """``(P,)`` a place for each pod: who must not go first, and at home where they can."""
        packing = self.packing
        places = np.zeros(packing.allowed.shape, np.int64)
        places[self.classes, self.nodes] = x[: len(self.classes)]
        result = np.full(len(packing.class_of), -1, np.int64)
        order = np.argsort(packing.evictable, kind="stable")
        for is_home in (True, False):
            for p in order[result[order] < 0].tolist():
                c, home = packing.class_of[p], packing.node_of[p]
                n = home if is_home else int(np.argmax(places[c]))
                if n >= 0 and places[c, n] > 0:
                    places[c, n] -= 1
                    result[p] = n
        return result
