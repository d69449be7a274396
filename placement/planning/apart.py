"""Hard rules of a batch's pods about other pods: which of them a batch can hold, and what it may do then.

Host ports, required anti-affinity and limits per owner and node forbid; they never ask for anything. So a placement that
keeps them when all pods are there keeps them in whatever order the pods arrive, and whoever else left meanwhile. A batch
takes pods whose rules of this kind concern what runs, and, among the pods of the batch, only their own class node by node:
then they are a number of pods per class and node. Required affinity and ``DoNotSchedule`` spreading can hold at the end and
refuse pods on the way; pods with these, and those whose rules tie classes of the batch together, are the scheduler's.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from placement.pods import HostPort, PodSpec
from placement.resources import IntArray
from placement.rules import ANY_ADDRESS, Match, RuleIndex


def left_out(rules: RuleIndex, kinds: Collection[PodSpec]) -> set[PodSpec]:
    """Which of a batch's classes it cannot hold; ``kinds`` has each once. (A gang is a label, so a class is of one gang.)"""
    return {spec for spec in kinds if rules.is_relational(spec) and not _holds(rules, spec, kinds)}


def _holds(rules: RuleIndex, spec: PodSpec, kinds: Collection[PodSpec]) -> bool:
    own = spec.pod_rules
    if own.affinity or any(spread.hard for spread in own.spread):
        return False
    others = [other for other in kinds if other != spec]
    for term in own.anti_affinity:
        match = Match.of(term, spec.namespace)
        if any(match.covers(other, rules.namespaces) for other in others):
            return False
        if match.covers(spec, rules.namespaces) and not _is_one_node(rules.places(term.topology_key)):
            return False
    for port in own.host_ports:
        if any(clashes(port, taken) for other in others for taken in other.pod_rules.host_ports):
            return False
    same = [other for other in others if (other.namespace, other.owner) == (spec.namespace, spec.owner)]
    return not (own.max_per_node and same)


def _is_one_node(place: IntArray) -> bool:
    """Whether no two nodes have the same place."""
    found = place[place >= 0]
    return len(np.unique(found)) == len(found)


def clashes(port: HostPort, other: HostPort) -> bool:
    """Whether two pods with these ports cannot share a node."""
    same = port.port == other.port and port.protocol == other.protocol
    return same and (ANY_ADDRESS in (port.address, other.address) or port.address == other.address)


def most_per_node(rules: RuleIndex, spec: PodSpec, count: int) -> IntArray:
    """``(rows,)`` pods of a class that its own rules about other pods allow on each node, ``count`` at most."""
    most = np.where(rules.relational_mask(spec), count, 0)
    own = spec.pod_rules
    for term in own.anti_affinity:
        if Match.of(term, spec.namespace).covers(spec, rules.namespaces):
            most = np.where(rules.has_key(term.topology_key), np.minimum(most, 1), most)
    if own.host_ports:
        most = np.minimum(most, 1)
    if own.max_per_node:
        there = rules.counter(("owner", (spec.namespace, spec.owner)))
        most = np.minimum(most, np.maximum(own.max_per_node - there, 0))
    return np.asarray(most, np.int64)
