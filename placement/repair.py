"""Repair by ejection chains: place pending pods by moving few, and evicting only what matters less.

The module exists because a valid, better placement within milliseconds is worth more than a perfect one later:
every plan starts from what is found here, and exact methods only improve on it. It knows columns, not
Kubernetes: rules arrive as an eligibility matrix, and pods that must not move are simply not among the movable.

Two stages, both deterministic for a seed:

* :func:`repair`: for each pending pod, most important first: direct best fit, else move one pod, else swap two,
  else move a chain of two, else evict strictly less important pods (which are then pending themselves).
* :func:`search`: ejection search with penalties (Nagata & Bräysy, *A powerful route minimization heuristic for the
  vehicle routing problem with time windows*, 2009), which ejects pods of equal importance too and remembers how
  often a pod could not be placed, so that it does not run in circles. It keeps the best placement it saw.

Compiled with numba where that is installed; the same functions run, slower, without it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import numpy as np

from placement.errors import ConfigError
from placement.resources import BoolArray, FloatArray, IntArray

UNPLACED = -1

_F = TypeVar("_F", bound=Callable[..., Any])

try:
    from numba import njit

    HAS_NUMBA = True

    def compiled(function: _F) -> _F:
        """Compile once per machine; the cache lives beside the source or in ``NUMBA_CACHE_DIR``."""
        return cast(_F, njit(cache=True)(function))
except ImportError:
    HAS_NUMBA = False

    def compiled(function: _F) -> _F:
        """Without numba, the function as it is."""
        return function


@dataclass(frozen=True)
class Packing:
    """Movable and pending pods against nodes, as columns.

    Pods of one class are interchangeable. ``free`` is what is left for the pods of this problem: allocatable minus
    everything that must not move.

    Parameters
    ----------
    request : ``(R, C)`` int64 per class.
    class_of : ``(P,)`` int64.
    tier : ``(C,)`` int64, higher is more important.
    free : ``(R, N)`` int64, if all pods of the problem were gone.
    allowed : ``(C, N)`` bool, hard rules that depend on the node alone.
    node_of : ``(P,)`` int64, where pods run now, ``-1`` = pending.
    evictable : ``(P,)`` bool, may be evicted for a more important pod; every placed pod may be moved.
    """

    request: IntArray
    class_of: IntArray
    tier: IntArray
    free: IntArray
    allowed: BoolArray
    node_of: IntArray
    evictable: BoolArray

    def __post_init__(self) -> None:
        left = self.left(self.node_of)
        if len(left.T) and int(left.min()) < 0:
            node = int(np.argmin(left.min(axis=0)))
            raise ConfigError(
                f"node number {node} is overfull before planning: its movable pods ask for {-int(left[:, node].min())} "
                "more than it offers; take a fresh snapshot, or leave that node out"
            )

    @property
    def num_nodes(self) -> int:
        """Columns of ``free``."""
        return self.free.shape[1]

    @property
    def tiers(self) -> IntArray:
        """``(T,)`` distinct tiers, most important first."""
        return np.unique(self.tier[self.class_of])[::-1].astype(np.int64)

    def left(self, node_of: IntArray) -> IntArray:
        """``(R, N)`` int64: what a placement leaves free."""
        placed = node_of >= 0
        left = self.free.copy()
        for r in range(len(left)):
            np.subtract.at(left[r], node_of[placed], self.request[r, self.class_of[placed]])
        return left

    def counts(self, node_of: IntArray) -> tuple[int, ...]:
        """Pods placed per tier, most important first: the objective, compared lexicographically."""
        tier = self.tier[self.class_of]
        return tuple(int(((tier == t) & (node_of >= 0)).sum()) for t in self.tiers)

    def violations(self, node_of: IntArray) -> list[str]:
        """What an independent look finds wrong with a placement; empty when it is valid."""
        wrong = [f"node number {n} is overfull" for n in np.flatnonzero((self.left(node_of) < 0).any(axis=0))]
        placed = np.flatnonzero(node_of >= 0)
        bad = placed[~self.allowed[self.class_of[placed], node_of[placed]]]
        wrong += [f"pod number {p} is on node number {node_of[p]}, which its rules exclude" for p in bad]
        gone = np.flatnonzero((self.node_of >= 0) & (node_of < 0) & ~self.evictable)
        return wrong + [f"pod number {p} is evicted and must not be" for p in gone]

    def per_node(self, node_of: IntArray) -> IntArray:
        """``(C, N)`` pods of each class on each node."""
        placed = node_of >= 0
        count = np.zeros((self.request.shape[1], self.num_nodes), np.int64)
        np.add.at(count, (self.class_of[placed], node_of[placed]), 1)
        return count

    def num_displaced(self, node_of: IntArray) -> int:
        """Running pods that move or lose their place, siblings being interchangeable."""
        return int(np.maximum(self.per_node(self.node_of) - self.per_node(node_of), 0).sum())

    def num_moves(self, node_of: IntArray) -> int:
        """Running pods that change node."""
        return int(((self.node_of >= 0) & (node_of >= 0) & (node_of != self.node_of)).sum())

    def num_evictions(self, node_of: IntArray) -> int:
        """Running pods that lose their place."""
        return int(((self.node_of >= 0) & (node_of < 0)).sum())


# ── kernels ───────────────────────────────────────────────────────────────────────────────────────────────────
# State: node (P,), left (N, R), and per node a doubly linked list of its pods: head (N,), after (P,), before (P,).


@compiled
def _fits(left: IntArray, request: IntArray, n: int, p: int) -> bool:
    for r in range(left.shape[1]):  # noqa: SIM110  compiled code wants the loop
        if left[n, r] < request[p, r]:
            return False
    return True


@compiled
def _attach(node: IntArray, left: IntArray, links: IntArray, head: IntArray, request: IntArray, p: int, n: int) -> None:
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
def _detach(node: IntArray, left: IntArray, links: IntArray, head: IntArray, request: IntArray, p: int) -> int:
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
def _best_node(
    left: IntArray, request: IntArray, allowed: BoolArray, cls: IntArray, scale: FloatArray, p: int, skip: int
) -> int:
    """Eligible node that is left with least, or -1."""
    best = -1
    best_slack = 1e300
    c = cls[p]
    for n in range(left.shape[0]):
        if n == skip or not allowed[c, n] or not _fits(left, request, n, p):
            continue
        slack = 0.0
        for r in range(left.shape[1]):
            slack += (left[n, r] - request[p, r]) * scale[r]
        if slack < best_slack:
            best_slack = slack
            best = n
    return best


@compiled
def _fits_without(left: IntArray, request: IntArray, n: int, p: int, q: int) -> bool:
    """``p`` fits on ``n`` once ``q`` has left it."""
    for r in range(left.shape[1]):  # noqa: SIM110
        if left[n, r] + request[q, r] < request[p, r]:
            return False
    return True


@compiled
def _move_one(
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
            if _fits_without(left, request, n, p, q):
                m = _best_node(left, request, allowed, cls, scale, q, n)
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
    n = _detach(node, left, links, head, request, best_q)
    _attach(node, left, links, head, request, best_q, best_m)
    _attach(node, left, links, head, request, p, n)
    return True


@compiled
def _swap_two(
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
            if _fits_without(left, request, n, p, q):
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
                            _detach(node, left, links, head, request, q)
                            _detach(node, left, links, head, request, s)
                            _attach(node, left, links, head, request, q, m)
                            _attach(node, left, links, head, request, s, n)
                            _attach(node, left, links, head, request, p, n)
                            return True
                        s = links[0, s]
            q = links[0, q]
    return False


@compiled
def _chain_two(
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
            if _fits_without(left, request, n, p, q):
                _detach(node, left, links, head, request, q)
                _attach(node, left, links, head, request, p, n)
                for m in range(num_nodes):
                    if m == n or not allowed[cls[q], m]:
                        continue
                    s = head[m]
                    while s >= 0:
                        if _fits_without(left, request, m, q, s):
                            t = _best_node(left, request, allowed, cls, scale, s, m)
                            if t >= 0:
                                _detach(node, left, links, head, request, s)
                                _attach(node, left, links, head, request, s, t)
                                _attach(node, left, links, head, request, q, m)
                                return True
                        s = links[0, s]
                _detach(node, left, links, head, request, p)
                _attach(node, left, links, head, request, q, n)
            q = following
    return False


@compiled
def _evict_lower(
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
        count = _victims(left, links, head, request, tier, evictable, p, n, trial)
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
        _detach(node, left, links, head, request, gone[i])
    _attach(node, left, links, head, request, p, best)
    return int(best_count)


@compiled
def _victims(
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
def _repair_all(
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
        n = _best_node(left, request, allowed, cls, scale, p, -1)
        if n >= 0:
            _attach(node, left, links, head, request, p, n)
            continue
        if depth >= 1 and _move_one(node, left, links, head, request, allowed, cls, scale, p):
            continue
        if depth >= 2 and _swap_two(node, left, links, head, request, allowed, cls, p):
            continue
        if depth >= 3 and _chain_two(node, left, links, head, request, allowed, cls, scale, p):
            continue
        count = _evict_lower(node, left, links, head, request, allowed, cls, tier, evictable, p, gone)
        for i in range(count):
            tried[gone[i]] = False


@compiled
def _random(state: IntArray) -> int:
    """Next of a xorshift stream (Marsaglia 2003), 62 bits, never negative."""
    x = state[0]
    x ^= (x << 13) & 0x7FFFFFFFFFFFFFFF
    x ^= x >> 7
    x ^= (x << 17) & 0x7FFFFFFFFFFFFFFF
    state[0] = x
    return int(x >> 1)


@compiled
def _cheapest_ejection(
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
                if _fits_without(left, request, n, p, q):
                    ties = ties + 1 if cost[q] == best else 1
                    if ties == 1 or _random(state) % ties == 0:
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
                                if ties == 1 or _random(state) % ties == 0:
                                    best = both
                                    found[0] = q
                                    found[1] = s
                        s = links[0, s]
            q = links[0, q]
    return best


@compiled
def _shake(
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
        q = _random(state) % num_pods
        n = node[q]
        if n < 0:
            continue
        if _random(state) & 1:
            m = _random(state) % num_nodes
            if m != n and allowed[cls[q], m] and _fits(left, request, m, q):
                _detach(node, left, links, head, request, q)
                _attach(node, left, links, head, request, q, m)
            continue
        s = _random(state) % num_pods
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
            _detach(node, left, links, head, request, q)
            _detach(node, left, links, head, request, s)
            _attach(node, left, links, head, request, q, m)
            _attach(node, left, links, head, request, s, n)


@compiled
def _search(
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
    best_node: IntArray,
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
        anyone = _random(state) % 8 == 0
        for i in range(num_waiting):
            if anyone or tier[waiting[i]] == target:
                seen += 1
                if _random(state) % seen == 0:
                    at = i
        p = waiting[at]
        n = _best_node(left, request, allowed, cls, scale, p, -1)
        placed = True
        if n >= 0:
            _attach(node, left, links, head, request, p, n)
        elif not _move_one(node, left, links, head, request, allowed, cls, scale, p):
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
            price = _cheapest_ejection(left, links, head, request, allowed, cls, cost, p, state, found)
            if price >= 1e299 or found[0] < 0:
                continue
            n = node[found[0]]
            for i in range(2):
                q = found[i]
                if q >= 0:
                    _detach(node, left, links, head, request, q)
                    missing[tier[q]] += 1
                    waiting[num_waiting] = q
                    num_waiting += 1
            _attach(node, left, links, head, request, p, n)
        missing[tier[p]] -= 1
        num_waiting -= 1
        waiting[at] = waiting[num_waiting]
        for t in range(num_tiers):
            if missing[t] != best_missing[t]:
                if missing[t] < best_missing[t]:
                    best_missing[:] = missing
                    best_node[:] = node
                break
        if not placed:
            _shake(node, left, links, head, request, allowed, cls, state, 10)
    return 0


@compiled
def _accepted(change: float, temperature: float, state: IntArray) -> bool:
    """Metropolis rule on a stream of our own."""
    if change <= 0.0:
        return True
    return _random(state) % 1_000_000 < 1e6 * np.exp(-change / temperature)


@compiled
def _leaving(home: IntArray, now: IntArray, c: int, n: int) -> float:
    """One more displaced pod when class ``c`` loses a pod on ``n``, or none."""
    return 1.0 if now[c, n] <= home[c, n] else 0.0


@compiled
def _arriving(home: IntArray, now: IntArray, c: int, n: int) -> float:
    return -1.0 if now[c, n] < home[c, n] else 0.0


@compiled
def _cool(
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
    best_node: IntArray,
    best_cost: FloatArray,
    cost: float,
    state: IntArray,
    rounds: int,
    temperature: float,
) -> float:
    """``rounds`` of annealing at one temperature on the number of displaced pods; returns that number.

    Proposals relocate a pod, swap two, bring one home, place a waiting pod, or let it take the place of one that
    is not more important; the tiers' counts never get worse.
    """
    num_pods = node.shape[0]
    num_nodes, num_resources = left.shape
    for _ in range(rounds):
        q = _random(state) % num_pods
        n = node[q]
        c = cls[q]
        kind = _random(state) % 4
        m = home_of[q] if kind == 1 and home_of[q] >= 0 else _random(state) % num_nodes
        if m == n or not allowed[c, m]:
            continue
        fits = _fits(left, request, m, q)
        if fits and (n < 0 or kind <= 1):
            change = _arriving(home, now, c, m)
            if n >= 0:
                change += _leaving(home, now, c, n)
            if n < 0 or _accepted(change, temperature, state):
                if n >= 0:
                    _detach(node, left, links, head, request, q)
                    now[c, n] -= 1
                _attach(node, left, links, head, request, q, m)
                now[c, m] += 1
                if n < 0:
                    best_cost[0] = 1e300
                cost += change
        elif not fits or kind > 1:
            seen = 0
            pick = -1
            s = head[m]
            while s >= 0:
                ok = cls[s] != c
                if ok and n < 0:
                    ok = evictable[s] and tier[s] >= tier[q] and _fits_without(left, request, m, q, s)
                elif ok:
                    ok = allowed[cls[s], n]
                    for r in range(num_resources):
                        extra = request[q, r] - request[s, r]
                        if left[n, r] + extra < 0 or left[m, r] - extra < 0:
                            ok = False
                            break
                if ok:
                    seen += 1
                    if _random(state) % seen == 0:
                        pick = s
                s = links[0, s]
            if pick < 0:
                continue
            d = cls[pick]
            change = _leaving(home, now, d, m) + _arriving(home, now, c, m)
            if n >= 0:
                change += _leaving(home, now, c, n) + _arriving(home, now, d, n)
            better = n < 0 and tier[pick] > tier[q]
            if better or _accepted(change, temperature, state):
                _detach(node, left, links, head, request, pick)
                now[d, m] -= 1
                if n >= 0:
                    _detach(node, left, links, head, request, q)
                    now[c, n] -= 1
                    _attach(node, left, links, head, request, pick, n)
                    now[d, n] += 1
                _attach(node, left, links, head, request, q, m)
                now[c, m] += 1
                if better:
                    best_cost[0] = 1e300
                cost += change
        if cost < best_cost[0] - 0.5:
            best_cost[0] = cost
            best_node[:] = node
    return cost


# ── what callers use ──────────────────────────────────────────────────────────────────────────────────────────


@dataclass
class _State:
    """Columns as the kernels want them, for one packing and one placement."""

    node: IntArray
    left: IntArray
    links: IntArray
    head: IntArray
    request: IntArray
    tier: IntArray
    scale: FloatArray
    size: FloatArray

    @classmethod
    def of(cls, packing: Packing, node_of: IntArray) -> _State:
        num_pods = len(node_of)
        request = np.ascontiguousarray(packing.request[:, packing.class_of].T)
        total = packing.free.sum(axis=1, dtype=np.float64) if packing.num_nodes else np.ones(len(packing.free))
        scale = np.where(total > 0, 1.0 / np.maximum(total, 1.0), 0.0)
        tiers = packing.tiers
        tier = len(tiers) - 1 - np.searchsorted(tiers[::-1], packing.tier[packing.class_of])
        node = np.full(num_pods, UNPLACED, np.int64)
        left = np.ascontiguousarray(packing.free.T)
        links = np.full((2, num_pods), -1, np.int64)
        head = np.full(packing.num_nodes, -1, np.int64)
        state = cls(node, left, links, head, request, tier.astype(np.int64), scale, request @ scale + 1e-12)
        for p in np.flatnonzero(node_of >= 0):
            _attach(node, left, links, head, request, p, node_of[p])
        return state

    @property
    def core(self) -> tuple[IntArray, IntArray, IntArray, IntArray, IntArray]:
        return self.node, self.left, self.links, self.head, self.request


def repair(packing: Packing, *, depth: int = 3) -> IntArray:
    """``(P,)`` node of each pod after repair: never fewer pods placed in the tiers that count most.

    Both orders within a tier are tried, small first (places more when not all fit) and large first (places all more
    often when they do), and the better result is returned. ``depth`` limits the chains: 0 only direct fits,
    1 moves one pod, 2 swaps, 3 moves two.
    """
    best = packing.node_of
    best_key = (packing.counts(best), 0)
    for sign in (1.0, -1.0):
        state = _State.of(packing, packing.node_of)
        rank = sign * state.size
        extra = (packing.allowed, packing.class_of, state.tier, packing.evictable, state.scale, rank, depth)
        _repair_all(*state.core, *extra)
        key = (packing.counts(state.node), -packing.num_moves(state.node))
        if key > best_key:
            best, best_key = state.node.copy(), key
        if (state.node >= 0).all():
            break
    return best


class Search:
    """Ejection search that can be continued: call :meth:`run` for some rounds, look at ``best``, run again."""

    def __init__(self, packing: Packing, node_of: IntArray, *, seed: int = 0) -> None:
        self.packing = packing
        self.best = node_of.copy()
        self._state = _State.of(packing, node_of)
        self._penalty = np.zeros(len(node_of), np.float64)
        self._random = np.array([(seed * 2654435761 + 88172645463325252) & (2**62 - 1) | 1], np.int64)
        num_tiers = len(packing.tiers)
        tier = self._state.tier
        self.missing = np.bincount(tier[node_of < 0], minlength=num_tiers).astype(np.int64)
        """``(T,)`` pods without a place in ``best``, per tier, most important first."""

    def run(self, floor: IntArray, *, rounds: int) -> bool:
        """True once ``floor``, the fewest that can stay without a place per tier, is reached."""
        s, packing = self._state, self.packing
        extra = (packing.allowed, packing.class_of, s.tier, packing.evictable, s.scale, s.size)
        done = _search(*s.core, *extra, floor, self._penalty, self.best, self.missing, self._random, rounds)
        return bool(done)


class Settling:
    """Annealing that brings pods home: fewer displaced pods, never fewer placed (Kirkpatrick et al. 1983).

    Siblings are interchangeable, so what counts is how many pods of a class each node keeps. Call :meth:`run` with
    falling temperatures, from about 1 to about 0.1, then read :attr:`best`.
    """

    def __init__(self, packing: Packing, node_of: IntArray, *, seed: int = 0) -> None:
        self.packing = packing
        self._home = packing.per_node(packing.node_of)
        self._seed = seed
        self._random = np.array([(seed * 40503 + 362436069362436069) & (2**62 - 1) | 1], np.int64)
        self._restart(node_of)

    def _restart(self, node_of: IntArray) -> None:
        self._state = _State.of(self.packing, node_of)
        self._now = self.packing.per_node(node_of)
        self._cost = float(np.maximum(self._home - self._now, 0).sum())
        self._best_node = node_of.copy()
        self._best_cost = np.array([self._cost])

    @property
    def displaced(self) -> int:
        """Displaced pods of the best placement so far."""
        return int(self._best_cost[0])

    @property
    def best(self) -> IntArray:
        """``(P,)`` best placement so far, siblings named so that whoever can stays."""
        return keep_siblings(self.packing, self._best_node)

    def run(self, *, rounds: int, temperature: float) -> None:
        """Anneal for ``rounds`` proposals."""
        s, packing = self._state, self.packing
        rules = (packing.allowed, packing.class_of, s.tier, packing.evictable)
        counts = (self._home, self._now, packing.node_of, self._best_node, self._best_cost)
        self._cost = float(_cool(*s.core, *rules, *counts, self._cost, self._random, rounds, temperature))


def keep_siblings(packing: Packing, node_of: IntArray) -> IntArray:
    """``(P,)`` the same pods per class and node, renamed so that running pods stay where they can.

    Within a class, running pods keep a place before pending ones get one.
    """
    result = np.full(len(node_of), UNPLACED, np.int64)
    room = packing.per_node(node_of)
    for p in np.flatnonzero(packing.node_of >= 0):
        c, n = packing.class_of[p], packing.node_of[p]
        if room[c, n]:
            room[c, n] -= 1
            result[p] = n
    places: dict[int, list[int]] = {}
    for c, n in zip(*(axis.tolist() for axis in np.nonzero(room)), strict=True):
        places.setdefault(c, []).extend([n] * int(room[c, n]))
    without = np.flatnonzero(result < 0)
    for p in without[np.argsort(packing.node_of[without] < 0, kind="stable")]:
        if queue := places.get(int(packing.class_of[p])):
            result[p] = queue.pop(0)
    return result
