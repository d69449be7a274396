"""The order of a plan's steps: each feasible when those before it are done, gangs at once, budgets kept."""

from __future__ import annotations

import numpy as np

from placement.planning.cluster import Cluster
from placement.planning.plans import Action, Plan, together
from placement.planning.repair import Packing
from placement.resources import (
    BoolArray,
    IntArray,
)


def gang_name(gang: tuple[str, str] | None) -> str:
    return "/".join(gang) if gang else ""


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
