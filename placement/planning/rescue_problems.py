"""A rescue as columns of a packing, and back: movable and pending pods, who must stay, what must not be torn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from placement.gangs import gang_of
from placement.planning.cluster import Cluster, classes_of, overfull, require_nodes, waiting, why_unplaced
from placement.planning.plans import Action, Ending, Plan, Step
from placement.planning.repair import Packing
from placement.planning.rescue import Packed
from placement.planning.steps import gang_name, ordered_steps, over_budget
from placement.pods import Pod, PodSpec
from placement.resources import BoolArray, IntArray
from placement.state import Resident

IN_PART = "its gang is placed whole or not at all, and not all of it fits"


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
    """A packing with the names behind its columns; ``left_out`` says which pending pods the scheduler keeps, and what stays.

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
    ``cuts`` say that it goes whole. Nobody leaves a node whose pods ask for more than it offers, or comes
    to it for what is short there.
    """
    require_nodes(cluster)
    cuts = cuts or Cuts()
    movable = cluster.movable()
    gone = tuple(r for r in movable if cuts.gone and gang_of(r.spec) in cuts.gone)
    left = {r.uid for r in gone}
    free = cluster.free()
    over = overfull(cluster, free)
    running = [r for r in movable if r.uid not in cuts.fixed and r.uid not in left and r.row not in over]

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
    specs, tier, class_of = classes_of(zip([r.spec for r in running] + [p.spec for p in pending], tiers, strict=True))
    column_of = np.full(cluster.state.num_rows, -1, np.int64)
    column_of[cluster.rows] = np.arange(len(cluster.rows))
    node_of = np.array([column_of[r.row] for r in running] + [-1] * len(pending), np.int64)
    class_of, allowed, of = _who_may_stay(class_of, cluster.allowed(specs), node_of)
    request, tier = cluster.request(specs)[:, of], tier[of]
    for r in range(len(free)):
        np.add.at(free[r], node_of[: len(running)], request[r, class_of[: len(running)]])
    for resident in gone:
        free[:, column_of[resident.row]] += cluster.request([resident.spec])[:, 0]
    free = np.maximum(free, 0)
    uids = (*(r.uid for r in running), *(p.uid for p in pending))
    evictable = [r.uid not in cuts.kept and not gang_of(r.spec) for r in running] + [True] * len(pending)
    packing = Packing(request, class_of, tier, free, allowed, node_of, np.array(evictable, np.bool_))
    cost = np.array([cluster.deletion_cost.get(uid, 0) for uid in uids], np.int64)
    full = [
        f"node {cluster.state.names[n]} is overfull, its pods stay: they ask for {what} more"
        for n, what in over.items()
    ]
    left_out = [*cuts.words, *_gone_words(gone), *full, *left_out]
    num_fixed = len(movable) - len(running) - len(gone)
    num_unjudged = sum(bool(cluster.why_left_out(pod.spec)) for pod in cluster.pending)
    gangs = tuple(gang_of(spec) for spec in (*(r.spec for r in running), *(p.spec for p in pending)))
    return RescueProblem(cluster, packing, uids, tuple(left_out), cost, num_fixed, gone, num_unjudged, gangs)


def _who_may_stay(class_of: IntArray, allowed: BoolArray, node_of: IntArray) -> tuple[IntArray, BoolArray, IntArray]:
    """Classes in which whoever runs may stay, also where a new pod could not start: on a node that was cordoned, say.

    Who runs on such a node is of a class apart, since of those that are alike elsewhere none may come there. Returns
    ``class_of`` ``(P,)``, ``allowed`` ``(C, N)``, and of which class before each class is a part ``(C,)``.
    """
    barred = np.flatnonzero((node_of >= 0) & ~allowed[class_of, node_of])
    apart: dict[tuple[int, int], int] = {}
    result = class_of.copy()
    for p in barred.tolist():
        result[p] = apart.setdefault((int(class_of[p]), int(node_of[p])), len(allowed) + len(apart))
    of = np.array([*range(len(allowed)), *(c for c, _ in apart)], np.int64)
    allowed = allowed[of]
    allowed[result[barred], node_of[barred]] = True
    return result, allowed, of


def _gone_words(gone: tuple[Resident, ...]) -> list[str]:
    sizes = Counter(gang_of(resident.spec) for resident in gone)
    return [f"gang {'/'.join(gang)} gives way, all {pods} pods of it" for gang, pods in sizes.items() if gang]


def _needs(cluster: Cluster, pods: Iterable[Resident]) -> Counter[int]:
    return Counter(budget for r in pods for budget in cluster.budgets.of.get(r.uid, ()))


def needs_of(cluster: Cluster, gang: tuple[str, str]) -> Counter[int]:
    """Number of a disruption budget → pods of a gang that runs which it covers."""
    return _needs(cluster, (r for r in cluster.state.residents.values() if gang_of(r.spec) == gang))


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
        needs = _needs(cluster, pods)
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
    gone = sorted(problem.gone, key=lambda r: gang_of(r.spec) or ("", ""))
    steps = [
        Step(Action.EVICT, r.uid, cluster.name(r.uid), cluster.state.names[r.row], gang=gang_name(gang_of(r.spec)))
        for r in gone
    ]
    last = np.array([uid in cluster.budgets.of for uid in problem.uids], np.bool_)
    numbers: dict[tuple[str, str], int] = {}
    gangs = np.array([-1 if g is None else numbers.setdefault(g, len(numbers)) for g in problem.gangs], np.int64)
    for action, p, source, target in ordered_steps(packing, node_of, last, gangs):
        uid = problem.uids[p]
        before, after = (nodes[n] if n >= 0 else "" for n in (source, target))
        gang = "" if action == Action.PLACE else gang_name(problem.gangs[p])
        steps.append(Step(action, uid, names.get(uid) or cluster.name(uid), before, after, gang=gang))
    details = {
        "pending_before": float(pending.sum()),
        "placed": float(placed),
        "moves": float(packing.num_moves(node_of)),
        "evictions": float(packing.num_evictions(node_of) + len(problem.gone)),
        "displaced_bound": float(packed.fewest),
        "left_out": float(len(cluster.pending) + len(cluster.not_now) - pending.sum()),
    }
    waiting: dict[PodSpec, list[Pod]] = {}
    placed_uids = {step.pod for step in steps}
    columns = set(problem.uids)
    for pod in cluster.pending:
        if pod.uid in columns and pod.uid not in placed_uids:
            waiting.setdefault(pod.spec, []).append(pod)
    missing = [
        line + "; it displaces nobody (preemptionPolicy: Never)" * (not spec.preempts)
        for spec, pods in waiting.items()
        for line in why_unplaced(cluster, pods, beside_others=bool(steps))
    ]
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
        pods = [uid for uid in cluster.state.residents if number in cluster.budgets.of.get(uid, ())]
        allowed = cluster.budgets.allowed[number]
        word = f"disruption budget {cluster.budgets.names[number]} allows {allowed} at a time: the plan keeps to it"
        if word in found.words:
            found = replace(found, fixed=found.fixed | frozenset(pods))
            continue
        gone = [s.pod for s in plan.steps if s.action == Action.EVICT and s.pod not in placed and s.pod in pods]
        kept = frozenset(pods) - frozenset(gone[: allowed - 1])
        found = replace(found, kept=found.kept | kept, words=(*found.words, word))
    return None if found == cuts else found
