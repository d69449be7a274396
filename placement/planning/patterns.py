"""The best filling of one node: an exact multi-dimensional bounded knapsack, the pricing step of column generation.

Every bound of this package that beats counting comes from patterns, that is ways to fill one node: it is used to
prove a rescue optimal (:mod:`placement.planning.rescue`) and to choose what to buy
(:mod:`placement.planning.purchase`). The search is a depth-first branch and bound; its bound is the fractional
knapsack over one surrogate resource, a convex combination of all resources whose multipliers are fitted first (Glover
1968), so it is a true upper bound even when the search is cut short.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from placement.machine_code import compiled
from placement.resources import BoolArray, FloatArray, IntArray

CHEAPER = 1e-9
"""Share of its cost by which a fleet has to be below another to count as cheaper."""
PIVOTS = 10
"""Of the simplex method, for each class and resource, at most: more would be going round in circles."""


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
def _multipliers(value: FloatArray, share: FloatArray, count: IntArray) -> FloatArray:
    """``(R,)`` multipliers, summing to one, with the smallest fractional bound at the root.

    They are the duals of the program over parts of pods, whose optimum is that bound: the simplex method, with limits on
    columns, from the empty node. Where it is cut short they are valid all the same.
    """
    num_resources, num_classes = share.shape
    size = num_classes + num_resources
    row, gain, most = np.zeros((num_resources, size)), np.zeros(size), np.full(size, np.inf)
    for c in range(num_classes):
        gain[c], most[c] = value[c], count[c]
    for r in range(num_resources):
        row[r, num_classes + r] = 1.0
        for c in range(num_classes):
            row[r, c] = share[r, c]
    amount, basis, is_full = np.ones(num_resources), np.arange(num_classes, size), np.zeros(size, np.bool_)
    least = 1e-9 * value.max()
    for _ in range(PIVOTS * size):
        entering, steepest = -1, least
        for j in range(size):
            if (-gain[j] if is_full[j] else gain[j]) > steepest:
                entering, steepest = j, abs(gain[j])
        if entering < 0:
            break
        sign = -1.0 if is_full[entering] else 1.0
        leaving, step = -1, most[entering]
        for r in range(num_resources):
            change = sign * row[r, entering]
            limit = np.inf
            if change > 1e-12:
                limit = amount[r] / change
            elif change < -1e-12:
                limit = (amount[r] - most[basis[r]]) / change
            if limit < step:
                leaving, step = r, max(limit, 0.0)
        for r in range(num_resources):
            amount[r] -= step * sign * row[r, entering]
        if leaving < 0:
            is_full[entering] = not is_full[entering]
            continue
        is_full[basis[leaving]] = sign * row[leaving, entering] < 0.0
        amount[leaving] = most[entering] - step if is_full[entering] else step
        basis[leaving], is_full[entering] = entering, False
        pivot = row[leaving, entering]
        for j in range(size):
            row[leaving, j] /= pivot
        for r in range(num_resources):
            factor = row[r, entering]
            if r != leaving and factor != 0.0:
                for j in range(size):
                    row[r, j] -= factor * row[leaving, j]
        factor = gain[entering]
        for j in range(size):
            gain[j] -= factor * row[leaving, j]
    u = np.maximum(0.0, -gain[num_classes:])
    total = u.sum()
    return u / total if total > 0.0 else np.full(num_resources, 1.0 / num_resources)


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
                    for i in range(len(best)):
                        best[i] = trial[i]
                    for r in range(num_resources):
                        left[r] = room[r]
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


@compiled
def _prepared(
    value: FloatArray, request: IntArray, count: IntArray, capacity: IntArray
) -> tuple[IntArray, FloatArray, IntArray, IntArray, FloatArray, FloatArray, IntArray]:
    """Classes that are worth something and fit; their value, request, count, share and weight, and the order to look in."""
    num_resources = len(capacity)
    useful = np.empty(len(value), np.int64)
    size = 0
    for c in range(len(value)):
        fits = value[c] > 1e-12 and count[c] > 0
        for r in range(num_resources):
            fits = fits and request[r, c] <= capacity[r]
        if fits:
            useful[size] = c
            size += 1
    useful = useful[:size]
    v, q, n = value[useful], np.empty((num_resources, size), np.int64), count[useful]
    share, weight = np.empty((num_resources, size), np.float64), np.full(size, 1e-12)
    for r in range(num_resources):
        for i in range(size):
            q[r, i] = request[r, useful[i]]
            share[r, i] = q[r, i] / max(capacity[r], 1)
    if size:
        u = _multipliers(v, share, n)
        for r in range(num_resources):
            for i in range(size):
                weight[i] += u[r] * share[r, i]
    return useful, v, q, n, share, weight, np.argsort(-v / weight, kind="mergesort")


@compiled
def _best(
    value: FloatArray, request: IntArray, count: IntArray, capacity: IntArray, limit: int, counts: IntArray
) -> tuple[float, float]:
    """The most valuable filling into ``counts``; its value, and what none exceeds."""
    counts[:] = 0
    useful, v, q, n, share, weight, order = _prepared(value, request, count, capacity)
    best = np.zeros(len(useful), np.int64)
    top = _greedy(v, share, n, best)
    for r in range(len(capacity)):
        taken = 0
        for i in range(len(useful)):
            taken += q[r, i] * best[i]
        if taken > capacity[r]:  # shares are rounded
            best[:] = 0
            top = 0.0
    top, upper = _fill(v, q, n, capacity, weight, order, top, limit, best)
    for i in range(len(useful)):
        counts[useful[i]] = best[i]
    return top, upper


@compiled
def _full(
    value: FloatArray,
    request: IntArray,
    count: IntArray,
    capacity: IntArray,
    weight: FloatArray,
    order: IntArray,
    least: float,
    limit: int,
    found: IntArray,
    has_first: bool,
) -> tuple[int, int]:
    """Full fillings worth ``least`` into the rows of ``found``; how many, -1 when too many, and what of ``limit`` is left.

    With ``has_first`` only those with a pod of the first class of ``order``; the others have to be in order all the same.
    """
    num_resources, depth = request.shape[0], order.shape[0]
    room = capacity.copy()
    surrogate, worth, taken = np.ones(depth + 1), np.zeros(depth + 1), np.zeros(depth, np.int64)
    surrogate[0] += 1e-9  # or a first class that fills the node leaves none to who weighs next to nothing
    k, size, down = 0, 0, True
    while k >= 0:
        if down:
            limit -= 1
            if limit < 0:
                return -1, 0
            is_bounded = k > 0 or not has_first
            if is_bounded and worth[k] + _fractional(value, weight, count, order, k, surrogate[k]) < least:
                k, down = k - 1, False
                continue
            if k == depth:
                is_full = True
                for i in range(depth):
                    fits = taken[i] < count[order[i]]
                    for r in range(num_resources):
                        fits = fits and request[r, order[i]] <= room[r]
                    is_full = is_full and not fits
                if is_full:
                    if size == len(found):
                        return -1, 0
                    found[size] = 0
                    for i in range(depth):
                        found[size, order[i]] = taken[i]
                    size += 1
                k, down = k - 1, False
                continue
            most = count[order[k]]
            for r in range(num_resources):
                if request[r, order[k]] > 0:
                    most = min(most, room[r] // request[r, order[k]])
            taken[k] = most
        elif taken[k] > (k == 0 and has_first):
            for r in range(num_resources):
                room[r] += taken[k] * request[r, order[k]]
            taken[k] -= 1
        else:
            k -= 1
            continue
        c = order[k]
        for r in range(num_resources):
            room[r] -= taken[k] * request[r, c]
        worth[k + 1], surrogate[k + 1] = worth[k] + taken[k] * value[c], surrogate[k] - taken[k] * weight[c]
        k, down = k + 1, True
    return size, limit


@compiled
def _list(
    value: FloatArray, request: IntArray, count: IntArray, capacity: IntArray, least: float, limit: int, found: IntArray
) -> tuple[int, int]:
    """As :func:`_full`, of all classes; those worth nothing are in no filling."""
    useful, v, q, n, _, weight, order = _prepared(value, request, count, capacity)
    fillings = np.empty((len(found), len(useful)), np.int64)
    size, left = _full(v, q, n, capacity, weight, order, least, limit, fillings, False)
    for i in range(size):
        found[i] = 0
        for k in range(len(useful)):
            found[i, useful[k]] = fillings[i, k]
    return size, left


@compiled
def _most_per_cost(
    value: FloatArray,
    request: IntArray,
    count: IntArray,
    allowed: BoolArray,
    capacity: IntArray,
    cost: FloatArray,
    limit: int,
    counts: IntArray,
) -> int:
    """See :func:`most_per_cost`; the filling goes into ``counts``.

    Shapes are looked at by what no filling of them exceeds, until none can be better than what is found.
    """
    ceiling = np.zeros(len(cost))
    for s in range(len(cost)):
        if cost[s] < np.inf:
            _, v, _, n, _, weight, order = _prepared(value * allowed[:, s], request, count, capacity[s])
            ceiling[s] = _fractional(v, weight, n, order, 0, 1.0) * (1 + 1e-9) / cost[s]
    chosen, most = -1, 0.0
    filling = np.zeros(len(value), np.int64)
    while True:
        s = int(np.argmax(ceiling))
        if ceiling[s] <= most:
            return chosen
        top, _ = _best(value * allowed[:, s], request, count, capacity[s], limit, filling)
        ceiling[s] = 0.0
        if top / cost[s] > most:
            chosen, most = s, top / cost[s]
            for c in range(len(counts)):
                counts[c] = filling[c]


@compiled
def left_of(state: int, count: IntArray) -> IntArray:
    """``(C,)`` pods of each class that are left."""
    left = np.zeros(len(count), np.int64)
    for c in range(len(count)):
        left[c] = state % (count[c] + 1)
        state //= count[c] + 1
    return left


@compiled
def look_at_states(
    price: FloatArray,
    request: IntArray,
    count: IntArray,
    allowed: BoolArray,
    capacity: IntArray,
    cost: FloatArray,
    best: float,
    state: int,
    limit: int,
    spent: FloatArray,
    came: IntArray,
    by: IntArray,
    found: IntArray,
) -> tuple[int, float, int]:
    """Look at states from ``state`` down, largest pods last among classes, until ``limit`` search nodes are used up.

    The next state (-1 where one has too many fillings), the least that a fleet costs so far, and the search nodes.
    """
    num_classes, num_shapes = allowed.shape
    weight, order = np.ones((num_shapes, num_classes)), np.zeros((num_shapes, num_classes), np.int64)
    num_useful, stride = np.zeros(num_shapes, np.int64), np.ones(num_classes, np.int64)
    for c in range(1, num_classes):
        stride[c] = stride[c - 1] * (count[c - 1] + 1)
    for s in range(num_shapes):
        useful, _, _, _, _, w, rank = _prepared(price * allowed[:, s], request, count, capacity[s])
        num_useful[s] = len(useful)
        for i in range(len(useful)):
            weight[s, useful[i]] = w[i]
            order[s, i] = useful[rank[i]]
    active, visits = np.empty(num_classes, np.int64), 0
    while state > 0 and visits < limit:
        left = left_of(state, count)
        first, rest = -1, 0.0
        for c in range(num_classes):
            rest += price[c] * left[c]
            first = c if left[c] > 0 else first
        most = best * (1 - CHEAPER) - spent[state] - rest
        for s in range(num_shapes):
            if most <= 0.0 or not allowed[first, s]:
                continue
            active[0], size = -1, 1
            for i in range(num_useful[s]):
                if order[s, i] == first:
                    active[0] = first
                elif left[order[s, i]] > 0:
                    active[size] = order[s, i]
                    size += 1
            if active[0] < 0:
                continue
            least, order_here = cost[s] - most, active[:size]
            number, unused = _full(
                price, request, left, capacity[s], weight[s], order_here, least, 1 << 40, found, True
            )
            if number < 0:
                return -1, best, visits
            visits += (1 << 40) - unused
            for i in range(number):
                if _is_held_for_less(s, found[i], request, allowed, capacity, cost):
                    continue
                after = state
                for c in range(num_classes):
                    after -= stride[c] * found[i, c]
                if spent[state] + cost[s] < spent[after]:
                    spent[after], came[after], by[after] = spent[state] + cost[s], state, s
        best = min(best, spent[0])
        state -= 1
    return state, best, visits


@compiled
def _is_held_for_less(
    s: int, filling: IntArray, request: IntArray, allowed: BoolArray, capacity: IntArray, cost: FloatArray
) -> bool:
    """Whether a cheaper shape than ``s`` holds the pods; of shapes that cost the same, the first counts as cheaper."""
    for other in range(len(cost)):
        holds = cost[other] < cost[s] or (cost[other] == cost[s] and other < s)
        for r in range(len(request)):
            load = 0
            for c in range(len(filling)):
                load += request[r, c] * filling[c]
                holds = holds and (filling[c] == 0 or allowed[c, other])
            holds = holds and load <= capacity[other, r]
        if holds:
            return True
    return False


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
    own = np.array(value), np.array(request, order="C"), np.array(count), np.array(capacity)
    top, upper = _best(*own, limit, counts)  # of one memory layout, so that the kernels are compiled once
    return Pattern(counts, float(top), float(upper))


def most_per_cost(
    value: FloatArray,
    request: IntArray,
    count: IntArray,
    allowed: BoolArray,
    capacity: IntArray,
    cost: FloatArray,
    *,
    limit: int,
) -> tuple[int, IntArray]:
    """Which of S nodes is worth most for its cost, -1 where none takes a pod, and its filling ``(C,)``.

    Parameters
    ----------
    value, request, count, limit : as in :func:`best_pattern`. allowed : ``(C, S)`` bool.
    capacity : ``(S, R)`` int64. cost : ``(S,)`` float64 above 0; infinite for a node that may not be chosen.
    """
    counts = np.zeros(len(value), np.int64)
    tables = np.array(allowed, order="C"), np.array(capacity, order="C"), np.array(cost)
    chosen = _most_per_cost(np.array(value), np.array(request, order="C"), np.array(count), *tables, limit, counts)
    return int(chosen), counts


def full_fillings(
    value: FloatArray,
    request: IntArray,
    count: IntArray,
    capacity: IntArray,
    *,
    least: float,
    most: int,
    limit: int,
) -> tuple[IntArray | None, int]:
    """``(K, C)`` every filling worth ``least`` to which no pod can be added; None where they are more than ``most``, or
    ``limit`` search nodes do not suffice; and what is left of the limit. Classes worth nothing are left out.

    Parameters
    ----------
    value, request, count, capacity : as in :func:`best_pattern`.
    """
    found = np.empty((most, len(value)), np.int64)
    own = np.array(value), np.array(request, order="C"), np.array(count), np.array(capacity)
    size, left = _list(*own, least, limit, found)
    return (found[:size].copy() if size >= 0 else None), left


def warm_up() -> None:
    """Compile the kernels, so that no plan pays for it out of its time."""
    value, request, count = np.ones(1), np.ones((1, 1), np.int64), np.ones(1, np.int64)
    best_pattern(value, request, count, count)
    most_per_cost(value, request, count, np.ones((1, 1), np.bool_), request, value, limit=1)
    full_fillings(value, request, count, count, least=0.0, most=1, limit=1)
    spent, states = np.array([np.inf, 0.0]), np.zeros(2, np.int64)
    tables = np.ones((1, 1), np.bool_), request, value
    look_at_states(value, request, count, *tables, 2.0, 1, 1, spent, states, states.copy(), np.zeros((1, 1), np.int64))
