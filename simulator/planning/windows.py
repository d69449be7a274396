"""Batches that are planned and nominated: what gathered within a window is placed together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from placement.devices import devices_of
from placement.planning.batch import Batch
from placement.planning.batches import place_batch
from placement.planning.best_fit import best_fit
from placement.planning.plans import Deadline, WorkClock
from placement.pods import PodSpec
from placement.resources import DEVICE_MILLI, BoolArray, IntArray
from placement.state import NUM_DERIVED, ClusterState, Snapshot

WINDOW_S, WINDOW_GAP = 2.0, 0.01
"""Most work for a window, and the gap at which its plan is good enough."""
MIN_BATCH = 2
"""Fewer pods than this are decided one by one: there is nothing to plan."""


def is_modelled(state: ClusterState, spec: PodSpec, *, devices: bool = False) -> bool:
    """Whether plans cover a class: no rules about other pods but a limit per node, and no shares of a device, unless the
    plan packs ``devices`` one by one."""
    if spec.unmodelled or (spec.gpu is not None and spec.gpu.milli != DEVICE_MILLI and not devices):
        return False
    rules = spec.pod_rules
    limit_only = not (rules.host_ports or rules.affinity or rules.anti_affinity or any(s.hard for s in rules.spread))
    return limit_only and (bool(rules.max_per_node) or not state.rules.is_relational(spec))


@dataclass(frozen=True)
class Nodes:
    """The ledger's living nodes as columns ``N``."""

    rows: IntArray
    free: IntArray
    allocatable: IntArray

    @classmethod
    def of(cls, view: Snapshot) -> Nodes:
        """As they are now."""
        rows = np.flatnonzero(view.is_alive)
        offered = view.offered[NUM_DERIVED:, rows]
        return cls(rows, np.asarray(offered - view.taken[NUM_DERIVED:, rows], np.int64), np.asarray(offered, np.int64))


def requests_of(state: ClusterState, specs: list[PodSpec]) -> IntArray:
    """``(R, C)`` over the ledger's resource axis."""
    return np.stack([state.delta(spec)[NUM_DERIVED:] for spec in specs], axis=1)


def _allowed(state: ClusterState, specs: list[PodSpec], rows: IntArray) -> BoolArray:
    return np.stack([state.rules.static_mask(spec)[rows] & state.rules.relational_mask(spec)[rows] for spec in specs])


def plan_window(snapshot: Snapshot, pods: Mapping[int, PodSpec]) -> dict[int, int]:
    """Ledger row per pod of a window: as many as possible, the most important first, on the fullest nodes that hold them,
    stranding least.

    ``pods`` are their numbers and classes; of one class, the first come first. Devices are packed one by one wherever shares
    are asked for or taken; whole ones add up. Which device a pod gets is the strategy's to say when it arrives. Pods that plans
    do not cover are absent, and so is everybody where there is nothing to plan.
    """
    state = snapshot.state
    members: dict[PodSpec, list[int]] = defaultdict(list)
    for pod, spec in pods.items():
        if is_modelled(state, spec, devices=True):
            members[spec].append(pod)
    nodes = Nodes.of(snapshot) if members else None
    if nodes is None or len(nodes.rows) == 0 or sum(map(len, members.values())) < MIN_BATCH:
        return {}
    specs = list(members)
    request = requests_of(state, specs)
    lanes = request.any(axis=1)
    count = np.array([len(members[spec]) for spec in specs], np.int64)
    limit = np.array([spec.pod_rules.max_per_node or len(pods) for spec in specs], np.int64)
    most = np.where(_allowed(state, specs, nodes.rows), np.minimum(count, limit)[:, None], 0)
    devices = devices_of(specs, snapshot.gpu_free[nodes.rows])
    devices = None if devices is None or devices.are_whole else devices
    none = np.full(len(specs), -1, np.int64)
    where = np.zeros(len(nodes.rows), np.int64)
    batch = Batch(
        request[lanes],
        count,
        np.maximum(nodes.free[lanes], 0),
        nodes.allocatable[lanes],
        most,
        none,
        where,
        devices=devices,
        priority=np.array([spec.priority for spec in specs], np.int64),
    )
    chosen, part = _fullest(batch)
    placed = place_batch(part, Deadline(WINDOW_S, WorkClock()), gap_share=WINDOW_GAP).placed
    return {
        pod: int(nodes.rows[chosen[n]])
        for c, spec in enumerate(specs)
        for pod, n in zip(members[spec], np.repeat(np.arange(len(chosen)), placed[c]).tolist(), strict=False)
    }


def _fullest(batch: Batch) -> tuple[IntArray, Batch]:
    """The shortest prefix of nodes, fullest first, that best fit fills with as many pods of each priority as all nodes take."""
    offered = np.maximum(batch.allocatable, 1)
    order = np.argsort((batch.free / offered).mean(axis=0), kind="stable")
    takes = np.asarray((batch.fitting() > 0).any(axis=0), np.bool_)
    order = order[takes[order]]
    wanted = batch.counts(best_fit(batch, is_quick=True))
    low, high = 1, max(len(order), 1)
    while low < high and len(order):
        middle = (low + high) // 2
        if batch.counts(best_fit(_only(batch, order[:middle]), is_quick=True)) >= wanted:
            high = middle
        else:
            low = middle + 1
    chosen = np.sort(order[:high]) if len(order) else np.arange(1)
    return chosen, _only(batch, chosen)


def _only(batch: Batch, nodes: IntArray) -> Batch:
    return replace(
        batch,
        free=batch.free[:, nodes],
        allocatable=batch.allocatable[:, nodes],
        most=batch.most[:, nodes],
        zone_of=batch.zone_of[nodes],
        devices=None if batch.devices is None else batch.devices.only(nodes),
    )
