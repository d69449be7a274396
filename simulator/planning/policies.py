"""What acts on a replayed cluster besides its scheduler: consolidation at intervals.

A :class:`Consolidation` is ``planned`` (:func:`placement.planning.consolidation.consolidate`), ``karpenter-prefix`` (the
prefix search), or ``descheduler`` (``HighNodeUtilization``: evict everything from nodes under a threshold and hope that the
scheduler packs it). All pay the true cost of a move: the restart, and the work since the last checkpoint.

Planners stop by counted work (:class:`placement.planning.plans.WorkClock`), so replays repeat whatever else the machine does.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from placement.errors import ConfigError
from placement.planning.consolidation import consolidate
from placement.planning.fleet import Consolidated, Emptied, Fleet, violations
from placement.planning.plans import Deadline, WorkClock
from placement.planning.prefix_search import prefix_search
from placement.pods import PodSpec
from placement.resources import CPU, DEVICE_MILLI, MEMORY, BoolArray, FloatArray, IntArray
from placement.state import CPU_ROW, GPU_ROW, MEMORY_ROW, NUM_DERIVED, ClusterState, Resident
from simulator.cost import PriceBook
from simulator.fleet import Shape
from simulator.planning import past_demand
from simulator.planning.columns import Nodes, is_modelled, requests_of
from simulator.replay import Replay

POLICIES = ("none", "planned", "karpenter-prefix", "descheduler")
PLAN_S = 1.0
"""Work per plan, in seconds of a :class:`WorkClock`."""
LOW_UTILISATION = 0.2
"""Descheduler's example threshold for ``HighNodeUtilization``: under it in every resource, a node is emptied."""
MAIN = np.array([CPU_ROW, MEMORY_ROW, GPU_ROW]) - NUM_DERIVED
"""CPU, memory and device share among the ledger's resources."""


class Expected(NamedTuple):
    """USD an hour until the next act, on average: what the nodes of a plan are expected to have cost, and what comes off it."""

    stays: float
    """Their price for as long as they would have stayed by themselves."""
    moves: float = 0.0
    again: float = 0.0
    """Nodes that are bought again."""
    low: float | None = None
    """What is saved if demand does what it did in the worst of the past intervals and nodes come whole; None with too few."""
    high: float | None = None
    """The same in the best of them, if no node that goes would have gone by itself."""

    @property
    def saved(self) -> float:
        """What is left."""
        return self.stays - self.moves - self.again


@dataclass(frozen=True)
class Promise:
    """One executed plan: when, what it promised, and what it did; moves that rules refused."""

    time_s: int
    expected: Expected
    bound: float | None
    """Most that any plan could save by the same reckoning, if nothing was bought again; None where nothing is proved."""
    price: float
    """USD an hour of the nodes that went."""
    deleted: int
    moves: int
    refused: int

    @property
    def usd_per_hour(self) -> float:
        """Saving that it promised."""
        return self.expected.saved


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
    history_s: int = 0
    """Of ``planned``: how far back it looks for what demand may do (:mod:`simulator.planning.past_demand`); 0 = not at all.

    It then keeps the room whose nodes would be bought again too soon, values a node by how long it would have stayed by
    itself, counts what the moves cost, and promises what is left of the saving until it acts again.
    """
    least_saved: float = 0.0
    """A node goes when its room is likely not to be missed for this share of the interval."""
    last_act: int | None = None
    """Acts after this many are skipped; for measuring what one plan changed."""
    promises: list[Promise] = field(default_factory=list)
    _acts: int = 0

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
        nodes = Nodes.of(replay.snapshot)
        fleet, pods, amount = self._fleet(replay, nodes)
        budget = int(self.moves_share * fleet.count.sum())
        view = _View.of(self, replay, nodes) if self.kind == "planned" and self.history_s else None
        plan: Emptied
        if self.kind == "karpenter-prefix":
            plan = prefix_search(fleet, max_moves=budget)
        else:
            fleet = fleet if view is None else view.weighed(fleet)
            plan = consolidate(fleet, Deadline(PLAN_S, WorkClock()), max_moves=budget)
        wrong = violations(fleet, plan, budget)
        assert not wrong, f"{self.kind} plan at {replay.time_s} s: {wrong[0]}"
        if plan.deleted.any():
            expected = Expected(plan.usd_per_hour)
            if view is not None:
                price = sum(self._price(replay.state, int(nodes.rows[n])) for n in np.flatnonzero(plan.deleted))
                expected = view.saving(amount, plan, price)
            self._execute(replay, nodes.rows, plan, pods, expected)

    def _execute(
        self,
        replay: Replay,
        rows: IntArray,
        plan: Emptied,
        pods: dict[tuple[int, int], list[str]],
        expected: Expected,
    ) -> None:
        """Move pods node by node; a node goes when it is empty, and stays when a pod of it could not move."""
        targets = {c: np.repeat(rows, plan.arrivals[c]).tolist() for c in range(len(plan.arrivals))}
        moves = refused = deleted = 0
        usd = 0.0
        for n in np.flatnonzero(plan.deleted).tolist():
            row = int(rows[n])
            for c in range(len(plan.arrivals)):
                for uid in pods.get((c, n), ()):
                    if self._migrate(replay, uid, targets[c].pop()):
                        moves += 1
                    else:
                        refused += 1
            if not replay.state.residents_on[row]:
                deleted += 1
                usd += self._price(replay.state, row)
                replay.retire(replay.state.names[row])
        bound = plan.bound if isinstance(plan, Consolidated) else None
        self.promises.append(Promise(replay.time_s, expected, bound, usd, deleted, moves, refused))

    def _migrate(self, replay: Replay, uid: str, row: int) -> bool:
        return replay.migrate(uid, row, restart_s=self.restart_s, checkpoint_s=self.checkpoint_s)

    def _fleet(self, replay: Replay, nodes: Nodes) -> tuple[Fleet, dict[tuple[int, int], list[str]], IntArray]:
        """Movable pods by class and node, and their main amounts ``(3, C)``.

        A limit per node and owner becomes a resource of its own.
        """
        state = replay.state
        column_of = {int(row): n for n, row in enumerate(nodes.rows)}
        residents = list(state.residents.values())
        movable = {spec: is_modelled(state, spec) for spec in dict.fromkeys(r.spec for r in residents)}
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
            request = requests_of(state, specs)
        lanes = request.any(axis=1)
        extra_request, extra_free = _limits(specs, residents, column_of)
        usd = np.array([self._price(state, int(row)) for row in nodes.rows])
        fleet = Fleet(
            np.concatenate([request[lanes], extra_request]),
            count,
            np.concatenate([free[lanes], extra_free]),
            np.stack([state.rules.static_mask(s)[nodes.rows] for s in specs]) if specs else np.zeros_like(count, bool),
            deletable,
            usd,
        )
        return fleet, pods, request[MAIN] if specs else np.zeros((len(MAIN), 0), np.int64)

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
            for uid in here:
                replay.evict(uid, restart_s=self.restart_s, checkpoint_s=self.checkpoint_s)
            budget -= len(here)
            if here:
                self.promises.append(Promise(replay.time_s, Expected(0.0), None, 0.0, 0, len(here), 0))


@dataclass(frozen=True)
class _View:
    """What a policy expects until it acts again: rises of demand, stay of nodes, cost of moves; nodes as columns."""

    rises: FloatArray
    room: IntArray
    """``(N,)`` mean pods that fit into what is free."""
    stays: FloatArray
    """``(N,)`` share of the interval that a node is likely to stay if nobody empties it."""
    move_usd: FloatArray
    """``(N,)`` USD that emptying costs, spread over the interval, per hour."""
    kept: BoolArray
    mean_pod: FloatArray
    free: IntArray
    pod_usd: float
    """USD an hour for a mean pod on a new node that is full."""
    holds: float
    """Mean pods that such a node holds."""
    one_usd: float
    """USD an hour, over the interval, for one such node that is bought and idle at once: the least that chance costs."""
    delay_s: int

    @classmethod
    def of(cls, policy: Consolidation, replay: Replay, nodes: Nodes) -> _View:
        seen = past_demand.Seen.of(replay)
        free, mean_pod = nodes.free[MAIN], seen.mean_pod
        room = past_demand.room(free, mean_pod)
        assert replay.scaler is not None, "act() checked it"
        elastic = replay.scaler.settings
        rises = seen.rises(policy.every_s, policy.history_s, elastic.idle_s)
        wanted = past_demand.wanted_room(rises, policy.least_saved)
        order = np.argsort(-room, kind="stable")
        kept = np.zeros(len(room), np.bool_)
        kept[order] = np.cumsum(room[order]) - room[order] < wanted
        offers = [(s.usd_per_hour / held, held) for s in elastic.shapes if (held := _holds(s, mean_pod)) > 0]
        pod_usd, holds = min(offers, default=(0.0, 0.0))
        column_of = {int(row): n for n, row in enumerate(nodes.rows)}
        residents = list(replay.state.residents.values())
        where = np.array([column_of[r.row] for r in residents], np.int64)
        age_s = replay.time_s - np.array([seen.arrival_s[replay.pod_of[r.uid]] for r in residents], np.int64)
        lost_s = np.array(
            [min(replay.time_s - replay.placed_s[replay.pod_of[r.uid]], policy.checkpoint_s) for r in residents]
        )
        move_usd = np.zeros(len(room))
        np.add.at(move_usd, where, (policy.restart_s + lost_s) / policy.every_s * pod_usd)
        return cls(
            rises,
            room,
            _stays(seen, where, age_s, len(room), policy.every_s, elastic.idle_s),
            move_usd,
            kept,
            mean_pod,
            free,
            pod_usd,
            holds,
            pod_usd * holds * min(1.0, elastic.idle_s / policy.every_s),
            elastic.scan_s + min(s.boot_s for s in elastic.shapes),
        )

    def weighed(self, fleet: Fleet) -> Fleet:
        """The fleet at what deleting a node is likely to save; nodes kept for demand take no part."""
        worth = fleet.usd_per_hour * self.stays - self.move_usd
        free = np.where(self.kept, 0, fleet.free)
        deletable = fleet.deletable & ~self.kept & (worth > 0)
        return replace(fleet, free=free, deletable=deletable, usd_per_hour=np.maximum(worth, 0.0))

    def saving(self, amount: IntArray, plan: Emptied, price: float) -> Expected:
        """USD an hour until the next act: what is expected, and in the worst and the best of the past intervals.

        ``price`` of what goes is the most that can be bought again, and what is saved at most. On both sides one
        purchase more or less is chance.
        """
        again = self._bought_again(amount, plan, plan.usd_per_hour)
        moves = float(self.move_usd[plan.deleted].sum())
        expected = Expected(plan.usd_per_hour + moves, moves, float(again.mean()) if len(again) else 0.0)
        if len(again) < past_demand.STARTS:
            return expected
        worst = float(self._bought_again(amount, plan, price, self.holds).max())
        least = float(self._bought_again(amount, plan, price).min())
        high = max(expected.saved, price - least) + self.one_usd
        return expected._replace(low=plan.usd_per_hour - worst - self.one_usd, high=high)

    def _bought_again(self, amount: IntArray, plan: Emptied, most_usd: float, whole: float = 0.0) -> FloatArray:
        """``(J,)`` USD an hour for nodes bought because the plan took room away, if demand rises as in the past."""
        left = np.where(plan.deleted, 0, past_demand.room(self.free - amount @ plan.arrivals, self.mean_pod))
        if self.pod_usd == 0.0:
            return np.zeros(0)
        before, after, most = float(self.room.sum()), float(left.sum()), most_usd / self.pod_usd
        return self.pod_usd * past_demand.bought_again(self.rises, before, after, self.delay_s, most=most, whole=whole)


def _holds(shape: Shape, mean_pod: FloatArray) -> float:
    """Mean pods on an empty node of a shape."""
    amounts = dict(shape.allocatable)
    offered = np.array([amounts.get(CPU, 0), amounts.get(MEMORY, 0), shape.num_gpus * DEVICE_MILLI])
    lanes = mean_pod > 0
    return float((offered[lanes] / mean_pod[lanes]).min()) if lanes.any() else 0.0


def _stays(
    seen: past_demand.Seen, where: IntArray, age_s: IntArray, num_nodes: int, span_s: int, idle_s: int
) -> FloatArray:
    """``(N,)`` share of ``span_s`` that a node stays when it goes ``idle_s`` after its last pod has ended."""
    quarters = (np.arange(4) + 0.5) / 4 * span_s
    gone = np.zeros(num_nodes)
    for tau in quarters.astype(int).tolist():
        with np.errstate(divide="ignore"):
            chance = np.log(seen.ends_within(age_s, tau - idle_s))
        log_empty = np.zeros(num_nodes)
        np.add.at(log_empty, where, chance)
        gone += np.exp(log_empty) * (tau > idle_s) / len(quarters)
    return 1.0 - gone


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
