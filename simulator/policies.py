"""What acts on a replayed cluster besides its scheduler: batches that are planned and nominated, and consolidation.

``nominate`` gathers arriving pods for a window and plans them together (:func:`plan_window`). A :class:`Consolidation`
acts at intervals: ``planned`` (:func:`placement.consolidation.consolidate`), ``karpenter-prefix`` (the prefix search),
or ``descheduler`` (``HighNodeUtilization``: evict everything from nodes under a threshold and hope that the scheduler
packs it). All pay the true cost of a move: the restart, and the work since the last checkpoint.

Planners stop by a wall clock; replays repeat exactly where plans end before it. On a busy machine consolidations of
some hundred nodes do not always, and a node more or less goes.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from placement import batches, consolidation
from placement.errors import ConfigError
from placement.plans import Deadline
from placement.pods import PodSpec
from placement.resources import DEVICE_MILLI, BoolArray, IntArray
from placement.state import CPU_ROW, GPU_ROW, MEMORY_ROW, NUM_DERIVED, ClusterState, Resident
from simulator.cost import PriceBook

if TYPE_CHECKING:
    from simulator.replay import Replay

POLICIES = ("none", "planned", "karpenter-prefix", "descheduler")
LOW_UTILISATION = 0.2
"""Descheduler's example threshold for ``HighNodeUtilization``: under it in every resource, a node is emptied."""
WINDOW_S, WINDOW_GAP = 2.0, 0.01
"""A window's plan is good enough at this gap, which it nearly always reaches long before the limit: so replays repeat."""
CALM_SHARE = 0.01
"""Nodes bought lately, as a share of the fleet, up to which demand is calm."""
MIN_BATCH = 2
"""Fewer pods than this are decided one by one: there is nothing to plan."""


def is_modelled(state: ClusterState, spec: PodSpec) -> bool:
    """Whether plans cover a class: no rules about other pods but a limit per node, and no shares of a device."""
    if spec.unmodelled or (spec.gpu is not None and spec.gpu.milli != DEVICE_MILLI):
        return False
    rules = spec.pod_rules
    limit_only = not (rules.host_ports or rules.affinity or rules.anti_affinity or any(s.hard for s in rules.spread))
    return limit_only and (bool(rules.max_per_node) or not state.rules.is_relational(spec))


@dataclass(frozen=True)
class _Nodes:
    """The ledger's living nodes as columns ``N``."""

    rows: IntArray
    free: IntArray
    allocatable: IntArray

    @classmethod
    def of(cls, replay: Replay) -> _Nodes:
        view = replay.snapshot
        rows = np.flatnonzero(view.is_alive)
        offered = view.offered[NUM_DERIVED:, rows]
        return cls(rows, np.asarray(offered - view.taken[NUM_DERIVED:, rows], np.int64), np.asarray(offered, np.int64))


def _requests(state: ClusterState, specs: list[PodSpec]) -> IntArray:
    """``(R, C)`` over the ledger's resource axis."""
    return np.stack([state.delta(spec)[NUM_DERIVED:] for spec in specs], axis=1)


def _allowed(state: ClusterState, specs: list[PodSpec], rows: IntArray) -> BoolArray:
    return np.stack([state.rules.static_mask(spec)[rows] & state.rules.relational_mask(spec)[rows] for spec in specs])


# ── batches ───────────────────────────────────────────────────────────────────────────────────────────────────


def plan_window(replay: Replay, pods: list[int], *, time_s: float = WINDOW_S) -> dict[int, int]:
    """Ledger row per pod of a window: as many as possible, on the fullest nodes that hold them, stranding least.

    Pods that plans do not cover are absent, and so is everybody where there is nothing to plan.
    """
    state = replay.state
    members: dict[PodSpec, list[int]] = defaultdict(list)
    for pod in pods:
        if is_modelled(state, replay.specs[pod]):
            members[replay.specs[pod]].append(pod)
    nodes = _Nodes.of(replay) if members else None
    if nodes is None or len(nodes.rows) == 0 or sum(map(len, members.values())) < MIN_BATCH:
        return {}
    specs = list(members)
    request = _requests(state, specs)
    lanes = request.any(axis=1)
    count = np.array([len(members[spec]) for spec in specs], np.int64)
    limit = np.array([spec.pod_rules.max_per_node or len(pods) for spec in specs], np.int64)
    most = np.where(_allowed(state, specs, nodes.rows), np.minimum(count, limit)[:, None], 0)
    none = np.full(len(specs), -1, np.int64)
    where = np.zeros(len(nodes.rows), np.int64)
    batch = batches.Batch(
        request[lanes], count, np.maximum(nodes.free[lanes], 0), nodes.allocatable[lanes], most, none, where
    )
    chosen, part = _fullest(batch)
    placed = batches.place_batch(part, Deadline(time_s, time.perf_counter), gap_share=WINDOW_GAP).placed
    return {
        pod: int(nodes.rows[chosen[n]])
        for c, spec in enumerate(specs)
        for pod, n in zip(members[spec], np.repeat(np.arange(len(chosen)), placed[c]).tolist(), strict=False)
    }


def _fullest(batch: batches.Batch) -> tuple[IntArray, batches.Batch]:
    """The shortest prefix of nodes, fullest first, that best fit fills with as many pods as all nodes take."""
    offered = np.maximum(batch.allocatable, 1)
    order = np.argsort((batch.free / offered).mean(axis=0), kind="stable")
    takes = np.asarray((batch.fitting() > 0).any(axis=0), np.bool_)
    order = order[takes[order]]
    wanted = int(batches.best_fit(batch).sum())
    low, high = 1, max(len(order), 1)
    while low < high and len(order):
        middle = (low + high) // 2
        if int(batches.best_fit(_only(batch, order[:middle])).sum()) >= wanted:
            high = middle
        else:
            low = middle + 1
    chosen = np.sort(order[:high]) if len(order) else np.arange(1)
    return chosen, _only(batch, chosen)


def _only(batch: batches.Batch, nodes: IntArray) -> batches.Batch:
    return replace(
        batch,
        free=batch.free[:, nodes],
        allocatable=batch.allocatable[:, nodes],
        most=batch.most[:, nodes],
        zone_of=batch.zone_of[nodes],
    )


# ── consolidation ─────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Promise:
    """One executed plan: when, what it promised, and what it did. USD per hour; moves that rules refused."""

    time_s: int
    usd_per_hour: float
    bound: float
    deleted: int
    moves: int
    refused: int


@dataclass
class Consolidation:
    """Empties nodes of an elastic fleet at intervals; keeps a record of its plans."""

    kind: str
    book: PriceBook
    every_s: int = 1800
    moves_share: float = 0.1
    """Budget per act, as a share of the pods that run."""
    restart_s: int = 60
    checkpoint_s: int = 0
    """Oldest checkpoint a moved pod may have to go back to; 0 = a service, which has nothing to repeat."""
    plan_s: float = 1.0
    reserve_s: int = 0
    """Keep room for the largest rise of demand within ``every_s`` that the last so many seconds saw; 0 = none.

    Whoever deletes what is bought again within the hour pays for it: so nothing goes before that much was seen, nor
    while more than :data:`CALM_SHARE` of the fleet was bought in so many seconds.
    """
    last_act: int | None = None
    """Acts after this many are skipped; for measuring what one plan changed."""
    promises: list[Promise] = field(default_factory=list)
    _acts: int = 0
    _ordered: list[tuple[int, int]] = field(default_factory=list)
    """When it looked, and how many nodes had been bought by then."""

    def __post_init__(self) -> None:
        if self.kind not in POLICIES[1:]:
            raise ConfigError(f"unknown policy {self.kind!r}; there are {', '.join(POLICIES)}")
        if self.every_s < 1:
            raise ConfigError(f"a policy every {self.every_s} s is not possible; give at least one second")

    def act(self, replay: Replay) -> None:
        """One round."""
        if replay.scaler is None:
            raise ConfigError("consolidation needs a fleet that can shrink; replay with an elastic fleet")
        self._acts += 1
        if (self.last_act is not None and self._acts > self.last_act) or not replay.state.residents:
            return
        if self.kind == "descheduler":
            self._deschedule(replay)
        else:
            self._consolidate(replay)

    def _consolidate(self, replay: Replay) -> None:
        if self.reserve_s and not self._is_calm(replay):
            return
        nodes = _Nodes.of(replay)
        fleet, pods = self._fleet(replay, nodes)
        if self.reserve_s:
            fleet = _reserved(fleet, nodes, self._rise(replay))
        budget = int(self.moves_share * fleet.count.sum())
        if self.kind == "planned":
            plan = consolidation.consolidate(fleet, Deadline(self.plan_s, time.perf_counter), max_moves=budget)
        else:
            plan = consolidation.prefix_search(fleet, max_moves=budget)
        wrong = consolidation.violations(fleet, plan, budget)
        assert not wrong, f"{self.kind} plan at {replay.time_s} s: {wrong[0]}"
        self._execute(replay, nodes.rows, plan, pods)

    def _is_calm(self, replay: Replay) -> bool:
        """Demand was watched for ``reserve_s``, and hardly a node was bought in all that time."""
        assert replay.scaler is not None, "act() checked it"
        self._ordered.append((replay.time_s, replay.scaler.ordered))
        since = [ordered for time_s, ordered in self._ordered if time_s <= replay.time_s - self.reserve_s]
        few = CALM_SHARE * replay.snapshot.is_alive.sum()
        return bool(since) and replay.scaler.ordered - since[-1] <= few

    def _execute(
        self,
        replay: Replay,
        rows: IntArray,
        plan: consolidation.Consolidated,
        pods: dict[tuple[int, int], list[str]],
    ) -> None:
        """Move pods node by node; a node goes when it is empty, and stays when a pod of it could not move."""
        targets = {c: np.repeat(rows, plan.arrivals[c]).tolist() for c in range(len(plan.arrivals))}
        moves = refused = 0
        for n in np.flatnonzero(plan.deleted).tolist():
            row = int(rows[n])
            for c in range(len(plan.arrivals)):
                for uid in pods.get((c, n), ()):
                    if self._migrate(replay, uid, targets[c].pop()):
                        moves += 1
                    else:
                        refused += 1
            if not replay.state.residents_on[row]:
                replay.retire(replay.state.name(row))
        deleted = int(plan.deleted.sum())
        if deleted:
            self.promises.append(Promise(replay.time_s, plan.usd_per_hour, plan.bound, deleted, moves, refused))

    def _migrate(self, replay: Replay, uid: str, row: int) -> bool:
        return replay.migrate(uid, row, restart_s=self.restart_s, checkpoint_s=self.checkpoint_s)

    def _fleet(self, replay: Replay, nodes: _Nodes) -> tuple[consolidation.Fleet, dict[tuple[int, int], list[str]]]:
        """Movable pods by class and node; a limit per node and owner becomes a resource of its own."""
        state = replay.state
        column_of = {int(row): n for n, row in enumerate(nodes.rows)}
        residents = list(state.residents.values())
        movable = {spec: is_modelled(state, spec) for spec in {r.spec for r in residents}}
        specs = [spec for spec, may in movable.items() if may]
        index = {spec: c for c, spec in enumerate(specs)}
        count = np.zeros((len(specs), len(nodes.rows)), np.int64)
        deletable = np.ones(len(nodes.rows), np.bool_)
        pods: dict[tuple[int, int], list[str]] = defaultdict(list)
        for resident in residents:
            n = column_of[resident.row]
            if not movable[resident.spec]:
                deletable[n] = False
                continue
            c = index[resident.spec]
            count[c, n] += 1
            pods[c, n].append(resident.uid)
        free, request = np.maximum(nodes.free, 0), np.zeros((len(nodes.free), 0), np.int64)
        if specs:
            request = _requests(state, specs)
        lanes = request.any(axis=1)
        extra_request, extra_free = _limits(specs, residents, column_of)
        usd = np.array([self._price(state, int(row)) for row in nodes.rows])
        fleet = consolidation.Fleet(
            np.concatenate([request[lanes], extra_request]),
            count,
            np.concatenate([free[lanes], extra_free]),
            np.stack([state.rules.static_mask(s)[nodes.rows] for s in specs]) if specs else np.zeros_like(count, bool),
            deletable,
            usd,
        )
        return fleet, pods

    def _rise(self, replay: Replay) -> IntArray:
        """``(3,)`` largest rise of what pods take (CPU, memory, GPU share) within one interval, in recent samples."""
        seen = [s for s in replay.timeline.series if s.time_s >= replay.time_s - self.reserve_s]
        most = np.zeros(3, np.int64)
        first = 0
        for i, sample in enumerate(seen):
            while seen[first].time_s < sample.time_s - self.every_s:
                first += 1
            low = np.min([s.taken for s in seen[first : i + 1]], axis=0)
            most = np.maximum(most, np.array(sample.taken, np.int64) - low)
        return most

    def _price(self, state: ClusterState, row: int) -> float:
        node = state.nodes[row]
        assert node is not None, "a living row has a node"
        return self.book.usd_per_hour(node)

    def _deschedule(self, replay: Replay) -> None:
        """Evict from nodes under the threshold, within the budget; the scheduler places again what it can."""
        state, view = replay.state, replay.snapshot
        rows = np.flatnonzero(view.is_alive)
        offered = np.maximum(view.offered[NUM_DERIVED:, rows], 1)
        used = (view.taken[NUM_DERIVED:, rows] / offered).max(axis=0)
        budget = int(self.moves_share * len(state.residents))
        for n in np.argsort(used, kind="stable").tolist():
            here = list(state.residents_on[int(rows[n])])
            if used[n] >= LOW_UTILISATION or len(here) > budget:
                break
            moved = sum(replay.evict(uid, restart_s=self.restart_s, checkpoint_s=self.checkpoint_s) for uid in here)
            budget -= moved
            if moved:
                self.promises.append(Promise(replay.time_s, 0.0, 0.0, 0, moved, 0))


def _reserved(fleet: consolidation.Fleet, nodes: _Nodes, rise: IntArray) -> consolidation.Fleet:
    """The fleet without the nodes that are kept for ``rise``: emptiest first, until their room covers it."""
    lanes = np.array([CPU_ROW, MEMORY_ROW, GPU_ROW]) - NUM_DERIVED
    room = np.maximum(nodes.free[lanes], 0)
    order = np.argsort(-(room / np.maximum(nodes.allocatable[lanes], 1)).mean(axis=0), kind="stable")
    covered = (np.cumsum(room[:, order], axis=1) - room[:, order] >= rise[:, None]).all(axis=0)
    kept = order[~covered]
    deletable, free = fleet.deletable.copy(), fleet.free.copy()
    deletable[kept] = False
    free[:, kept] = 0
    return replace(fleet, deletable=deletable, free=free)


def _limits(
    specs: list[PodSpec], residents: Iterable[Resident], column_of: dict[int, int]
) -> tuple[IntArray, IntArray]:
    """``(L, C)`` and ``(L, N)``: one row per owner with a limit per node, what its pods ask for and what is left."""
    owners = sorted({(s.namespace, s.owner, s.pod_rules.max_per_node) for s in specs if s.pod_rules.max_per_node})
    present = Counter((r.spec.namespace, r.spec.owner, column_of[r.row]) for r in residents)
    request = np.zeros((len(owners), len(specs)), np.int64)
    free = np.zeros((len(owners), len(column_of)), np.int64)
    for k, (namespace, owner, limit) in enumerate(owners):
        request[k] = [(s.namespace, s.owner) == (namespace, owner) for s in specs]
        free[k] = [max(0, limit - present[namespace, owner, n]) for n in range(len(column_of))]
    return request, free
