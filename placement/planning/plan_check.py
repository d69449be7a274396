"""The independent checker: a plan's steps replayed on plain dictionaries. Shares no code with the planners."""

from __future__ import annotations

from collections import Counter
from itertools import groupby

from placement.gangs import gang_of
from placement.planning import apart_check
from placement.planning.batch_problems import batch_reasons
from placement.planning.cluster import OF_THE_NODE, Cluster
from placement.planning.node_check import why_barred
from placement.planning.plans import Action, Plan, Step, together
from placement.planning.steps import over_budget
from placement.planning.wish_check import recount
from placement.resources import (
    DEVICE_MILLI,
    MAX_DEVICES,
    PODS,
)
from placement.rules import hard_taints
from placement.state import device_indices


def check_steps(cluster: Cluster, plan: Plan) -> list[str]:
    """Replay a plan's steps on plain dictionaries; what is wrong with them, empty when nothing is.

    Shares no code with the planners: requests are summed by resource name, every step must fit when it is taken and keep
    the rules of its node, nothing fixed moves, nothing lands on a cordoned or deleted node, and a deleted node may be
    deleted and holds only pods that go with it.
    """
    state = cluster.state
    names = cluster.node_names()
    nodes = {n: node for n in names if (node := state.nodes[state.row_of[n]]) is not None}
    offered = {n: dict(node.amounts) for n, node in nodes.items()}
    where = {uid: state.names[r.row] for uid, r in state.residents.items()}
    specs = {uid: r.spec for uid, r in state.residents.items()} | {p.uid: p.spec for p in cluster.pending}
    fixed = {uid for uid, r in state.residents.items() if cluster.why_fixed(r)}
    taken: dict[str, dict[str, int]] = {n: {} for n in names}

    def put(uid: str, node: str, sign: int) -> None:
        for resource, amount in {**specs[uid].amounts, PODS: 1}.items():
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
            if why := cluster.never_delete.get(step.source):
                wrong.append(f"step {number}: {step.source} must not be deleted: {why}")
            wrong += [
                f"step {number}: pod {u} is on {step.source}"
                for u, n in where.items()
                if n == step.source and not specs[u].owner.startswith(OF_THE_NODE)
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
                    if a > offered[step.target].get(r, 0) and (r == PODS or specs[step.pod].amount(r))
                ]
                wrong += [f"step {number}: {r} on {step.target} is exceeded" for r in over]
                if step.target in closed:
                    wrong.append(f"step {number}: {step.target} takes no pods any more")
                if why := why_barred(specs[step.pod], nodes[step.target]):
                    wrong.append(f"step {number}: {step.target} takes no such pod: {why}")
    takes_any = {n for n, node in nodes.items() if not (node.unschedulable or hard_taints(node))}
    if takes_any and takes_any <= closed:
        wrong.append("no node is left for pods without tolerations")
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
        home, share = state.names[resident.row], resident.spec.gpu.milli if resident.spec.gpu else 0
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
    batch = [p.spec for p, (_, why) in zip(cluster.pending, batch_reasons(cluster), strict=True) if not why]
    for k, spec in enumerate(kinds):
        barred = apart_check.barred(cluster.state, spec)
        takes[k] &= [name not in barred for name in cluster.node_names()]
    met = recount(cluster.state, cluster.node_names(), dict(zip(kinds, takes, strict=True)), placed, batch)
    return [] if met == claimed else [f"{claimed:g} points of wishes are claimed, {met:g} are met"]
