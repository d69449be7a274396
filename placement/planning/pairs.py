"""Compiled kernels that deal the pods of two nodes out anew: the move that brings pods home where swaps get stuck.

In tight packings hardly any two pods can trade places, because both would have to match in every resource. All pods of
two nodes together can nearly always be split in many ways. :func:`split` enumerates the feasible splits and draws
one of them at a temperature (heat bath), so that a whole neighbourhood is one step of annealing; :func:`cool_pairs`
mixes such steps with the small ones of :func:`placement.planning.chains.cool`. State and names are those of
:mod:`placement.planning.chains`; the two nodes are ``a`` and ``b``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from placement.machine_code import compiled
from placement.planning.chains import Best, Homes, Scene, attach, cool, detach, random
from placement.resources import FloatArray, IntArray

MAX_CLASSES = 64
"""Two nodes with more classes are left to small steps."""
MAX_VISITS = 3000
"""Search nodes per step; the splits found until then are what is drawn from."""
SPREAD = 3.0
"""Splits that cost more than so many temperatures are not drawn."""


class Deal(NamedTuple):
    """The pods of two nodes by class, overwritten by each split.

    Classes have numbers ``g``, and an ``order`` ``i`` in which they are dealt; ``K`` is one more than there can be.
    """

    kinds: IntArray
    """``(K,)`` which class it is."""
    num: IntArray
    """``(K,)`` pods of it."""
    one: IntArray
    """``(K,)`` one of these."""
    weight: FloatArray
    """``(K,)`` −1 × the share of all room that its pods take."""
    order: IntArray
    """``(K,)`` numbers of classes, largest first."""
    taken: IntArray
    """``(K,)`` pods that ``a`` gets of the class that is ``i``-th."""
    chosen: IntArray
    """``(K,)`` the same, of the split that was drawn."""
    gain: IntArray
    """``(K,)`` pods at home among the first ``i`` classes."""
    most: IntArray
    """``(K,)`` pods that can be at home among the others."""
    room: IntArray
    """``(2, K, R)`` what ``a`` and ``b`` have left after the first ``i`` classes."""
    rest: IntArray
    """``(2, K, R)`` sum, and least request, of the others."""


class Known(NamedTuple):
    """Pairs of nodes that can be split as they are and in no other way.

    These are nineteen in twenty, and most of them come up again before either node has changed.
    """

    mark: IntArray
    """``(N + C,)`` random numbers of nodes (below 2^30) and classes (below 2^24), as Zobrist (1970) has them in chess."""
    dead: IntArray
    """Signatures of such pairs, each in a place of its own; as many as a power of two."""


@compiled
def signature(links: IntArray, head: IntArray, cls: IntArray, mark: IntArray, a: int, b: int, slack: int) -> int:
    """A number that hardly any other contents of two nodes have, whichever comes first."""
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
def classes_of(scene: Scene, a: int, b: int, deal: Deal) -> int:
    """Number of classes on two nodes, which go into ``deal``; -1 when too many."""
    kinds, cls = deal.kinds, scene.cls
    size = 0
    for n in (a, b):
        q = scene.head[n]
        while q >= 0:
            g = 0
            while g < size and kinds[g] != cls[q]:
                g += 1
            if g == size:
                if size == MAX_CLASSES:
                    return -1
                kinds[g] = cls[q]
                deal.num[g] = 0
                deal.one[g] = q
                size += 1
            deal.num[g] += 1
            q = scene.links[0, q]
    return size


@compiled
def at_home(home: IntArray, c: int, here: int, there: int, a: int, b: int) -> int:
    """Pods of class ``c`` at home with so many on ``a`` and so many on ``b``."""
    return min(home[c, a], here) + min(home[c, b], there)


@compiled
def lay_out(scene: Scene, homes: Homes, a: int, b: int, size: int, deal: Deal) -> int:
    """Take all pods off two nodes and put the classes in order; returns how many pods are at home as things are."""
    request, now, home = scene.request, homes.now, homes.home
    kinds, count, one, order, weight = deal.kinds, deal.num, deal.one, deal.order, deal.weight
    room, rest = deal.room, deal.rest
    num_resources = request.shape[1]
    for r in range(num_resources):
        room[0, 0, r] = scene.left[a, r]
        room[1, 0, r] = scene.left[b, r]
        for g in range(size):
            room[0, 0, r] += now[kinds[g], a] * request[one[g], r]
            room[1, 0, r] += now[kinds[g], b] * request[one[g], r]
    for g in range(size):
        weight[g] = 0.0
        for r in range(num_resources):
            weight[g] -= count[g] * request[one[g], r] / (room[0, 0, r] + room[1, 0, r] + 1.0)
        i = g
        while i > 0 and weight[order[i - 1]] > weight[g]:
            order[i] = order[i - 1]
            i -= 1
        order[i] = g
    rest[0, size] = 0
    rest[1, size] = np.int64(1) << 62
    deal.most[size] = 0
    present = 0
    for i in range(size - 1, -1, -1):
        g = order[i]
        c = kinds[g]
        for r in range(num_resources):
            rest[0, i, r] = rest[0, i + 1, r] + count[g] * request[one[g], r]
            rest[1, i, r] = min(rest[1, i + 1, r], request[one[g], r])
        deal.most[i] = deal.most[i + 1] + min(count[g], home[c, a] + home[c, b])
        present += at_home(home, c, now[c, a], now[c, b], a, b)
    return present


@compiled
def lacks(room: IntArray, wanted: IntArray) -> bool:
    """``wanted`` does not fit into ``room``."""
    for r in range(room.shape[0]):  # noqa: SIM110
        if room[r] < wanted[r]:
            return True
    return False


@compiled
def hand_out(
    room: IntArray, rest: IntArray, request: IntArray, p: int, i: int, size: int, here: int, there: int
) -> bool:
    """Give pods like ``p`` to two nodes, so that ``i`` classes are dealt.

    False where one node is overfull, or takes nothing more and the other not the rest.
    """
    for r in range(request.shape[1]):
        room[0, i, r] = room[0, i - 1, r] - here * request[p, r]
        room[1, i, r] = room[1, i - 1, r] - there * request[p, r]
        if room[0, i, r] < 0 or room[1, i, r] < 0:
            return False
    return i == size or not (
        (lacks(room[0, i], rest[1, i]) and lacks(room[1, i], rest[0, i]))
        or (lacks(room[1, i], rest[1, i]) and lacks(room[0, i], rest[0, i]))
    )


@compiled
def draw(
    scene: Scene,
    homes: Homes,
    a: int,
    b: int,
    size: int,
    present: int,
    slack: int,
    temperature: float,
    state: IntArray,
    deal: Deal,
) -> tuple[int, bool]:
    """Splits that were found, one of which is ``chosen``, and whether these are all.

    Depth first over classes, largest first; a branch ends when a side is overfull, when nothing more fits on one side
    and the rest not on the other, or when too few pods could come home.
    """
    home, allowed, request = homes.home, scene.allowed, scene.request
    count, one, order, kinds, most = deal.num, deal.one, deal.order, deal.kinds, deal.most
    taken, gain, chosen, room, rest = deal.taken, deal.gain, deal.chosen, deal.room, deal.rest
    found = 0
    total = 0.0
    visits = 0
    taken[0] = -1
    gain[0] = 0
    i = 0
    while i >= 0:
        if i == size:
            chance = np.exp((gain[size] - present) / temperature)
            total += chance
            found += 1
            if found == 1 or random(state) % 1_000_000 * 1e-6 * total < chance:
                for k in range(size):
                    chosen[k] = taken[k]
            i -= 1
            continue
        g = order[i]
        c = kinds[g]
        taken[i] += 1
        visits += 1
        if visits > MAX_VISITS:
            return found, False
        if taken[i] > count[g]:
            i -= 1
            continue
        here = taken[i]
        there = count[g] - here
        gain[i + 1] = gain[i] + at_home(home, c, here, there, a, b)
        if gain[i + 1] + most[i + 1] < present - slack:
            continue
        if (here > 0 and not allowed[c, a]) or (there > 0 and not allowed[c, b]):
            continue
        if hand_out(room, rest, request, one[g], i + 1, size, here, there):
            i += 1
            taken[i] = -1
    return found, True


@compiled
def move_between(scene: Scene, homes: Homes, a: int, b: int, c: int, wanted: int) -> None:
    """Move pods of class ``c`` between two nodes until ``a`` has ``wanted``."""
    node, left, links, head, request = scene.node, scene.left, scene.links, scene.head, scene.request
    now, cls = homes.now, scene.cls
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
def split(
    scene: Scene, homes: Homes, a: int, b: int, slack: int, temperature: float, state: IntArray, deal: Deal
) -> tuple[int, bool]:
    """Deal the pods of ``a`` and ``b`` out anew: how many more of them are at home, and whether that was the only way.

    Among the feasible splits one is drawn with probability proportional to exp(pods at home ÷ temperature); those that
    cost more than ``slack`` are not.
    """
    size = classes_of(scene, a, b, deal)
    if size < 2:
        return 0, False
    present = lay_out(scene, homes, a, b, size, deal)
    found, are_all = draw(scene, homes, a, b, size, present, slack, temperature, state, deal)
    if found == 0 or (found == 1 and are_all):
        return 0, found == 1
    home, now = homes.home, homes.now
    after = 0
    for i in range(size):
        c = deal.kinds[deal.order[i]]
        move_between(scene, homes, a, b, c, deal.chosen[i])
        after += at_home(home, c, now[c, a], now[c, b], a, b)
    return after - present, False


@compiled
def cool_pairs(
    scene: Scene,
    homes: Homes,
    best: Best,
    known: Known,
    cost: float,
    state: IntArray,
    rounds: int,
    small: int,
    temperature: float,
    weight: float,
) -> float:
    """``rounds`` of annealing, each a new split of two nodes and ``small`` small steps; returns the cost.

    A displaced pod's node meets its home, any other node meets a random one. Small steps keep the best.
    """
    node, links, head, cls, home_of = scene.node, scene.links, scene.head, scene.cls, homes.of
    mark, dead = known.mark, known.dead
    slack = int(SPREAD * temperature)
    num_pods = node.shape[0]
    num_nodes, num_resources = scene.left.shape
    numbers = np.empty((8, MAX_CLASSES + 1), np.int64)
    space = np.empty((4, MAX_CLASSES + 1, num_resources), np.int64)
    deal = Deal(
        numbers[0],
        numbers[1],
        numbers[2],
        np.empty(MAX_CLASSES + 1, np.float64),
        numbers[3],
        numbers[4],
        numbers[5],
        numbers[6],
        numbers[7],
        space[:2],
        space[2:],
    )
    for _ in range(rounds):
        q = random(state) % num_pods
        a = node[q] if node[q] >= 0 else random(state) % num_nodes
        b = random(state) % num_nodes
        if node[q] >= 0 and home_of[q] >= 0 and home_of[q] != a:
            b = home_of[q]
        if a != b:
            key = signature(links, head, cls, mark, a, b, slack)
            place = key & (dead.shape[0] - 1)
            if dead[place] != key:
                gain, is_only = split(scene, homes, a, b, slack, temperature, state, deal)
                cost -= gain
                if is_only:
                    dead[place] = key
            if cost < best.cost[0] - 0.5 and (homes.missing == best.missing).all():
                best.cost[0] = cost
                best.node[:] = node
        cost = cool(scene, homes, best, cost, state, small, temperature, weight)
    return cost
