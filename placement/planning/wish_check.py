"""Wishes counted a second time, pod by pod and node by node on plain dictionaries: a check on the columns of plans.

The same rules as :mod:`placement.planning.company`, written without it: normalised scores of kube-scheduler 1.36 for
preferred node affinity (weight 2), PreferNoSchedule taints (3), preferred inter-pod affinity (2), toward pods of the
batch too, and ``ScheduleAnyway`` spreading (2).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from placement.nodes import NodeSpec
from placement.planning.node_check import is_met
from placement.pods import PodSpec, PodTerm, Spread
from placement.resources import BoolArray
from placement.rules import Match, is_tolerated
from placement.state import ClusterState

UNIT = 1000
"""Parts of a point; a point counts 1000 of them."""
MOST = 2 * 100 * UNIT
"""What inter-pod affinity, or spreading, is worth to a pod at most."""
HOSTNAME = "kubernetes.io/hostname"


def recount(
    state: ClusterState,
    names: Sequence[str],
    takes: Mapping[PodSpec, BoolArray],
    placed: Iterable[tuple[PodSpec, str]],
    batch: Iterable[PodSpec] = (),
) -> float:
    """Points of the placements ``(class, node)``; ``takes[class]`` ``(N,)`` says which nodes take one pod, in the order of
    ``names``; ``batch`` has all pods that were planned together, whether they were placed or not."""
    nodes = {name: node for name in names if (node := state.nodes[state.row_of[name]]) is not None}
    homes: dict[PodSpec, list[NodeSpec]] = defaultdict(list)
    for resident in state.residents.values():
        homes[resident.spec].append(nodes[state.names[resident.row]])
    where: dict[PodSpec, Counter[str]] = defaultdict(Counter)
    for spec, target in placed:
        where[spec][target] += 1
    company = Counter(batch)
    total = 0
    for spec, targets in where.items():
        feasible = [nodes[name] for name, does in zip(names, takes[spec].tolist(), strict=True) if does]
        view = _View(state, nodes, homes, company, spec)
        points = view.by_itself(feasible)
        total += sum(pods * points.get(name, 0) for name, pods in targets.items())
        for rule in view.rules:
            found: dict[str, int] = defaultdict(int)
            for other, there in where.items():
                for name, pods in there.items():
                    if name in rule.counted:
                        found[rule.counted[name]] += pods * rule.gains.get(other, 0)
            for name, pods in targets.items():
                if name in rule.judged:
                    itself = rule.gains.get(spec, 0) if name in rule.counted else 0
                    total += pods * (found[rule.judged[name]] - itself)
    return total / UNIT


@dataclass(frozen=True)
class _Rule:
    """What a pod gains for each other one, by class; ``judged`` and ``counted`` map nodes to the values of their label."""

    gains: dict[PodSpec, int]
    judged: dict[str, str]
    counted: dict[str, str]


class _View:
    """The cluster and the rest of the batch, as one class sees them."""

    def __init__(
        self,
        state: ClusterState,
        nodes: Mapping[str, NodeSpec],
        homes: Mapping[PodSpec, list[NodeSpec]],
        company: Mapping[PodSpec, int],
        spec: PodSpec,
    ) -> None:
        self.state = state
        self.nodes = nodes
        self.homes = homes
        self.spec = spec
        self.others = {other: pods - (other == spec) for other, pods in company.items()}
        self.rules: list[_Rule] = []

    def by_itself(self, feasible: list[NodeSpec]) -> dict[str, int]:
        """Parts above the least liked node, and what is lost to others of the batch at most; adds rules about those."""
        if not feasible:
            return {}
        spec = self.spec
        taints = {node.name: _untolerated(spec, node) for node in feasible}
        liked = {node.name: _liked(spec, node) for node in feasible}
        most_taints, most_liked = max(taints.values()), max(liked.values())
        near, near_alone = self._nearness(feasible)
        spread, spread_alone = self._spreading(feasible)
        score = {}
        for name in taints:
            taint = 100 - (taints[name] * 100 // most_taints if most_taints else 0)
            affinity = liked[name] * 100 // most_liked if most_liked else 0
            score[name] = UNIT * (3 * taint + 2 * affinity) + near[name] + spread.get(name, 0)
        least = min(score.values())
        return {
            name: points - least + near_alone + (spread_alone if name in spread else 0)
            for name, points in score.items()
        }

    def _nearness(self, feasible: list[NodeSpec]) -> tuple[dict[str, int], int]:
        """Parts for residents near by, scaled with the batch, and what is lost to the batch at most."""
        pulls = _pulls(self.state, self.homes, self.spec)
        raw = {node.name: sum(pulls.get(place, 0) for place in node.labels) for node in feasible}
        low, high = min(raw.values()), max(raw.values())
        weights = {other: _weights(self.state, self.spec, other) for other, pods in self.others.items() if pods}
        wished = sum(self.others[o] * abs(w) for o, by_key in weights.items() for w in by_key.values())
        if not wished:
            scaled = {n: int(100.0 * ((r - low) / float(high - low))) if high > low else 0 for n, r in raw.items()}
            return {name: 2 * UNIT * points for name, points in scaled.items()}, 0
        span = high - low + wished
        alone = 0
        for key in sorted({key for by_key in weights.values() for key in by_key}):
            gains = {}
            for other, by_key in weights.items():
                weight = by_key.get(key, 0)
                gains[other] = (1 if weight > 0 else -1) * (MOST * abs(weight) // span)
                alone += max(-gains[other], 0) * self.others[other]
            values = _values(key, self.nodes.values())
            self.rules.append(_Rule(gains, values, values))
        return {name: MOST * (r - low) // span for name, r in raw.items()}, alone

    def _spreading(self, feasible: list[NodeSpec]) -> tuple[dict[str, int], int]:
        """The same for ``ScheduleAnyway`` constraints, of the nodes that have all their labels."""
        soft = [c for c in self.spec.pod_rules.spread if not c.hard and not c.is_default]
        scored = [node for node in feasible if all(c.topology_key in dict(node.labels) for c in soft)]
        if not soft or not scored:
            return {}, 0
        raw = dict.fromkeys((node.name for node in scored), 0)
        about: list[tuple[int, dict[PodSpec, int], dict[str, str]]] = []
        for c in soft:
            key, namespaces = c.topology_key, self.state.rules.namespaces
            match = Match((self.spec.namespace,), None, c.selector)
            counted = [node for node in self.nodes.values() if key in dict(node.labels)]
            if key != HOSTNAME:
                counted = [node for node in counted if self._is_counted(node, soft, c)]
            values = _values(key, counted)
            places = len(scored) if key == HOSTNAME else len({dict(node.labels)[key] for node in scored})
            weight = round(1000 * float(np.log(places + 2)))
            there: dict[str, int] = defaultdict(int)
            for other, homes in self.homes.items():
                if c.selector and not other.leaving and match.covers(other, namespaces):
                    for node in homes:
                        if node.name in values:
                            there[values[node.name]] += 1
            for node in scored:
                raw[node.name] += weight * there[dict(node.labels)[key]]
            meant = {other: int(bool(c.selector) and match.covers(other, namespaces)) for other in self.others}
            about.append((weight, meant, values))
        low, high = min(raw.values()), max(raw.values())
        span = high - low + sum(w * m * self.others[o] for w, meant, _ in about for o, m in meant.items())
        if not span:
            return {}, 0
        alone = 0
        for (weight, meant, values), c in zip(about, soft, strict=True):
            gains = {other: -(MOST * weight * m // span) for other, m in meant.items()}
            alone += sum(-gain * self.others[other] for other, gain in gains.items())
            self.rules.append(_Rule(gains, _values(c.topology_key, scored), values))
        return {name: MOST * (high - r) // span for name, r in raw.items()}, alone

    def _is_counted(self, node: NodeSpec, soft: list[Spread], c: Spread) -> bool:
        """Whether pods on a node count for a constraint: all labels, and what the constraint says to honour."""
        labels, rules = dict(node.labels), self.spec.node_rules
        if any(other.topology_key not in labels for other in soft):
            return False
        if c.honor_affinity:
            if any(labels.get(key) != value for key, value in rules.node_selector):
                return False
            if rules.affinity is not None and not any(is_met(term, node) for term in rules.affinity):
                return False
        hard = [t for t in node.taints if t.effect in ("NoSchedule", "NoExecute")]
        return not c.honor_taints or all(is_tolerated(t, rules.tolerations) for t in hard)


def _values(key: str, nodes: Iterable[NodeSpec]) -> dict[str, str]:
    """Node → value of its label, where it has it."""
    return {node.name: value for node in nodes if (value := dict(node.labels).get(key)) is not None}


def _weights(state: ClusterState, spec: PodSpec, other: PodSpec) -> dict[str, int]:
    """Topology key → weight that a pod of ``other`` near by has for one of ``spec``: by its own terms, and by the other's."""
    found: dict[str, int] = defaultdict(int)
    for one, its in ((spec, other), (other, spec)):
        for wish in one.pod_rules.preferred:
            if Match.of(wish.term, one.namespace).covers(its, state.rules.namespaces):
                found[wish.term.topology_key] += wish.weight
    return found


def _untolerated(spec: PodSpec, node: NodeSpec) -> int:
    tolerations = [t for t in spec.node_rules.tolerations if t.effect in ("", "PreferNoSchedule")]
    return sum(t.effect == "PreferNoSchedule" and not is_tolerated(t, tolerations) for t in node.taints)


def _liked(spec: PodSpec, node: NodeSpec) -> int:
    return sum(wish.weight for wish in spec.node_rules.preferred if is_met(wish.term, node))


def _pulls(
    state: ClusterState, homes: Mapping[PodSpec, list[NodeSpec]], spec: PodSpec
) -> Mapping[tuple[str, str], int]:
    """What residents add per place, a label with its value, for a pod of a class: its own terms, and theirs."""
    pulls: dict[tuple[str, str], int] = defaultdict(int)

    def pull(term: PodTerm, weight: int, there: list[NodeSpec]) -> None:
        for node in there:
            value = dict(node.labels).get(term.topology_key)
            if value is not None:
                pulls[term.topology_key, value] += weight

    for other, there in homes.items():
        for wish in spec.pod_rules.preferred:
            if Match.of(wish.term, spec.namespace).covers(other, state.rules.namespaces):
                pull(wish.term, wish.weight, there)
        terms = [(w.term, w.weight) for w in other.pod_rules.preferred]
        for term, weight in [*terms, *((term, 1) for term in other.pod_rules.affinity)]:
            if Match.of(term, other.namespace).covers(spec, state.rules.namespaces):
                pull(term, weight, there)
    return pulls
