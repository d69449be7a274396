"""The best filling of one node: an exact multi-dimensional bounded knapsack, the pricing step of column generation.

Every bound of this package that beats counting comes from patterns, that is ways to fill one node: it is used to
prove a rescue optimal (:mod:`placement.planning.rescue`) and to choose what to buy
(:mod:`placement.planning.purchase`). The search is a depth-first branch and bound; its bound is the fractional
knapsack over one surrogate resource, a convex combination of all resources whose multipliers are fitted first (Glover
1968), so it is a true upper bound even when the search is cut short.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from placement.machine_code import compiled
from placement.resources import FloatArray, IntArray


@dataclass(frozen=True)
class Pattern:
    """``counts`` ``(C,)`` int64 fills one node with the given ``value``; no filling is worth more than ``upper``."""

    counts: IntArray
    value: float
    upper: float


@compiled
def _fractional(
    value: FloatArray, weight: FloatArray, count: IntArray, order: IntArray, start: int, room: float
) -> float:
    """Upper bound on the value of classes ``order[start:]`` (by falling value per weight) in ``room``."""
    total = 0.0
    for i in range(start, order.shape[0]):
        c = order[i]
        need = weight[c] * count[c]
        if need <= room:
            total += value[c] * count[c]
            room -= need
        else:
            return float(total + value[c] * room / weight[c])
    return total


@compiled
def _slope(
    value: FloatArray, share: FloatArray, count: IntArray, u: FloatArray, weight: FloatArray, slope: FloatArray
) -> float:
    """Fractional bound at multipliers ``u``; its subgradient by ``u`` into ``slope``, the surrogate into ``weight``."""
    num_resources, num_classes = share.shape
    for c in range(num_classes):
        weight[c] = 1e-12
        for r in range(num_resources):
            weight[c] += u[r] * share[r, c]
    order = np.argsort(-value / weight)
    room = 1.0
    bound = 0.0
    ratio = 0.0
    slope[:] = 1.0
    for i in range(num_classes):
        c = order[i]
        taken = float(min(float(count[c]), room / weight[c]))
        bound += taken * value[c]
        room -= taken * weight[c]
        for r in range(num_resources):
            slope[r] -= taken * share[r, c]
        if room <= 1e-15:
            ratio = value[c] / weight[c]
            break
    for r in range(num_resources):
        slope[r] *= ratio
    return bound


@compiled
def _multipliers(value: FloatArray, share: FloatArray, count: IntArray, steps: int) -> FloatArray:
    """``(R,)`` multipliers, summing to one, with a small fractional bound at the root.

    The bound is convex in the multipliers: bisection for two resources, the ellipsoid method (Shor 1977) for more,
    over the first R − 1 multipliers; the last is what is left to one.
    """
    num_resources, num_classes = share.shape
    size = num_resources - 1
    u = np.full(num_resources, 1.0 / num_resources)
    best = u.copy()
    best_bound = 1e300
    weight = np.empty(num_classes, np.float64)
    slope = np.empty(num_resources, np.float64)
    if size == 0:
        return best
    low, high = 0.0, 1.0
    shape = np.eye(size)
    grow, shrink = size * size / max(size * size - 1.0, 1.0), 2.0 / (size + 1)
    cut, step = np.empty(size, np.float64), np.empty(size, np.float64)
    for _ in range(steps):
        outside = -1
        for r in range(num_resources):
            if u[r] < 0.0:
                outside = r
        if outside < 0:
            bound = _slope(value, share, count, u, weight, slope)
            if bound < best_bound:
                best_bound = bound
                best[:] = u
            for r in range(size):
                cut[r] = slope[r] - slope[size]
        else:
            for r in range(size):
                cut[r] = 1.0 if outside == size else (-1.0 if r == outside else 0.0)
        if size == 1:
            if cut[0] > 0.0:
                high = u[0]
            else:
                low = u[0]
            u[0] = (low + high) / 2
            u[1] = 1.0 - u[0]
            continue
        square = 0.0
        for i in range(size):
            step[i] = 0.0
            for j in range(size):
                step[i] += shape[i, j] * cut[j]
            square += cut[i] * step[i]
        norm = math.sqrt(max(square, 0.0))
        if norm < 1e-12:
            break
        for r in range(size):
            step[r] /= norm
            u[r] -= step[r] / (size + 1)
        u[size] = 1.0 - u[:size].sum()
        for i in range(size):
            for j in range(size):
                shape[i, j] = grow * (shape[i, j] - shrink * (step[i] * step[j]))
    return best


@compiled
def _top_up(
    value: FloatArray, share: FloatArray, left: FloatArray, room: IntArray, taken: IntArray, skip: int
) -> float:
    """Add pods to ``taken``, each time the one worth most for its share of what is left; returns the value added."""
    num_resources, num_classes = share.shape
    added = 0.0
    while True:
        best = -1
        best_ratio = 0.0
        for c in range(num_classes):
            if c == skip or taken[c] >= room[c]:
                continue
            need = 1e-12
            fits = True
            for r in range(num_resources):
                if share[r, c] > left[r]:
                    fits = False
                    break
                if share[r, c] > 0.0:
                    need += share[r, c] / left[r]
            if fits and value[c] / need > best_ratio:
                best_ratio = value[c] / need
                best = c
        if best < 0:
            return added
        taken[best] += 1
        added += value[best]
        for r in range(num_resources):
            left[r] -= share[r, best]


@compiled
def _greedy(value: FloatArray, share: FloatArray, count: IntArray, best: IntArray) -> float:
    """A good filling into ``best``: greedy, then taking out pods of one class and topping up while that helps."""
    num_resources, num_classes = share.shape
    left = np.full(num_resources, 1.0 + 1e-12)
    best[:] = 0
    top = _top_up(value, share, left, count, best, -1)
    improved = True
    while improved:
        improved = False
        for c in range(num_classes):
            for out in range(1, min(best[c], 4) + 1):
                trial = best.copy()
                trial[c] -= out
                room = left.copy()
                for r in range(num_resources):
                    room[r] += out * share[r, c]
                total = top - out * value[c] + _top_up(value, share, room, count, trial, c)
                if total > top + 1e-12:
                    total += _top_up(value, share, room, count, trial, -1)
                    top = total
                    best[:] = trial
                    left[:] = room
                    improved = True
                    break
    return top


@compiled
def _fill(
    value: FloatArray,
    request: IntArray,
    count: IntArray,
    capacity: IntArray,
    weight: FloatArray,
    order: IntArray,
    top: float,
    limit: int,
    best: IntArray,
) -> tuple[float, float]:
    """Best pattern into ``best``, which holds one worth ``top``; its value and a valid upper bound."""
    num_resources = request.shape[0]
    depth = order.shape[0]
    room = capacity.astype(np.float64)
    surrogate = np.zeros(depth + 1, np.float64)
    surrogate[0] = 1.0
    taken = np.zeros(depth, np.int64)
    worth = np.zeros(depth + 1, np.float64)
    upper = _fractional(value, weight, count, order, 0, 1.0)
    k = 0
    nodes = 0
    down = True
    while k >= 0:
        if down:
            nodes += 1
            if nodes > limit:
                return top, max(top, upper)
            if worth[k] > top + 1e-9:
                top = worth[k]
                for i in range(depth):
                    best[order[i]] = taken[i] if i < k else 0
            if k == depth or worth[k] + _fractional(value, weight, count, order, k, surrogate[k]) <= top + 1e-9:
                k -= 1
                down = False
                continue
            c = order[k]
            most = float(count[c])
            for r in range(num_resources):
                if request[r, c] > 0:
                    most = min(most, np.floor(room[r] / request[r, c]))
            taken[k] = int(most)
        elif taken[k] > 0:
            c = order[k]
            for r in range(num_resources):
                room[r] += taken[k] * request[r, c]
            taken[k] -= 1
        else:
            k -= 1
            continue
        c = order[k]
        for r in range(num_resources):
            room[r] -= taken[k] * request[r, c]
        worth[k + 1] = worth[k] + taken[k] * value[c]
        surrogate[k + 1] = surrogate[k] - taken[k] * weight[c]
        k += 1
        down = True
    return top, top


def best_pattern(
    value: FloatArray,
    request: IntArray,
    count: IntArray,
    capacity: IntArray,
    *,
    limit: int = 200_000,
) -> Pattern:
    """Most valuable filling of one node.

    Parameters
    ----------
    value : ``(C,)`` float64; classes worth nothing are left out.
    request : ``(R, C)`` int64. count : ``(C,)`` int64 pods per class. capacity : ``(R,)`` int64.
    limit : search nodes after which the best so far is returned with an honest ``upper``.
    """
    counts = np.zeros(len(value), np.int64)
    useful = np.flatnonzero((value > 1e-12) & (count > 0) & (request <= capacity[:, None]).all(axis=0))
    if len(useful) == 0:
        return Pattern(counts, 0.0, 0.0)
    v, q, n = value[useful], np.ascontiguousarray(request[:, useful]), count[useful]
    capacity = np.array(capacity, np.int64)  # one memory layout, so that the kernels are compiled once
    share = np.ascontiguousarray(q / np.maximum(capacity, 1)[:, None])
    u = _multipliers(v, share, n, 40 * (len(share) - 1))
    weight = u @ share + 1e-12
    order = np.argsort(-v / weight, kind="stable").astype(np.int64)
    best = np.zeros(len(useful), np.int64)
    _greedy(v, share, n, best)
    if (q @ best > capacity).any():  # shares are rounded
        best[:] = 0
    top, upper = _fill(v, q, n, capacity, weight, order, float(v @ best), limit, best)
    counts[useful] = best
    return Pattern(counts, float(top), float(upper))
