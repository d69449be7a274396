"""The cheapest fleet for a few pods, proved: a dynamic program over which pods are left.

Node after node takes the largest pod that is left and others beside it, as many as fit. The least that has been spent
where so many pods of each class are left is known once all fuller states have been looked at. States from which no
fleet can be cheaper than one at hand are left out, by prices at which no filling is worth more than its node. Limits on
shapes are not looked at.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from placement.planning.patterns import CHEAPER, left_of, look_at_states
from placement.planning.plans import Deadline
from placement.resources import BoolArray, FloatArray, IntArray

MOST_STATES = 2_000_000
"""Ways for pods to be left, up to which they are looked at; twenty pods of twenty classes have a million."""
MOST_FILLINGS = 200_000
"""Of one node in one state: with more, nothing is proved."""
SLICE, VISIT_S = 1_000_000, 1e-7
"""Search nodes between two looks at the clock, and what each counts for on a clock of work; measured, and rough."""


@dataclass(frozen=True)
class Few:
    """Pods and shapes as columns: ``request`` ``(R, C)``, ``count`` ``(C,)``, ``allowed`` ``(C, S)``, ``capacity`` ``(S, R)``,
    ``cost`` ``(S,)`` USD per hour; ``price`` ``(C,)``: no filling of a node is worth more than its cost."""

    request: IntArray
    count: IntArray
    allowed: BoolArray
    capacity: IntArray
    cost: FloatArray
    price: FloatArray


def cheapest(few: Few, cost: float, deadline: Deadline) -> tuple[list[tuple[int, IntArray]] | None, bool]:
    """A fleet cheaper than ``cost``, shape and pods ``(C,)`` node by node, None where none was found; whether none is cheaper
    still (than what was found, or than ``cost``)."""
    order = np.argsort((few.request / np.maximum(few.capacity.max(axis=0), 1)[:, None]).max(axis=0), kind="stable")
    columns = few.price[order], np.array(few.request[:, order], order="C"), few.count[order]
    shapes = np.array(few.allowed[order], order="C"), np.array(few.capacity, order="C"), few.cost
    full = int(np.prod(few.count + 1)) - 1
    spent, came, by = np.full(full + 1, np.inf), np.zeros(full + 1, np.int64), np.zeros(full + 1, np.int64)
    found = np.empty((MOST_FILLINGS, len(order)), np.int64)
    spent[full], state, best = 0.0, full, cost
    while state > 0:
        if deadline.is_over:
            return None, False
        state, best, visits = look_at_states(*columns, *shapes, best, state, SLICE, spent, came, by, found)
        deadline.spend(VISIT_S * visits)
        if state < 0:
            return None, False
    if not spent[0] < cost * (1 - CHEAPER):
        return None, True
    nodes, state = list[tuple[int, IntArray]](), 0
    while state < full:
        before = int(came[state])
        counts = np.zeros(len(order), np.int64)
        counts[order] = left_of(before, few.count[order]) - left_of(state, few.count[order])
        nodes.append((int(by[state]), counts))
        state = before
    return nodes, True
