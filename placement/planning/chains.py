"""Compiled kernels of repair: ejection chains, ejection search, and annealing home, over plain arrays.

State of a placement: ``node`` ``(P,)``, ``left`` ``(N, R)``, and per node a doubly linked list of its pods: ``head``
``(N,)`` and ``links`` ``(2, P)`` (after, before), so that a pod comes and goes in constant time. ``request`` is
``(P, R)``, ``allowed`` ``(C, N)``, ``cls`` and ``tier`` ``(P,)``; here tier 0 is the most important. Callers are in
:mod:`placement.planning.repair`, which says what is done and why.

Compiled with numba where that is installed; the same functions run, slower, without it.
"""

from __future__ import annotations

import numpy as np

from placement.machine_code import compiled
from placement.resources import BoolArray, FloatArray, IntArray


@compiled
def fits(left: IntArray, request: IntArray, n: int, p: int) -> bool:
    for r in range(left.shape[1]):  # noqa: SIM110  compiled code wants the loop
        if left[n, r] < request[p, r]:
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
def best_node(
    left: IntArray, request: IntArray, allowed: BoolArray, cls: IntArray, scale: FloatArray, p: int, skip: int
) -> int:
    """Eligible node that is left with least, or -1."""
    best = -1
    best_slack = 1e300
    c = cls[p]
    for n in range(left.shape[0]):
        if n == skip or not allowed[c, n] or not fits(left, request, n, p):
            continue
        slack = 0.0
        for r in range(left.shape[1]):
            slack += (left[n, r] - request[p, r]) * scale[r]
        if slack < best_slack:
            best_slack = slack
            best = n
    return best


@compiled
def fits_without(left: IntArray, request: IntArray, n: int, p: int, q: int) -> bool:
    """``p`` fits on ``n`` once ``q`` has left it."""
    for r in range(left.shape[1]):  # noqa: SIM110
        if left[n, r] + request[q, r] < request[p, r]:
            return False
    return True


@compiled
def move_one(
    node: IntArray,
    left: IntArray,
    links: IntArray,
    head: IntArray,
    request: IntArray,
    allowed: BoolArray,
    cls: IntArray,
    scale: FloatArray,
    p: int,
) -> bool:
    """Place ``p`` by moving one pod: the move that leaves least space where the moved pod lands."""
    c = cls[p]
    best_q = -1
    best_m = -1
    best_slack = 1e300
    for n in range(left.shape[0]):
        if not allowed[c, n]:
            continue
        q = head[n]
        while q >= 0:
            if fits_without(left, request, n, p, q):
                m = best_node(left, request, allowed, cls, scale, q, n)
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
    if best_q < 0:
        return False
    n = detach(node, left, links, head, request, best_q)
    attach(node, left, links, head, request, best_q, best_m)
    attach(node, left, links, head, request, p, n)
    return True


@compiled
def swap_two(
    node: IntArray,
    left: IntArray,
    links: IntArray,
    head: IntArray,
    request: IntArray,
    allowed: BoolArray,
    cls: IntArray,
    p: int,
) -> bool:
    """Place ``p`` on ``n`` by swapping a larger pod of ``n`` for a smaller one of another node."""
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
def chain_two(
    node: IntArray,
    left: IntArray,
    links: IntArray,
    head: IntArray,
    request: IntArray,
    allowed: BoolArray,
    cls: IntArray,
    scale: FloatArray,
    p: int,
) -> bool:
    """Place ``p`` on ``n`` by moving q from ``n`` to ``m``, and s from ``m`` elsewhere."""
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
                            t = best_node(left, request, allowed, cls, scale, s, m)
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
def evict_lower(
    node: IntArray,
    left: IntArray,
    links: IntArray,
    head: IntArray,
    request: IntArray,
    allowed: BoolArray,
    cls: IntArray,
    tier: IntArray,
    evictable: BoolArray,
    p: int,
    gone: IntArray,
) -> int:
    """Place ``p`` by evicting strictly less important pods of one node; returns how many went to ``gone``.

    Per node, pods leave in order of (tier, then size, larger first) until ``p`` fits, and those that turn out not
    to matter come back. The node whose highest victim is lowest wins, then the one with fewest victims.
    """
    num_nodes = left.shape[0]
    best = -1
    best_top = -1
    best_count = 1 << 60
    trial = np.empty(node.shape[0], np.int64)
    for n in range(num_nodes):
        if not allowed[cls[p], n]:
            continue
        count = victims(left, links, head, request, tier, evictable, p, n, trial)
        if count == 0:
            continue
        top = 1 << 60
        for i in range(count):
            top = min(top, tier[trial[i]])
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
def victims(
    left: IntArray,
    links: IntArray,
    head: IntArray,
    request: IntArray,
    tier: IntArray,
    evictable: BoolArray,
    p: int,
    n: int,
    trial: IntArray,
) -> int:
    """Pods to evict from ``n`` for ``p``, least important first, into ``trial``; 0 when that does not help."""
    num_resources = left.shape[1]
    room = left[n].copy()
    count = 0
    q = head[n]
    while q >= 0:
        if tier[q] > tier[p] and evictable[q]:
            at = count
            while at > 0 and tier[trial[at - 1]] < tier[q]:
                trial[at] = trial[at - 1]
                at -= 1
            trial[at] = q
            count += 1
            for r in range(num_resources):
                room[r] += request[q, r]
        q = links[0, q]
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
def repair_all(
    node: IntArray,
    left: IntArray,
    links: IntArray,
    head: IntArray,
    request: IntArray,
    allowed: BoolArray,
    cls: IntArray,
    tier: IntArray,
    evictable: BoolArray,
    scale: FloatArray,
    rank: FloatArray,
    depth: int,
) -> None:
    """Work through all pending pods, most important first, then by ``rank``, until none can be placed."""
    num_pods = node.shape[0]
    tried = np.zeros(num_pods, np.bool_)
    gone = np.empty(num_pods, np.int64)
    while True:
        p = -1
        for q in range(num_pods):
            if (
                node[q] < 0
                and not tried[q]
                and (p < 0 or tier[q] < tier[p] or (tier[q] == tier[p] and rank[q] < rank[p]))
            ):
                p = q
        if p < 0:
            return
        tried[p] = True
        n = best_node(left, request, allowed, cls, scale, p, -1)
        if n >= 0:
            attach(node, left, links, head, request, p, n)
            continue
        if depth >= 1 and move_one(node, left, links, head, request, allowed, cls, scale, p):
            continue
        if depth >= 2 and swap_two(node, left, links, head, request, allowed, cls, p):
            continue
        if depth >= 3 and chain_two(node, left, links, head, request, allowed, cls, scale, p):
            continue
        count = evict_lower(node, left, links, head, request, allowed, cls, tier, evictable, p, gone)
        for i in range(count):
            tried[gone[i]] = False


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
def cheapest_ejection(
    left: IntArray,
    links: IntArray,
    head: IntArray,
    request: IntArray,
    allowed: BoolArray,
    cls: IntArray,
    cost: FloatArray,
    p: int,
    state: IntArray,
    found: IntArray,
) -> float:
    """Cheapest one or two pods of one node whose leaving makes room for ``p``; into ``found``, ties by chance."""
    num_nodes, num_resources = left.shape
    best = 1e300
    ties = 0
    found[0] = -1
    found[1] = -1
    for n in range(num_nodes):
        if not allowed[cls[p], n]:
            continue
        q = head[n]
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
                        if both <= best:
                            ok = True
                            for r in range(num_resources):
                                if left[n, r] + request[q, r] + request[s, r] < request[p, r]:
                                    ok = False
                                    break
                            if ok:
                                ties = ties + 1 if both == best else 1
                                if ties == 1 or random(state) % ties == 0:
                                    best = both
                                    found[0] = q
                                    found[1] = s
                        s = links[0, s]
            q = links[0, q]
    return best


@compiled
def shake(
    node: IntArray,
    left: IntArray,
    links: IntArray,
    head: IntArray,
    request: IntArray,
    allowed: BoolArray,
    cls: IntArray,
    state: IntArray,
    tries: int,
) -> None:
    """Random feasible relocations and swaps: the same pods stay placed, on other nodes."""
    num_pods = node.shape[0]
    num_nodes, num_resources = left.shape
    for _ in range(tries):
        q = random(state) % num_pods
        n = node[q]
        if n < 0:
            continue
        if random(state) & 1:
            m = random(state) % num_nodes
            if m != n and allowed[cls[q], m] and fits(left, request, m, q):
                detach(node, left, links, head, request, q)
                attach(node, left, links, head, request, q, m)
            continue
        s = random(state) % num_pods
        m = node[s]
        if m < 0 or m == n or not allowed[cls[q], m] or not allowed[cls[s], n]:
            continue
        ok = True
        for r in range(num_resources):
            change = request[q, r] - request[s, r]
            if left[n, r] + change < 0 or left[m, r] - change < 0:
                ok = False
                break
        if ok:
            detach(node, left, links, head, request, q)
            detach(node, left, links, head, request, s)
            attach(node, left, links, head, request, q, m)
            attach(node, left, links, head, request, s, n)


@compiled
def search(
    node: IntArray,
    left: IntArray,
    links: IntArray,
    head: IntArray,
    request: IntArray,
    allowed: BoolArray,
    cls: IntArray,
    tier: IntArray,
    evictable: BoolArray,
    scale: FloatArray,
    size: FloatArray,
    floor: IntArray,
    penalty: FloatArray,
    kept: IntArray,
    best_missing: IntArray,
    state: IntArray,
    rounds: int,
) -> int:
    """``rounds`` of ejection search from the current placement; 1 when ``floor`` was reached."""
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
        at = -1
        seen = 0
        anyone = random(state) % 8 == 0
        for i in range(num_waiting):
            if anyone or tier[waiting[i]] == target:
                seen += 1
                if random(state) % seen == 0:
                    at = i
        p = waiting[at]
        n = best_node(left, request, allowed, cls, scale, p, -1)
        placed = True
        if n >= 0:
            attach(node, left, links, head, request, p, n)
        elif not move_one(node, left, links, head, request, allowed, cls, scale, p):
            placed = False
        if not placed:
            penalty[p] += 1.0
            for q in range(num_pods):
                if tier[q] < tier[p] or not evictable[q]:
                    cost[q] = 1e300
                elif tier[q] == tier[p]:
                    cost[q] = (1.0 + penalty[q]) * 1e3 * size[p] / size[q]
                else:
                    cost[q] = 1.0 + penalty[q] * 1e-3
            price = cheapest_ejection(left, links, head, request, allowed, cls, cost, p, state, found)
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
        for t in range(num_tiers):
            if missing[t] != best_missing[t]:
                if missing[t] < best_missing[t]:
                    best_missing[:] = missing
                    kept[:] = node
                break
        if not placed:
            shake(node, left, links, head, request, allowed, cls, state, 10)
    return 0


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
    return -1.0 if now[c, n] < home[c, n] else 0.0


@compiled
def cool(
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
    temperature: float,
    weight: float,
) -> float:
    """``rounds`` of annealing at one temperature on displaced pods + ``weight`` × waiting pods; returns that cost.

    Proposals relocate a pod, swap two, bring one home, place a waiting pod, let it take the place of one that is not
    more important. Kept as best is only what places at least as many pods per tier.
    """
    num_pods = node.shape[0]
    num_nodes, num_resources = left.shape
    num_tiers = missing.shape[0]
    for _ in range(rounds):
        x = random(state)
        kind = x & 3
        q = ((x >> 2 & 0xFFFFFFF) * num_pods) >> 28
        n = node[q]
        c = cls[q]
        m = home_of[q] if kind == 1 and home_of[q] >= 0 else ((x >> 30 & 0xFFFFFFF) * num_nodes) >> 28
        if m == n or not allowed[c, m]:
            continue
        free = fits(left, request, m, q)
        if free and (n < 0 or kind <= 1):
            change = arriving(home, now, c, m)
            if n >= 0:
                change += leaving(home, now, c, n)
            else:
                change -= weight
            if accepted(change, temperature, state):
                if n >= 0:
                    detach(node, left, links, head, request, q)
                    now[c, n] -= 1
                else:
                    missing[tier[q]] -= 1
                attach(node, left, links, head, request, q, m)
                now[c, m] += 1
                cost += change
        elif not free or kind > 1:
            waits = n < 0
            seen = 0
            pick = -1
            s = head[m]
            while s >= 0:
                ok = cls[s] != c
                if ok and waits:
                    ok = evictable[s] and tier[s] >= tier[q] and fits_without(left, request, m, q, s)
                elif ok:
                    ok = allowed[cls[s], n]
                    for r in range(num_resources):
                        extra = request[q, r] - request[s, r]
                        if left[n, r] + extra < 0 or left[m, r] - extra < 0:
                            ok = False
                            break
                if ok:
                    seen += 1
                    if seen == 1 or random(state) % seen == 0:
                        pick = s
                s = links[0, s]
            if pick < 0:
                continue
            d = cls[pick]
            change = leaving(home, now, d, m) + arriving(home, now, c, m)
            if n >= 0:
                change += leaving(home, now, c, n)
                change += weight if waits else arriving(home, now, d, n)
            if accepted(change, temperature, state):
                detach(node, left, links, head, request, pick)
                now[d, m] -= 1
                if n >= 0:
                    detach(node, left, links, head, request, q)
                    now[c, n] -= 1
                else:
                    missing[tier[q]] -= 1
                if waits:
                    missing[tier[pick]] += 1
                else:
                    attach(node, left, links, head, request, pick, n)
                    now[d, n] += 1
                attach(node, left, links, head, request, q, m)
                now[c, m] += 1
                cost += change
        else:
            continue
        order = 0
        for t in range(num_tiers):
            if missing[t] != best_missing[t]:
                order = 1 if missing[t] < best_missing[t] else -1
                break
        if order > 0 or (order == 0 and cost < best_cost[0] - 0.5):
            best_cost[0] = cost
            best_missing[:] = missing
            kept[:] = node
    return cost
