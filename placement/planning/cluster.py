"""A cluster as planners see it: a ledger, who waits, and who must stay where it is.

What a planner may touch is decided here, once: pods that are marked, that nobody recreates, that have volumes or
claims we do not model, or whose rules depend on other pods or devices are *fixed*: they keep their place, and what they
take is not offered. Pending pods of those kinds are left to the scheduler, and the plan says so. Everything else
becomes classes of identical pods.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from placement.errors import ConfigError
from placement.gangs import gang_of
from placement.nodes import Taint
from placement.pods import NodeTerm, Pod, PodSpec, Requirement
from placement.resources import (
    MAX_AMOUNT,
    BoolArray,
    IntArray,
    format_amount,
)
from placement.rules import hard_taints, is_tolerated
from placement.state import NUM_DERIVED, ClusterState, Resident

NOWHERE = "no node could take it even if empty"
NO_ROOM = "fits on no node within this plan"
RELATIONAL = "its rules depend on other pods"
MOST_NAMED = 6
"""Taints and labels that stand in the way of a class."""
OF_THE_NODE = ("DaemonSet/", "Node/")
"""Owners whose pods come and go with their node."""


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
        return [self.state.names[int(row)] for row in self.rows]

    def why_fixed(self, resident: Resident) -> str:
        """Why a running pod must keep its place; empty when it may move."""
        spec = resident.spec
        if resident.uid in self.never_move:
            return self.never_move[resident.uid]
        if not spec.owner:
            return "nobody would recreate it (no controller)"
        if spec.owner.startswith(OF_THE_NODE):
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
        permissions = self.state.rules.permissions(spec, rows, alone=True)
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
        if left.any():
            return ""
        named = ", ".join(f"{what} on {number}" for what, number in self._in_the_way(spec).most_common(MOST_NAMED))
        return f"{NOWHERE}: {'; '.join(words)}" + f"; in the way: {named}" * bool(named)

    @cached_property
    def _taints(self) -> Counter[tuple[Taint, ...]]:
        """Hard taints of a node → how many nodes have just these."""
        nodes = (self.state.nodes[row] for row in self.rows.tolist())
        return Counter(hard_taints(node) for node in nodes if node is not None)

    def _in_the_way(self, spec: PodSpec) -> Counter[str]:
        """Taints that a class does not tolerate, and what it asks of labels: on how many nodes each is in its way."""
        rules, found = spec.node_rules, Counter[str]()
        for taints, number in self._taints.items():
            for taint in taints:
                if not is_tolerated(taint, rules.tolerations):
                    found[f"taint {taint.key}{f'={taint.value}' * bool(taint.value)}:{taint.effect}"] += number
        wanted = [Requirement(key, "In", (value,)) for key, value in rules.node_selector]
        terms = rules.affinity or ()
        if len(terms) == 1:
            wanted += terms[0].expressions
        elif terms:  # one of them is enough
            holds = [self.state.rules.term_mask(term, self.rows) for term in terms]
            found[f"none of its {len(terms)} node affinity terms"] = int((~np.logical_or.reduce(holds)).sum())
        for one in wanted:
            is_plain = one.operator == "In" and len(one.values) == 1
            text = (
                f"no {one.key}={one.values[0]}" if is_plain else f"not {one.key} {one.operator} {' '.join(one.values)}"
            )
            found[text.rstrip()] = int((~self.state.rules.term_mask(NodeTerm((one,)), self.rows)).sum())
        return +found

    def why_no_room(self, spec: PodSpec, *, beside_others: bool) -> str:
        """What is short, before the plan, on the nodes that a class may run on; whether the plan places others."""
        rows, view = self.rows, self.state.snapshot()
        need = self.request([spec])[:, 0]
        alone = self.state.rules.permissions(spec, rows, alone=True)
        may = np.logical_and.reduce([np.ones(len(rows), np.bool_), *(holds for _, holds in alone)])
        fits, words, others = may.copy(), [], self.state.rules.permissions(spec, rows)[len(alone) :]
        for r in np.flatnonzero(need > 0).tolist():
            offered = view.offered[NUM_DERIVED + r, rows]
            has_room = offered - view.taken[NUM_DERIVED + r, rows] >= need[r]
            may &= offered >= need[r]
            fits &= has_room
            words.append((self.state.resources[r], has_room))
        short = [(name, int((may & ~has_room).sum())) for name, has_room in words]
        told = [f"{name} is short on {number}" for name, number in short if number]
        for text, holds in others:
            told += [f"{text} ({(may & ~holds).sum()})"] if (may & ~holds).any() else []
            fits &= holds
        if fits.any():
            causes = ["others of this plan go there"] * beside_others
            causes += ["its gang is not whole"] * (gang_of(spec) is not None)
            causes += ["what is free is split over devices"] * (spec.gpu is not None)
            told.append(f"{fits.sum()} have room" + f", but {' or '.join(causes)}" * bool(causes))
        return f"of {may.sum()} nodes that could take it if empty, {', '.join(told)}"

    def name(self, uid: str) -> str:
        """A pod's name for people, its UID when there is none."""
        return self.names.get(uid, uid)


def overfull(cluster: Cluster, free: IntArray) -> dict[int, str]:
    """Ledger rows whose pods ask for more than the node offers, as where it was made smaller, and what of, in words.

    Parameters
    ----------
    free : (R, N) :meth:`Cluster.free`.
    """
    found: dict[int, str] = {}
    for n in np.flatnonzero((free < 0).any(axis=0)).tolist():
        r = int(np.argmax(free[:, n] < 0))
        name = cluster.state.resources[r]
        found[int(cluster.rows[n])] = f"{format_amount(-int(free[r, n]), name)} of {name}"
    return found


def require_nodes(cluster: Cluster, most: int = MAX_AMOUNT) -> None:
    if len(cluster.rows) == 0:
        raise ConfigError("the cluster has no nodes, so there is nothing to plan; take a snapshot of a running cluster")
    require_sums(cluster, most)


def require_sums(cluster: Cluster, most: int = MAX_AMOUNT) -> None:
    """Refuse quantities that no 64-bit sum holds, over all nodes or all pods that wait; planners add them up. ``most`` of
    each count."""
    offered: dict[str, float] = {}
    asked: dict[str, float] = {}
    for node in cluster.state.nodes:
        for name, amount in node.amounts.items() if node else ():
            offered[name] = offered.get(name, 0.0) + min(amount, most)
    for pod in cluster.pending:
        for name, amount in pod.spec.request:
            asked[name] = asked.get(name, 0.0) + min(amount, most)
    for who, name, total in [
        *(("nodes offer", name, total) for name, total in offered.items()),
        *(("pending pods ask for", name, total) for name, total in asked.items()),
    ]:
        if total >= MAX_AMOUNT:
            raise ConfigError(
                f"{who} {format_amount(int(total), name)} of {name} in all, too much to add up (2^62); look for a quantity "
                "that is a mistake"
            )


def classes_of(specs: Iterable[tuple[PodSpec, int]]) -> tuple[list[PodSpec], IntArray, IntArray]:
    """Distinct (spec, tier) pairs: specs ``C``, tiers ``(C,)``, and the class of each pod ``(P,)``."""
    index: dict[tuple[PodSpec, int], int] = {}
    class_of = [index.setdefault(key, len(index)) for key in specs]
    return [s for s, _ in index], np.array([t for _, t in index], np.int64), np.array(class_of, np.int64)


def waiting(cluster: Cluster) -> tuple[str, ...]:
    """One line per pod that is not to be placed now."""
    return tuple(f"pod {pod.name} is not to be placed now: {why}" for pod, why in cluster.not_now)


def why_unplaced(cluster: Cluster, pods: Iterable[Pod], *, beside_others: bool) -> list[str]:
    """One line per pod of a class that got no place: the rules in its way, or what there is too little of now.

    ``beside_others``: the plan places somebody.
    """
    pods = list(pods)
    if not pods:
        return []
    why = cluster.why_nowhere(pods[0].spec)
    room = cluster.why_no_room(pods[0].spec, beside_others=beside_others)
    why = f": {why}" if why else f" {NO_ROOM}: {room}"
    return [f"pod {pod.name}{why}" for pod in pods]
