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

The compiled kernels are in :mod:`placement.planning.chains`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from placement.errors import ConfigError
from placement.planning.chains import Best, Homes, Scene, attach_all, repair_all, search
from placement.planning.pairs import Known, cool_pairs
from placement.resources import BoolArray, FloatArray, IntArray

UNPLACED = -1
WAITING_WEIGHT = 1e6
"""What one waiting pod weighs against one displaced pod while settling: no trade."""
SMALL_STEPS = 10
"""Small steps of annealing for each new split of two nodes."""
SEARCH_ROUND_S, SEARCH_POD_S, SETTLE_ROUND_S = 2e-6, 3e-8, 4e-6
"""On a clock of work: a round of search, besides for each pod, and a round of annealing; all measured, and rough."""
DEAD_PAIRS = 1 << 15
"""Pairs of nodes to remember that can be split in one way only; a power of two."""


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
        kinds = {"allowed": np.bool_, "evictable": np.bool_}
        for name in ("request", "class_of", "tier", "free", "allowed", "node_of", "evictable"):
            # one memory layout, so that the kernels are compiled once
            object.__setattr__(self, name, np.array(getattr(self, name), kinds.get(name, np.int64), order="C"))
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
        return int(self.free.shape[1])

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


def scene_of(packing: Packing, node_of: IntArray) -> Scene:
    """A placement as the kernels want it; what they write to are copies."""
    num_pods = len(node_of)
    request = np.array(packing.request[:, packing.class_of].T, order="C")
    total = packing.free.sum(axis=1, dtype=np.float64) if packing.num_nodes else np.ones(len(packing.free))
    scale: FloatArray = np.where(total > 0, 1.0 / np.maximum(total, 1.0), 0.0)
    tiers = packing.tiers
    tier = len(tiers) - 1 - np.searchsorted(tiers[::-1], packing.tier[packing.class_of])
    scene = Scene(
        node=np.full(num_pods, UNPLACED, np.int64),
        left=np.array(packing.free.T, order="C"),  # a copy, always
        links=np.full((2, num_pods), -1, np.int64),
        head=np.full(packing.num_nodes, -1, np.int64),
        request=request,
        allowed=packing.allowed,
        cls=packing.class_of,
        tier=tier.astype(np.int64),
        evictable=packing.evictable,
        scale=scale,
        size=request @ scale + 1e-12,
    )
    attach_all(scene, node_of)
    return scene


def repair(packing: Packing) -> IntArray:
    """``(P,)`` node of each pod after repair: never fewer pods placed in the tiers that count most.

    Both orders within a tier are tried, small first (places more when not all fit) and large first (places all more
    often when they do), and the better result is returned. A pod that fits nowhere makes one pod move, two swap, or two move,
    and last takes the room of others that count less.
    """
    best = packing.node_of
    best_key = (packing.counts(best), 0)
    for sign in (1.0, -1.0):
        scene = scene_of(packing, packing.node_of)
        repair_all(scene, sign * scene.size)
        key = (packing.counts(scene.node), -packing.num_moves(scene.node))
        if key > best_key:
            best, best_key = scene.node, key
        if (scene.node >= 0).all():
            break
    return best


class Search:
    """Ejection search that can be continued: call :meth:`run` for some rounds, look at ``best``, run again."""

    def __init__(self, packing: Packing, node_of: IntArray, *, seed: int = 0) -> None:
        self.packing = packing
        self.best = node_of.copy()
        self._scene = scene_of(packing, node_of)
        self._penalty = np.zeros(len(node_of), np.float64)
        self._random = np.array([(seed * 2654435761 + 88172645463325252) & (2**62 - 1) | 1], np.int64)
        num_tiers = len(packing.tiers)
        self.missing = np.bincount(self._scene.tier[node_of < 0], minlength=num_tiers).astype(np.int64)
        """``(T,)`` pods without a place in ``best``, per tier, most important first."""

    @property
    def round_s(self) -> float:
        """What a round counts for on a clock of work."""
        return SEARCH_ROUND_S + SEARCH_POD_S * len(self.best)

    def run(self, floor: IntArray, *, rounds: int) -> bool:
        """True once ``floor``, the fewest that can stay without a place per tier, is reached."""
        return bool(search(self._scene, floor, self._penalty, self.best, self.missing, self._random, rounds))


class Settling:
    """Annealing that brings pods home: fewer displaced pods, never fewer placed (Kirkpatrick et al. 1983).

    Siblings are interchangeable, so what counts is how many pods of a class each node keeps. Call :meth:`run` with
    falling temperatures, from about 0.4 to about 0.1, then read :attr:`best`.
    """

    def __init__(self, packing: Packing, node_of: IntArray, *, seed: int = 0) -> None:
        self.packing = packing
        self._random = np.array([(seed * 40503 + 362436069362436069) & (2**62 - 1) | 1], np.int64)
        home, now = packing.per_node(packing.node_of), packing.per_node(node_of)
        marks = np.random.default_rng(seed)
        of_node = marks.integers(1 << 20, 1 << 30, packing.num_nodes)
        mark = np.concatenate([of_node, marks.integers(1 << 14, 1 << 24, len(home))])
        self._known = Known(mark, np.zeros(DEAD_PAIRS, np.int64))
        self._scene = scene_of(packing, node_of)
        missing = np.bincount(self._scene.tier[node_of < 0], minlength=len(packing.tiers)).astype(np.int64)
        self._homes = Homes(home, now, packing.node_of, missing)
        self._cost = float(np.maximum(home - now, 0).sum() + WAITING_WEIGHT * missing.sum())
        self._best = Best(node_of.copy(), missing.copy(), np.array([self._cost]))

    @property
    def displaced(self) -> int:
        """Displaced pods of the best placement so far."""
        return round(float(self._best.cost[0] - WAITING_WEIGHT * self._best.missing.sum()))

    @property
    def best(self) -> IntArray:
        """``(P,)`` best placement so far, siblings named so that whoever can stays."""
        return keep_siblings(self.packing, self._best.node)

    def run(self, *, rounds: int, temperature: float) -> None:
        """Anneal for ``rounds`` splits of two nodes, each with :data:`SMALL_STEPS` small steps."""
        end = (self._cost, self._random, rounds, SMALL_STEPS, temperature, WAITING_WEIGHT)
        self._cost = float(cool_pairs(self._scene, self._homes, self._best, self._known, *end))


def keep_siblings(packing: Packing, node_of: IntArray) -> IntArray:
    """``(P,)`` the same pods per class and node, renamed so that running pods stay where they can.

    Within a class, places go to running pods that must not be evicted, then to other running pods, then to pending.
    """
    result = np.full(len(node_of), UNPLACED, np.int64)
    running = packing.node_of >= 0
    must = running & ~packing.evictable
    rank = np.where(must, 0, np.where(running, 1, 2))
    room = packing.per_node(node_of)
    spare = room.sum(axis=1) - np.bincount(packing.class_of[must], minlength=len(room))
    for p in np.argsort(rank, kind="stable")[: int(running.sum())]:
        c, n = packing.class_of[p], packing.node_of[p]
        if room[c, n] and (must[p] or spare[c] > 0):
            room[c, n] -= 1
            spare[c] -= not must[p]
            result[p] = n
    places: dict[int, list[int]] = {}
    for c, n in zip(*(axis.tolist() for axis in np.nonzero(room)), strict=True):
        places.setdefault(c, []).extend([n] * int(room[c, n]))
    without = np.flatnonzero(result < 0)
    for p in without[np.argsort(rank[without], kind="stable")]:
        if queue := places.get(int(packing.class_of[p])):
            result[p] = queue.pop(0)
    return result
