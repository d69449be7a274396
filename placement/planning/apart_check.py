"""Hard rules about other pods, looked at a second time: pod by pod, on labels, with everybody where a plan puts them.

The same rules as :mod:`placement.planning.apart` lets into a batch, written without it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from placement.pods import HostPort, PodSpec
from placement.rules import Match
from placement.state import ClusterState

Pods = Counter[tuple[PodSpec, str]]
"""How many pods of a class are on a node."""


def broken(state: ClusterState, placed: Iterable[tuple[PodSpec, str]]) -> list[str]:
    """Which rules the placements ``(class, node)`` break, among themselves and with what runs; empty when none."""
    new: Pods = Counter(placed)
    everybody: Pods = new + Counter((r.spec, state.names[r.row]) for r in state.residents.values())
    return _too_near(state, new, everybody) + _on_one_node(new, everybody)


def barred(state: ClusterState, spec: PodSpec) -> set[str]:
    """Nodes where a pod of a class must not go, by what runs."""
    labels = {node.name: dict(node.labels) for node in state.nodes if node is not None}
    places: set[tuple[str, str]] = set()
    nodes: set[str] = set()
    same: Counter[str] = Counter()
    seen = {(r.spec, state.names[r.row]): None for r in state.residents.values()}
    for other, home in seen:
        for one, its in ((spec, other), (other, spec)):
            for term in one.pod_rules.anti_affinity:
                place = labels[home].get(term.topology_key)
                if place is not None and Match.of(term, one.namespace).covers(its, state.rules.namespaces):
                    places.add((term.topology_key, place))
        if any(_meet(p, q) for p in spec.pod_rules.host_ports for q in other.pod_rules.host_ports):
            nodes.add(home)
    if spec.pod_rules.max_per_node:
        for resident in state.residents.values():
            same[state.names[resident.row]] += (resident.spec.namespace, resident.spec.owner) == (
                spec.namespace,
                spec.owner,
            )
        nodes |= {home for home, number in same.items() if number >= spec.pod_rules.max_per_node}
    return nodes | {name for name, its in labels.items() if any(its.get(key) == value for key, value in places)}


def _too_near(state: ClusterState, new: Pods, everybody: Pods) -> list[str]:
    """Required anti-affinity, of new pods toward all and of all toward new ones."""
    labels = {node.name: dict(node.labels) for node in state.nodes if node is not None}
    keys = {term.topology_key for spec, _ in everybody for term in spec.pod_rules.anti_affinity}
    by_place: dict[tuple[str, str, bool], Counter[PodSpec]] = defaultdict(Counter)
    for key in keys:
        for is_new, pods in ((True, new), (False, everybody)):
            for (spec, home), number in pods.items():
                if key in labels[home]:
                    by_place[key, labels[home][key], is_new][spec] += number
    wrong = []
    for spec, home in everybody:
        is_new = (spec, home) in new
        for term in spec.pod_rules.anti_affinity:
            place = labels[home].get(term.topology_key)
            if place is None:
                continue
            match = Match.of(term, spec.namespace)
            near = by_place[term.topology_key, place, not is_new]  # an old pod looks at new ones only
            near = near - Counter([spec] if is_new else [])
            if any(match.covers(other, state.rules.namespaces) for other in near):
                wrong.append(f"a pod of {spec.owner or spec.namespace} on {home} must not be near another one there")
    return wrong


def _on_one_node(new: Pods, everybody: Pods) -> list[str]:
    """Host ports, and limits per owner."""
    on: dict[str, Counter[PodSpec]] = defaultdict(Counter)
    for (spec, home), number in everybody.items():
        on[home][spec] += number
    wrong = []
    for spec, home in new:
        for other, number in on[home].items():
            others = number - (other == spec)
            if others and any(_meet(p, q) for p in spec.pod_rules.host_ports for q in other.pod_rules.host_ports):
                wrong.append(f"a host port is taken twice on {home}")
        limit, owner = spec.pod_rules.max_per_node, (spec.namespace, spec.owner)
        same = sum(number for other, number in on[home].items() if (other.namespace, other.owner) == owner)
        if limit and same > limit:
            wrong.append(f"{same} pods of {spec.owner} are on {home}, {limit} may be")
    return wrong


def _meet(one: HostPort, other: HostPort) -> bool:
    """Whether two host ports clash."""
    addresses = {one.address, other.address}
    return (one.port, one.protocol) == (other.port, other.protocol) and ("0.0.0.0" in addresses or len(addresses) == 1)
