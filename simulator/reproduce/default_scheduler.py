"""What kube-scheduler 1.36 does with replica sets on plain nodes: the rival of "Priority Matters".

A small, self-contained emulation for pods that ask for CPU and memory only and belong to replica sets:
``NodeResourcesFit`` (LeastAllocated, weight 1), ``NodeResourcesBalancedAllocation`` (weight 1), the system default
spread by hostname (weight 2), random ties, and default preemption. The arithmetic follows the Go sources
(``pkg/scheduler/framework/plugins/{noderesources,podtopologyspread}``, ``framework/preemption``) integer by integer.
It exists beside the strategy ``kube-default`` so that the reproduction has a rival of its own that needs no ledger;
anything with the signature of :func:`default_placement` can take its place.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field

import numpy as np

from placement.resources import BoolArray, FloatArray, IntArray
from simulator.planning.instances import PriorityInstance, labelled_random

MAX_SCORE = 100
SPREAD_WEIGHT = 2
HOSTNAME_SKEW = 3
MIN_FEASIBLE_NODES = 100
UNPLACED = -1


def _least_allocated(after: IntArray, allocatable: IntArray) -> IntArray:
    """``(N,)``: mean over resources of the free share after placement, each truncated to an integer."""
    return np.asarray(((allocatable - after) * MAX_SCORE // allocatable).sum(axis=0) // len(allocatable), np.int64)


def _balance(requested: IntArray, allocatable: IntArray) -> IntArray:
    """``(N,)``: 100 × (1 − half the distance between the CPU and memory shares), truncated."""
    share = np.minimum(requested / allocatable, 1.0)
    return np.asarray((1.0 - np.abs((share[0] - share[1]) / 2)) * MAX_SCORE, np.float64).astype(np.int64)


def _go_quotient(numerator: IntArray, denominator: int) -> IntArray:
    """Integer division that truncates toward zero, as Go's does."""
    return np.asarray(np.sign(numerator) * (np.abs(numerator) // denominator), np.int64)


def node_scores(
    free: IntArray, allocatable: IntArray, request: IntArray, siblings: IntArray, num_candidates: int
) -> IntArray:
    """``(C,)`` weighted sum of the three plugins that tell candidate nodes apart.

    Parameters
    ----------
    free : ``(R, C)`` int64, before placement, of the candidates only.
    allocatable : ``(R, 1)`` int64.
    request : ``(R, 1)`` int64.
    siblings : ``(C,)`` int64, pods of the same replica set per candidate.
    num_candidates : feasible nodes, which set the weight of the hostname spread.
    """
    taken = allocatable - free
    least = _least_allocated(taken + request, allocatable)
    change = _balance(taken + request, allocatable) - _balance(taken, allocatable)
    balanced = MAX_SCORE // 2 + _go_quotient(MAX_SCORE // 2 + change, 2)
    weight = math.log(num_candidates + 2)
    counts = np.floor(siblings * weight + (HOSTNAME_SKEW - 1) + 0.5).astype(np.int64)
    most, fewest = int(counts.max()), int(counts.min())
    spread = MAX_SCORE * (most + fewest - counts) // most
    return np.asarray(least + balanced + SPREAD_WEIGHT * spread, np.int64)


@dataclass
class _Cluster:
    """Nodes and pods while the default scheduler works through the queue."""

    instance: PriorityInstance
    ties: random.Random
    set_of: IntArray
    node_of: IntArray
    started: IntArray
    free: IntArray
    siblings: IntArray
    clock: int = 0
    next_node: int = 0
    on_node: list[list[int]] = field(default_factory=list)

    @classmethod
    def of(cls, instance: PriorityInstance, ties: random.Random) -> _Cluster:
        set_of = np.repeat(np.arange(len(instance.replicas)), instance.replicas)
        num_nodes = instance.num_nodes
        return cls(
            instance,
            ties,
            set_of,
            np.full(len(set_of), UNPLACED, np.int64),
            np.zeros(len(set_of), np.int64),
            np.repeat(instance.allocatable[:, None], num_nodes, axis=1),
            np.zeros((len(instance.replicas), num_nodes), np.int64),
            on_node=[[] for _ in range(num_nodes)],
        )

    def bind(self, pod: int, node: int) -> None:
        s = self.set_of[pod]
        self.clock += 1
        self.node_of[pod] = node
        self.started[pod] = self.clock
        self.free[:, node] -= self.instance.request[:, s]
        self.siblings[s, node] += 1
        self.on_node[node].append(pod)

    def evict(self, pod: int) -> None:
        s, node = self.set_of[pod], int(self.node_of[pod])
        self.node_of[pod] = UNPLACED
        self.free[:, node] += self.instance.request[:, s]
        self.siblings[s, node] -= 1
        self.on_node[node].remove(pod)

    def candidates(self, request: IntArray) -> IntArray:
        """Feasible nodes, sampled as ``numFeasibleNodesToFind`` does in clusters of 100 nodes and more."""
        fits: BoolArray = np.all(self.free >= request, axis=0)
        num_nodes = len(fits)
        if num_nodes < MIN_FEASIBLE_NODES:
            return np.flatnonzero(fits)
        wanted = max(num_nodes * max(50 - num_nodes // 125, 5) // 100, MIN_FEASIBLE_NODES)
        order = (self.next_node + np.arange(num_nodes)) % num_nodes
        found = np.flatnonzero(fits[order])[:wanted]
        processed = int(found[-1]) + 1 if len(found) == wanted else num_nodes
        self.next_node = (self.next_node + processed) % num_nodes
        return np.asarray(order[found], np.int64)

    def choose(self, pod: int) -> int:
        """Best node with random ties, or ``UNPLACED``."""
        s = self.set_of[pod]
        request = self.instance.request[:, s, None]
        nodes = self.candidates(request)
        if len(nodes) == 0:
            return UNPLACED
        scores = node_scores(
            self.free[:, nodes], self.instance.allocatable[:, None], request, self.siblings[s, nodes], len(nodes)
        )
        best = nodes[scores == scores.max()]
        return int(best[self.ties.randrange(len(best))])

    def importance(self, pod: int) -> tuple[int, int]:
        """Sort key: higher priority first, then earlier start."""
        return -int(self.instance.priority[self.set_of[pod]]), int(self.started[pod])

    def victims(self, pod: int, node: int) -> list[int]:
        """Pods that must go from the node for ``pod``, most important first; empty when that does not help."""
        instance = self.instance
        s = self.set_of[pod]
        lower = [p for p in self.on_node[node] if instance.priority[self.set_of[p]] < instance.priority[s]]
        room = self.free[:, node] + instance.request[:, self.set_of[lower]].sum(axis=1) - instance.request[:, s]
        if not lower or (room < 0).any():
            return []
        gone = []
        for victim in sorted(lower, key=self.importance):
            need = instance.request[:, self.set_of[victim]]
            if (room >= need).all():
                room = room - need
            else:
                gone.append(victim)
        return gone

    def preempt(self, pod: int) -> tuple[int, list[int]]:
        """Node and victims as ``pickOneNodeForPreemption`` ranks them; ``UNPLACED`` when none helps."""
        best: tuple[tuple[int, int, int, int], int, list[int]] | None = None
        for node in range(self.instance.num_nodes):
            gone = self.victims(pod, node)
            if not gone:
                continue
            priorities = [int(self.instance.priority[self.set_of[p]]) for p in gone]
            top_start = min(int(self.started[p]) for p in gone if self.importance(p)[0] == -priorities[0])
            rank = (priorities[0], sum(p + 2**31 for p in priorities), len(gone), -top_start)
            if best is None or rank < best[0]:
                best = rank, node, gone
        return (UNPLACED, []) if best is None else (best[1], best[2])


def default_placement(instance: PriorityInstance) -> IntArray:
    """``(P,)`` node of each pod, replica sets laid out one after the other; ``-1`` = pending.

    Replica sets arrive one by one; after a preemption its victims are recreated and everything pending is tried
    again, higher priority first. Ties are settled by the instance's own stream.
    """
    cluster = _Cluster.of(instance, labelled_random(instance.seed, "ties"))
    pending: list[int] = []
    for s, replicas in enumerate(instance.replicas):
        first = int(instance.replicas[:s].sum())
        pending = _drain(cluster, list(range(first, first + int(replicas))), pending)
    return cluster.node_of


def _drain(cluster: _Cluster, queue: list[int], pending: list[int]) -> list[int]:
    """Schedule until nothing changes; returns the pods that stay pending."""
    priority = cluster.instance.priority[cluster.set_of]
    queue = sorted(queue, key=lambda p: -int(priority[p]))
    while queue:
        pod = queue.pop(0)
        node = cluster.choose(pod)
        if node != UNPLACED:
            cluster.bind(pod, node)
            continue
        node, gone = cluster.preempt(pod)
        if node == UNPLACED:
            pending.append(pod)
            continue
        for victim in gone:
            cluster.evict(victim)
        cluster.bind(pod, node)
        queue = sorted(queue + pending + gone, key=lambda p: -int(priority[p]))
        pending = []
    return pending


def placed_share(instance: PriorityInstance, node_of: IntArray) -> FloatArray:
    """``(R,)`` share of what all nodes offer that placed pods ask for."""
    placed = np.repeat(instance.request, instance.replicas, axis=1)[:, node_of >= 0].sum(axis=1)
    return np.asarray(placed / (instance.allocatable * instance.num_nodes), np.float64)
