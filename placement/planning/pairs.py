"""Compiled kernels that deal the pods of two nodes out anew: the move that brings pods home where swaps get stuck.

In tight packings hardly any two pods can trade places, because both would have to match in every resource. All pods of
two nodes together can nearly always be split in many ways. :func:`split` enumerates the feasible splits and draws
one of them at a temperature (heat bath), so that a whole neighbourhood is one step of annealing; :func:`cool_pairs`
mixes such steps with the small ones of :func:`placement.planning.chains.cool`. State and names are those of
:mod:`placement.planning.chains`.
"""

from __future__ import annotations

import numpy as np

from placement.machine_code import compiled
from placement.planning.chains import attach, cool, detach, random
from placement.resources import BoolArray, FloatArray, IntArray

MAX_CLASSES = 64
"""Two nodes with more classes are left to small steps."""
MAX_VISITS = 3000
"""Search nodes per step; the splits found until then are what is drawn from."""
SPREAD = 3.0
"""Splits that cost more than so many temperatures are not drawn."""


@compiled
def classes_of(
    links: IntArray, head: IntArray, cls: IntArray, a: int, b: int, kinds: IntArray, count: IntArray, one: IntArray
) -> int:
    """Distinct classes on two nodes into ``kinds``, with their ``count`` and ``one`` pod each; -1 when too many."""
    size = 0
    for n in (a, b):
        q = head[n]
        while q >= 0:
            at = 0
            while at < size and kinds[at] != cls[q]:
                at += 1
            if at == size:
                if size == MAX_CLASSES:
                    return -1
                kinds[at] = cls[q]
                count[at] = 0
                one[at] = q
                size += 1
            count[at] += 1
            q = links[0, q]
    return size


@compiled
def deal(
    node: IntArray,
    left: IntArray,
    links: IntArray,
    head: IntArray,
    request: IntArray,
    cls: IntArray,
    now: IntArray,
    a: int,
    b: int,
    c: int,
    wanted: int,
) -> None:
    """Move pods of class ``c`` between two nodes until ``a`` has ``wanted``."""
    while now[c, a] != wanted:
        source, target = (a, b) if now[c, a] > wanted else (b, a)
        q = head[source]
        while cls[q] != c:
            q = links[0, q]
        detach(node, left, links, head, request, q)
        attach(node, left, links, head, request, q, target)
        now[c, source] -= 1
        now[c, target] += 1


@compiled
def ends(room: IntArray, wanted: IntArray) -> bool:
    """``wanted`` does not fit into ``room``."""
    for r in range(room.shape[0]):  # noqa: SIM110
        if room[r] < wanted[r]:
            return True
    return False


@compiled
def signature(links: IntArray, head: IntArray, cls: IntArray, mark: IntArray, a: int, b: int, slack: int) -> int:
    """A number that hardly any other contents of two nodes have, whichever comes first; ``mark`` as in :func:`split`."""
    num_nodes = head.shape[0]
    key = slack + 1
    for n in (a, b):
        content = 0
        q = head[n]
        while q >= 0:
            content += mark[num_nodes + cls[q]]
            q = links[0, q]
        key += (content & 0x7FFFFFFF) * mark[n]
    return key


@compiled
def split(
    node: IntArray,
    left: IntArray,
    links: IntArray,
    head: IntArray,
    request: IntArray,
    allowed: BoolArray,
    cls: IntArray,
    home: IntArray,
    now: IntArray,
    a: int,
    b: int,
    temperature: float,
    state: IntArray,
    scratch: IntArray,
    weight: FloatArray,
    space: IntArray,
    mark: IntArray,
    dead: IntArray,
) -> int:
    """Deal the pods of ``a`` and ``b`` out anew; returns how many more of them are at home.

    Depth first over classes, largest first; a branch ends when a side is overfull, when nothing more fits on one side
    and the rest not on the other, or when too few pods could come home. Among the feasible splits one is drawn with
    probability proportional to exp(pods at home ÷ temperature). ``scratch`` ``(8, MAX_CLASSES + 1)``, ``weight``
    and ``space`` ``(4, MAX_CLASSES + 1, R)`` are overwritten.

    Nineteen pairs in twenty can be split as they are and in no other way, and most of them come up again before either
    node has changed: ``dead``, of a size that is a power of two, keeps their signatures, made from random numbers
    ``mark`` ``(N + C,)`` of nodes (below 2^30) and classes (below 2^24) as Zobrist (1970) does for positions in chess.
    """
    slack = int(SPREAD * temperature)
    key = signature(links, head, cls, mark, a, b, slack)
    if dead[key & (dead.shape[0] - 1)] == key:
        return 0
    kinds, count, one, order = scratch[0], scratch[1], scratch[2], scratch[3]
    taken, gain, chosen, most = scratch[4], scratch[5], scratch[6], scratch[7]
    size = classes_of(links, head, cls, a, b, kinds, count, one)
    if size < 2:
        return 0
    num_resources = left.shape[1]
    room = space[:2]
    for r in range(num_resources):
        room[0, 0, r] = left[a, r]
        room[1, 0, r] = left[b, r]
        for g in range(size):
            room[0, 0, r] += now[kinds[g], a] * request[one[g], r]
            room[1, 0, r] += now[kinds[g], b] * request[one[g], r]
    for g in range(size):
        weight[g] = 0.0
        for r in range(num_resources):
            weight[g] -= count[g] * request[one[g], r] / (room[0, 0, r] + room[1, 0, r] + 1.0)
    for g in range(size):
        at = g
        while at > 0 and weight[order[at - 1]] > weight[g]:
            order[at] = order[at - 1]
            at -= 1
        order[at] = g
    rest = space[2:]  # sum and least of what is left to deal
    rest[0, size] = 0
    rest[1, size] = np.int64(1) << 62
    most[size] = 0
    present = 0
    for i in range(size - 1, -1, -1):
        g = order[i]
        c = kinds[g]
        for r in range(num_resources):
            rest[0, i, r] = rest[0, i + 1, r] + count[g] * request[one[g], r]
            rest[1, i, r] = min(rest[1, i + 1, r], request[one[g], r])
        most[i] = most[i + 1] + min(count[g], home[c, a] + home[c, b])
        present += min(home[c, a], now[c, a]) + min(home[c, b], now[c, b])
    least = present - slack
    leaves = 0
    taken[0] = -1
    gain[0] = 0
    total = 0.0
    visits = 0
    i = 0
    while i >= 0:
        if i == size:
            chance = np.exp((gain[size] - present) / temperature)
            total += chance
            leaves += 1
            if leaves == 1 or random(state) % 1_000_000 * 1e-6 * total < chance:
                chosen[:size] = taken[:size]
            i -= 1
            continue
        g = order[i]
        c = kinds[g]
        taken[i] += 1
        visits += 1
        if visits > MAX_VISITS:
            break
        if taken[i] > count[g]:
            i -= 1
            continue
        here = taken[i]
        there = count[g] - here
        gain[i + 1] = gain[i] + min(home[c, a], here) + min(home[c, b], there)
        if gain[i + 1] + most[i + 1] < least or (here > 0 and not allowed[c, a]) or (there > 0 and not allowed[c, b]):
            continue
        fits = True
        for r in range(num_resources):
            room[0, i + 1, r] = room[0, i, r] - here * request[one[g], r]
            room[1, i + 1, r] = room[1, i, r] - there * request[one[g], r]
            if room[0, i + 1, r] < 0 or room[1, i + 1, r] < 0:
                fits = False
                break
        if fits and i + 1 < size:
            fits = not (
                (ends(room[0, i + 1], rest[1, i + 1]) and ends(room[1, i + 1], rest[0, i + 1]))
                or (ends(room[1, i + 1], rest[1, i + 1]) and ends(room[0, i + 1], rest[0, i + 1]))
            )
        if fits:
            i += 1
            taken[i] = -1
    if leaves == 1 and visits <= MAX_VISITS:
        dead[key & (dead.shape[0] - 1)] = key
        return 0
    if leaves == 0:
        return 0
    after = 0
    for i in range(size):
        g = order[i]
        c = kinds[g]
        deal(node, left, links, head, request, cls, now, a, b, c, chosen[i])
        after += min(home[c, a], now[c, a]) + min(home[c, b], now[c, b])
    return after - present


@compiled
def cool_pairs(
    node: IntArray,
    left: IntArray,
    links: IntArray,
    head: IntArray,
    request: IntArray,
    allowed: BoolArray,
    cls: IntArray,
    tier: IntArray,
    evictable: BoolArray,
    home: IntArray,
    now: IntArray,
    home_of: IntArray,
    missing: IntArray,
    kept: IntArray,
    best_missing: IntArray,
    best_cost: FloatArray,
    cost: float,
    state: IntArray,
    rounds: int,
    small: int,
    temperature: float,
    weight: float,
    mark: IntArray,
    dead: IntArray,
) -> float:
    """``rounds`` of annealing, each a new split of two nodes and ``small`` small steps; returns the cost.

    A displaced pod's node meets its home, any other node meets a random one. Small steps keep the best.
    """
    num_pods = node.shape[0]
    num_nodes = left.shape[0]
    scratch = np.empty((8, MAX_CLASSES + 1), np.int64)
    weight_of = np.empty(MAX_CLASSES + 1, np.float64)
    space = np.empty((4, MAX_CLASSES + 1, left.shape[1]), np.int64)
    for _ in range(rounds):
        q = random(state) % num_pods
        a = node[q] if node[q] >= 0 else random(state) % num_nodes
        b = random(state) % num_nodes
        if node[q] >= 0 and home_of[q] >= 0 and home_of[q] != a:
            b = home_of[q]
        if a != b:
            scene = (node, left, links, head, request, allowed, cls, home, now)
            cost -= split(*scene, a, b, temperature, state, scratch, weight_of, space, mark, dead)
            if cost < best_cost[0] - 0.5 and (missing == best_missing).all():
                best_cost[0] = cost
                kept[:] = node
        cost = cool(
            node,
            left,
            links,
            head,
            request,
            allowed,
            cls,
            tier,
            evictable,
            home,
            now,
            home_of,
            missing,
            kept,
            best_missing,
            best_cost,
            cost,
            state,
            small,
            temperature,
            weight,
        )
    return cost
