"""Wishes counted a second time, pod by pod and node by node on plain dictionaries: a check on the columns of plans.

The same rules as :func:`placement.soft.fixed_wishes`, written without it: normalised scores of kube-scheduler 1.36 for
preferred node affinity (weight 2), PreferNoSchedule taints (3) and preferred inter-pod affinity (2).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from placement.nodes import NodeSpec
from placement.pods import NodeTerm, PodSpec, PodTerm
from placement.resources import BoolArray
from placement.rules import Match, is_tolerated, matches_labels
from placement.state import ClusterState


def recount(
    state: ClusterState,
    names: Sequence[str],
    takes: Mapping[PodSpec, BoolArray],
    placed: Iterable[tuple[PodSpec, str]],
) -> int:
    """Points of the placements ``(class, node)``; ``takes[class]`` ``(N,)`` says which nodes take one pod, in the order of
    ``names``."""
    nodes = {name: node for name in names if (node := state.nodes[state.row_of[name]]) is not None}
    homes: dict[PodSpec, list[NodeSpec]] = defaultdict(list)
    for resident in state.residents.values():
        homes[resident.spec].append(nodes[state.name(resident.row)])
    points: dict[PodSpec, dict[str, int]] = {}
    total = 0
    for spec, target in placed:
        if spec not in points:
            feasible = [name for name, does in zip(names, takes[spec].tolist(), strict=True) if does]
            points[spec] = _points(spec, [nodes[name] for name in feasible], _pulls(state, homes, spec))
        total += points[spec].get(target, 0)
    return total


def _points(spec: PodSpec, feasible: list[NodeSpec], pulls: Mapping[tuple[str, str], int]) -> dict[str, int]:
    """Points above the least liked node."""
    if not feasible:
        return {}
    taints = {node.name: _untolerated(spec, node) for node in feasible}
    liked = {node.name: _liked(spec, node) for node in feasible}
    nearness = {node.name: sum(pulls.get(place, 0) for place in node.labels) for node in feasible}
    most_taints, most_liked = max(taints.values()), max(liked.values())
    low, high = min(nearness.values()), max(nearness.values())
    score = {}
    for name in taints:
        taint = 100 - (taints[name] * 100 // most_taints if most_taints else 0)
        affinity = liked[name] * 100 // most_liked if most_liked else 0
        inter_pod = int(100.0 * ((nearness[name] - low) / float(high - low))) if high > low else 0
        score[name] = 3 * taint + 2 * affinity + 2 * inter_pod
    least = min(score.values())
    return {name: points - least for name, points in score.items()}


def _untolerated(spec: PodSpec, node: NodeSpec) -> int:
    tolerations = [t for t in spec.node_rules.tolerations if t.effect in ("", "PreferNoSchedule")]
    return sum(t.effect == "PreferNoSchedule" and not is_tolerated(t, tolerations) for t in node.taints)


def _liked(spec: PodSpec, node: NodeSpec) -> int:
    return sum(wish.weight for wish in spec.node_rules.preferred if _is_met(wish.term, node))


def _is_met(term: NodeTerm, node: NodeSpec) -> bool:
    if not (term.expressions or term.fields) or any(f.key != "metadata.name" for f in term.fields):
        return False
    return matches_labels(term.expressions, dict(node.labels)) and matches_labels(
        term.fields, {"metadata.name": node.name}
    )


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
