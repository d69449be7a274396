"""A batch as classes and nodes, and back: who is in it, with which wishes and devices, and a place for each pod."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from placement.devices import Devices, devices_of
from placement.gangs import gang_of
from placement.planning import apart
from placement.planning.batch import Batch, Batched
from placement.planning.cluster import RELATIONAL, Cluster, classes_of, require_nodes, waiting, why_unplaced
from placement.planning.company import is_wishing, wishes_of
from placement.planning.plans import Action, Ending, Plan, Step
from placement.pods import Pod
from placement.resources import (
    DEVICES_ANNOTATION,
    MOST_COUNTED,
    IntArray,
)
from placement.state import devices_text


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


def batch_reasons(cluster: Cluster) -> list[tuple[str, str]]:
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


def batch_problem(cluster: Cluster, *, fills: bool = False) -> BatchProblem:
    """Pending pods as classes; pods that share a gang label are placed all or none.

    ``fills``, for pods that gather window by window: best fit takes the fullest nodes, and where a solver had to find room or
    wishes, pods stay where it put them; else least stranding is looked for.

    Amounts are the ledger's: a quantity that is a mistake, on a pod or a node, keeps nobody else from being planned.
    """
    require_nodes(cluster, MOST_COUNTED)
    reasons = batch_reasons(cluster)
    pods = [pod for pod, (_, why) in zip(cluster.pending, reasons, strict=True) if not why]
    left_out = tuple(f"pod {name} is left to the scheduler: {why}" for name, why in reasons if why)
    left_out += waiting(cluster)
    gangs: dict[tuple[str, str], int] = {}
    numbers = [gangs.setdefault(gang, len(gangs)) if (gang := gang_of(pod.spec)) else -1 for pod in pods]
    specs, gang_number, class_of = classes_of(zip([pod.spec for pod in pods], numbers, strict=True))
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
    counted = None if devices is None or (devices.are_whole and not cluster.state.unrecorded) else devices
    priority = np.array([spec.priority for spec in specs], np.int64)
    batch = Batch(
        request,
        count,
        free,
        cluster.allocatable(),
        most,
        gang_number,
        zones,
        devices=counted,
        priority=priority,
        fills=fills,
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


def _of_priority(priority: int, pods: tuple[int, int, int], *, is_first: bool) -> str:
    """How many ``pods`` of a priority are placed, there are, and can be placed at most, in words."""
    placed, all_, most = pods
    given = "" if is_first else " with as many of those above"
    bound = f", no more can be{given}" if placed == most else f", {most} can be{given} at most"
    return f"priority {priority}: {placed} of {all_} pods are placed{bound}"


def batch_plan(problem: BatchProblem, batched: Batched, *, time_s: float) -> Plan:
    """A place for each pod of the batch that got one."""
    nodes = problem.cluster.node_names()
    steps, missing = [], []
    masks = _masks(problem.devices, batched.placed)
    for c, pods in enumerate(problem.pods):
        used = np.flatnonzero(batched.placed[c])
        places = [n for n in used.tolist() for _ in range(int(batched.placed[c, n]))]
        for pod, n in zip(pods, places, strict=False):
            devices = devices_text(masks[c, n].pop()) if (c, n) in masks else ""
            steps.append(Step(Action.PLACE, pod.uid, pod.name, "", nodes[n], devices))
        missing += why_unplaced(problem.cluster, pods[len(places) :], beside_others=bool(batched.placed.any()))
    asked = problem.batch.by_rank(problem.batch.count)
    details = {
        "stranded_share": batched.stranding,
        "stranded_share_bound": batched.stranding_bound,
        "stranding_gap_share": batched.gap_share,
        "pending_before": float(sum(asked)),
        "placed": float(batched.count),
        "left_out": float(len(problem.cluster.pending) + len(problem.cluster.not_now) - sum(asked)),
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
