"""Every hard rule once more, written plainly, one pod and one node at a time: the referee of the columns.

Shares only the value types with the code that it checks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from placement.nodes import NodeSpec, Taint
from placement.pods import NodeTerm, PodSpec, PodTerm, Requirement, Toleration


@dataclass(frozen=True)
class On:
    """A pod on a node."""

    spec: PodSpec
    node: NodeSpec
    devices: int = 0


def holds(r: Requirement, labels: Mapping[str, str]) -> bool:
    value = labels.get(r.key)
    if r.operator == "In":
        return value is not None and value in r.values
    if r.operator == "NotIn":
        return value is None or value not in r.values
    if r.operator == "Exists":
        return value is not None
    if r.operator == "DoesNotExist":
        return value is None
    try:
        left, right = int(value or "?"), int(r.values[0])
    except ValueError:
        return False
    return left > right if r.operator == "Gt" else left < right


def term_holds(term: NodeTerm, node: NodeSpec) -> bool:
    if not term.expressions and not term.fields:
        return False
    return all(holds(r, dict(node.labels)) for r in term.expressions) and all(
        holds(r, {"metadata.name": node.name}) for r in term.fields
    )


def tolerated(taint: Taint, tolerations: Sequence[Toleration]) -> bool:
    for t in tolerations:
        if t.effect and t.effect != taint.effect:
            continue
        if t.operator == "Exists" and t.key in ("", taint.key):
            return True
        if t.operator != "Exists" and t.key == taint.key and t.value == taint.value:
            return True
    return False


def wants(spec: PodSpec, node: NodeSpec) -> bool:
    labels = dict(node.labels)
    if any(labels.get(k) != v for k, v in spec.node_rules.node_selector):
        return False
    affinity = spec.node_rules.affinity
    return affinity is None or any(term_holds(t, node) for t in affinity)


def taints_ok(spec: PodSpec, node: NodeSpec) -> bool:
    return all(tolerated(t, spec.node_rules.tolerations) for t in node.taints if t.effect != "PreferNoSchedule")


def meant(term: PodTerm, by: PodSpec, pod: PodSpec) -> bool:
    namespaces = term.namespaces or (by.namespace,)
    return pod.namespace in namespaces and selected(term.selector, pod)


def selected(selector: tuple[Requirement, ...] | None, pod: PodSpec) -> bool:
    return selector is not None and all(holds(r, dict(pod.labels)) for r in selector)


def same_domain(key: str, a: NodeSpec, b: NodeSpec) -> bool:
    left, right = dict(a.labels).get(key), dict(b.labels).get(key)
    return left is not None and left == right


def fits(spec: PodSpec, node: NodeSpec, there: Sequence[On]) -> bool:
    if len(there) + 1 > node.amounts["pods"]:
        return False
    for name, amount in spec.amounts.items():
        if amount and sum(o.spec.amount(name) for o in there) + amount > node.amounts.get(name, 0):
            return False
    if spec.gpu is None:
        return True
    free = [1000] * node.num_gpus
    for o in there:
        for g in range(node.num_gpus):
            if o.devices >> g & 1 and o.spec.gpu is not None:
                free[g] -= o.spec.gpu.milli
    model_ok = not spec.gpu.models or node.gpu_model in spec.gpu.models
    return model_ok and sum(f >= spec.gpu.milli for f in free) >= spec.gpu.count


def ports_ok(spec: PodSpec, there: Sequence[On]) -> bool:
    for wanted in spec.pod_rules.host_ports:
        for o in there:
            for taken in o.spec.pod_rules.host_ports:
                if (taken.port, taken.protocol) == (wanted.port, wanted.protocol) and (
                    "0.0.0.0" in (taken.address, wanted.address) or taken.address == wanted.address
                ):
                    return False
    return True


def affinity_ok(spec: PodSpec, node: NodeSpec, placed: Sequence[On]) -> bool:
    terms = spec.pod_rules.affinity
    if not terms:
        return True
    if any(t.topology_key not in dict(node.labels) for t in terms):
        return False
    friends = [o for o in placed if all(meant(t, spec, o.spec) for t in terms)]
    if all(any(same_domain(t.topology_key, node, o.node) for o in friends) for t in terms):
        return True
    counted = any(t.topology_key in dict(o.node.labels) for t in terms for o in friends)
    return not counted and all(meant(t, spec, spec) for t in terms)


def anti_affinity_ok(spec: PodSpec, node: NodeSpec, placed: Sequence[On]) -> bool:
    for o in placed:
        if any(
            meant(t, spec, o.spec) and same_domain(t.topology_key, node, o.node) for t in spec.pod_rules.anti_affinity
        ):
            return False
        if any(
            meant(t, o.spec, spec) and same_domain(t.topology_key, node, o.node) for t in o.spec.pod_rules.anti_affinity
        ):
            return False
    return True


def spread_ok(spec: PodSpec, node: NodeSpec, nodes: Sequence[NodeSpec], placed: Sequence[On]) -> bool:
    hard = [c for c in spec.pod_rules.spread if c.hard]
    for c in hard:
        if c.topology_key not in dict(node.labels):
            return False
        counts: dict[str, int] = {}
        for n in nodes:
            if any(k.topology_key not in dict(n.labels) for k in hard):
                continue
            if (c.honor_affinity and not wants(spec, n)) or (c.honor_taints and not taints_ok(spec, n)):
                continue
            here = sum(
                o.node.name == n.name and o.spec.namespace == spec.namespace and selected(c.selector, o.spec)
                for o in placed
                if not o.spec.leaving
                if c.selector  # an empty selector counts nobody (countPodsMatchSelector)
            )
            domain = dict(n.labels)[c.topology_key]
            counts[domain] = counts.get(domain, 0) + here
        least = min(counts.values(), default=0) if len(counts) >= c.min_domains else 0
        own = counts.get(dict(node.labels)[c.topology_key], 0) + selected(c.selector, spec)
        if own - least > c.max_skew:
            return False
    return True


def limit_ok(spec: PodSpec, there: Sequence[On]) -> bool:
    limit = spec.pod_rules.max_per_node
    siblings = sum(o.spec.namespace == spec.namespace and o.spec.owner == spec.owner for o in there)
    return not limit or siblings < limit


def may_go(spec: PodSpec, node: NodeSpec, nodes: Sequence[NodeSpec], placed: Sequence[On]) -> bool:
    """Whether a pod of this class may go to this node now."""
    there = [o for o in placed if o.node.name == node.name]
    unschedulable = node.unschedulable and not tolerated(
        Taint("node.kubernetes.io/unschedulable", "", "NoSchedule"), spec.node_rules.tolerations
    )
    return (
        not unschedulable
        and wants(spec, node)
        and taints_ok(spec, node)
        and fits(spec, node, there)
        and ports_ok(spec, there)
        and affinity_ok(spec, node, placed)
        and anti_affinity_ok(spec, node, placed)
        and spread_ok(spec, node, nodes, placed)
        and limit_ok(spec, there)
    )
