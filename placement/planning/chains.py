"""Compiled kernels of repair: ejection chains, ejection search, and annealing home, on one :class:`Scene`.

A pod comes and goes in constant time: the pods of a node are a doubly linked list. Callers are in
:mod:`placement.planning.repair`, which says what is done and why. Here tier 0 is the most important. Of pods and nodes,
``p`` is placed on ``n``; ``q`` leaves ``n`` for ``m``; ``s`` leaves ``m``.

Compiled with numba where that is installed; the same functions run, slower, without it. The smallest take the arrays that they
touch: handed the scene instead, they read better, and annealing takes 15 to 25 % longer.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from placement.machine_code import compiled
from placement.resources import BoolArray, FloatArray, IntArray


class Scene(NamedTuple):
    """A placement, which the kernels change, and the rules that it keeps to."""

    node: IntArray
    """``(P,)`` where a pod is; −1 = it waits."""
    left: IntArray
    """``(N, R)`` what a node has left."""
    links: IntArray
    """``(2, P)`` the pod after and the pod before on the same node, −1 = none."""
    head: IntArray
    """``(N,)`` the first pod of a node, −1 = none."""
    request: IntArray
    """``(P, R)``."""
    allowed: BoolArray
    """``(C, N)``."""
    cls: IntArray
    """``(P,)`` the class of a pod."""
    tier: IntArray
    """``(P,)``."""
    evictable: BoolArray
    """``(P,)``."""
    scale: FloatArray
    """``(R,)`` what a unit is worth: the reciprocal of what all nodes offer."""
    size: FloatArray
    """``(P,)`` what a pod asks for, by ``scale``."""


class Homes(NamedTuple):
    """Who is where against where he ran; siblings are interchangeable."""

    home: IntArray
    """``(C, N)`` pods of a class that ran on a node."""
    now: IntArray
    """``(C, N)`` pods of a class that are there now."""
    of: IntArray
    """``(P,)`` node that a pod ran on, −1 = none."""
    missing: IntArray
    """``(T,)`` pods that wait now, per tier."""


class Best(NamedTuple):
    """The best placement so far."""

    node: IntArray
    """``(P,)``."""
    missing: IntArray
    """``(T,)`` pods that wait, per tier."""
    cost: FloatArray
    """``(1,)``."""


# ── one pod ───────────────────────────────────────────────────────────────────────────────────────────────────


@compiled
def fits(left: IntArray, request: IntArray, n: int, p: int) -> bool:
    for r in range(left.shape[1]):  # noqa: SIM110  compiled code wants the loop
        if left[n, r] < request[p, r]:
            return False
    return True


@compiled
def fits_without(left: IntArray, request: IntArray, n: int, p: int, q: int) -> bool:
    """``p`` fits on ``n`` once ``q`` has left it."""
    for r in range(left.shape[1]):  # noqa: SIM110
        if left[n, r] + request[q, r] < request[p, r]:
            return False
    return True


@compiled
def fits_without_two(left: IntArray, request: IntArray, n: int, p: int, q: int, s: int) -> bool:
    """``p`` fits on ``n`` once ``q`` and ``s`` have left it."""
    for r in range(left.shape[1]):  # noqa: SIM110
        if left[n, r] + request[q, r] + request[s, r] < request[p, r]:
            return False
    return True


@compiled
def can_trade(left: IntArray, request: IntArray, n: int, q: int, m: int, s: int) -> bool:
    """``q`` of ``n`` and ``s`` of ``m`` fit in each other's place."""
    for r in range(left.shape[1]):
        extra = request[q, r] - request[s, r]
        if left[n, r] + extra < 0 or left[m, r] - extra < 0:
            return False
    return True


@compiled
def attach(node: IntArray, left: IntArray, links: IntArray, head: IntArray, request: IntArray, p: int, n: int) -> None:
    node[p] = n
    for r in range(left.shape[1]):
        left[n, r] -= request[p, r]
    first = head[n]
    links[0, p] = first
    links[1, p] = -1
    if first >= 0:
        links[1, first] = p
    head[n] = p


@compiled
def detach(node: IntArray, left: IntArray, links: IntArray, head: IntArray, request: IntArray, p: int) -> int:
    n = node[p]
    for r in range(left.shape[1]):
        left[n, r] += request[p, r]
    after = links[0, p]
    before = links[1, p]
    if before >= 0:
        links[0, before] = after
    else:
        head[n] = after
    if after >= 0:
        links[1, after] = before
    node[p] = -1
    return int(n)


@compiled
def attach_all(scene: Scene, node_of: IntArray) -> None:
    """Begin with the placement ``node_of`` ``(P,)``, where everybody waits."""
    node, left, links, head, request = scene.node, scene.left, scene.links, scene.head, scene.request
    for p in range(node_of.shape[0]):
        if node_of[p] >= 0:
            attach(node, left, links, head, request, p, node_of[p])


@compiled
def best_node(scene: Scene, p: int) -> int:
    """Eligible node, other than where it is, that is left with least, or -1."""
    left, request, allowed, scale = scene.left, scene.request, scene.allowed, scene.scale
    best = -1
    best_slack = 1e300
    c = scene.cls[p]
    for n in range(left.shape[0]):
        if n == scene.node[p] or not allowed[c, n] or not fits(left, request, n, p):
            continue
        slack = 0.0
        for r in range(left.shape[1]):
            slack += (left[n, r] - request[p, r]) * scale[r]
        if slack < best_slack:
            best_slack = slack
            best = n
    return best


# ── ejection chains ───────────────────────────────────────────────────────────────────────────────────────────


@compiled
def move_one(scene: Scene, p: int) -> bool:
    """Place ``p`` by moving one pod: the move that leaves least space where the moved pod lands."""
    node, left, links, head, request = scene.node, scene.left, scene.links, scene.head, scene.request
    scale = scene.scale
    c = scene.cls[p]
    best_q, best_m = p, node[p]  # nowhere, for it waits; a literal would compile what it is handed to once more
    best_slack = 1e300
    for n in range(left.shape[0]):
        if not scene.allowed[c, n]:
            continue
        q = head[n]
        while q >= 0:
            if fits_without(left, request, n, p, q):
                m = best_node(scene, q)
                if m >= 0:
                    slack = 0.0
                    for r in range(left.shape[1]):
                        slack += (left[m, r] - request[q, r]) * scale[r]
                        slack += (left[n, r] + request[q, r] - request[p, r]) * scale[r]
                    if slack < best_slack:
                        best_slack = slack
                        best_q = q
                        best_m = m
            q = links[0, q]
    if best_m < 0:
        return False
    n = detach(node, left, links, head, request, best_q)
    attach(node, left, links, head, request, best_q, best_m)
    attach(node, left, links, head, request, p, n)
    return True


@compiled
def swap_two(scene: Scene, p: int) -> bool:
    """Place ``p`` on ``n`` by swapping a larger pod of ``n`` for a smaller one of another node."""
    node, left, links, head, request = scene.node, scene.left, scene.links, scene.head, scene.request
    allowed, cls = scene.allowed, scene.cls
    num_nodes, num_resources = left.shape
    for n in range(num_nodes):
        if not allowed[cls[p], n]:
            continue
        q = head[n]
        while q >= 0:
            if fits_without(left, request, n, p, q):
                for m in range(num_nodes):
                    if m == n or not allowed[cls[q], m]:
                        continue
                    s = head[m]
                    while s >= 0:
                        ok = allowed[cls[s], n]
                        for r in range(num_resources):
                            if (
                                left[m, r] + request[s, r] < request[q, r]
                                or left[n, r] + request[q, r] < request[p, r] + request[s, r]
                            ):
                                ok = False
                                break
                        if ok:
                            detach(node, left, links, head, request, q)
                            detach(node, left, links, head, request, s)
                            attach(node, left, links, head, request, q, m)
                            attach(node, left, links, head, request, s, n)
                            attach(node, left, links, head, request, p, n)
                            return True
                        s = links[0, s]
            q = links[0, q]
    return False


@compiled
def chain_two(scene: Scene, p: int) -> bool:
    """Place ``p`` on ``n`` by moving q from ``n`` to ``m``, and s from ``m`` elsewhere."""
    node, left, links, head, request = scene.node, scene.left, scene.links, scene.head, scene.request
    allowed, cls = scene.allowed, scene.cls
    num_nodes = left.shape[0]
    for n in range(num_nodes):
        if not allowed[cls[p], n]:
            continue
        q = head[n]
        while q >= 0:
            following = links[0, q]
            if fits_without(left, request, n, p, q):
                detach(node, left, links, head, request, q)
                attach(node, left, links, head, request, p, n)
                for m in range(num_nodes):
                    if m == n or not allowed[cls[q], m]:
                        continue
                    s = head[m]
                    while s >= 0:
                        if fits_without(left, request, m, q, s):
                            t = best_node(scene, s)
                            if t >= 0:
                                detach(node, left, links, head, request, s)
                                attach(node, left, links, head, request, s, t)
                                attach(node, left, links, head, request, q, m)
                                return True
                        s = links[0, s]
                detach(node, left, links, head, request, p)
                attach(node, left, links, head, request, q, n)
            q = following
    return False


@compiled
def evict_lower(scene: Scene, p: int, gone: IntArray) -> int:
    """Place ``p`` by evicting strictly less important pods of one node; returns how many went to ``gone``.

    Per node, pods leave in order of (tier, then size, larger first) until ``p`` fits, and those that turn out not
    to matter come back. The node whose highest victim is lowest wins, then the one with fewest victims.
    """
    node, left, links, head, request = scene.node, scene.left, scene.links, scene.head, scene.request
    best = node[p]  # nowhere, as above
    best_top = -1
    best_count = 1 << 60
    trial = np.empty(node.shape[0], np.int64)
    for n in range(left.shape[0]):
        if not scene.allowed[scene.cls[p], n]:
            continue
        count = victims(scene, p, n, trial)
        if count == 0:
            continue
        top = 1 << 60
        for i in range(count):
            top = min(top, scene.tier[trial[i]])
        if top > best_top or (top == best_top and count < best_count):
            best_top = top
            best_count = count
            best = n
            for i in range(count):
                gone[i] = trial[i]
    if best < 0:
        return 0
    for i in range(best_count):
        detach(node, left, links, head, request, gone[i])
    attach(node, left, links, head, request, p, best)
    return int(best_count)


@compiled
def victims(scene: Scene, p: int, n: int, trial: IntArray) -> int:
    """Pods to evict from ``n`` for ``p``, least important first, into ``trial``; 0 when that does not help."""
    request, tier = scene.request, scene.tier
    num_resources = scene.left.shape[1]
    room = scene.left[n].copy()
    count = 0
    q = scene.head[n]
    while q >= 0:
        if tier[q] > tier[p] and scene.evictable[q]:
            at = count
            while at > 0 and tier[trial[at - 1]] < tier[q]:
                trial[at] = trial[at - 1]
                at -= 1
            trial[at] = q
            count += 1
            for r in range(num_resources):
                room[r] += request[q, r]
        q = scene.links[0, q]
    for r in range(num_resources):
        room[r] -= request[p, r]
        if room[r] < 0:
            return 0
    kept = 0
    for i in range(count - 1, -1, -1):  # most important first: keep whom we can
        q = trial[i]
        stays = True
        for r in range(num_resources):
            if room[r] < request[q, r]:
                stays = False
                break
        if stays:
            for r in range(num_resources):
                room[r] -= request[q, r]
            trial[i] = -1
            kept += 1
    at = 0
    for i in range(count):
        if trial[i] >= 0:
            trial[at] = trial[i]
            at += 1
    return count - kept


@compiled
def next_waiting(scene: Scene, tried: BoolArray, rank: FloatArray) -> int:
    """The most important pod that waits and was not ``tried``, of these the first by ``rank``; −1 = none."""
    node, tier = scene.node, scene.tier
    p = -1
    for q in range(node.shape[0]):
        if node[q] < 0 and not tried[q] and (p < 0 or tier[q] < tier[p] or (tier[q] == tier[p] and rank[q] < rank[p])):
            p = q
    return p


@compiled
def repair_all(scene: Scene, rank: FloatArray) -> None:
    """Work through all pending pods, most important first, then by ``rank``, until none can be placed."""
    node, left, links, head, request = scene.node, scene.left, scene.links, scene.head, scene.request
    num_pods = node.shape[0]
    tried = np.zeros(num_pods, np.bool_)
    gone = np.empty(num_pods, np.int64)
    while True:
        p = next_waiting(scene, tried, rank)
        if p < 0:
            return
        tried[p] = True
        n = best_node(scene, p)
        if n >= 0:
            attach(node, left, links, head, request, p, n)
            continue
        if move_one(scene, p) or swap_two(scene, p) or chain_two(scene, p):
            continue
        count = evict_lower(scene, p, gone)
        for i in range(count):
            tried[gone[i]] = False


# ── ejection search ───────────────────────────────────────────────────────────────────────────────────────────


@compiled
def random(state: IntArray) -> int:
    """Next of a xorshift stream (Marsaglia 2003), 62 bits, never negative."""
    x = state[0]
    x ^= (x << 13) & 0x7FFFFFFFFFFFFFFF
    x ^= x >> 7
    x ^= (x << 17) & 0x7FFFFFFFFFFFFFFF
    state[0] = x
    return int(x >> 1)


@compiled
def cheapest_ejection(scene: Scene, cost: FloatArray, p: int, state: IntArray, found: IntArray) -> float:
    """Cheapest one or two pods of one node whose leaving makes room for ``p``; into ``found``, ties by chance."""
    left, request, links = scene.left, scene.request, scene.links
    best = 1e300
    ties = 0
    found[0] = -1
    found[1] = -1
    for n in range(left.shape[0]):
        if not scene.allowed[scene.cls[p], n]:
            continue
        q = scene.head[n]
        while q >= 0:
            if cost[q] <= best:
                if fits_without(left, request, n, p, q):
                    ties = ties + 1 if cost[q] == best else 1
                    if ties == 1 or random(state) % ties == 0:
                        best = cost[q]
                        found[0] = q
                        found[1] = -1
                else:
                    s = links[0, q]
                    while s >= 0:
                        both = cost[q] + cost[s]
                        if both <= best and fits_without_two(left, request, n, p, q, s):
                            ties = ties + 1 if both == best else 1
                            if ties == 1 or random(state) % ties == 0:
                                best = both
                                found[0] = q
                                found[1] = s
                        s = links[0, s]
            q = links[0, q]
    return best


@compiled
def shake(scene: Scene, state: IntArray) -> None:
    """Random feasible relocations and swaps: the same pods stay placed, on other nodes."""
    node, left, links, head, request = scene.node, scene.left, scene.links, scene.head, scene.request
    allowed, cls = scene.allowed, scene.cls
    num_pods = node.shape[0]
    for _ in range(10):
        q = random(state) % num_pods
        n = node[q]
        if n < 0:
            continue
        if random(state) & 1:
            m = random(state) % left.shape[0]
            if m != n and allowed[cls[q], m] and fits(left, request, m, q):
                detach(node, left, links, head, request, q)
                attach(node, left, links, head, request, q, m)
            continue
        s = random(state) % num_pods
        m = node[s]
        if m < 0 or m == n or not allowed[cls[q], m] or not allowed[cls[s], n]:
            continue
        if can_trade(left, request, n, q, m, s):
            detach(node, left, links, head, request, q)
            detach(node, left, links, head, request, s)
            attach(node, left, links, head, request, q, m)
            attach(node, left, links, head, request, s, n)


@compiled
def who_waits(tier: IntArray, waiting: IntArray, num_waiting: int, target: int, state: IntArray) -> int:
    """Place in ``waiting`` of a pod drawn from those of tier ``target``, now and then from all; −1 where there is none."""
    at = -1
    seen = 0
    anyone = random(state) % 8 == 0
    for i in range(num_waiting):
        if anyone or tier[waiting[i]] == target:
            seen += 1
            if random(state) % seen == 0:
                at = i
    return at


@compiled
def price_ejections(scene: Scene, p: int, penalty: FloatArray, cost: FloatArray) -> None:
    """What it costs to eject each pod for ``p``, into ``cost``: the less important cost hardly anything."""
    tier, size = scene.tier, scene.size
    for q in range(tier.shape[0]):
        if tier[q] < tier[p] or not scene.evictable[q]:
            cost[q] = 1e300
        elif tier[q] == tier[p]:
            cost[q] = (1.0 + penalty[q]) * 1e3 * size[p] / size[q]
        else:
            cost[q] = 1.0 + penalty[q] * 1e-3


@compiled
def first_difference(missing: IntArray, best: IntArray) -> int:
    """Whether fewer pods wait (1) in the most important tier with another number than in the best, or more (−1); 0 = none."""
    for t in range(missing.shape[0]):
        if missing[t] != best[t]:
            return 1 if missing[t] < best[t] else -1
    return 0


@compiled
def search(
    scene: Scene,
    floor: IntArray,
    penalty: FloatArray,
    kept: IntArray,
    best_missing: IntArray,
    state: IntArray,
    rounds: int,
) -> int:
    """``rounds`` of ejection search from the current placement; 1 when ``floor`` was reached."""
    node, left, links, head, request = scene.node, scene.left, scene.links, scene.head, scene.request
    tier = scene.tier
    num_pods = node.shape[0]
    num_tiers = floor.shape[0]
    missing = np.zeros(num_tiers, np.int64)
    waiting = np.empty(num_pods, np.int64)
    num_waiting = 0
    for p in range(num_pods):
        if node[p] < 0:
            waiting[num_waiting] = p
            num_waiting += 1
            missing[tier[p]] += 1
    found = np.empty(2, np.int64)
    cost = np.empty(num_pods, np.float64)
    for _ in range(rounds):
        target = -1
        for t in range(num_tiers):
            if missing[t] > floor[t]:
                target = t
                break
        if target < 0:
            return 1
        at = who_waits(tier, waiting, num_waiting, target, state)
        p = waiting[at]
        n = best_node(scene, p)
        placed = True
        if n >= 0:
            attach(node, left, links, head, request, p, n)
        elif not move_one(scene, p):
            placed = False
        if not placed:
            penalty[p] += 1.0
            price_ejections(scene, p, penalty, cost)
            price = cheapest_ejection(scene, cost, p, state, found)
            if price >= 1e299 or found[0] < 0:
                continue
            n = node[found[0]]
            for i in range(2):
                q = found[i]
                if q >= 0:
                    detach(node, left, links, head, request, q)
                    missing[tier[q]] += 1
                    waiting[num_waiting] = q
                    num_waiting += 1
            attach(node, left, links, head, request, p, n)
        missing[tier[p]] -= 1
        num_waiting -= 1
        waiting[at] = waiting[num_waiting]
        if first_difference(missing, best_missing) > 0:
            for t in range(len(missing)):
                best_missing[t] = missing[t]
            for i in range(len(node)):
                kept[i] = node[i]
        if not placed:
            shake(scene, state)
    return 0


# ── annealing home ────────────────────────────────────────────────────────────────────────────────────────────


@compiled
def accepted(change: float, temperature: float, state: IntArray) -> bool:
    """Metropolis rule on a stream of our own."""
    if change <= 0.0:
        return True
    return bool(random(state) % 1_000_000 < 1e6 * np.exp(-change / temperature))


@compiled
def leaving(home: IntArray, now: IntArray, c: int, n: int) -> float:
    """One more displaced pod when class ``c`` loses a pod on ``n``, or none."""
    return 1.0 if now[c, n] <= home[c, n] else 0.0


@compiled
def arriving(home: IntArray, now: IntArray, c: int, n: int) -> float:
    """One displaced pod less when class ``c`` gets a pod on ``n``, or none."""
    return -1.0 if now[c, n] < home[c, n] else 0.0


@compiled
def who_yields(scene: Scene, q: int, m: int, state: IntArray) -> int:
    """A pod of ``m``, drawn from those of other classes that make room for ``q``; −1 = none does.

    It trades places with ``q``, or, where ``q`` waits, waits instead and is no more important.
    """
    left, request, cls, tier = scene.left, scene.request, scene.cls, scene.tier
    n = scene.node[q]
    pick = -1
    seen = 0
    s = scene.head[m]
    while s >= 0:
        ok = cls[s] != cls[q]
        if ok and n < 0:
            ok = scene.evictable[s] and tier[s] >= tier[q] and fits_without(left, request, m, q, s)
        elif ok:
            ok = scene.allowed[cls[s], n] and can_trade(left, request, n, q, m, s)
        if ok:
            seen += 1
            if seen == 1 or random(state) % seen == 0:
                pick = s
        s = scene.links[0, s]
    return pick


@compiled
def change_of(scene: Scene, homes: Homes, q: int, m: int, s: int, weight: float) -> float:
    """What it costs that ``q`` goes to ``m``, from where ``s`` leaves for where ``q`` was; −1 = nobody leaves."""
    home, now = homes.home, homes.now
    n, c = scene.node[q], scene.cls[q]
    change = arriving(home, now, c, m)
    if n >= 0:
        change += leaving(home, now, c, n)
    elif s < 0:
        change -= weight  # one pod less waits
    if s >= 0:
        change += leaving(home, now, scene.cls[s], m)
        if n >= 0:
            change += arriving(home, now, scene.cls[s], n)
    return change


@compiled
def go(scene: Scene, homes: Homes, q: int, m: int, s: int) -> None:
    """``q`` goes to ``m``, from where ``s`` leaves for where ``q`` was; −1 = nobody leaves."""
    node, left, links, head, request = scene.node, scene.left, scene.links, scene.head, scene.request
    now, cls, tier = homes.now, scene.cls, scene.tier
    n = node[q]
    if s >= 0:
        detach(node, left, links, head, request, s)
        now[cls[s], m] -= 1
    if n >= 0:
        detach(node, left, links, head, request, q)
        now[cls[q], n] -= 1
    else:
        homes.missing[tier[q]] -= 1
    if s >= 0 and n >= 0:
        attach(node, left, links, head, request, s, n)
        now[cls[s], n] += 1
    elif s >= 0:
        homes.missing[tier[s]] += 1
    attach(node, left, links, head, request, q, m)
    now[cls[q], m] += 1


@compiled
def cool(
    scene: Scene,
    homes: Homes,
    best: Best,
    cost: float,
    state: IntArray,
    rounds: int,
    temperature: float,
    weight: float,
) -> float:
    """``rounds`` of annealing at one temperature on displaced pods + ``weight`` × waiting pods; returns that cost.

    Proposals relocate a pod, swap two, bring one home, place a waiting pod, let it take the place of one that is not
    more important. Kept as best is only what places at least as many pods per tier.
    """
    num_pods = scene.node.shape[0]
    num_nodes = scene.left.shape[0]
    for _ in range(rounds):
        x = random(state)
        kind = x & 3
        q = ((x >> 2 & 0xFFFFFFF) * num_pods) >> 28
        n = scene.node[q]
        m = homes.of[q] if kind == 1 and homes.of[q] >= 0 else ((x >> 30 & 0xFFFFFFF) * num_nodes) >> 28
        if m == n or not scene.allowed[scene.cls[q], m]:
            continue
        s = -1
        if not fits(scene.left, scene.request, m, q) or (n >= 0 and kind > 1):
            s = who_yields(scene, q, m, state)
            if s < 0:
                continue
        change = change_of(scene, homes, q, m, s, weight)
        if not accepted(change, temperature, state):
            continue
        go(scene, homes, q, m, s)
        cost += change
        order = first_difference(homes.missing, best.missing)
        if order > 0 or (order == 0 and cost < best.cost[0] - 0.5):
            best.cost[0] = cost
            best.missing[:] = homes.missing
            best.node[:] = scene.node
    return cost
