"""From a ledger to the columns that planners work on, and from their answers back to plans with steps.

What a planner may touch is decided here, once: pods that are marked, that nobody recreates, that have volumes or
claims we do not model, or whose rules depend on other pods or devices are *fixed*: they keep their place, and what they
take is not offered. Pending pods of those kinds are left to the scheduler, and the plan says so. Everything else
becomes classes of identical pods.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain, groupby

import numpy as np

from placement.devices import DEVICE_UNITS, WHOLE_DEVICES, Devices, device_units, devices_of
from placement.errors import ConfigError
from placement.gangs import gang_of
from placement.planning import apart, apart_check
from placement.planning.batch import Batch, Batched
from placement.planning.company import is_wishing, wishes_of
from placement.planning.consolidation import Consolidated, Fleet
from placement.planning.plans import Action, Ending, Plan, Step, together
from placement.planning.purchase import Bought, Demand, Shape
from placement.planning.repair import Packing
from placement.planning.rescue import Packed
from placement.planning.wish_check import recount
from placement.pods import Pod, PodSpec
from placement.resources import (
    DEVICE_MILLI,
    DEVICES_ANNOTATION,
    MAX_AMOUNT,
    MAX_DEVICES,
    BoolArray,
    FloatArray,
    IntArray,
    format_amount,
)
from placement.state import NUM_DERIVED, ClusterState, Resident, device_indices, devices_text

RELATIONAL = "its rules depend on other pods"
IN_PART = "its gang is placed whole or not at all, and not all of it fits"


@dataclass(frozen=True)
class Budgets:
    """Disruption budgets: ``of`` maps UIDs to the numbers of theirs; ``allowed`` is how many pods may be down at a time."""

    of: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    allowed: tuple[int, ...] = ()


@dataclass(frozen=True)
class Cluster:
    """A ledger with what planning needs beyond it.

    ``never_move`` maps the UIDs of running pods to the reason why they stay; ``never_delete`` maps node names likewise;
    ``usd_per_hour`` maps node names to prices, None when prices are not known. ``not_now`` are pods that wait for somebody
    else, and why; ``deletion_cost`` says, by UID, who among pods that are alike is to go last.
    """

    state: ClusterState
    pending: tuple[Pod, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    never_move: Mapping[str, str] = field(default_factory=dict)
    never_delete: Mapping[str, str] = field(default_factory=dict)
    usd_per_hour: Mapping[str, float] | None = None
    not_now: tuple[tuple[Pod, str], ...] = ()
    deletion_cost: Mapping[str, int] = field(default_factory=dict)
    budgets: Budgets = field(default_factory=Budgets)

    def __post_init__(self) -> None:
        for pod in self.pending:
            self.state.delta(pod.spec)  # the resource axis grows now or not at all: columns made later must agree

    @property
    def rows(self) -> IntArray:
        """Ledger rows that hold a node, ascending: the columns of every problem."""
        return np.flatnonzero(self.state.snapshot().is_alive)

    def node_names(self) -> list[str]:
        """Names in the order of the columns."""
        return [self.state.name(int(row)) for row in self.rows]

    def why_fixed(self, resident: Resident) -> str:
        """Why a running pod must keep its place; empty when it may move."""
        spec = resident.spec
        if resident.uid in self.never_move:
            return self.never_move[resident.uid]
        if not spec.owner:
            return "nobody would recreate it (no controller)"
        if spec.owner.startswith(("DaemonSet/", "Node/")):
            return "it belongs to its node"
        return self.why_left_out(spec)

    def why_left_out(self, spec: PodSpec, *, is_batch: bool = False) -> str:
        """Why the model does not cover a class; empty when it does. ``is_batch``: it is one that hands out devices, and looks
        at rules about other pods by itself."""
        if spec.unmodelled:
            return f"{spec.unmodelled[0]} is not modelled"
        if spec.gpu is not None and not is_batch:
            return "it asks for GPU devices"
        if not is_batch and self.state.rules.is_relational(spec):
            return RELATIONAL
        return ""

    def request(self, specs: list[PodSpec]) -> IntArray:
        """``(R, C)`` requests over the ledger's resource axis."""
        if not specs:
            return np.zeros((self.state.snapshot().offered.shape[0] - NUM_DERIVED, 0), np.int64)
        return np.stack([self.state.delta(spec)[NUM_DERIVED:] for spec in specs], axis=1)

    def allowed(self, specs: list[PodSpec]) -> BoolArray:
        """``(C, N)`` nodes that the rules of each class permit."""
        rows = self.rows
        if not specs:
            return np.zeros((0, len(rows)), np.bool_)
        masks: dict[object, BoolArray] = {}  # classes of different sizes mostly have the same rules
        for spec in specs:
            rules = (spec.node_rules, spec.gpu)
            if rules not in masks:
                masks[rules] = self.state.rules.static_mask(spec)[rows]
        return np.stack([masks[spec.node_rules, spec.gpu] for spec in specs])

    def free(self) -> IntArray:
        """``(R, N)`` allocatable less everything that runs."""
        view = self.state.snapshot()
        return np.asarray((view.offered - view.taken)[NUM_DERIVED:, self.rows], np.int64)

    def allocatable(self) -> IntArray:
        """``(R, N)`` what nodes offer."""
        return np.asarray(self.state.snapshot().offered[NUM_DERIVED:, self.rows], np.int64)

    def device_free(self) -> IntArray:
        """``(N, G)`` thousandths that are free for certain of each device."""
        return self.state.snapshot().gpu_free[self.rows]

    def movable(self) -> list[Resident]:
        """Running pods that a plan may move, in ledger order."""
        return [r for r in self.state.residents.values() if not self.why_fixed(r)]

    def why_nowhere(self, spec: PodSpec) -> str:
        """Which rules leave no node for a class, even if all nodes were empty; empty when some node could take it."""
        rows = self.rows
        left = np.ones(len(rows), np.bool_)
        words = []
        need = self.request([spec])
        permissions = self.state.rules.permissions(spec, rows)
        small = [
            (f"too small: {name}", self.allocatable()[r] >= need[r, 0])
            for r, name in enumerate(self.state.resources)
            if need[r, 0] > 0
        ]
        for text, holds in (*permissions, *small):
            hit = left & ~holds
            if hit.any():
                words.append(f"{text} ({hit.sum()} of {len(rows)} nodes)")
            left &= holds
        return "" if left.any() else "no node could take it even if empty: " + "; ".join(words)

    def name(self, uid: str) -> str:
        """A pod's name for people, its UID when there is none."""
        return self.names.get(uid, uid)


def _require_room(cluster: Cluster, free: IntArray) -> None:
    """Refuse a node whose pods ask for more than it offers: no plan from there is feasible by itself."""
    if (free < 0).any():
        r, n = (int(i[0]) for i in np.nonzero(free < 0))
        name = cluster.state.resources[r]
        over = format_amount(-int(free[r, n]), name)
        raise ConfigError(
            f"node {cluster.node_names()[n]} is overfull: its pods ask for {over} of {name} more than it offers; "
            "take a fresh snapshot, or leave that node out of its input"
        )


def _require_nodes(cluster: Cluster) -> None:
    if len(cluster.rows) == 0:
        raise ConfigError("the cluster has no nodes, so there is nothing to plan; take a snapshot of a running cluster")
    require_sums(cluster)


def require_sums(cluster: Cluster) -> None:
    """Refuse quantities that no 64-bit sum holds, over all nodes or all pods that wait; planners add them up."""
    offered = cluster.allocatable().sum(axis=1, dtype=np.float64).tolist()
    asked: dict[str, float] = {}
    for pod in cluster.pending:
        for name, amount in pod.spec.request:
            asked[name] = asked.get(name, 0.0) + amount
    sums = [("nodes offer", name, total) for name, total in zip(cluster.state.resources, offered, strict=True)]
    for who, name, total in [*sums, *(("pending pods ask for", name, total) for name, total in asked.items())]:
        if total >= MAX_AMOUNT:
            raise ConfigError(
                f"{who} {format_amount(int(total), name)} of {name} in all, too much to add up (2^62); look for a quantity "
                "that is a mistake"
            )


def _classes(specs: Iterable[tuple[PodSpec, int]]) -> tuple[list[PodSpec], IntArray, IntArray]:
    """Distinct (spec, tier) pairs: specs ``C``, tiers ``(C,)``, and the class of each pod ``(P,)``."""
    index: dict[tuple[PodSpec, int], int] = {}
    class_of = [index.setdefault(key, len(index)) for key in specs]
    return [s for s, _ in index], np.array([t for _, t in index], np.int64), np.array(class_of, np.int64)


def waiting(cluster: Cluster) -> tuple[str, ...]:
    """One line per pod that is not to be placed now."""
    return tuple(f"pod {pod.name} is not to be placed now: {why}" for pod, why in cluster.not_now)


# ── rescue ────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Cuts:
    """What a rescue must leave alone because a plan without it broke a rule of the whole: see :func:`broken_by`.

    ``kept`` and ``fixed`` are UIDs of running pods that must not be evicted, and must not move either; ``gangs`` are not
    placed at all; ``gone`` are gangs that run and are evicted whole, whatever else happens; pods of ``whole``, gangs that wait,
    come right after the most important of their gang.
    """

    kept: frozenset[str] = frozenset()
    fixed: frozenset[str] = frozenset()
    gangs: frozenset[tuple[str, str]] = frozenset()
    words: tuple[str, ...] = ()
    gone: frozenset[tuple[str, str]] = frozenset()
    whole: frozenset[tuple[str, str]] = frozenset()


@dataclass(frozen=True)
class RescueProblem:
    """A packing with the names behind its columns; ``left_out`` says which pending pods the scheduler keeps.

    ``cost`` ``(P,)`` says who among pods that are alike is to go last, ``num_fixed`` how many movable pods stay and are no
    columns; ``gone`` are evicted with their gangs.
    """

    cluster: Cluster
    packing: Packing
    uids: tuple[str, ...]
    left_out: tuple[str, ...]
    cost: IntArray
    num_fixed: int = 0
    gone: tuple[Resident, ...] = ()
    num_unjudged: int = 0
    """Pending pods that the model does not cover: whether they could be placed is not known."""
    gangs: tuple[tuple[str, str] | None, ...] = ()
    """Of each pod in ``uids``."""


def rescue_problem(cluster: Cluster, cuts: Cuts | None = None) -> RescueProblem:
    """Movable and pending pods as columns.

    Running pods count half a tier above pending ones of the same priority, so that nobody loses a place to an equal; a
    pending pod that must not preempt ranks below everything that runs. Of a gang that runs nobody loses a place, but where
    ``cuts`` say that it goes whole.
    """
    _require_nodes(cluster)
    cuts = cuts or Cuts()
    movable = cluster.movable()
    gone = tuple(r for r in movable if cuts.gone and gang_of(r.spec) in cuts.gone)
    left = {r.uid for r in gone}
    running = [r for r in movable if r.uid not in cuts.fixed and r.uid not in left]

    def why_not(pod: Pod) -> str:
        return cluster.why_left_out(pod.spec) or (IN_PART if gang_of(pod.spec) in cuts.gangs else "")

    pending = [pod for pod in cluster.pending if not why_not(pod)]
    left_out = [f"pod {p.name} is left to the scheduler: {why}" for p in cluster.pending if (why := why_not(p))]
    left_out += waiting(cluster)
    lowest = min((4 * r.spec.priority for r in movable if r.uid not in cuts.fixed), default=2**40)
    tiers = [4 * r.spec.priority + 2 for r in running]
    first: dict[tuple[str, str], int] = {}
    for spec in (pod.spec for pod in pending):
        if (gang := gang_of(spec)) and gang in cuts.whole:
            first[gang] = max(first.get(gang, spec.priority), spec.priority)
    for spec in (pod.spec for pod in pending):
        leads = first.get(gang_of(spec) or ("", ""), spec.priority)
        rank = 4 * leads - (spec.priority < leads)  # below who leads the gang, above all less important than that
        tiers.append(rank if spec.preempts else min(rank, lowest))
    specs, tier, class_of = _classes(zip([r.spec for r in running] + [p.spec for p in pending], tiers, strict=True))
    column_of = np.full(cluster.state.num_rows, -1, np.int64)
    column_of[cluster.rows] = np.arange(len(cluster.rows))
    node_of = np.array([column_of[r.row] for r in running] + [-1] * len(pending), np.int64)
    request, free = cluster.request(specs), cluster.free()
    _require_room(cluster, free)
    for r in range(len(free)):
        np.add.at(free[r], node_of[: len(running)], request[r, class_of[: len(running)]])
    for resident in gone:
        free[:, column_of[resident.row]] += cluster.request([resident.spec])[:, 0]
    allowed = cluster.allowed(specs)
    for p in range(len(running)):  # whoever runs may stay, even where a new pod could not start
        allowed[class_of[p], node_of[p]] = True
    uids = (*(r.uid for r in running), *(p.uid for p in pending))
    evictable = [r.uid not in cuts.kept and not gang_of(r.spec) for r in running] + [True] * len(pending)
    packing = Packing(request, class_of, tier, free, allowed, node_of, np.array(evictable, np.bool_))
    cost = np.array([cluster.deletion_cost.get(uid, 0) for uid in uids], np.int64)
    left_out = [*cuts.words, *_gone_words(gone), *left_out]
    num_fixed = len(movable) - len(running) - len(gone)
    num_unjudged = sum(bool(cluster.why_left_out(pod.spec)) for pod in cluster.pending)
    gangs = tuple(gang_of(spec) for spec in (*(r.spec for r in running), *(p.spec for p in pending)))
    return RescueProblem(cluster, packing, uids, tuple(left_out), cost, num_fixed, gone, num_unjudged, gangs)


def _gone_words(gone: tuple[Resident, ...]) -> list[str]:
    sizes = Counter(gang_of(resident.spec) for resident in gone)
    return [f"gang {'/'.join(gang)} gives way, all {pods} pods of it" for gang, pods in sizes.items() if gang]


def _gang_name(gang: tuple[str, str] | None) -> str:
    return "/".join(gang) if gang else ""


def gangs_that_may_go(cluster: Cluster, below: int) -> list[tuple[str, str]]:
    """Gangs that run and may be evicted whole: all of a priority ``below`` this one, nobody of them must stay or waits, and
    budgets allow it; least important and then smallest first."""
    members: dict[tuple[str, str], list[Resident]] = {}
    for resident in cluster.state.residents.values():
        if gang := gang_of(resident.spec):
            members.setdefault(gang, []).append(resident)
    waits = {gang_of(pod.spec) for pod in (*cluster.pending, *(pod for pod, _ in cluster.not_now))}
    found = []
    for gang, pods in members.items():
        if max(r.spec.priority for r in pods) >= below:
            continue
        needs = Counter(budget for r in pods for budget in cluster.budgets.of.get(r.uid, ()))
        is_allowed = all(number <= cluster.budgets.allowed[budget] for budget, number in needs.items())
        if gang not in waits and is_allowed and not any(cluster.why_fixed(r) for r in pods):
            found.append((max(r.spec.priority for r in pods), len(pods), gang))
    return [gang for _, _, gang in sorted(found)]


def rescue_plan(problem: RescueProblem, packed: Packed, ending: Ending, *, time_s: float) -> Plan:
    """Steps of a rescue, each feasible by itself; value and bound are pods placed of the first tier that is not proved."""
    packing, cluster = problem.packing, problem.cluster
    pending = packing.node_of < 0
    node_of = cheapest_go(packing, packed.node_of, problem.cost)
    placed = int((pending & (node_of >= 0)).sum())
    total = int((node_of >= 0).sum()) + problem.num_fixed
    bound = total + sum(max(0, most - count) for most, count in zip(packed.most, packed.counts, strict=True))
    bound += len(problem.gone)  # of whom nothing is proved
    names = {pod.uid: pod.name for pod in cluster.pending}
    nodes = cluster.node_names()
    home = cluster.state.name
    gone = sorted(problem.gone, key=lambda r: gang_of(r.spec) or ("", ""))
    steps = [
        Step(Action.EVICT, r.uid, cluster.name(r.uid), home(r.row), gang=_gang_name(gang_of(r.spec))) for r in gone
    ]
    last = np.array([uid in cluster.budgets.of for uid in problem.uids], np.bool_)
    numbers: dict[tuple[str, str], int] = {}
    gangs = np.array([-1 if g is None else numbers.setdefault(g, len(numbers)) for g in problem.gangs], np.int64)
    for action, p, source, target in ordered_steps(packing, node_of, last, gangs):
        uid = problem.uids[p]
        before, after = (nodes[n] if n >= 0 else "" for n in (source, target))
        gang = "" if action == Action.PLACE else _gang_name(problem.gangs[p])
        steps.append(Step(action, uid, names.get(uid) or cluster.name(uid), before, after, gang=gang))
    details = {
        "pending_before": float(pending.sum()),
        "placed": float(placed),
        "moves": float(packing.num_moves(node_of)),
        "evictions": float(packing.num_evictions(node_of) + len(problem.gone)),
        "left_out": float(len(problem.left_out)),
    }
    waiting: dict[PodSpec, list[Pod]] = {}
    placed_uids = {step.pod for step in steps}
    columns = set(problem.uids)
    for pod in cluster.pending:
        if pod.uid in columns and pod.uid not in placed_uids:
            waiting.setdefault(pod.spec, []).append(pod)
    missing = [line for pods in waiting.values() for line in _missing(cluster, pods)]
    reasons = (*problem.left_out, *missing)
    done = Ending.OPTIMAL if packed.is_proved and not problem.gone else ending
    if not (placed or problem.num_unjudged) and waiting and all(cluster.why_nowhere(spec) for spec in waiting):
        done = Ending.INFEASIBLE
    return Plan("rescue", done, "pods placed", total, bound, tuple(steps), reasons, time_s=time_s, details=details)


def cheapest_go(packing: Packing, node_of: IntArray, cost: IntArray) -> IntArray:
    """The same placement, dealt out anew among pods that are alike and share a node: who costs least is evicted first, then
    moved; who costs most stays."""
    if not cost.any():
        return node_of
    result = node_of.copy()
    alike: dict[tuple[int, int], list[int]] = {}
    for p in np.flatnonzero(packing.node_of >= 0).tolist():
        alike.setdefault((int(packing.class_of[p]), int(packing.node_of[p])), []).append(p)
    for (_, home), pods in alike.items():
        free = [p for p in pods if packing.evictable[p]]
        places = sorted((int(node_of[p]) for p in free), key=lambda n: (n == home, n >= 0, n))
        for p, n in zip(sorted(free, key=lambda p: (int(cost[p]), p)), places, strict=True):
            result[p] = n
    return result


def ordered_steps(
    packing: Packing, node_of: IntArray, last: BoolArray | None = None, gangs: IntArray | None = None
) -> list[tuple[Action, int, int, int]]:
    """(action, pod, source, target) so that each step fits when the steps before it are done.

    Pods of one of ``gangs`` ``(P,)`` (-1 = none) that move are one step: all leave, then all fit; so are those that wait.
    Evictions come first. A circle of moves is broken by letting its smallest pod wait: an eviction, and a placement
    later; a gang's, and pods of ``last`` ``(P,)``, only where there is no other.
    """
    left = packing.left(packing.node_of)
    request = packing.request[:, packing.class_of]
    steps: list[tuple[Action, int, int, int]] = []
    for p in np.flatnonzero((packing.node_of >= 0) & (node_of < 0)).tolist():
        left[:, packing.node_of[p]] += request[:, p]
        steps.append((Action.EVICT, p, int(packing.node_of[p]), -1))
    units: dict[tuple[int, bool], list[int]] = {}
    source = packing.node_of.tolist()
    for p in np.flatnonzero((node_of >= 0) & (node_of != packing.node_of)).tolist():
        gang = -1 if gangs is None else int(gangs[p])
        units.setdefault((p, False) if gang < 0 else (len(source) + gang, source[p] >= 0), []).append(p)
    waiting = list(units.values())
    size = (request / np.maximum(packing.free.sum(axis=1), 1)[:, None]).sum(axis=0)

    def fits(unit: list[int]) -> bool:
        if len(unit) == 1:
            return bool((left[:, node_of[unit[0]]] >= request[:, unit[0]]).all())
        there = {int(node_of[p]): left[:, node_of[p]].copy() for p in unit}
        for p in unit:
            if source[p] in there:
                there[source[p]] += request[:, p]
        for p in unit:
            there[int(node_of[p])] -= request[:, p]
        return all(bool((room >= 0).all()) for room in there.values())

    def cost(unit: list[int]) -> tuple[bool, bool, float, int]:
        return len(unit) > 1, last is not None and bool(last[unit].any()), float(size[unit].sum()), unit[0]

    while waiting:
        ready = [unit for unit in waiting if fits(unit)]
        if not ready:
            for p in min((unit for unit in waiting if source[unit[0]] >= 0), key=cost):
                left[:, source[p]] += request[:, p]
                steps.append((Action.EVICT, p, source[p], -1))
                source[p] = -1
            continue
        for unit in ready:
            if not fits(unit):
                continue
            for p in unit:
                target = int(node_of[p])
                left[:, target] -= request[:, p]
                if source[p] >= 0:
                    left[:, source[p]] += request[:, p]
                steps.append((Action.MOVE if source[p] >= 0 else Action.PLACE, p, source[p], target))
            waiting.remove(unit)
    return steps


def broken_by(cluster: Cluster, plan: Plan, cuts: Cuts) -> Cuts | None:
    """What a plan must leave alone as well, so that budgets and gangs are kept; None when it keeps them.

    A budget that is exceeded first loses the evictions beyond what leaves room for one move at a time; if that does not do,
    its pods stay where they are.
    """
    found = cuts
    placed = {step.pod for step in plan.steps if step.action == Action.PLACE}
    gangs: dict[tuple[str, str], set[str]] = {}
    for pod in cluster.pending:
        if gang := gang_of(pod.spec):
            gangs.setdefault(gang, set()).add(pod.uid)
    pieces = {gang for gang, members in gangs.items() if members & placed and members - placed}
    found = replace(found, gangs=found.gangs | pieces)
    for number in sorted(over_budget(cluster, plan)):
        pods = [uid for uid, numbers in cluster.budgets.of.items() if number in numbers]
        allowed = cluster.budgets.allowed[number]
        word = f"disruption budget {cluster.budgets.names[number]} allows {allowed} at a time: the plan keeps to it"
        if word in found.words:
            found = replace(found, fixed=found.fixed | frozenset(pods))
            continue
        gone = [s.pod for s in plan.steps if s.action == Action.EVICT and s.pod not in placed and s.pod in pods]
        kept = frozenset(pods) - frozenset(gone[: allowed - 1])
        found = replace(found, kept=found.kept | kept, words=(*found.words, word))
    return None if found == cuts else found


def over_budget(cluster: Cluster, plan: Plan) -> dict[int, int]:
    """Number of a disruption budget → the step at which more of its pods are down than it allows."""
    down: dict[int, set[str]] = {}
    over: dict[int, int] = {}
    for some in together(plan.steps):
        moved: dict[int, int] = {}
        for number in some:
            step = plan.steps[number]
            for budget in cluster.budgets.of.get(step.pod, ()):
                pods = down.setdefault(budget, set())
                leaves = step.action in (Action.EVICT, Action.MOVE)
                if leaves and len(pods) + moved.get(budget, 0) >= cluster.budgets.allowed[budget]:
                    over.setdefault(budget, number)
                if step.action == Action.EVICT:
                    pods.add(step.pod)
                elif step.action == Action.MOVE:
                    moved[budget] = moved.get(budget, 0) + 1  # up again with the last of its gang
                elif step.action == Action.PLACE:
                    pods.discard(step.pod)
    return over


# ── batches ───────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class BatchProblem:
    """A batch with the names behind its columns."""

    cluster: Cluster
    batch: Batch
    pods: tuple[tuple[Pod, ...], ...]
    left_out: tuple[str, ...]
    devices: Devices | None = None
    """Also where the batch itself needs none, because whole devices add up."""
    notes: tuple[str, ...] = ()
    """Lines for people about the cluster."""
    num_unjudged: int = 0
    """Pending pods that the model does not cover: whether they could be placed is not known."""


def _batch_reasons(cluster: Cluster) -> list[tuple[str, str]]:
    """Name of each pending pod, and why a batch does not hold it; empty when it does."""
    pods = cluster.pending
    why = {pod.spec: cluster.why_left_out(pod.spec, is_batch=True) for pod in pods}
    held = [spec for spec, reason in why.items() if not reason]
    for spec in apart.left_out(cluster.state.rules, held):
        why[spec] = RELATIONAL
    in_part = {gang for spec, reason in why.items() if reason and (gang := gang_of(spec))}
    for spec in held:
        if not why[spec] and gang_of(spec) in in_part:
            why[spec] = "a pod of its gang is left to the scheduler"
    return [(pod.name, why[pod.spec]) for pod in pods]


def batch_problem(cluster: Cluster) -> BatchProblem:
    """Pending pods as classes; pods that share a gang label are placed all or none."""
    _require_nodes(cluster)
    reasons = _batch_reasons(cluster)
    pods = [pod for pod, (_, why) in zip(cluster.pending, reasons, strict=True) if not why]
    left_out = tuple(f"pod {name} is left to the scheduler: {why}" for name, why in reasons if why)
    left_out += waiting(cluster)
    gangs: dict[tuple[str, str], int] = {}
    numbers = [gangs.setdefault(gang, len(gangs)) if (gang := gang_of(pod.spec)) else -1 for pod in pods]
    specs, gang_number, class_of = _classes(zip([pod.spec for pod in pods], numbers, strict=True))
    members = tuple(tuple(pods[p] for p in np.flatnonzero(class_of == c)) for c in range(len(specs)))
    count = np.array([len(m) for m in members], np.int64)
    most = np.where(cluster.allowed(specs), count[:, None], 0)
    rules = cluster.state.rules
    for c, spec in enumerate(specs):
        if rules.is_relational(spec):
            most[c] = np.minimum(most[c], apart.most_per_node(rules, spec, int(count[c]))[cluster.rows])
    zones = np.zeros(len(cluster.rows), np.int64)
    free, request = np.maximum(cluster.free(), 0), cluster.request(specs)
    devices: Devices | None = None
    notes: tuple[str, ...] = ()
    if any(spec.gpu is not None for spec in specs):
        devices, notes = devices_of(specs, cluster.device_free()), _on_hidden_devices(cluster)
    counted = None if devices is None or devices.are_whole else devices
    priority = np.array([spec.priority for spec in specs], np.int64)
    batch = Batch(
        request, count, free, cluster.allocatable(), most, gang_number, zones, devices=counted, priority=priority
    )
    if is_wishing(rules, specs):
        wishes = wishes_of(rules, specs, count, batch.fitting() > 0, cluster.rows)
        batch = replace(batch, **wishes._asdict())
    return BatchProblem(cluster, batch, members, left_out, devices, notes, len(reasons) - len(pods))


def _on_hidden_devices(cluster: Cluster) -> tuple[str, ...]:
    """A line for people where devices are kept free because somebody may be on them."""
    pods = sum(map(len, cluster.state.unrecorded.values()))
    if not pods:
        return ()
    return (
        f"{pods} running pods have GPU devices of which it is not recorded which (annotation {DEVICES_ANNOTATION}): the plan "
        "keeps off all that may be theirs",
    )


def _masks(devices: Devices | None, placed: IntArray) -> dict[tuple[int, int], list[int]]:
    """(class, node) → devices of each of its pods, as bits; for ``placed`` ``(C, N)`` that packs."""
    found: dict[tuple[int, int], list[int]] = {}
    if devices is None:
        return found
    for n in np.flatnonzero((placed * devices.count[:, None]).any(axis=0)).tolist():
        assigned = devices.assign(n, placed[:, n])
        assert assigned is not None, "a batch that does not pack is not handed out"
        for c, mask in assigned:
            found.setdefault((c, n), []).append(mask)
    return found


def _missing(cluster: Cluster, pods: Iterable[Pod]) -> list[str]:
    """One line per pod of a class that got no place: the rules in its way, or that there is no room now."""
    lines, why = [], ""
    for number, pod in enumerate(pods):
        why = cluster.why_nowhere(pod.spec) if number == 0 else why
        lines.append(f"pod {pod.name}: {why}" if why else f"pod {pod.name} fits on no node within this plan")
    return lines


def _of_priority(priority: int, pods: tuple[int, int, int], *, is_first: bool) -> str:
    """How many ``pods`` of a priority are placed, there are, and can be placed at most, in words."""
    placed, all_, most = pods
    given = "" if is_first else " with as many of those above"
    bound = f", no more can be{given}" if placed == most else f", {most} can be{given} at most"
    return f"priority {priority}: {placed} of {all_} pods are placed{bound}"


def batch_plan(problem: BatchProblem, batched: Batched, *, time_s: float) -> Plan:
    """A place for each pod of the batch that got one."""
    rows, name = problem.cluster.rows, problem.cluster.state.name
    steps, missing = [], []
    masks = _masks(problem.devices, batched.placed)
    for c, pods in enumerate(problem.pods):
        used = np.flatnonzero(batched.placed[c])
        places = [n for n in used.tolist() for _ in range(int(batched.placed[c, n]))]
        for pod, n in zip(pods, places, strict=False):
            devices = devices_text(masks[c, n].pop()) if (c, n) in masks else ""
            steps.append(Step(Action.PLACE, pod.uid, pod.name, "", name(int(rows[n])), devices))
        missing += _missing(problem.cluster, pods[len(places) :])
    details = {
        "stranded_share": batched.stranding,
        "stranded_share_bound": batched.stranding_bound,
        "stranding_gap_share": batched.gap_share,
        "left_out": float(len(problem.left_out)),
    }
    if problem.batch.has_wishes:
        possible, parts = max(problem.batch.wishes_possible, 1), problem.batch.parts
        details |= {
            "wish_points": batched.wishes_met / parts,
            "wish_points_bound": batched.wishes_bound / parts,
            "wish_points_possible": possible / parts,
            "wishes_met_share": batched.wishes_met / possible,
            "wishes_met_share_bound": batched.wishes_bound / possible,
        }
    asked = problem.batch.by_rank(problem.batch.count)
    by_priority = []
    for rank, priority in enumerate(problem.batch.priorities if problem.batch.num_ranks > 1 else ()):
        here, most = batched.counts[rank], batched.most_of_each[rank]
        details |= {f"placed_priority_{priority}": float(here), f"most_priority_{priority}": float(most)}
        if here < asked[rank]:
            by_priority.append(_of_priority(priority, (here, asked[rank], most), is_first=rank == 0))
    reasons = (*by_priority, *problem.notes, *problem.left_out, *missing)
    is_proved = batched.most == 0 and missing and not problem.num_unjudged
    ending = Ending.INFEASIBLE if is_proved else batched.ending
    return Plan(
        "batch",
        ending,
        "pods placed",
        batched.count,
        batched.most,
        tuple(steps),
        reasons,
        time_s=time_s,
        details=details,
    )


# ── consolidation ─────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class FleetProblem:
    """A fleet with the names behind its columns; ``pods[c][n]`` are the UIDs of a class on a node."""

    cluster: Cluster
    fleet: Fleet
    pods: Mapping[tuple[int, int], tuple[str, ...]]
    has_prices: bool
    kept: int = 0
    """Pending pods whose room is kept."""
    stays: tuple[str, ...] = ()
    """Why nodes are not to go whatever a plan finds: how many for which reason, most first."""


def fleet_problem(cluster: Cluster) -> FleetProblem:
    """Movable pods by class and node; a node is deletable when everything on it may move or goes with it.

    Pending pods that fit now keep their room: no plan deletes the node that a pod is just about to get.
    """
    _require_nodes(cluster)
    rows, names = cluster.rows, cluster.node_names()
    column_of = {int(row): n for n, row in enumerate(rows)}
    torn = _gangs_beyond_budget(cluster)
    running = [r for r in cluster.movable() if gang_of(r.spec) not in torn]
    specs, _, class_of = _classes((r.spec, 0) for r in running)
    count = np.zeros((len(specs), len(rows)), np.int64)
    pods: dict[tuple[int, int], tuple[str, ...]] = {}
    for resident, c in zip(running, class_of.tolist(), strict=True):
        n = column_of[resident.row]
        count[c, n] += 1
        pods[c, n] = (*pods.get((c, n), ()), resident.uid)
    deletable = np.array([name not in cluster.never_delete for name in names], np.bool_)
    stays = {n: cluster.never_delete[names[n]] for n in np.flatnonzero(~deletable).tolist()}
    for resident in cluster.state.residents.values():
        why = cluster.why_fixed(resident) or torn.get(gang_of(resident.spec), "")
        if why and not resident.spec.owner.startswith(("DaemonSet/", "Node/")):
            n = column_of[resident.row]
            deletable[n] = False
            stays.setdefault(n, f"a pod there cannot be moved: {why}")
    prices = cluster.usd_per_hour
    if prices is not None:
        deletable &= [_price(prices, name) > 0 for name in names]  # who saves nothing stays
    usd = np.ones(len(rows)) if prices is None else np.array([_price(prices, name) for name in names], np.float64)
    request, free = cluster.request(specs), np.maximum(cluster.free(), 0)
    kept = _keep_room(cluster, free, deletable)
    fleet = Fleet(request, count, free, cluster.allowed(specs), deletable, usd)
    reasons = tuple(f"{num} of {len(names)} nodes stay: {why}" for why, num in Counter(stays.values()).most_common())
    return FleetProblem(cluster, fleet, pods, prices is not None, kept, reasons)


def _gangs_beyond_budget(cluster: Cluster) -> dict[tuple[str, str] | None, str]:
    """Gangs whose pods cannot all be down at once, and so are not moved, since a gang moves at once: and why."""
    needs: dict[tuple[str, str], Counter[int]] = {}
    for resident in cluster.movable() if cluster.budgets.of else ():
        if gang := gang_of(resident.spec):
            needs.setdefault(gang, Counter()).update(cluster.budgets.of.get(resident.uid, ()))
    return {
        gang: f"its gang moves at once, and disruption budget {cluster.budgets.names[budget]} allows less"
        for gang, budgets in needs.items()
        for budget, number in budgets.items()
        if number > cluster.budgets.allowed[budget]
    }


def _keep_room(cluster: Cluster, free: IntArray, deletable: BoolArray) -> int:
    """Take the room of pending pods that fit now off ``free`` and bar their nodes from deletion; how many fit.

    Most important first, then largest, each where it fits among nodes that stay anyway, else on the fullest.
    """
    specs, _, class_of = _classes((p.spec, 0) for p in cluster.pending)
    if not specs:
        return 0
    request, allowed = cluster.request(specs), cluster.allowed(specs)
    offered = np.maximum(cluster.allocatable(), 1)
    size = (request / offered.sum(axis=1, dtype=np.float64)[:, None]).sum(axis=0)
    order = sorted(range(len(class_of)), key=lambda p: (-cluster.pending[p].spec.priority, -size[class_of[p]], p))
    full = np.zeros(len(specs), np.bool_)
    kept = 0
    for c in class_of[order].tolist():
        if full[c]:
            continue
        fits = np.flatnonzero(allowed[c] & (free >= request[:, [c]]).all(axis=0))
        if len(fits) == 0:
            full[c] = True
            continue
        rank = (free[:, fits] / offered[:, fits]).mean(axis=0) + deletable[fits]
        n = int(fits[np.argmin(rank)])
        free[:, n] -= request[:, c]
        deletable[n] = False
        kept += 1
    return kept


def _price(prices: Mapping[str, float], name: str) -> float:
    if name not in prices:
        raise ConfigError(f"node {name} has no price; add it to the price book, or plan without prices")
    return prices[name]


def _by_node(moves: Mapping[str, list[Step]]) -> list[Step]:
    """Node by node: cordon, move its pods, delete. A gang's pods move at once, from whichever nodes, closed by then."""
    gangs: dict[str, list[Step]] = {}
    for step in chain.from_iterable(moves.values()):
        if step.gang:
            gangs.setdefault(step.gang, []).append(step)
    steps: list[Step] = []
    done, closed = set[str](), set[str]()

    def close(node: str) -> None:
        if node not in closed:
            closed.add(node)
            steps.append(Step(Action.CORDON, source=node))

    for node, some in moves.items():
        close(node)
        for step in some:
            if not step.gang:
                steps.append(step)
            elif step.gang not in done:
                done.add(step.gang)
                for other in gangs[step.gang]:
                    close(other.source)
                steps += gangs[step.gang]
        steps.append(Step(Action.DELETE, source=node))
    return steps


def consolidation_plan(
    problem: FleetProblem, result: Consolidated, *, usd_per_move: float = 0.0, time_s: float = 0.0
) -> Plan:
    """Node by node, dearest per move first: cordon, move its pods, delete. Without prices, nodes are counted instead."""
    fleet, cluster = problem.fleet, problem.cluster
    names = cluster.node_names()
    room = result.arrivals.copy()
    worth = fleet.usd_per_hour / np.maximum(fleet.pods, 1)
    moves: dict[int, list[Step]] = {}
    for n in sorted(np.flatnonzero(result.deleted).tolist(), key=lambda n: (-worth[n], n)):
        moves[n] = []
        for c in np.flatnonzero(fleet.count[:, n]):
            for uid in problem.pods[int(c), n]:
                target = int(np.flatnonzero(room[c])[0])
                room[c, target] -= 1
                gang = _gang_name(gang_of(cluster.state.residents[uid].spec))
                moves[n].append(Step(Action.MOVE, uid, cluster.name(uid), names[n], names[target], gang=gang))
    steps = _by_node({names[n]: some for n, some in moves.items()})
    usd = result.usd_per_hour if problem.has_prices else None
    payback = None
    if usd is not None and usd > 0 and usd_per_move > 0:
        payback = result.moves * usd_per_move / usd * 3600
    details = {"nodes_deleted": float(result.deleted.sum()), "moves": float(result.moves)}
    unit = "USD per hour saved" if problem.has_prices else "nodes saved"
    reasons = () if problem.has_prices else ("no prices are known: the plan counts nodes, not USD",)
    if problem.kept:
        reasons = (*reasons, f"room is kept for {problem.kept} pending pods that fit now; their nodes stay")
    reasons = (*reasons, *problem.stays)
    value, bound = result.usd_per_hour, result.bound
    return Plan(
        "consolidate", result.ending, unit, value, bound, tuple(steps), reasons, False, usd, payback, time_s, details
    )


# ── purchase ──────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class DemandProblem:
    """Demand with the names behind its classes; ``exact`` is the same with device shares that are not rounded up.

    ``use`` ``(C,)`` is the share of time that pods of a class run.
    """

    demand: Demand
    exact: Demand
    pods: tuple[tuple[Pod, ...], ...]
    left_out: tuple[str, ...]
    use: FloatArray
    num_unjudged: int = 0
    """Pods that are left out though a shape for sale might hold them: they are not modelled."""


@dataclass(frozen=True)
class Sold:
    """What rules ask of the shapes for sale, one entry per shape: device models (None = no devices), and which are spot."""

    models: list[str | None]
    spot: list[bool]


def demand_problem(
    pods: Iterable[Pod],
    resources: list[str],
    sold: Sold,
    *,
    use: Mapping[str, float] | None = None,
    steady: Container[str] = (),
) -> DemandProblem:
    """Pending pods as demand over ``resources`` and, last, units of devices: the axis of the shapes' capacities.

    Pods that ask for something no shape offers, or are not modelled, are left out and named. ``use`` has the share of time
    that pods run, by UID (1 for the others); UIDs in ``steady`` must not be on machines that can be interrupted.
    """
    models = sold.models
    kept, left_out, num_unjudged = [], [], 0
    for pod in pods:
        why = f"{pod.spec.unmodelled[0]} is not modelled" if pod.spec.unmodelled else ""
        num_unjudged += bool(why)
        known = {*resources, WHOLE_DEVICES}
        foreign = [name for name, amount in pod.spec.request if amount and name not in known]
        why = why or (f"no shape offers {foreign[0]}" if foreign else "")
        why = why or _why_no_device(pod.spec, models)
        if why:
            left_out.append(f"pod {pod.name} is left out: {why}")
        else:
            kept.append(pod)
    shares = sorted({1.0, *(use or {}).values()})
    tiers = [2 * shares.index((use or {}).get(pod.uid, 1.0)) + (pod.uid in steady) for pod in kept]
    specs, tier, class_of = _classes(zip((pod.spec for pod in kept), tiers, strict=True))
    choosy = [pod.name for pod in kept if _chooses(pod.spec)]
    if choosy:
        left_out.append(
            f"{len(choosy)} pods choose nodes by label or name ({choosy[0]} …): shapes have none, so see to it that the "
            "new nodes carry them"
        )
    members = tuple(tuple(kept[p] for p in np.flatnonzero(class_of == c)) for c in range(len(specs)))
    rows = [[spec.amount(r) if r != "pods" else 1 for spec in specs] for r in resources]
    whole = [spec.amount(WHOLE_DEVICES) * DEVICE_UNITS for spec in specs]
    rounded = [units + device_units(spec.gpu) for units, spec in zip(whole, specs, strict=True)]
    exact = [
        units + (spec.gpu.total_milli * DEVICE_UNITS // DEVICE_MILLI if spec.gpu else 0)
        for units, spec in zip(whole, specs, strict=True)
    ]
    count = np.array([len(m) for m in members], np.int64)
    allowed = np.array([[_accepts(spec, model) for model in models] for spec in specs], np.bool_)
    allowed = allowed.reshape(len(specs), len(models))
    allowed &= ~((tier % 2 == 1)[:, None] & np.array(sold.spot, np.bool_))

    def demand(units: list[int]) -> Demand:
        return Demand(np.array([*rows, units], np.int64).reshape(len(resources) + 1, len(specs)), count, allowed)

    shares_of = np.array(shares)[tier // 2]
    return DemandProblem(demand(rounded), demand(exact), members, tuple(left_out), shares_of, num_unjudged)


def _chooses(spec: PodSpec) -> bool:
    rules = spec.node_rules
    return bool(rules.node_selector or rules.affinity is not None or rules.node_name or rules.volume_affinity)


def _accepts(spec: PodSpec, model: str | None) -> bool:
    if spec.gpu is None:
        return model is not None or not spec.amount(WHOLE_DEVICES)
    return model is not None and (not spec.gpu.models or model in spec.gpu.models)


def _why_no_device(spec: PodSpec, models: list[str | None]) -> str:
    """Why no shape has the devices that a class asks for; empty when one has."""
    if any(_accepts(spec, model) for model in models):
        return ""
    if spec.gpu is not None and spec.gpu.models and any(model is not None for model in models):
        return f"no shape for sale has GPU devices of model {' or '.join(spec.gpu.models)}"
    return "no shape for sale has GPU devices"


def why_on_no_shape(problem: DemandProblem, c: int, shapes: list[Shape], resources: list[str]) -> str:
    """Why class ``c`` fits on no shape: the one that comes nearest, and what it has too little of."""
    accepted = np.flatnonzero(problem.demand.allowed[c])
    if not len(accepted):
        return "it must not be interrupted, and of what is for sale only spot machines would do"
    request = problem.demand.request[:, c]
    capacity = np.stack([shapes[s].capacity for s in accepted])
    missing = np.where(request > 0, np.inf, 0.0)
    times = np.divide(request, capacity, out=np.tile(missing, (len(accepted), 1)), where=capacity > 0)
    nearest = int(np.argmin(times.max(axis=1)))
    short = []
    for r in np.flatnonzero(request > capacity[nearest]):
        name, unit = (resources[r], 1) if r < len(resources) else ("GPU devices", DEVICE_UNITS)
        has, asked = (format_amount(int(n) / unit, name) for n in (capacity[nearest, r], request[r]))
        short.append(f"{has} of {name} ({asked} asked for)")
    return f"it fits on no shape for sale; the nearest, {shapes[accepted[nearest]].name}, has {' and '.join(short)}"


def purchase_plan(problem: DemandProblem, shapes: list[Shape], bought: Bought, *, time_s: float) -> Plan:
    """Nodes to add, by shape; the plan minimises USD per hour."""
    nodes = bought.nodes(len(shapes))
    steps = [
        Step(Action.BUY, name=shape.name, target=f"{shape.name}-{i + 1}")
        for shape, n in zip(shapes, nodes, strict=True)
        for i in range(int(n))
    ]
    bill = float(sum(n * shape.usd_per_hour for n, shape in zip(nodes, shapes, strict=True)))
    details = {f"nodes {shape.name}": float(n) for shape, n in zip(shapes, nodes, strict=True) if n}
    return Plan(
        "purchase",
        bought.ending,
        "USD per hour",
        bought.cost,
        bought.bound,
        tuple(steps),
        problem.left_out,
        True,
        bill,
        None,
        time_s,
        details,
    )


# ── the independent checker ───────────────────────────────────────────────────────────────────────────────────


def check_steps(cluster: Cluster, plan: Plan) -> list[str]:
    """Replay a plan's steps on plain dictionaries; what is wrong with them, empty when nothing is.

    Shares no code with the planners: requests are summed by resource name, every step must fit when it is taken, nothing
    fixed moves, nothing lands on a cordoned or deleted node, and a deleted node is empty of what may move.
    """
    state = cluster.state
    names = cluster.node_names()
    offered = {n: dict(node.amounts) for n in names if (node := state.nodes[state.row_of[n]]) is not None}
    where = {uid: state.name(r.row) for uid, r in state.residents.items()}
    specs = {uid: r.spec for uid, r in state.residents.items()} | {p.uid: p.spec for p in cluster.pending}
    fixed = {uid for uid, r in state.residents.items() if cluster.why_fixed(r)}
    taken: dict[str, dict[str, int]] = {n: {} for n in names}

    def put(uid: str, node: str, sign: int) -> None:
        for resource, amount in {**specs[uid].amounts, "pods": 1}.items():
            taken[node][resource] = taken[node].get(resource, 0) + sign * amount

    for uid, home in where.items():
        put(uid, home, 1)
    closed: set[str] = set()
    wrong: list[str] = []
    runs = {some.start: some for some in together(plan.steps)}
    for number, step in enumerate(plan.steps):
        if step.gang:  # all of it leaves, then it comes back
            for other in (plan.steps[i] for i in runs.get(number, ())):
                if where.get(other.pod) == other.source:
                    put(other.pod, other.source, -1)
        if step.action == Action.CORDON:
            closed.add(step.source)
        elif step.action == Action.DELETE:
            wrong += [
                f"step {number}: pod {u} is on {step.source}"
                for u, n in where.items()
                if n == step.source and u not in fixed
            ]
        elif step.action in (Action.MOVE, Action.EVICT, Action.PLACE):
            if step.pod in fixed:
                wrong.append(f"step {number}: pod {step.pod} must not be touched")
            gang = _gang_that_leaves(cluster, step)
            if step.gang != gang:
                is_of, says = gang or "none", step.gang or "none"
                wrong.append(f"step {number}: pod {step.pod} is of gang {is_of}, and the step of {says}")
            if where.get(step.pod, "") != step.source:
                wrong.append(f"step {number}: pod {step.pod} is not on {step.source or 'no node'}")
            elif step.source:
                home = where.pop(step.pod)
                if not step.gang:
                    put(step.pod, home, -1)
            if step.target:
                put(step.pod, step.target, 1)
                where[step.pod] = step.target
                over = [
                    r
                    for r, a in taken[step.target].items()
                    if a > offered[step.target].get(r, 0) and specs[step.pod].amounts.get(r, 1)
                ]
                wrong += [f"step {number}: {r} on {step.target} is exceeded" for r in over]
                if step.target in closed:
                    wrong.append(f"step {number}: {step.target} takes no pods any more")
    wrong += [
        f"step {at}: disruption budget {cluster.budgets.names[number]} is exceeded"
        for number, at in over_budget(cluster, plan).items()
    ]
    wrong += _check_gangs(cluster, plan)
    placed = [(specs[step.pod], step.target) for step in plan.steps if plan.kind == "batch" and step.pod in specs]
    return wrong + apart_check.broken(state, placed) + _check_wishes(cluster, plan) + _check_devices(cluster, plan)


def _check_gangs(cluster: Cluster, plan: Plan) -> list[str]:
    """Whether of each gang that waits all pods are placed, or none, and of each that runs all keep a place, or none."""
    placed = {step.pod for step in plan.steps if step.action == Action.PLACE}
    evicted = {step.pod for step in plan.steps if step.action == Action.EVICT} - placed
    members: dict[tuple[str, tuple[str, str]], list[bool]] = {}
    for pod in cluster.pending:
        if gang := gang_of(pod.spec):
            members.setdefault(("placed", gang), []).append(pod.uid in placed)
    for uid, resident in cluster.state.residents.items():
        if gang := gang_of(resident.spec):
            members.setdefault(("evicted", gang), []).append(uid in evicted)
    torn = [
        f"gang {'/'.join(gang)} is {what} in part" for (what, gang), are in members.items() if any(are) and not all(are)
    ]
    runs = [gang for gang, _ in groupby(_gang_that_leaves(cluster, step) for step in plan.steps) if gang]
    return torn + [f"gang {gang} is moved in pieces" for gang, times in Counter(runs).items() if times > 1]


def _gang_that_leaves(cluster: Cluster, step: Step) -> str:
    """Of a running pod that is evicted or moved; empty for any other step."""
    resident = cluster.state.residents.get(step.pod)
    gang = gang_of(resident.spec) if resident and step.source else None
    return "/".join(gang) if gang else ""


def _check_devices(cluster: Cluster, plan: Plan) -> list[str]:
    """Whether each pod that asks for devices gets as many as it asks for, of those that are left, and nobody else any."""
    state = cluster.state
    specs = {p.uid: p.spec for p in cluster.pending}
    taken: dict[tuple[str, int], int] = {}
    hidden: dict[str, list[int]] = {}
    for resident in state.residents.values():
        home, share = state.name(resident.row), resident.spec.gpu.milli if resident.spec.gpu else 0
        for index in device_indices(resident.devices):
            taken[home, index] = taken.get((home, index), 0) + share
        if share and not resident.devices:
            hidden.setdefault(home, []).append(share)
    at_worst = {
        key: max(known + extra for extra in _sums(hidden[key[0]]) if known + extra <= DEVICE_MILLI or not extra)
        for home in hidden
        for key in ((home, index) for index in range(MAX_DEVICES))
        for known in (taken.get(key, 0),)
    }
    taken |= at_worst
    wrong = []
    for number, step in enumerate(plan.steps):
        if step.action != Action.PLACE or step.pod not in specs:
            continue
        gpu, node = specs[step.pod].gpu, state.nodes[state.row_of[step.target]]
        given = [int(index) for index in step.devices.split(",") if index]
        if gpu is None or node is None or len(set(given)) != gpu.count:
            if given or gpu is not None:
                wrong.append(f"step {number}: pod {step.pod} gets {len(given)} devices, and asks for other")
            continue
        for index in given:
            key = step.target, index
            taken[key] = taken.get(key, 0) + gpu.milli
            if taken[key] > DEVICE_MILLI or index >= node.num_gpus:
                wrong.append(f"step {number}: device {index} of {step.target} is exceeded")
    return wrong


def _sums(shares: list[int]) -> set[int]:
    """What some of ``shares`` are together, none of them included."""
    found = {0}
    for share in shares:
        found |= {so_far + share for so_far in found}
    return found


def _check_wishes(cluster: Cluster, plan: Plan) -> list[str]:
    """Whether the points of wishes that a plan claims are those of its steps."""
    claimed = plan.details.get("wish_points")
    if claimed is None:
        return []
    specs = {p.uid: p.spec for p in cluster.pending}
    placed = [(specs[step.pod], step.target) for step in plan.steps if step.action == Action.PLACE]
    kinds = list({spec: None for spec, _ in placed})
    takes = cluster.allowed(kinds)
    for r, need in enumerate(cluster.request(kinds)):
        takes = takes & ((need[:, None] == 0) | (cluster.free()[r] >= need[:, None]))
    left = cluster.device_free().tolist()
    for k, spec in enumerate(kinds):
        if spec.gpu is not None:
            takes[k] &= [sum(free >= spec.gpu.milli for free in on) >= spec.gpu.count for on in left]
    batch = [p.spec for p, (_, why) in zip(cluster.pending, _batch_reasons(cluster), strict=True) if not why]
    for k, spec in enumerate(kinds):
        barred = apart_check.barred(cluster.state, spec)
        takes[k] &= [name not in barred for name in cluster.node_names()]
    met = recount(cluster.state, cluster.node_names(), dict(zip(kinds, takes, strict=True)), placed, batch)
    return [] if met == claimed else [f"{claimed:g} points of wishes are claimed, {met:g} are met"]
