"""A batch as columns: pending pods as classes, nodes, and what rules, gangs, devices and wishes allow; and its placement.

See :mod:`placement.planning.batches` for what is best.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from placement.devices import Devices
from placement.errors import ConfigError
from placement.planning.nearness import Nearness, best_company, least_crowding, points
from placement.planning.plans import Ending
from placement.resources import FloatArray, IntArray

INT_MAX = int(np.iinfo(np.int64).max)


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
    fills : where counts and wishes are equal, the fullest nodes take the pods, whatever is stranded.
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
    fills: bool = False

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
            zones = by_zone(placed[spread.pod_class], self.zone_of, len(spread.present)) + spread.present
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
    def is_final(self) -> bool:
        """Nothing is better, or nothing can be placed."""
        return self.ending == Ending.OPTIMAL or self.most == 0

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


def by_zone(values: IntArray, zone_of: IntArray, num_zones: int) -> IntArray:
    """``(Z,)`` sums of ``values`` ``(N,)`` over the nodes of each zone."""
    return np.asarray(np.bincount(zone_of, weights=values, minlength=num_zones), np.float64).astype(np.int64)
