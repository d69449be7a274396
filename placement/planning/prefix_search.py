"""The rival: what Karpenter's multi-node consolidation does, delete-only.

Sort the nodes by pods, and search for the longest prefix whose pods fit elsewhere. Karpenter does not look at prices
when it sorts; ``per_usd`` does, and is the stronger rival.
"""

from __future__ import annotations

import numpy as np

from placement.planning.fleet import Emptied, Fleet
from placement.resources import BoolArray, IntArray

PREFIX_CANDIDATES = 100
PREFIX_ROUNDS = 10
LEAST_USD = 1e-9


def prefix_search(fleet: Fleet, *, max_moves: int | None = None, per_usd: bool = False) -> Emptied:
    """Karpenter's multi-node consolidation, delete-only, repeated up to ten times within one move budget.

    Per round: candidates by pod count (``per_usd``: by pods per USD), the first hundred; binary search for the longest
    prefix whose pods fit on all other nodes, first-fit decreasing.
    """
    worth = np.maximum(fleet.usd_per_hour, LEAST_USD) if per_usd else np.ones(fleet.free.shape[1])
    budget = int(fleet.pods.sum()) if max_moves is None else max_moves
    deleted = np.zeros(fleet.free.shape[1], np.bool_)
    arrivals = np.zeros_like(fleet.count)
    for _ in range(PREFIX_ROUNDS):
        count = fleet.count + arrivals
        order = np.argsort(np.where(deleted | ~fleet.deletable, np.inf, count.sum(axis=0) / worth), kind="stable")
        candidates = [int(n) for n in order[:PREFIX_CANDIDATES] if fleet.deletable[n] and not deleted[n]]
        left = budget - int(fleet.pods[deleted].sum())
        found = _longest_prefix(fleet, count, deleted, arrivals, candidates, left)
        if found is None:
            break
        prefix, moved = found
        deleted[prefix] = True
        arrivals[:, prefix] = 0
        arrivals = arrivals + moved
    return Emptied.of(fleet, deleted, arrivals)


def _longest_prefix(
    fleet: Fleet, count: IntArray, deleted: BoolArray, arrivals: IntArray, candidates: list[int], budget: int
) -> tuple[list[int], IntArray] | None:
    low, high = 0, len(candidates)
    best: tuple[list[int], IntArray] | None = None
    while low < high:
        middle = (low + high + 1) // 2
        prefix = candidates[:middle]
        moved = None
        if int(fleet.pods[prefix].sum()) <= budget:
            moved = _first_fit(fleet, count[:, prefix].sum(axis=1), deleted, arrivals, prefix)
        if moved is None:
            high = middle - 1
        else:
            low, best = middle, (prefix, moved)
    return best


def _first_fit(
    fleet: Fleet, moved: IntArray, deleted: BoolArray, arrivals: IntArray, prefix: list[int]
) -> IntArray | None:
    """``(C, N)`` where pods go, largest class first, first node that fits; None when one fits nowhere."""
    left = fleet.free - fleet.request @ arrivals
    stays = ~deleted
    stays[prefix] = False
    total = np.maximum(fleet.free.sum(axis=1), 1)
    size = (fleet.request / total[:, None]).sum(axis=0)
    placed = np.zeros_like(fleet.count)
    for c in np.argsort(-size, kind="stable"):
        need = fleet.request[:, c]
        waiting = int(moved[c])
        if not waiting:
            continue
        fitting = np.min([row // q for row, q in zip(left, need, strict=True) if q > 0], axis=0)
        room = np.where(fleet.allowed[c] & stays, np.maximum(fitting, 0), 0)
        take = np.minimum(room, np.maximum(waiting - (np.cumsum(room) - room), 0))
        if take.sum() < waiting:
            return None
        placed[c] = take
        left = left - np.outer(need, take)
    return placed
