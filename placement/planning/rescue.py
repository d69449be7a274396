"""Rescue: place more, and more important, pods by moving or evicting as few running ones as possible.

The objective is lexicographic: pods placed per priority, from the highest down, then as few displaced pods as
possible (arXiv 2511.08373, "Priority Matters", states the same). :func:`pack` works on columns
(:class:`~placement.planning.repair.Packing`) and always returns a valid placement, within milliseconds if it must: repair by
ejection chains, ejection search, pattern bounds that prove optimality, then annealing that brings pods home.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from placement.planning.bounds import PatternBound, class_counts, counting_bound
from placement.planning.fullness import all_fit
from placement.planning.gang_program import bring_home
from placement.planning.plans import Deadline
from placement.planning.repair import SETTLE_ROUND_S, Packing, Search, Settling, keep_siblings, repair
from placement.planning.solver import assign
from placement.resources import IntArray

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

Note = Callable[[IntArray], None]
"""Is told of a placement with better counts."""
SEARCH_SHARE = 0.3
SEARCH_SHARE_BEFORE, SEARCH_SHARE_BESIDE = 0.15, 0.5
"""With two threads: what the search gets before pods are brought home, and beside that."""
BOUND_SHARE = 0.2
PROGRAM_SHARE, MOST_PAIRS = 0.3, 500
"""Of what is left for bringing pods home, for an integer program, and (class, node) pairs up to which it is made: with 1,500 it
takes most of a second, far beyond its share, and says nothing."""
FULLNESS_S = 0.5
"""With less time left, nobody asks whether all pods can fit to the last byte; so much it counts for on a clock of work."""
LEAST_S = 1e-6
"""What the other thread gets where no time is left: enough to return what it has."""
SEARCH_ROUNDS = 200
SETTLE_ROUNDS = 1000
HOT, COLD = 0.35, 0.15
DENSE_CELLS = 4_000_000
"""Above so many (class, node) cells no class-by-node matrix is made; moves are then not minimised further."""
RELABEL_CELLS = 100_000_000
"""Above so many (class, node, node) cells equal nodes are not relabelled: it would take seconds."""


@dataclass(frozen=True)
class Milestone:
    """At ``time_s`` after the start, ``counts`` pods were placed per tier."""

    time_s: float
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Packed:
    """A placement with what is known about it.

    ``most`` holds, per tier, the most pods that can be placed given the counts of the tiers above, as far as proved;
    the placement is proved optimal in its counts when it equals ``counts`` in every tier. ``fewest`` running pods, as far as
    proved, are displaced by any placement with these counts; looked for where the packing is small.
    """

    node_of: IntArray
    counts: tuple[int, ...]
    most: tuple[int, ...]
    milestones: tuple[Milestone, ...]
    fewest: int = 0

    @property
    def is_proved(self) -> bool:
        """No placement has lexicographically better counts."""
        return self.most == self.counts


def as_it_is(packing: Packing) -> Packed:
    """Where nobody waits: everybody stays."""
    counts = packing.counts(packing.node_of)
    return Packed(packing.node_of, counts, counts, ())


def pack(packing: Packing, deadline: Deadline, *, seed: int = 0, beside: Executor | None = None) -> Packed:
    """Best placement within the deadline; at least as good as the present one, whatever the limit.

    Without ``beside`` one thing comes after the other, and where ``deadline`` counts work the plan repeats for a seed.
    With ``beside``, an executor with a thread that is free, that thread counts and proves while this one brings pods
    home. Each has the whole limit by what ``deadline.clock`` reads in it, so the clock may be one of the thread. No work
    is left in ``beside``.
    """
    milestones: list[Milestone] = []

    def note(node_of: IntArray) -> None:
        counts = packing.counts(node_of)
        if not milestones or counts > milestones[-1].counts:
            milestones.append(Milestone(deadline.elapsed_s, counts))
            deadline.note(sum(counts), None)

    best = repair(packing)
    note(best)
    search = Search(packing, best, seed=seed)
    if beside is None:
        ceiling = _ceiling(packing, best, deadline)
        known = _count(packing, search, ceiling, deadline, note)
        deadline.note(sum(packing.counts(known.node_of)), sum(known.most))
        settled, fewest = _bring_home(packing, known.node_of, deadline, seed)
    else:
        ceiling, known, settled, fewest = _pack_beside(packing, search, deadline, seed, beside, note)
    counts, most = packing.counts(settled), known.most
    if counts > packing.counts(known.node_of):
        fewest = 0
        most = _counting(packing, settled, ceiling) if most == packing.counts(known.node_of) else most
        most = tuple(max(a, b) for a, b in zip(_prove_again(packing, settled, most, ceiling), counts, strict=True))
    note(settled)
    deadline.note(sum(counts), sum(most))
    return Packed(settled, counts, most, tuple(milestones), fewest)


@dataclass(frozen=True)
class _Known:
    """A placement, and the most pods per tier that any placement has."""

    node_of: IntArray
    most: tuple[int, ...]


def _count(packing: Packing, search: Search, ceiling: IntArray, deadline: Deadline, note: Note) -> _Known:
    """Search, prove, and where the two do not meet, both once more."""
    most = _counting(packing, search.best, ceiling)
    if most != packing.counts(search.best):
        _continue(search, most, deadline.part(SEARCH_SHARE), note)
    return _count_on(packing, search, ceiling, deadline, SEARCH_SHARE, note)


def _count_on(
    packing: Packing, search: Search, ceiling: IntArray, deadline: Deadline, share: float, note: Note
) -> _Known:
    """Prove what the search has; where that does not do, search for ``share`` of what is left and prove again."""
    best = search.best.copy()
    most = _prove(packing, best, ceiling, deadline.part(BOUND_SHARE))
    if most != packing.counts(best):
        _continue(search, most, deadline.part(share), note)
        if packing.counts(search.best) > packing.counts(best):
            best = search.best.copy()
            most = _prove(packing, best, ceiling, deadline.part(BOUND_SHARE))
    return _Known(best, most)


class _Shared:
    """What two threads know of each other: the placement with the best counts, and who has come to an end."""

    def __init__(self, node_of: IntArray) -> None:
        self.node_of = node_of.copy()
        self.is_home = False
        """Nobody needs to bring pods home any more."""
        self.is_over = False

    def note(self, node_of: IntArray) -> None:
        """A better placement, which whoever found it may write over."""
        self.node_of = node_of.copy()


def _pack_beside(
    packing: Packing, search: Search, deadline: Deadline, seed: int, beside: Executor, note: Note
) -> tuple[IntArray, _Known, IntArray, int]:
    """Ceiling, what is known of the counts, a placement, and how few pods any with these counts displaces.

    This thread searches for a moment and then brings pods home, anew each time the other has placed more. When the other, in
    ``beside``, has counted it brings pods home as well, by other chances, and the better of both placements is returned.
    """
    shared = _Shared(search.best)
    start = shared.node_of

    def over(left_s: float, ended: Callable[[], bool]) -> Deadline:
        return Deadline(max(left_s, LEAST_S), deadline.clock, lambda: shared.is_over or ended() or deadline.cancelled())

    def prove(left_s: float) -> IntArray:
        return _ceiling(packing, start, over(left_s, lambda: False))

    def count(ceiling: Future[IntArray], left_s: float) -> tuple[_Known, IntArray, int]:
        part = over(left_s, lambda: False)
        known = _count_on(packing, search, ceiling.result(), part, SEARCH_SHARE_BESIDE, shared.note)
        rest = over(part.left_s, lambda: shared.is_home)
        node_of, fewest = _bring_home(packing, known.node_of, rest, seed + 1)
        shared.is_home = shared.is_home or packing.num_displaced(node_of) == fewest
        return known, node_of, fewest

    try:
        ceiling = beside.submit(prove, deadline.left_s)
        most = _counting(packing, start, _sizes(packing))
        if most != packing.counts(start):
            _continue(search, most, deadline.part(SEARCH_SHARE_BEFORE), note)
        shared.note(search.best)
        counted = beside.submit(count, ceiling, deadline.left_s)
        home = over(deadline.left_s, lambda: shared.is_home)
        settled = _settle(packing, shared.node_of, home, seed, newest=lambda: shared.node_of, note=note)
        shared.is_home = True
        shared.is_over = deadline.is_over
        known, other, fewest = counted.result()
    finally:
        shared.is_over = True
    rank = [(packing.counts(node_of), -packing.num_displaced(node_of)) for node_of in (settled, other)]
    return ceiling.result(), known, settled if rank[0] >= rank[1] else other, fewest


def _prove_again(packing: Packing, node_of: IntArray, most: tuple[int, ...], ceiling: IntArray) -> tuple[int, ...]:
    """Bounds that still hold after the counts rose: up to the first tier that changed, counting bounds below it."""
    counts, fresh = packing.counts(node_of), _counting(packing, node_of, ceiling)
    held = True
    result = []
    for k, now in enumerate(counts):
        result.append(min(most[k], fresh[k]) if held and most[k] >= now else fresh[k])
        held = held and result[-1] == now
    return tuple(result)


def _ceiling(packing: Packing, node_of: IntArray, deadline: Deadline) -> IntArray:
    """``(T,)`` most pods per tier when all pods of the tiers above are placed: one less than all where not all fit.

    Asked only for nodes that are alike, and where nodes would have to be filled to the last byte.
    """
    size, most = class_counts(packing), _sizes(packing)
    if not packing.allowed.all() or not (packing.free == packing.free[:, :1]).all() or (node_of >= 0).all():
        return most
    for k, tier in enumerate(packing.tiers):
        if deadline.left_s < FULLNESS_S:
            break
        counted = counting_bound(packing, tuple(most[:k].tolist()), k)
        above = packing.tier >= tier
        if counted < most[k] or packing.counts(node_of)[: k + 1] == tuple(most[: k + 1].tolist()):
            continue
        deadline.spend(FULLNESS_S)
        if all_fit(packing.request[:, above], size[above], packing.free[:, 0], packing.num_nodes) is False:
            most[k] -= 1
            break
    return most


def _sizes(packing: Packing) -> IntArray:
    """``(T,)`` pods per tier."""
    size = class_counts(packing)
    return np.array([int(size[packing.tier == tier].sum()) for tier in packing.tiers], np.int64)


def _counting(packing: Packing, node_of: IntArray, ceiling: IntArray) -> tuple[int, ...]:
    """Bounds by counting; ``ceiling`` holds for a tier as long as the tiers above are placed whole."""
    counts = packing.counts(node_of)
    tier = packing.tier[packing.class_of]
    most, whole = [], True
    for k, count in enumerate(counts):
        bound = counting_bound(packing, counts, k)
        most.append(max(min(bound, int(ceiling[k])) if whole else bound, count))
        whole = whole and count == int((tier == packing.tiers[k]).sum())
    return tuple(most)


def _floor(packing: Packing, most: tuple[int, ...]) -> IntArray:
    """``(T,)`` fewest pods that stay without a place, per tier."""
    tier = packing.tier[packing.class_of]
    return np.array([int((tier == t).sum()) - m for t, m in zip(packing.tiers, most, strict=True)], np.int64)


def _continue(search: Search, most: tuple[int, ...], deadline: Deadline, note: Note) -> None:
    """Search in slices until the bound or the deadline is reached."""
    floor = _floor(search.packing, most)
    while not deadline.is_over:
        before = search.missing.copy()
        done = search.run(floor, rounds=SEARCH_ROUNDS)
        deadline.spend(SEARCH_ROUNDS * search.round_s)
        if (search.missing != before).any():
            note(search.best)
        if done:
            return


def _prove(packing: Packing, node_of: IntArray, ceiling: IntArray, deadline: Deadline) -> tuple[int, ...]:
    """Most pods per tier given the tiers above, stopping at the first tier that is not proved tight."""
    counts = packing.counts(node_of)
    most = list(_counting(packing, node_of, ceiling))
    for k, count in enumerate(counts):
        if most[k] == count:
            continue
        bound = PatternBound(packing, node_of, k)
        if not bound.is_small_enough:
            break
        bound.improve(deadline)
        most[k] = max(count, min(most[k], bound.most))
        if most[k] != count:
            break
    return tuple(most)


def _bring_home(packing: Packing, node_of: IntArray, deadline: Deadline, seed: int) -> tuple[IntArray, int]:
    """Fewer displaced pods at the same counts, and the fewest that are proved to be needed: where the packing is small by an
    integer program, and annealing as long as it is not proved that nothing is better."""
    fewest = 0
    if packing.allowed.size <= MOST_PAIRS and packing.num_displaced(node_of) and not deadline.is_over:
        program = bring_home(packing, node_of, deadline.part(PROGRAM_SHARE), seed)
        node_of, fewest = program.node_of, program.fewest
    return _settle(packing, node_of, deadline, seed, fewest), fewest


def _settle(
    packing: Packing,
    node_of: IntArray,
    deadline: Deadline,
    seed: int,
    fewest: int = 0,
    *,
    newest: Callable[[], IntArray] | None = None,
    note: Note | None = None,
) -> IntArray:
    """Fewer displaced pods at the same counts, until they are ``fewest``: relabel nodes that are alike, then anneal.

    ``newest`` is asked for a placement with better counts, from which to begin again; ``note`` is told of it.
    """
    if packing.request.shape[1] * packing.num_nodes > DENSE_CELLS:
        return node_of
    settling = _settling(packing, node_of, deadline, seed)
    part = deadline.part(1.0)
    while not part.is_over and settling.displaced > fewest:
        share = min(1.0, part.elapsed_s / part.time_s)
        settling.run(rounds=SETTLE_ROUNDS, temperature=HOT * (COLD / HOT) ** share)
        part.spend(SETTLE_ROUNDS * SETTLE_ROUND_S)
        if newest is not None and (newer := newest()) is not node_of:
            node_of = newer
            if packing.counts(node_of) > packing.counts(settling.best):
                settling, part = _settling(packing, node_of, deadline, seed), deadline.part(1.0)
                if note is not None:
                    note(node_of)
    return settling.best


def _settling(packing: Packing, node_of: IntArray, deadline: Deadline, seed: int) -> Settling:
    node_of = keep_siblings(packing, node_of)
    if packing.request.shape[1] * packing.num_nodes**2 <= RELABEL_CELLS and not deadline.is_over:
        node_of = relabel(packing, node_of)
    return Settling(packing, node_of, seed=seed)


def relabel(packing: Packing, node_of: IntArray) -> IntArray:
    """The same fillings on other nodes that are alike, so that as many pods as possible stay: an assignment problem."""
    key = np.concatenate([packing.free, packing.allowed.astype(np.int64)])
    _, inverse = np.unique(key, axis=1, return_inverse=True)
    inverse = inverse.ravel()
    result = node_of.copy()
    home, now = packing.per_node(packing.node_of), packing.per_node(node_of)
    for g in range(int(inverse.max(initial=-1)) + 1):
        nodes = np.flatnonzero(inverse == g)
        if len(nodes) < 2:
            continue
        stays = np.array([np.minimum(home[:, nodes], now[:, [n]]).sum(axis=0) for n in nodes], np.int64)
        target = nodes[assign(-stays)]
        for n, t in zip(nodes, target, strict=True):
            result[node_of == n] = t
    relabelled = keep_siblings(packing, result)
    return relabelled if packing.num_displaced(relabelled) <= packing.num_displaced(node_of) else node_of
