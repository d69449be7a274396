"""Displaced pods: where those of nodes that go arrive on nodes that stay, and which find no place.

Node by node with the filling that is worth most, dearer what was short before, and the last pods by ejection.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from placement.planning.fleet import FILLING_S, Consolidated, Emptied, Fleet
from placement.planning.plans import Deadline
from placement.planning.repacking import scarcity_of
from placement.planning.repair import Packing, Search
from placement.planning.solver import Answer
from placement.resources import BoolArray, IntArray

FILL_ROUNDS = 12
FILL_EXPONENT, FILL_PULL, FILL_NOISE = 1.05, 0.1, 0.3
"""Large pods are worth a little more than their size; what was short becomes dearer; the order of nodes varies."""
SEARCH_SHARE, SEARCH_ROUNDS = 0.1, 5
SEARCH_ROUND_S = 5e-4
"""What a round of the search counts for on a clock of work."""
SEARCH_PODS = 40
"""More pods than this without a place are not worth a search."""


def packed(
    fleet: Fleet, answer: Answer, deadline: Deadline, seed: int, *, give_back: bool = True
) -> tuple[Emptied, bool]:
    """The chosen nodes as a plan, and whether all of them could go.

    When their pods do not all fit, the cheapest nodes for what is left over come back, until they do.
    """
    if not answer.has_solution:
        return Emptied.nothing(fleet), False
    deleted = answer.x > 0.5
    whole = True
    while deleted.any():
        arrivals, waiting = pack(fleet, deleted, deadline, seed)
        if not waiting.any():
            return Emptied.of(fleet, deleted, arrivals), whole
        whole = False
        if not give_back:
            break
        deleted = _bring_back(fleet, deleted, waiting)
    return Emptied.nothing(fleet), False


def kept_off(fleet: Fleet, plan: Consolidated, unwanted: BoolArray, deadline: Deadline, seed: int) -> Consolidated:
    """The same nodes go; fewer of their pods arrive where that is allowed, but ``unwanted`` ``(C, N)``, as far as is found.

    Everywhere else is filled first, and the unwanted places get who is left: a search would use up its time in vain where
    there is no other place.
    """
    if not plan.arrivals[unwanted].any():
        return plan
    arrivals, left = fill(replace(fleet, allowed=fleet.allowed & ~unwanted), plan.deleted, deadline, seed)
    if left.any():
        count = np.zeros_like(fleet.count)
        count[:, int(np.argmax(plan.deleted))] = left
        beside = replace(fleet, count=count, free=fleet.free - fleet.request @ arrivals)
        more, left = pack(beside, plan.deleted, deadline, seed)
        arrivals = arrivals + more
    is_better = not left.any() and arrivals[unwanted].sum() < plan.arrivals[unwanted].sum()
    return replace(plan, arrivals=arrivals) if is_better else plan


def _bring_back(fleet: Fleet, deleted: BoolArray, waiting: IntArray) -> BoolArray:
    """Fewer nodes deleted: those stay that offer the most room for the waiting classes per USD."""
    need = fleet.request @ waiting
    room = fleet.free + fleet.load
    useful = deleted & fleet.allowed[waiting > 0].any(axis=0)
    worth = (room / np.maximum(need, 1)[:, None]).min(axis=0) / np.maximum(fleet.usd_per_hour, 1e-9)
    order = np.argsort(np.where(useful, -worth, 1.0), kind="stable")
    got = np.cumsum(fleet.free[:, order], axis=1)
    enough = int(np.argmax((got >= need[:, None]).all(axis=0))) if (got[:, -1] >= need).all() else len(order) - 1
    result = deleted.copy()
    result[order[: enough + 1]] = False
    return result


def pack(fleet: Fleet, deleted: BoolArray, deadline: Deadline, seed: int) -> tuple[IntArray, IntArray]:
    """``(C, N)`` where the pods of ``deleted`` nodes arrive on those that stay, and ``(C,)`` those that do not fit."""
    arrivals, waiting = fill(fleet, deleted, deadline, seed)
    if not 0 < waiting.sum() <= SEARCH_PODS:
        return arrivals, waiting
    class_of = np.repeat(np.arange(len(waiting)), fleet.count[:, deleted].sum(axis=1))
    places = np.append(np.arange(len(deleted)), -1)
    node_of = np.concatenate([np.repeat(places, np.append(arrivals[c], waiting[c])) for c in range(len(waiting))])
    free, allowed = np.where(deleted, 0, fleet.free), fleet.allowed & ~deleted
    tier, movable = np.zeros(len(waiting), np.int64), np.ones(len(node_of), np.bool_)
    packing = Packing(fleet.request, class_of, tier, free, allowed, node_of, movable)
    search, none = Search(packing, packing.node_of, seed=seed), np.zeros(1, np.int64)
    part = deadline.part(SEARCH_SHARE)
    while not part.is_over and not search.run(none, rounds=SEARCH_ROUNDS):
        part.spend(SEARCH_ROUNDS * SEARCH_ROUND_S)
    arrivals = packing.per_node(search.best)
    return arrivals, np.asarray(fleet.count[:, deleted].sum(axis=1) - arrivals.sum(axis=1), np.int64)


def fill(fleet: Fleet, deleted: BoolArray, deadline: Deadline, seed: int) -> tuple[IntArray, IntArray]:
    """Node after node takes the filling that is worth most to it; the best of some rounds.

    Nodes that fewest classes accept come first, then small ones. A class is worth what it takes of scarce room; what a
    round could not place is dearer in the next (sequential value correction, Mukhacheva et al. 2000).
    """
    random = np.random.default_rng(seed)
    stay = np.flatnonzero(~deleted)
    moved = np.asarray(fleet.count[:, deleted].sum(axis=1), np.int64)
    scarcity = scarcity_of(fleet.request, moved, fleet.free[:, stay])
    size = scarcity @ fleet.request
    value = size**FILL_EXPONENT
    accepts, offers = fleet.allowed[:, stay].sum(axis=0), scarcity @ fleet.free[:, stay]
    best, best_waiting, noise = np.zeros_like(fleet.count), moved, np.zeros(len(stay))
    for attempt in range(FILL_ROUNDS):
        arrivals, waiting = np.zeros_like(fleet.count), moved.copy()
        for n in stay[np.lexsort((offers * np.exp(noise), accepts))]:
            if deadline.is_late if attempt else deadline.cancelled():
                break
            filling = fleet.filling(n, value, waiting)
            deadline.spend(FILLING_S)
            arrivals[:, n] = filling.counts
            waiting -= filling.counts
            if not waiting.any():
                return arrivals, waiting
        if size @ waiting < size @ best_waiting:
            best, best_waiting = arrivals, waiting
        if deadline.is_over:
            break
        value = value * (1 + FILL_PULL * np.minimum(1.0, 5 * waiting / np.maximum(moved, 1)))
        noise = random.normal(0, FILL_NOISE, len(stay))
    return best, best_waiting
