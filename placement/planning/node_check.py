"""A node's own rules looked at a second time, one pod and one node at a time: what plans' steps must keep.

The same rules as the static columns of :mod:`placement.rules`, written without them.
"""

from __future__ import annotations

from placement.nodes import NodeSpec
from placement.pods import NodeTerm, PodSpec
from placement.rules import NAME_FIELD, UNSCHEDULABLE_TAINT, hard_taints, is_tolerated, matches_labels


def why_barred(spec: PodSpec, node: NodeSpec) -> str:
    """What keeps every pod of a class off a node, whoever else is there; empty when nothing does."""
    rules, labels = spec.node_rules, dict(node.labels)
    if node.unschedulable and not is_tolerated(UNSCHEDULABLE_TAINT, rules.tolerations):
        return "it is cordoned"
    if rules.node_name not in ("", node.name):
        return "the pod names another"
    if not all(is_tolerated(taint, rules.tolerations) for taint in hard_taints(node)):
        return "it has a taint that the pod does not tolerate"
    if any(labels.get(key) != value for key, value in rules.node_selector):
        return "the pod's node selector asks for another"
    if rules.affinity is not None and not any(is_met(term, node) for term in rules.affinity):
        return "the pod's node affinity asks for another"
    if not all(any(is_met(term, node) for term in volume) for volume in rules.volume_affinity):
        return "a volume of the pod is elsewhere"
    if spec.gpu is not None and spec.gpu.models and node.gpu_model not in spec.gpu.models:
        return "its devices are of another model"
    return ""


def is_met(term: NodeTerm, node: NodeSpec) -> bool:
    """Whether a node selector term covers a node; one without expressions covers none."""
    if not (term.expressions or term.fields) or any(f.key != NAME_FIELD for f in term.fields):
        return False
    return matches_labels(term.expressions, dict(node.labels)) and matches_labels(term.fields, {NAME_FIELD: node.name})
