"""A consolidation as a fleet of nodes that may go, and back: cordons, moves and deletions, node by node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain

import numpy as np

from placement.devices import WHOLE_DEVICES
from placement.errors import ConfigError
from placement.gangs import gang_of
from placement.planning.cluster import OF_THE_NODE, Cluster, classes_of, require_nodes
from placement.planning.fleet import Consolidated, Fleet
from placement.planning.plans import Action, Plan, Step
from placement.planning.steps import gang_name
from placement.resources import BoolArray, IntArray
from placement.rules import hard_taints


@dataclass(frozen=True)
class FleetProblem:
    """A fleet with the names behind its columns; ``pods[c][n]`` are the UIDs of a class on a node."""

    cluster: Cluster
    fleet: Fleet
    pods: Mapping[tuple[int, int], tuple[str, ...]]
    has_prices: bool
    stranding: BoolArray
    """``(C, N)`` where a class would take room beside GPU devices that it does not ask for."""
    is_open: BoolArray
    """``(N,)`` nodes that take pods without tolerations."""
    kept: int = 0
    """Pending pods whose room is kept."""
    stays: tuple[str, ...] = ()
    """Why nodes are not to go whatever a plan finds: how many for which reason, most first."""


def fleet_problem(cluster: Cluster) -> FleetProblem:
    """Movable pods by class and node; a node is deletable when everything on it may move or goes with it.

    Pending pods that fit now keep their room: no plan deletes the node that a pod is just about to get.
    """
    require_nodes(cluster)
    rows, names = cluster.rows, cluster.node_names()
    column_of = {int(row): n for n, row in enumerate(rows)}
    torn = _gangs_beyond_budget(cluster)
    running = cluster.movable()
    specs, _, class_of = classes_of((r.spec, 0) for r in running)
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
        if why and not resident.spec.owner.startswith(OF_THE_NODE):
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
    nodes = [cluster.state.nodes[row] for row in rows.tolist()]
    offers = [node is not None and bool(node.num_gpus or node.amounts.get(WHOLE_DEVICES)) for node in nodes]
    asks = [spec.gpu is not None or spec.amount(WHOLE_DEVICES) > 0 for spec in specs]
    stranding = np.outer(~np.array(asks, np.bool_), np.array(offers, np.bool_))
    is_open = np.array([node is not None and not (node.unschedulable or hard_taints(node)) for node in nodes], np.bool_)
    return FleetProblem(cluster, fleet, pods, prices is not None, stranding, is_open, kept, reasons)


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
    specs, _, class_of = classes_of((p.spec, 0) for p in cluster.pending)
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
                gang = gang_name(gang_of(cluster.state.residents[uid].spec))
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
        who = "1 pending pod that fits now; its node stays"
        if problem.kept > 1:
            who = f"{problem.kept} pending pods that fit now; their nodes stay"
        reasons = (*reasons, f"room is kept for {who}")
    reasons = (*reasons, *problem.stays)
    value, bound = result.usd_per_hour, result.bound
    return Plan(
        "consolidate", result.ending, unit, value, bound, tuple(steps), reasons, False, usd, payback, time_s, details
    )
