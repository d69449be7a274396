"""Batches and gangs: place a group of pending pods at once: as many as possible of each priority, the highest first, then
as they wish, then with least stranding.

**Priorities** are stages, too: most pods of the highest, then most of the next among the placements with as many of those
above, and so on. A gang is all or none, and counts with each of its pods at that pod's priority. The bound of each priority
holds for placements with as many pods of those above. Pods of one priority are one such stage.

**Stranding** of a node is what is free there but cannot be used in the node's own proportions: with
``u = min_r free_r / allocatable_r``, resource ``r`` strands ``free_r − u · allocatable_r``. A cluster's stranding is
the mean over resources of what all nodes strand, as a share of what all nodes offer. It is convex in the load of a
node, so its linear program is exact, and a subgradient at the present load proves that a node need not be looked at.

The model has integers per class and node, never a boolean per pod. It starts from the best nodes of each class and
generates further (class, node) pairs by reduced cost over *all* nodes, so the bound is one for the whole cluster
although only a small part of it is ever in the model.

**Wishes** are points per class and node, those of kube-scheduler's soft rules that do not depend on where the rest of the
batch goes, and points that pods have for each other (:mod:`placement.planning.nearness`). They are a stage of their own, between
count and stranding, of the same program with another objective; stranding is then minimised over the placements that give
up no point. A batch without wishes has no such stage.

**Devices** are packed exactly: the program has what any packing keeps, per node and size of share; a placement whose shares
do not pack in fact is repaired or dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from placement.devices import UNLIMITED, Devices
from placement.errors import ConfigError
from placement.planning import near_search
from placement.planning.nearness import Counts, Nearness, best_company, least_crowding, points, sums
from placement.planning.plans import Deadline, Ending
from placement.planning.solver import INFINITY, Answer, Limits, Model, Status, solve_linear
from placement.resources import BoolArray, FloatArray, IntArray

INT_MAX = int(np.iinfo(np.int64).max)
TOP_NODES = 32
MAX_NEW_PAIRS = 4000
MAX_PRICING_ROUNDS = 40
FIRST_PAIRS, MORE_PAIRS = 3000, 4
"""Pairs in the first integer program, and how much larger each further one is."""
MAX_COUNT_PAIRS = 200_000
"""More pairs than this make no program of their own for the count."""
COUNT_SHARE = 0.5
"""What a priority of which not all are placed gets of the time that is left."""
COUNT_SLACK = 1e-6
"""What a solver's bound on a number of pods may be wrong by."""
SOLVE_SHARE = 0.85
"""What a solver gets of the time that is left: it looks at its clock between steps only."""
BUILDS = 3.0
"""A program is begun only with so many times left what the last one took to build."""
TIGHT = 1e-9
WISHES_SHARE = 0.5
"""What wishes get of the time that is left after counting."""
SEARCH_SHARE, EXACT_SHARE, BOUND_SHARE = 0.4, 0.5, 0.8
"""Where pods wish things of each other: what the first search gets of that, CP-SAT of the rest, and programs of what is left."""
LEAST_SHARE = 0.25
"""A further stage is begun only with so much of the time left: the first program of one is built before a clock is looked at."""
GLANCES = 16.0
"""How much longer than a bound by counting the program with everybody's domain fixed takes to begin, measured."""
FIRST_PODS = 100
"""So many the first placement deals out whatever the clock says, some milliseconds: who is cancelled at once gets a plan, too."""
FEW_PLACES = 64
"""Rules with more places (hosts) enter programs in sum over all places, and only what they give."""
POINT = 2.0
"""A point of a wish against stranding where pods are placed one by one: more than one pod can strand at all."""
EXACT_GAP, POINTS_SLACK = 1e-9, 1e-6
"""Where points are whole numbers: the relative gap to stop at, and what a solver's bound may be wrong by, relative."""
GOAL = 1e9
"""Stranding in the program is in parts per thousand million, so that solver tolerances are far below a pod."""


@dataclass(frozen=True)
class ZoneSpread:
    """Class ``pod_class`` spreads over ``zone_of`` with at most ``max_skew``; ``present`` ``(Z,)`` pods are there."""

    pod_class: int
    max_skew: int
    present: IntArray


@dataclass(frozen=True)
class Batch:
    """Pending pods as classes, against nodes as columns.

    Parameters
    ----------
    request : ``(R, C)`` int64. count : ``(C,)`` int64 pods per class.
    free, allocatable : ``(R, N)`` int64.
    most : ``(C, N)`` int64, pods of a class that rules allow on a node (0 = excluded).
    gang : ``(C,)`` int64; classes with equal numbers >= 0 are placed all or none; -1 = pod by pod.
    zone_of : ``(N,)`` int64, for spreads.
    wish : ``(C, N)`` int64 >= 0, what a pod of a class has for a node; None = nobody wishes anything.
    near : what pods have for each other.
    parts : the wishes' unit: so many to a point.
    devices : devices of nodes one by one, and what classes take of them; None = no class takes any.
    priority : ``(C,)`` int64, higher is more important; None = all alike.
    """

    request: IntArray
    count: IntArray
    free: IntArray
    allocatable: IntArray
    most: IntArray
    gang: IntArray
    zone_of: IntArray
    spreads: tuple[ZoneSpread, ...] = ()
    wish: IntArray | None = None
    near: tuple[Nearness, ...] = ()
    parts: int = 1
    devices: Devices | None = None
    priority: IntArray | None = None

    def __post_init__(self) -> None:
        if self.free.shape[1] == 0:
            raise ConfigError("the batch has no nodes to go to; give a snapshot or trace with at least one node")
        if (self.free < 0).any():
            node = int(np.flatnonzero((self.free < 0).any(axis=0))[0])
            raise ConfigError(f"node number {node} is overfull before the batch; take a fresh snapshot")

    def fitting(self) -> IntArray:
        """``(C, N)`` pods of each class that an otherwise unchanged node takes, rules included."""
        return self._fitting

    @cached_property
    def _fitting(self) -> IntArray:
        room = np.minimum(self.most, self.count[:, None])
        most = int(self.count.max(initial=1))
        for row, request in zip(self.free, self.request, strict=True):
            if int(request.max(initial=0)) > INT_MAX // most:
                short = np.broadcast_to(request[:, None] > 0, room.shape)
            else:
                short = request[:, None] * room > row  # a division takes ten times as long, and few are needed
            cells = np.nonzero(short)
            room[cells] = np.minimum(room[cells], row[cells[1]] // request[cells[0]])
        if self.devices is not None:
            room = np.minimum(room, self.devices.alone())
        room = np.asarray(room, np.int64)
        room.flags.writeable = False
        return room

    @cached_property
    def rank(self) -> IntArray:
        """``(C,)`` 0 for the classes of the highest priority, 1 for those of the next, …"""
        if self.priority is None:
            return np.zeros(len(self.count), np.int64)
        return np.asarray(np.unique(-self.priority, return_inverse=True)[1], np.int64)

    @cached_property
    def num_ranks(self) -> int:
        """Different priorities."""
        return int(self.rank.max(initial=0)) + 1

    @property
    def priorities(self) -> list[int]:
        """Different ones, the highest first."""
        return [0] if self.priority is None else np.unique(self.priority)[::-1].tolist()

    def by_rank(self, pods: IntArray) -> tuple[int, ...]:
        """Sums of ``pods`` ``(C,)`` over the classes of each priority, the highest first."""
        return tuple(np.bincount(self.rank, weights=pods, minlength=self.num_ranks).astype(np.int64).tolist())

    def counts(self, placed: IntArray) -> tuple[int, ...]:
        """Pods of each priority that ``placed`` ``(C, N)`` has, the highest first: compared as tuples are."""
        return self.by_rank(placed.sum(axis=1))

    def surely(self, counts: tuple[int, ...]) -> IntArray:
        """``(C,)`` pods of each class that any placement with these counts has at least."""
        missing = np.array(self.by_rank(self.count), np.int64) - np.array(counts, np.int64)
        return np.asarray(self.count - missing[self.rank], np.int64)

    def packs(self, node: int, pods: IntArray) -> bool:
        """Whether the devices of a node take ``pods`` ``(C,)`` together."""
        devices = self.devices
        return devices is None or not (pods * devices.count).any() or devices.assign(node, pods) is not None

    def wishes_met(self, placed: IntArray) -> int:
        """Wishes that ``placed`` ``(C, N)`` meets, in parts of a point."""
        return (0 if self.wish is None else int((self.wish * placed).sum())) + points(self.near, placed)

    @property
    def has_wishes(self) -> bool:
        """Somebody wishes something."""
        return self.wish is not None or bool(self.near)

    @cached_property
    def hopes(self) -> IntArray:
        """``(C, N)`` parts of a point that a pod can have on a node at most: its own, and of all company that fits there."""
        own = np.zeros_like(self.most) if self.wish is None else self.wish
        return own + best_company(self.near, self.count, self.fitting()) if self.near else own

    @property
    def wishes_possible(self) -> int:
        """Parts of a point if each pod had the node it likes best, and all company that it likes and no other."""
        return int(self.count @ self.hopes.max(axis=1)) if self.has_wishes else 0

    def most_wishes(self, fitting: IntArray, counts: tuple[int, ...]) -> int:
        """Parts of a point that so many pods of each priority have at most, each class looked at alone; ``fitting`` from
        :meth:`fitting`."""
        if not self.has_wishes:
            return 0
        most = sum(self._most(self.hopes, fitting, rank, count) for rank, count in enumerate(counts))
        return most - least_crowding(self.near, self.surely(counts), fitting)

    def _most(self, value: IntArray, fitting: IntArray, rank: int, count: int) -> int:
        """Sum of ``value`` ``(C, N)`` over ``count`` pods of one priority at most, each class looked at alone."""
        found = []
        mine = self.rank == rank
        for worth, room, pods in zip(value[mine], fitting[mine], self.count[mine].tolist(), strict=True):
            liked = np.flatnonzero(room)
            liked = liked[np.argsort(-worth[liked], kind="stable")][:pods]
            found.append(np.repeat(worth[liked], room[liked])[:pods])
        return int(-np.sort(-np.concatenate(found))[:count].sum())

    def stranding(self, placed: IntArray) -> float:
        """Stranding of the cluster, as a share, after ``placed`` ``(C, N)``."""
        return float(self.stranding_per_node(self.free - self.request @ placed).sum())

    def stranding_per_node(self, left: IntArray) -> FloatArray:
        """``(N,)`` stranding when ``left`` ``(R, N)`` stays free."""
        usable = (left / self.offered).min(axis=0)
        return np.asarray((left * self.weights[:, None]).sum(axis=0) - usable * self.worth)

    @cached_property
    def weights(self) -> FloatArray:
        """``(R,)`` what one unit of a resource is worth: the mean share of the cluster; asked for with every pod."""
        total = np.maximum(self.allocatable.sum(axis=1), 1)
        return np.asarray(1.0 / (len(total) * total), np.float64)

    @cached_property
    def offered(self) -> IntArray:
        """``(R, N)`` allocatable, at least one."""
        return np.maximum(self.allocatable, 1)

    @cached_property
    def worth(self) -> FloatArray:
        """``(N,)`` what all that a node offers is worth."""
        return np.asarray((self.allocatable * self.weights[:, None]).sum(axis=0), np.float64)

    def violations(self, placed: IntArray) -> list[str]:
        """What an independent look finds wrong with a placement ``(C, N)``; empty when it is valid."""
        wrong = [
            f"node number {n} is overfull" for n in np.flatnonzero((self.request @ placed > self.free).any(axis=0))
        ]
        wrong += [f"class {c} exceeds what rules allow on node number {n}" for c, n in np.argwhere(placed > self.most)]
        if self.devices is not None:
            used = np.flatnonzero((placed * self.devices.count[:, None]).any(axis=0)).tolist()
            wrong += [
                f"the devices of node number {n} do not take its pods" for n in used if not self.packs(n, placed[:, n])
            ]
        per_class = placed.sum(axis=1)
        wrong += [f"class {c} has more places than pods" for c in np.flatnonzero(per_class > self.count)]
        for gang in np.unique(self.gang[self.gang >= 0]):
            members = self.gang == gang
            if 0 < per_class[members].sum() < self.count[members].sum():
                wrong.append(f"gang {gang} is placed in part")
        for spread in self.spreads:
            zones = _by_zone(placed[spread.pod_class], self.zone_of, len(spread.present)) + spread.present
            if per_class[spread.pod_class] and zones.max() - zones.min() > spread.max_skew:
                wrong.append(f"class {spread.pod_class} is spread with skew {zones.max() - zones.min()}")
        return wrong


@dataclass(frozen=True)
class Batched:
    """``placed`` ``(C, N)``; counts, stranding and wishes with their bounds, and how planning ended.

    ``counts`` are pods placed of each priority, the highest first, and ``most_of_each`` what each can be at most with as
    many of those above; ``wishes_bound`` holds at these counts, ``stranding_bound`` at these counts and wishes.
    """

    placed: IntArray
    counts: tuple[int, ...]
    most_of_each: tuple[int, ...]
    stranding: float
    stranding_bound: float
    ending: Ending
    wishes_met: int = 0
    wishes_bound: int = 0

    @property
    def count(self) -> int:
        """Pods placed."""
        return sum(self.counts)

    @property
    def most(self) -> int:
        """The sum of ``most_of_each``: a bound on the count where all have one priority, and else ``count`` exactly when no
        placement has better counts."""
        return sum(self.most_of_each)

    @property
    def gap_share(self) -> float:
        """Certified distance of the stranding from the least possible, as a share of it."""
        return (self.stranding - self.stranding_bound) / max(self.stranding, 1e-12)


def _by_zone(values: IntArray, zone_of: IntArray, num_zones: int) -> IntArray:
    return np.asarray(np.bincount(zone_of, weights=values, minlength=num_zones), np.float64).astype(np.int64)


def best_fit(batch: Batch, deadline: Deadline | None = None, *, is_quick: bool = False) -> IntArray:
    """``(C, N)`` greedy placement, the most important first, each pod where it likes best, then where stranding grows least.

    Of one priority the largest classes come first, as most often that places all; where it does not, the smallest first if
    that places more (``is_quick``: not tried). Gangs are placed all or none, when the first of their classes is up. Classes
    with a zone spread go to the emptiest zone that still has room. Wishes count for nothing where fewer pods would be placed
    for them. After the deadline no further class is begun, but for the first :data:`FIRST_PODS` pods.
    """
    placed, seen = _one_by_one(batch, deadline, is_quick=True), batch
    if batch.has_wishes and placed.sum() < batch.count.sum():
        blind = replace(batch, wish=None, near=())
        plain = _one_by_one(blind, deadline, is_quick=True)
        if batch.counts(plain) > batch.counts(placed):
            placed, seen = plain, blind
    if not is_quick and placed.sum() < batch.count.sum():
        other = _one_by_one(seen, deadline)
        placed = other if batch.counts(other) > batch.counts(placed) else placed
    return placed


@dataclass(frozen=True)
class _Saved:
    """Of some ``classes``: where they are ``(c, N)``; and what is left of nodes ``(R, N)``, and who is near whom."""

    classes: list[int]
    placed: IntArray
    left: IntArray
    counts: Counts | None


class _OneByOne:
    """Class after class, gangs whole. ``deadline`` None = there is none."""

    def __init__(self, batch: Batch, deadline: Deadline | None, start: IntArray | None) -> None:
        self.batch = batch
        self.deadline = deadline
        self.placed = np.zeros(batch.most.shape, np.int64) if start is None else start.copy()
        self.left = batch.free.copy() if start is None else batch.free - batch.request @ self.placed
        self.counts = Counts(batch.near, self.placed) if batch.near else None
        self.missing = batch.count - self.placed.sum(axis=1)
        self.begun = 0

    def saved(self, classes: list[int]) -> _Saved:
        """To go back to, as far as only these classes change."""
        counts = None if self.counts is None else self.counts.copy()
        return _Saved(classes, self.placed[classes], self.left.copy(), counts)

    def restore(self, saved: _Saved) -> None:
        """Back to what was saved."""
        self.placed[saved.classes] = saved.placed
        self.left, self.counts = saved.left, saved.counts

    def groups(self, *, largest_first: bool) -> list[list[list[int]]]:
        """Classes that are placed together, by the highest priority among them."""
        batch, size = self.batch, self.batch.request.T @ self.batch.weights
        found: dict[tuple[int, int], list[int]] = {}
        for c in np.lexsort((-size if largest_first else size, batch.rank)).tolist():  # stable
            gang = int(batch.gang[c])
            found.setdefault((gang, -1) if gang >= 0 else (-1, c), []).append(c)
        by_rank: list[list[list[int]]] = [[] for _ in range(batch.num_ranks)]
        for classes in found.values():
            by_rank[int(batch.rank[classes[0]])].append(classes)
        return by_rank

    def _ends(self, pods: int, is_over: bool) -> bool:
        self.begun += pods
        return is_over and self.begun > FIRST_PODS

    def _is_late(self) -> bool:
        return self.deadline is not None and self._ends(1, self.deadline.is_late)

    def keep(self, classes: list[int], placed: IntArray) -> None:
        """Put pods where ``placed`` ``(C, N)`` has them, as far as there is room: of a gang or a spread all of them or none."""
        batch, rows = self.batch, placed[classes]
        nodes = np.flatnonzero(rows.any(axis=0))
        before = self.saved(classes)
        for k, c in enumerate(classes):
            for n in nodes[rows[k, nodes] > 0].tolist():
                self._put(c, n, int(rows[k, n]))
        kept = self.placed[classes].sum() == rows.sum()
        if not kept and (batch.gang[classes[0]] >= 0 or any(s.pod_class in classes for s in batch.spreads)):
            self.restore(before)
        self.missing[classes] = batch.count[classes] - self.placed[classes].sum(axis=1)

    def _put(self, c: int, n: int, pods: int) -> None:
        batch, request = self.batch, self.batch.request[:, c]
        asked = request > 0
        pods = int(np.min(self.left[asked, n] // request[asked], initial=pods))
        self.placed[c, n] += pods
        while pods and not batch.packs(n, self.placed[:, n]):
            self.placed[c, n] -= 1
            pods -= 1
        self.left[:, n] -= pods * request
        if self.counts is not None and pods:
            self.counts.change(c, n, pods)

    def fill(self, groups: list[list[int]]) -> bool:
        """Place what is missing of ``groups``; True when all found a node."""
        batch, missing, whole = self.batch, self.missing, True
        for classes in groups:
            if not missing[classes].any():
                continue
            if self.deadline is not None and self._ends(int(missing[classes].sum()), self.deadline.is_over):
                return False
            before = self.saved(classes) if batch.gang[classes[0]] >= 0 else None
            complete = all(
                _fill_class(batch, c, int(missing[c]), self.placed, self.left, self.counts, self._is_late)
                for c in classes
            )
            whole = whole and complete
            if before is not None and not complete:
                self.restore(before)
        return whole


def _one_by_one(
    batch: Batch, deadline: Deadline | None, start: IntArray | None = None, *, is_quick: bool = False
) -> IntArray:
    """The pods that ``start`` ``(C, N)`` does not place, put beside those that it does."""
    filling = _OneByOne(batch, deadline, start)
    largest, smallest = (filling.groups(largest_first=first) for first in (True, False))
    for one, other in zip(largest, smallest, strict=True):
        has_orders = len(one) > 1 and not is_quick
        classes = [c for group in one for c in group]
        before = filling.saved(classes) if has_orders else None
        if filling.fill(one) or before is None or (deadline is not None and deadline.is_over):
            continue
        first = filling.saved(classes)
        filling.restore(before)
        filling.fill(other)
        pods = [
            np.bincount(batch.rank[classes], found.sum(axis=1), batch.num_ranks).tolist()
            for found in (filling.placed[classes], first.placed)
        ]
        if pods[0] <= pods[1]:
            filling.restore(first)
    return filling.placed


def _fill_class(
    batch: Batch,
    c: int,
    pods: int,
    placed: IntArray,
    left: IntArray,
    counts: Counts | None = None,
    is_late: Callable[[], bool] = lambda: False,
) -> bool:
    """Place so many pods of one class in ``placed``, ``left`` and ``counts``; True when all found a node in time.

    ``is_late`` is asked before each pod that takes devices.
    """
    request = batch.request[:, c]
    spread = next((s for s in batch.spreads if s.pod_class == c), None)
    cost = _growth(batch, left, slice(None), request)
    if batch.wish is not None:
        cost -= POINT * batch.wish[c]
    full = (left < request[:, None]).any(axis=0) | (placed[c] >= batch.most[c])
    takes_devices = batch.devices is not None and bool(batch.devices.count[c])
    cost[full] = INFINITY
    while pods:
        if takes_devices and is_late():
            return False
        open_cost = cost
        if spread is not None:
            zones = _by_zone(placed[c], batch.zone_of, len(spread.present)) + spread.present
            open_cost = np.where((zones - zones.min() < spread.max_skew)[batch.zone_of], cost, INFINITY)
        if counts is not None and counts.concerns(c):
            open_cost = open_cost - POINT * counts.pull(c, slice(None))
        best = int(np.argmin(open_cost))
        if not np.isfinite(open_cost[best]):
            return False
        placed[c, best] += 1
        if takes_devices and not batch.packs(best, placed[:, best]):
            placed[c, best] -= 1
            cost[best] = INFINITY
            continue
        pods -= 1
        left[:, best] -= request
        if counts is not None:
            counts.change(c, best, 1)
        fits = (left[:, best] >= request).all() and placed[c, best] < batch.most[c, best]
        node = np.array([best])
        growth = _growth(batch, left[:, node], node, request)[0] if fits else INFINITY
        cost[best] = growth if batch.wish is None else growth - POINT * batch.wish[c, best]
    return True


def _repacked(batch: Batch, placed: IntArray, deadline: Deadline) -> IntArray:
    """``placed`` as it is, or with the pods that the devices of their nodes do not take put elsewhere, as far as they fit.

    Pods of nodes that there is no time to look at are left out.
    """
    devices = batch.devices
    if devices is None:
        return placed
    used = np.flatnonzero(placed.any(axis=0)).tolist()
    wrong = [n for n in used if deadline.is_late or not batch.packs(n, placed[:, n])]
    if not wrong:
        return placed
    kept = placed.copy()
    largest_first = np.argsort(-devices.milli * devices.count, kind="stable").tolist()
    for n in wrong:
        kept[devices.count > 0, n] = 0
        for c in (c for c in largest_first if devices.count[c] and not deadline.is_late):
            for _ in range(int(placed[c, n])):
                kept[c, n] += 1
                if not batch.packs(n, kept[:, n]):
                    kept[c, n] -= 1
                    break
    left = batch.free - batch.request @ kept
    for c, missing in enumerate((placed - kept).sum(axis=1).tolist()):
        _fill_class(batch, c, missing, kept, left, is_late=lambda: deadline.is_late)
    return kept


def _growth(batch: Batch, left: IntArray, nodes: IntArray | slice, request: IntArray) -> FloatArray:
    """``(n,)`` change of the cluster's stranding when a pod goes to each of ``nodes``."""
    offered = batch.offered[:, nodes]
    usable = (left / offered).min(axis=0) - ((left - request[:, None]) / offered).min(axis=0)
    return np.asarray(usable * batch.worth[nodes] - float(request @ batch.weights), np.float64)


@dataclass
class _Pairs:
    """The (class, node) pairs that are in the model."""

    classes: IntArray
    nodes: IntArray
    known: BoolArray = field(repr=False)

    def add(self, classes: IntArray, nodes: IntArray) -> None:
        fresh = ~self.known[classes, nodes]
        self.known[classes[fresh], nodes[fresh]] = True
        self.classes = np.append(self.classes, classes[fresh])
        self.nodes = np.append(self.nodes, nodes[fresh])


def _slopes(batch: Batch) -> FloatArray:
    """``(C, N)`` a subgradient of stranding at the present load, along one pod of each class."""
    tightest = (batch.free / batch.offered).argmin(axis=0)
    rate = batch.worth / np.take_along_axis(batch.offered, tightest[None, :], axis=0)[0]
    return np.asarray(batch.request[tightest].T * rate - (batch.weights @ batch.request)[:, None], np.float64)


@dataclass(frozen=True)
class _Goal:
    """What a program minimises at fixed ``counts``: points given up (negative points), or stranding.

    ``slopes`` ``(C, N)`` is a subgradient at the present load, infinite where a class does not fit. Stranding is minimised
    over placements with at least ``points``.
    """

    batch: Batch
    slopes: FloatArray
    counts: tuple[int, ...]
    is_wishes: bool = False
    points: int = 0

    @classmethod
    def wishes(cls, batch: Batch, fitting: IntArray, counts: tuple[int, ...]) -> _Goal:
        """As many points as possible."""
        assert batch.wish is not None, "only a batch with wishes has this stage"
        return cls(batch, np.where(fitting > 0, -batch.wish.astype(np.float64), INFINITY), counts, is_wishes=True)

    def cost(self, placed: IntArray) -> float:
        """What ``placed`` costs."""
        return -float(self.batch.wishes_met(placed)) if self.is_wishes else self.batch.stranding(placed)

    def first_bound(self, fitting: IntArray) -> float:
        """A bound without any program: convexity for stranding, each class alone for wishes."""
        if self.is_wishes:
            return -float(self.batch.most_wishes(fitting, self.counts))
        present = float(self.batch.stranding_per_node(self.batch.free).sum())
        return present + _cheapest(self.batch, self.slopes, self.counts)

    def is_better(self, placed: IntArray, value: float) -> bool:
        """``placed`` costs less than ``value`` and gives up no point of an earlier stage."""
        return self.cost(placed) < value and (self.is_wishes or self.batch.wishes_met(placed) >= self.points)

    def is_reached(self, value: float, bound: float, gap_share: float) -> bool:
        """Nothing is left to look for."""
        if self.is_wishes:
            return value - bound < 1 - POINTS_SLACK * max(1.0, -bound)
        return value - bound <= gap_share * value


@dataclass(frozen=True)
class _Most:
    """What a program maximises first: pods of priority ``rank``, with at least ``above`` of those above, the highest first."""

    rank: int
    above: tuple[int, ...]


class _BatchModel:
    """The mixed-integer program over some pairs: most pods, most points, or least stranding of the nodes in it."""

    def __init__(self, batch: Batch, pairs: _Pairs, fitting: IntArray, goal: _Goal | _Most) -> None:
        self.model = Model()
        self.batch = batch
        self.pairs = pairs
        self.nodes, self.position = np.unique(pairs.nodes, return_inverse=True)
        self.is_wishes = isinstance(goal, _Goal) and goal.is_wishes
        self.scale = 1.0 if self.is_wishes else GOAL
        wish = np.zeros(len(pairs.classes), np.int64)
        if batch.wish is not None:
            wish = batch.wish[pairs.classes, pairs.nodes]
        rank = batch.rank[pairs.classes]
        if isinstance(goal, _Most):
            objective = (rank == goal.rank).astype(np.float64)
        elif goal.is_wishes:
            objective = wish.astype(np.float64)
        else:
            objective = GOAL * (batch.weights @ batch.request)[pairs.classes]
        upper = np.minimum(fitting[pairs.classes, pairs.nodes], batch.count[pairs.classes])
        self.x = self.model.add_columns(upper, objective=objective)
        self.usable = np.zeros(0, np.int64)
        shape = (len(self.nodes), len(batch.request))
        self.capacity_rows, self.usable_rows = np.full(shape, -1, np.int64), np.full(shape, -1, np.int64)
        self.supply_rows = np.full(len(batch.count), -1, np.int64)
        self.gang_rows = self.supply_rows.copy()
        num_zones = max(int(batch.zone_of.max()) + 1, *(len(spread.present) for spread in batch.spreads), 0)
        self.zone_rows = np.full((len(batch.count), num_zones), -1, np.int64)
        self.count_rows = np.full(batch.num_ranks, -1, np.int64)
        self.wish_row = -1
        self.device_rows: list[tuple[int, int, IntArray]] = []
        """(position of the node, row, devices that a pod of each class counts for)."""
        self._add_supply()
        self._add_capacity()
        self._add_devices()
        self._add_gangs()
        self._add_spreads()
        self.company: list[_Company | _Pull] = []
        for rule in batch.near if self.is_wishes else ():
            if rule.num_places <= FEW_PLACES:
                self.company += [_Company(self, rule, place) for place in range(rule.num_places)]
            else:
                self.company += [_Pull(self, rule, k, fitting) for k in np.flatnonzero(rule.gains > 0).tolist()]
        if isinstance(goal, _Most):
            for one, columns in self._columns_by(rank):
                if one < goal.rank:
                    self.model.add_row(columns, 1.0, lower=goal.above[one])
            return
        for one, columns in self._columns_by(rank):
            count = goal.counts[one]
            self.count_rows[one] = self.model.add_row(columns, 1.0, lower=count, upper=count)
        if not self.is_wishes:
            if goal.points:
                self.wish_row = self.model.add_row(self.x[wish > 0], wish[wish > 0], lower=goal.points)
            self._add_stranding()

    def _columns_by(self, key: IntArray) -> list[tuple[int, IntArray]]:
        order = np.argsort(key, kind="stable")
        values, starts = np.unique(key[order], return_index=True)
        parts = np.split(order, starts[1:])
        return [(int(v), self.x[part]) for v, part in zip(values, parts, strict=True)]

    def _add_supply(self) -> None:
        for c, columns in self._columns_by(self.pairs.classes):
            self.supply_rows[c] = self.model.add_row(columns, 1.0, upper=float(self.batch.count[c]))

    def _add_capacity(self) -> None:
        for i, columns in self._columns_by(self.position):
            request = self.batch.request[:, self.pairs.classes[columns]]
            for r, need in enumerate(request):
                room = max(float(self.batch.free[r, self.nodes[i]]), 1.0)
                self.capacity_rows[i, r] = self.model.add_row(columns[need > 0], need[need > 0] / room, upper=1.0)

    def _add_devices(self) -> None:
        """What any packing of devices keeps; whether a placement packs in fact is for a look at it."""
        devices = self.batch.devices
        if devices is None:
            return
        taking = np.flatnonzero(devices.count)
        for i, columns in self._columns_by(self.position):
            classes = self.pairs.classes[columns]
            if not devices.count[classes].any():
                continue
            for weight, most in devices.limits(int(self.nodes[i]), taking):
                of_class = np.zeros(len(devices.count), np.int64)
                of_class[taking] = weight
                mine = of_class[classes] > 0
                row = self.model.add_row(columns[mine], of_class[classes[mine]], upper=float(most))
                self.device_rows.append((i, row, of_class))

    def _add_gangs(self) -> None:
        for gang in np.unique(self.batch.gang[self.batch.gang >= 0]):
            whole = self.model.add_columns(np.ones(1))
            for c in np.flatnonzero(self.batch.gang == gang):
                columns = self.x[self.pairs.classes == c]
                values = np.append(np.ones(len(columns)), -float(self.batch.count[c]))
                self.gang_rows[c] = self.model.add_row(np.append(columns, whole), values, lower=0.0, upper=0.0)

    def _add_spreads(self) -> None:
        for spread in self.batch.spreads:
            c = spread.pod_class
            most = int(spread.present.max(initial=0) + self.batch.count[c])
            least = self.model.add_columns(np.array([most]))
            for z, present in enumerate(spread.present):
                columns = self.x[(self.pairs.classes == c) & (self.batch.zone_of[self.pairs.nodes] == z)]
                values = np.append(np.ones(len(columns)), -1.0)
                self.zone_rows[c, z] = self.model.add_row(
                    np.append(columns, least), values, lower=-float(present), upper=float(spread.max_skew - present)
                )

    def _add_stranding(self) -> None:
        """Minus stranding: the usable share of each node, bounded by each of its resources."""
        batch, nodes = self.batch, self.nodes
        worth = (batch.allocatable[:, nodes] * batch.weights[:, None]).sum(axis=0)
        self.usable = self.model.add_columns(np.ones(len(nodes)), objective=GOAL * worth, integer=False)
        for i, columns in self._columns_by(self.position):
            request = batch.request[:, self.pairs.classes[columns]]
            for r in range(len(request)):
                offered = max(int(batch.allocatable[r, nodes[i]]), 1)
                need = request[r] > 0
                values = np.append(request[r][need] / offered, 1.0)
                columns_of_row = np.append(columns[need], self.usable[i])
                upper = float(batch.free[r, nodes[i]] / offered)
                self.usable_rows[i, r] = self.model.add_row(columns_of_row, values, upper=upper)

    def cost(self, value: float) -> float:
        """What the goal counts, of the whole cluster, when the program's objective is ``value``."""
        if self.is_wishes:
            return -value
        batch = self.batch
        outside = np.ones(batch.free.shape[1], np.bool_)
        outside[self.nodes] = False
        free = float((batch.weights @ batch.free[:, self.nodes]).sum())
        return float(batch.stranding_per_node(batch.free)[outside].sum()) + free - value / GOAL

    def profits(self, answer: Answer, slopes: FloatArray) -> FloatArray:
        """``(C, N)`` reduced profit of each pair, in the model or not; -inf where the pod does not fit."""
        batch = self.batch
        duals = np.append(answer.duals, 0.0) / self.scale  # row -1 = no such row
        price = duals[self.supply_rows] + duals[self.gang_rows] + duals[self.count_rows[batch.rank]]
        profit = -slopes - price[:, None] - duals[self.zone_rows][:, batch.zone_of]
        offered = np.maximum(batch.allocatable[:, self.nodes], 1)
        room = np.maximum(batch.free[:, self.nodes], 1)
        rate = duals[self.capacity_rows].T / room + duals[self.usable_rows].T / offered
        if not self.is_wishes:
            rate = rate - batch.weights[:, None]
        inside = -(batch.request.T @ rate) - price[:, None] - duals[self.zone_rows][:, batch.zone_of[self.nodes]]
        if self.is_wishes:
            inside -= slopes[:, self.nodes]
        for i, row, of_class in self.device_rows:
            inside[:, i] -= duals[row] * of_class
        profit[:, self.nodes] = np.where(np.isfinite(slopes[:, self.nodes]), inside, -INFINITY)
        if batch.wish is not None and self.wish_row >= 0:
            profit -= duals[self.wish_row] * batch.wish
        for company in self.company:
            company.price(duals, profit)
        return np.asarray(profit, np.float64)

    def placed(self, x: FloatArray) -> IntArray:
        placed = np.zeros(self.batch.most.shape, np.int64)
        placed[self.pairs.classes, self.pairs.nodes] = np.round(x[self.x]).astype(np.int64)
        return placed

    def hint(self, placed: IntArray) -> FloatArray:
        x = np.zeros(self.model.num_columns)
        x[self.x] = placed[self.pairs.classes, self.pairs.nodes]
        left = self.batch.free - self.batch.request @ placed
        if len(self.usable):
            x[self.usable] = (left[:, self.nodes] / np.maximum(self.batch.allocatable[:, self.nodes], 1)).min(axis=0)
        for company in self.company:
            company.fill(x, placed)
        return x


class _Pull:
    """What pods of one class gain by those of class ``k`` in all places of a rule with many, at most.

    A judged pod has no more company than fits beside it, and a pod that counts is company of no more pods than fit beside it.
    """

    def __init__(self, program: _BatchModel, rule: Nearness, k: int, fitting: IntArray) -> None:
        batch, model, pairs, c = program.batch, program.model, program.pairs, rule.pod_class
        self.rule, self.k = rule, k
        self.beside = self._room(batch, rule, c, k, fitting)
        self.company_of = self._room(batch, rule, k, c, fitting, turned=True)
        most, gain = np.array([batch.count[c] * batch.count[k]]), float(rule.gains[k])
        self.total = int(model.add_columns(most, objective=gain, integer=False)[0])
        self.rows = []
        for one, room in ((c, self.beside), (k, self.company_of)):
            mine = (pairs.classes == one) & (room[pairs.nodes] > 0)
            values = np.append(-room[pairs.nodes[mine]].astype(np.float64), 1.0)
            self.rows.append(model.add_row(np.append(program.x[mine], self.total), values, upper=0.0))

    @staticmethod
    def _room(batch: Batch, rule: Nearness, c: int, k: int, fitting: IntArray, *, turned: bool = False) -> IntArray:
        """``(N,)`` pods of class ``k`` that may be in the place of a pod of class ``c`` on each node, itself not."""
        itself = int(c == k)
        of, to = (rule.look, rule.seat) if turned else (rule.seat, rule.look)
        room = sums(fitting[k], to, rule.num_places)[of] - (of == to) * itself
        asked = batch.request[:, k] > 0
        left = batch.free[asked] - batch.request[asked][:, [c]]
        beside = np.min(left // batch.request[asked, k][:, None], axis=0, initial=UNLIMITED)
        alone = (np.bincount(to[to >= 0], minlength=rule.num_places)[of] == 1) & (of == to)
        room = np.where(alone, np.minimum(room, beside), room)
        return np.asarray(np.where(of >= 0, np.clip(room, 0, int(batch.count[k])), 0), np.int64)

    def price(self, duals: FloatArray, profit: FloatArray) -> None:
        """Take the prices of company off ``profit`` ``(C, N)``."""
        profit[self.rule.pod_class] += duals[self.rows[0]] * self.beside
        profit[self.k] += duals[self.rows[1]] * self.company_of

    def fill(self, x: FloatArray, placed: IntArray) -> None:
        """What the column is for ``placed`` ``(C, N)``."""
        rule, own = self.rule, placed[self.rule.pod_class]
        near = sums(placed[self.k], rule.look, rule.num_places)
        itself = (rule.seat == rule.look) * int(self.k == rule.pod_class)
        x[self.total] = float((own * np.where(rule.seat >= 0, near[rule.seat] - itself, 0)).sum())


class _Company:
    """Gains of one rule in one place, as a concave function above the true one: pods that are judged times pods that count.

    Exact at whole numbers where a class repels itself alone (``x (x - 1)`` is convex); else McCormick's bounds on a product.
    """

    def __init__(self, program: _BatchModel, rule: Nearness, place: int) -> None:
        self.rule = rule
        self.judged_nodes, self.counted_nodes = rule.seat == place, rule.look == place
        self.parts: list[tuple[int, IntArray, IntArray]] = []
        """Per gain: it, the classes that have it, and the columns of pods that count and of the product."""
        model, pairs, c = program.model, program.pairs, rule.pod_class
        pods = int(program.batch.count[c])
        mine = program.x[(pairs.classes == c) & self.judged_nodes[pairs.nodes]]
        self.judged, self.judged_row = self._sum(model, mine, pods)
        self.rows: list[int] = []
        for gain in np.unique(rule.gains[rule.gains != 0]).tolist():
            members = np.flatnonzero(rule.gains == gain)
            itself = int(rule.gains[c] == gain)
            others = int(program.batch.count[members].sum())
            columns = program.x[np.isin(pairs.classes, members) & self.counted_nodes[pairs.nodes]]
            counted, row = self._sum(model, columns, others)
            self.rows.append(row)
            product = int(model.add_columns(np.array([pods * others]), objective=float(gain), integer=False)[0])
            self.parts.append((gain, members, np.array([counted, product], np.int64)))
            if gain > 0:
                model.add_row(np.array([product, self.judged]), np.array([1.0, float(itself - others)]), upper=0.0)
                model.add_row(np.array([product, counted]), np.array([1.0, -float(pods)]), upper=0.0)
                continue
            least = float(-pods * others)
            values = np.array([1.0, float(itself - others), -float(pods)])
            model.add_row(np.array([product, self.judged, counted]), values, lower=least)
            if itself and np.array_equal(self.judged_nodes, self.counted_nodes):
                for j in range(1, pods):
                    columns = np.array([product, self.judged])
                    model.add_row(columns, np.array([1.0, -2.0 * j]), lower=-float(j * (j + 1)))

    @staticmethod
    def _sum(model: Model, columns: IntArray, most: int) -> tuple[int, int]:
        """A column that is the sum of others, and its row."""
        total = int(model.add_columns(np.array([most]), integer=False)[0])
        row = model.add_row(np.append(columns, total), np.append(np.ones(len(columns)), -1.0), lower=0.0, upper=0.0)
        return total, row

    def price(self, duals: FloatArray, profit: FloatArray) -> None:
        """Take the prices of being judged and of counting here off ``profit`` ``(C, N)``."""
        profit[self.rule.pod_class, self.judged_nodes] -= duals[self.judged_row]
        for (_, members, _), row in zip(self.parts, self.rows, strict=True):
            profit[np.ix_(members, self.counted_nodes)] -= duals[row]

    def fill(self, x: FloatArray, placed: IntArray) -> None:
        """What the columns are for ``placed`` ``(C, N)``."""
        own = placed[self.rule.pod_class]
        x[self.judged] = own[self.judged_nodes].sum()
        for gain, members, (counted, product) in self.parts:
            x[counted] = placed[np.ix_(members, self.counted_nodes)].sum()
            itself = (
                own[self.judged_nodes & self.counted_nodes].sum() if self.rule.gains[self.rule.pod_class] == gain else 0
            )
            x[product] = x[self.judged] * x[counted] - itself


def place_batch(
    batch: Batch,
    deadline: Deadline,
    *,
    seed: int = 0,
    threads: int = 1,
    gap_share: float = TIGHT,
    start: IntArray | None = None,
) -> Batched:
    """Best placement of the batch within the deadline: most pods of each priority, the highest first, then most wishes, then
    least stranding to ``gap_share``.

    ``start`` ``(C, N)`` is a valid placement to improve on; None = best fit.
    """
    best = best_fit(batch, deadline) if start is None else start
    found = _in_stages(batch, best, deadline, (seed, threads, gap_share))
    if found.counts == found.most_of_each:
        return found
    # where nothing is proved, later stages may have made room for more
    placed = _claimed(batch, found.placed)
    if batch.counts(placed) <= found.counts:
        return found
    more = as_placed(batch, placed, deadline.ending)
    most = (max(pair) for pair in zip(more.counts, found.most_of_each, strict=True))
    return replace(more, most_of_each=tuple(most))


def _in_stages(batch: Batch, best: IntArray, deadline: Deadline, how: tuple[int, int, float]) -> Batched:
    """Counts, wishes, stranding, one after the other."""
    seed, threads, gap_share = how
    fitting = batch.fitting()
    best, most = _place_more(batch, best, fitting, deadline, (seed, threads))
    counts = batch.counts(best)
    total = batch.by_rank(batch.count)
    assert all(a <= b <= c for a, b, c in zip(counts, most, total, strict=True)), (
        "more pods placed than the bound allows"
    )
    if not any(counts):
        stranding = batch.stranding(best)
        return Batched(best, counts, most, stranding, stranding, deadline.ending)
    wishes_bound = 0
    if batch.near:
        return _place_near(batch, best, fitting, most, deadline, how)
    if batch.wish is not None:
        goal = _Goal.wishes(batch, fitting, counts)
        best, bound = _improve(goal, best, fitting, deadline.part(WISHES_SHARE), how)
        wishes_bound = int(np.floor(POINTS_SLACK * max(1.0, -bound) - bound))
    wishes_met = batch.wishes_met(best)
    slopes = np.where(fitting > 0, _slopes(batch), INFINITY)
    best, bound = _improve(_Goal(batch, slopes, counts, points=wishes_met), best, fitting, deadline, how)
    return _ended(batch, best, (most, wishes_bound, bound), deadline, gap_share)


def _ended(
    batch: Batch, best: IntArray, bounds: tuple[tuple[int, ...], int, float], deadline: Deadline, gap_share: float
) -> Batched:
    """The result, with ``bounds`` on counts, wishes and stranding."""
    most, wishes_bound, bound = bounds
    counts, value, wishes_met = batch.counts(best), batch.stranding(best), batch.wishes_met(best)
    bound = max(0.0, min(bound, value))
    ending = deadline.ending
    if value - bound <= gap_share * value and wishes_met >= wishes_bound and counts == most:
        ending = Ending.OPTIMAL if value - bound <= TIGHT * value else Ending.GAP_REACHED
    return Batched(best, counts, most, value, bound, ending, wishes_met, max(wishes_bound, wishes_met))


def _place_near(
    batch: Batch,
    best: IntArray,
    fitting: IntArray,
    most: tuple[int, ...],
    deadline: Deadline,
    how: tuple[int, int, float],
) -> Batched:
    """Wishes, then stranding, of a batch whose pods wish things of each other, at the counts of ``best``.

    Points: search; CP-SAT where that is small; where that proves nothing, programs with what pods have for each other in
    zones, which give a bound and another start for the search. Stranding: the same programs as ever, once everybody's place
    is fixed; its bound is without wishes.
    """
    seed, threads, gap_share = how
    counts, begun_s = batch.counts(best), deadline.elapsed_s
    most_points = batch.most_wishes(fitting, counts)
    split_s = GLANCES * (deadline.elapsed_s - begun_s)
    for_wishes = deadline.part(WISHES_SHARE)
    best = near_search.improve(batch, best, fitting, for_wishes.part(SEARCH_SHARE), seed=seed)
    if near_search.is_small(batch, fitting):
        limits = Limits(max(EXACT_SHARE * for_wishes.left_s, 1e-3), threads, seed, work=deadline.work)
        best, proved = near_search.exact(batch, best, fitting, limits)
        most_points = min(most_points, proved)
    if batch.wishes_met(best) < most_points and not for_wishes.is_over:
        many = tuple(rule for rule in batch.near if rule.num_places > FEW_PLACES)
        goal = _Goal.wishes(batch, fitting, counts)
        found, cost = _improve(goal, best, fitting, for_wishes.part(BOUND_SHARE), how)
        proved = int(np.floor(POINTS_SLACK * max(1.0, -cost) - cost))
        most_points = min(most_points, proved - least_crowding(many, batch.surely(counts), fitting))
        if not for_wishes.is_over:
            found = near_search.improve(batch, found, fitting, for_wishes, seed=seed + 1)
        best = max((best, found), key=batch.wishes_met)
    if deadline.left_s > max(LEAST_SHARE * deadline.time_s, split_s) and not deadline.is_over:
        layout = near_search.split(batch, best)
        room = layout.batch.fitting()
        slopes = np.where(room > 0, _slopes(layout.batch), INFINITY)
        kept = layout.batch.counts(layout.placed)
        fixed = _Goal(layout.batch, slopes, kept, points=layout.batch.wishes_met(layout.placed))
        best = layout.merge(_improve(fixed, layout.placed, room, deadline.part(0.5), how)[0])
    plain = replace(batch, wish=None, near=())
    goal = _Goal(plain, np.where(fitting > 0, _slopes(plain), INFINITY), counts)
    bound = goal.first_bound(fitting)
    if deadline.left_s > LEAST_SHARE * deadline.time_s and not deadline.is_over:
        found, bound = _improve(goal, best, fitting, deadline, how)
        if batch.wishes_met(found) >= batch.wishes_met(best):
            best = found
    return _ended(batch, best, (most, most_points, bound), deadline, gap_share)


def as_placed(batch: Batch, placed: IntArray, ending: Ending) -> Batched:
    """A valid placement ``(C, N)`` as it is, with the bounds that cost nothing: what fits alone, and convexity."""
    fitting = batch.fitting()
    most = _most_alone(batch, fitting)
    counts, value = batch.counts(placed), batch.stranding(placed)
    goal = _Goal(batch, np.where(fitting > 0, _slopes(batch), INFINITY), counts)
    bound = max(0.0, min(goal.first_bound(fitting), value)) if any(counts) else value
    wishes_met, wishes_bound = batch.wishes_met(placed), batch.most_wishes(fitting, counts)
    if counts == most and value - bound <= TIGHT * value and wishes_met == wishes_bound:
        ending = Ending.OPTIMAL
    return Batched(placed, counts, most, value, bound, ending, wishes_met, wishes_bound)


def _most_alone(batch: Batch, fitting: IntArray) -> tuple[int, ...]:
    """Pods of each priority at most, each class looked at alone."""
    return batch.by_rank(np.minimum(fitting.sum(axis=1), batch.count))


def _place_more(
    batch: Batch, best: IntArray, fitting: IntArray, deadline: Deadline, how: tuple[int, int]
) -> tuple[IntArray, tuple[int, ...]]:
    """A placement with better counts, and bounds: priority by priority, as far as they are not what fits alone. Each gets
    :data:`COUNT_SHARE` of the time that is left."""
    most = list(_most_alone(batch, fitting))
    first, counts = _first_rank(batch), batch.counts(best)
    for rank in range(batch.num_ranks):
        if counts[rank] == most[rank]:
            continue
        inside = first <= rank
        if np.count_nonzero(fitting[inside]) > MAX_COUNT_PAIRS or deadline.is_over:
            break
        room = np.where(inside[:, None], fitting, 0)
        best, most[rank] = _most_of(batch, rank, best, room, most[rank], deadline, how)
        counts = batch.counts(best)
    return best, tuple(max(pair) for pair in zip(most, batch.counts(best), strict=True))


def _claimed(batch: Batch, placed: IntArray) -> IntArray:
    """``placed``, or one with better counts: whoever has no place takes one where that is free, or where it is once those
    of lower priority make way. Everybody else stays where that is possible."""
    filling = _OneByOne(batch, None, None)
    for groups in filling.groups(largest_first=True):
        for classes in groups:
            filling.keep(classes, placed)
        filling.fill(groups)
    found = filling.placed
    return found if batch.counts(found) > batch.counts(placed) and not batch.violations(found) else placed


def _first_rank(batch: Batch) -> IntArray:
    """``(C,)`` the highest priority that a class has a part in: its own, or that of a class of its gang."""
    first = batch.rank.copy()
    for gang in np.unique(batch.gang[batch.gang >= 0]).tolist():
        first[batch.gang == gang] = batch.rank[batch.gang == gang].min()
    return first


def _most_of(
    batch: Batch, rank: int, best: IntArray, fitting: IntArray, most: int, deadline: Deadline, how: tuple[int, int]
) -> tuple[IntArray, int]:
    """Most pods of one priority over all pairs that fit; HiGHS on the pure form, so bound and placement are exact. Where it has
    no bound in time, the linear program has one.

    Only classes with a part in this priority or one above take part; the others get what is left.
    """
    seed, threads = how
    classes, nodes = np.nonzero(fitting)
    pairs = _Pairs(classes, nodes, fitting > 0)
    program = _BatchModel(batch, pairs, fitting, _Most(rank, batch.counts(best)[:rank]))

    def limits(part: Deadline) -> Limits:
        return Limits(max(SOLVE_SHARE * part.left_s, 1e-3), threads, seed, work=deadline.work)

    answer = solve_linear(program.model, limits(deadline.part(COUNT_SHARE)), hint=program.hint(best))
    if answer.has_solution:
        placed = _repacked(batch, program.placed(answer.x), deadline)
        if rank + 1 < batch.num_ranks:
            placed = _one_by_one(batch, deadline, placed)
        if batch.counts(placed) > batch.counts(best) and not batch.violations(placed):
            best = placed
    bound = answer.bound
    if bound >= most and batch.counts(best)[rank] < most and not deadline.is_over:
        relaxed = solve_linear(program.model, limits(deadline), relax=True)
        bound = relaxed.value if relaxed.status == Status.OPTIMAL else bound
    if np.isfinite(bound):
        most = min(most, int(np.floor(bound + COUNT_SLACK)))
    return best, max(most, batch.counts(best)[rank])


def _improve(
    goal: _Goal, best: IntArray, fitting: IntArray, deadline: Deadline, how: tuple[int, int, float]
) -> tuple[IntArray, float]:
    """A placement that costs less at the counts of ``best``, and a bound: price pairs over all nodes, then the integers."""
    seed, threads, gap_share = how
    batch, slopes = goal.batch, goal.slopes
    pairs = _first_pairs(best, slopes)
    bound = goal.first_bound(fitting)
    if goal.is_wishes and goal.is_reached(goal.cost(best), bound, gap_share):
        return best, bound
    # where no points are at stake the weaker bound stays, and with it each plan of earlier versions
    counted = pairs.known if goal.is_wishes or goal.points else np.zeros_like(pairs.known)
    profit, priced = np.zeros(0), bound
    built_s = 0.0
    for _ in range(MAX_PRICING_ROUNDS):
        if deadline.is_over or deadline.left_s < BUILDS * built_s:
            break
        begun_s = deadline.elapsed_s
        program = _BatchModel(batch, pairs, fitting, goal)
        built_s = deadline.elapsed_s - begun_s
        limits = Limits(max(SOLVE_SHARE * deadline.left_s, 1e-3), threads, seed, work=deadline.work)
        answer = solve_linear(program.model, limits, relax=True)
        if answer.status != Status.OPTIMAL:
            break
        profit = program.profits(answer, slopes)
        # raising the price of each class by its best profit makes the duals feasible: a bound in every round; the
        # program's value has in it what pairs that are at their upper limit gain
        missed = float(batch.count @ np.maximum(0.0, np.where(counted, -INFINITY, profit).max(axis=1)))
        priced = program.cost(answer.value) - missed
        bound = max(bound, priced)
        _note(goal, deadline, best, bound)
        wanted = np.flatnonzero((profit > (POINTS_SLACK if goal.is_wishes else 1e-13)) & ~pairs.known)
        if len(wanted) == 0 or deadline.is_over:
            break
        chosen = wanted[np.argsort(-profit.ravel()[wanted], kind="stable")[:MAX_NEW_PAIRS]]
        pairs.add(*np.divmod(chosen, fitting.shape[1]))
    if len(profit):
        best, bound = _round(goal, best, profit, (priced, bound), deadline, fitting, (seed, gap_share))
    return best, bound


def _note(goal: _Goal, deadline: Deadline, best: IntArray, bound: float) -> None:
    """Progress is told of stranding alone, the last stage: one number that gets better."""
    if not goal.is_wishes:
        deadline.note(goal.cost(best), bound)


def _cheapest(batch: Batch, slopes: FloatArray, counts: tuple[int, ...]) -> float:
    """Least growth of stranding that so many pods of each priority can cause, each looked at alone."""
    least = slopes.min(axis=1)
    total = 0.0
    for rank, count in enumerate(counts):
        mine = np.isfinite(least) & (batch.rank == rank)
        total += float(np.sort(np.repeat(least[mine], batch.count[mine]))[:count].sum())
    return total


def _first_pairs(best: IntArray, slopes: FloatArray) -> _Pairs:
    """What the greedy placement uses, and the nodes of each class where stranding grows least."""
    pairs = _Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(best.shape, np.bool_))
    pairs.add(*np.nonzero(best))
    top = np.argsort(slopes, axis=1, kind="stable")[:, :TOP_NODES]
    classes = np.repeat(np.arange(len(top)), top.shape[1])
    useful = np.isfinite(slopes[classes, top.ravel()])
    pairs.add(classes[useful], top.ravel()[useful])
    return pairs


def _round(
    goal: _Goal,
    best: IntArray,
    profit: FloatArray,
    bounds: tuple[float, float],
    deadline: Deadline,
    fitting: IntArray,
    how: tuple[int, float],
) -> tuple[IntArray, float]:
    """Integers over the pairs that matter: a better placement, and a better bound.

    ``bounds`` are that of the prices behind ``profit``, and the best known, which may come from elsewhere. A placement that
    uses a pair costs at least the former less its profit, so pairs that would exceed the placement at hand
    are left out without loss (reduced-cost fixing). The rest enter by profit, more in each program, and the bound is
    never above what a pair that is still outside could reach.
    """
    seed, gap_share = how
    batch, value = goal.batch, goal.cost(best)
    priced, bound = bounds
    matter = np.flatnonzero((profit >= priced - value).ravel() & (fitting > 0).ravel())
    matter = matter[np.argsort(-profit.ravel()[matter], kind="stable")]
    limit, built_s = FIRST_PAIRS, 0.0
    while deadline.left_s > BUILDS * built_s and not deadline.is_over and not goal.is_reached(value, bound, gap_share):
        begun_s = deadline.elapsed_s
        left_out = priced - float(profit.ravel()[matter[limit]]) if len(matter) > limit else INFINITY
        pairs = _Pairs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(best.shape, np.bool_))
        pairs.add(*np.nonzero(best))
        pairs.add(*np.divmod(matter[:limit], best.shape[1]))
        program = _BatchModel(batch, pairs, fitting, goal)
        built_s = MORE_PAIRS * (deadline.elapsed_s - begun_s)
        time_s = max(SOLVE_SHARE * deadline.left_s, 1e-3)
        gap = EXACT_GAP if goal.is_wishes else min(gap_share, 1e-4)
        limits = Limits(time_s, 1, seed, gap_share=gap, work=deadline.work)
        answer = solve_linear(program.model, limits, hint=program.hint(best))
        if answer.has_solution:
            placed = _repacked(batch, program.placed(answer.x), deadline)
            if batch.counts(placed) == goal.counts and not batch.violations(placed) and goal.is_better(placed, value):
                best, value = placed, goal.cost(placed)
                _note(goal, deadline, best, bound)
        if np.isfinite(answer.bound):
            bound = max(bound, min(program.cost(answer.bound), left_out))
        if not np.isfinite(left_out):
            break
        limit *= MORE_PAIRS
    return best, bound
