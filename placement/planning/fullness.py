"""Proof that not everything fits, where nodes would have to be filled to the last byte.

When pods ask for just as much as all nodes offer, a linear program sees no obstacle, and yet no node can be filled
without waste: sizes are integers, and hardly any of their sums hits the mark. Whoever places *all* pods wastes no
more on any node than is left over in total. :func:`all_fit` lists every filling of a node that wastes no more, by
meeting in the middle (Horowitz & Sahni 1974), and asks whether the pods can be dealt into such fillings.
"""

from __future__ import annotations

import numpy as np

from placement.machine_code import compiled
from placement.planning.solver import Limits, Model, Status, solve_integer
from placement.resources import FloatArray, IntArray

MAX_PARTS = 2_500_000
"""Half fillings to list at most; more, and the question stays open."""
MAX_PODS = 14
"""Pods in half a filling, at most."""
MAX_CLASSES = 127
MAX_FILLINGS = 5_000
BUCKETS = 1 << 20
SUM_ROUNDING = 1e-9
"""Lower halves may exceed one half by so much: sums of shares are rounded."""
TINY = 1e-5
"""Largest leftover, as a share of a node, at which exact fillings are rare enough to be listed."""
WORK_LIMIT = 0.1
"""Deterministic seconds for dealing pods into fillings."""


@compiled
def halves(
    request: IntArray, count: IntArray, share: FloatArray, room: IntArray, upper: bool, amount: IntArray, pods: IntArray
) -> int:
    """All upper or lower halves of fillings, classes in falling order of ``share``; how many, -1 when too many.

    An upper half is a multiset in that order whose share first exceeds one half with its last pod; a lower half has a
    share of less than one half. ``amount`` ``(M, R)`` gets their sums, ``pods`` ``(M, MAX_PODS)`` their classes, -1 at
    the end.
    """
    num_classes, num_resources = len(count), len(room)
    size = 0
    depth = 0
    stack = np.full(MAX_PODS, -1, np.int8)
    used = np.zeros(num_classes, np.int64)
    total = np.zeros((MAX_PODS + 1, num_resources), np.int64)
    whole = np.zeros(MAX_PODS + 1, np.float64)
    following = 0
    if not upper:
        pods[0] = -1
        amount[0] = 0
        size = 1
    while True:
        c = following
        if c >= num_classes:
            if depth == 0:
                return size
            depth -= 1
            c = stack[depth]
            stack[depth] = -1
            used[c] -= 1
            following = c + 1
            continue
        following = c + 1
        if used[c] >= count[c]:
            continue
        fits = True
        for r in range(num_resources):
            total[depth + 1, r] = total[depth, r] + request[r, c]
            if total[depth + 1, r] > room[r]:
                fits = False
                break
        whole[depth + 1] = whole[depth] + share[c]
        ends = whole[depth + 1] > 0.5
        if not fits or (not upper and whole[depth + 1] > 0.5 + SUM_ROUNDING):
            continue
        stack[depth] = c
        if ends or not upper:
            if size == len(amount):
                return -1
            amount[size] = total[depth + 1]
            pods[size] = stack
            size += 1
        if ends and upper:
            stack[depth] = -1
            continue
        if depth + 1 == MAX_PODS:
            return -1
        used[c] += 1
        depth += 1
        following = c


@compiled
def join(high: IntArray, low: IntArray, capacity: IntArray, waste: IntArray, r: int, pairs: IntArray) -> int:
    """Indices of an upper and a lower half that fill a node, into ``pairs``; how many, -1 when too many.

    Lower halves are put in buckets by their amount of resource ``r``, at most two of which hold what an upper half
    lacks.
    """
    num_resources = len(capacity)
    width = max(capacity[r] // BUCKETS, waste[r]) + 1
    num_buckets = capacity[r] // width + 2
    start = np.zeros(num_buckets + 1, np.int64)
    for j in range(len(low)):
        start[low[j, r] // width + 1] += 1
    for b in range(num_buckets):
        start[b + 1] += start[b]
    at = start.copy()
    member = np.empty(len(low), np.int64)
    for j in range(len(low)):
        b = low[j, r] // width
        member[at[b]] = j
        at[b] += 1
    size = 0
    for i in range(len(high)):
        most = capacity[r] - high[i, r]
        least = max(most - waste[r], 0)
        for k in range(start[least // width], start[most // width + 1]):
            j = member[k]
            good = True
            for s in range(num_resources):
                left = capacity[s] - high[i, s] - low[j, s]
                if left < 0 or left > waste[s]:
                    good = False
                    break
            if good:
                if size == len(pairs):
                    return -1
                pairs[size, 0] = i
                pairs[size, 1] = j
                size += 1
    return size


def fillings(request: IntArray, count: IntArray, capacity: IntArray, waste: IntArray) -> IntArray | None:
    """``(K, C)`` every filling of one node that wastes at most ``waste`` ``(R,)``; None when there are too many.

    Parameters
    ----------
    request : ``(R, C)`` int64. count : ``(C,)`` int64. capacity : ``(R,)`` int64, above 0.
    """
    if len(count) > MAX_CLASSES:
        return None
    share = (request / capacity[:, None]).mean(axis=0)
    order = np.argsort(-share, kind="stable")
    sizes = np.ascontiguousarray(request[:, order])
    parts = []
    for upper in (True, False):
        amount = np.empty((MAX_PARTS, len(capacity)), np.int64)
        pods = np.empty((MAX_PARTS, MAX_PODS), np.int8)
        found = halves(sizes, count[order], share[order], capacity, upper, amount, pods)
        if found < 0:
            return None
        parts.append((amount[:found], pods[:found]))
    (high, high_pods), (low, low_pods) = parts
    r = int(np.argmin(waste / capacity))
    pairs = np.empty((MAX_FILLINGS, 2), np.int64)
    size = join(high, low, capacity, waste, r, pairs)
    if size < 0:
        return None
    found = set()
    for i, j in pairs[:size]:
        classes = np.concatenate([high_pods[i], low_pods[j]])
        counts = np.bincount(order[classes[classes >= 0]], minlength=len(count))
        if (counts <= count).all():
            found.add(tuple(counts.tolist()))
    return np.array(sorted(found), np.int64).reshape(len(found), len(count))


def all_fit(request: IntArray, count: IntArray, capacity: IntArray, num_nodes: int) -> bool | None:
    """Whether all pods fit on ``num_nodes`` equal nodes; None when that stays open.

    Parameters
    ----------
    request : ``(R, C)`` int64. count : ``(C,)`` int64. capacity : ``(R,)`` int64 per node.
    """
    waste = num_nodes * capacity - request @ count
    if (waste < 0).any():
        return False
    lanes = request.any(axis=1)
    wasted = waste[lanes] / np.maximum(capacity[lanes], 1)
    if not lanes.any() or float(wasted.min()) > TINY or float(wasted.mean()) > 0.5 - SUM_ROUNDING:
        return None
    known = fillings(np.ascontiguousarray(request[lanes]), count, capacity[lanes], waste[lanes])
    if known is None:
        return None
    if (known.sum(axis=0)[count > 0] == 0).any():
        return False
    model = Model()
    nodes = model.add_columns(np.full(len(known), num_nodes))
    model.add_row(nodes, 1.0, lower=num_nodes, upper=num_nodes)
    for c in np.flatnonzero(count):
        uses = np.flatnonzero(known[:, c])
        model.add_row(nodes[uses], known[uses, c], lower=float(count[c]), upper=float(count[c]))
    status = solve_integer(model, Limits(10.0, work_limit=WORK_LIMIT)).status
    return {Status.INFEASIBLE: False, Status.OPTIMAL: True, Status.FEASIBLE: True}.get(status)
