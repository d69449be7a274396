"""Soft rules once more, written plainly after kube-scheduler's plug-ins: one node, one pod, one constraint at a time."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import pytest

from placement.nodes import NodeSpec, Taint
from placement.pods import (
    NodeRules,
    NodeTerm,
    PodRules,
    PodSpec,
    PodTerm,
    Requirement,
    Spread,
    Toleration,
    WeightedNodeTerm,
    WeightedPodTerm,
)
from placement.soft import soft_parts, soft_score
from placement.state import ClusterState
from tests.slow_rules import On, meant, selected, taints_ok, term_holds, tolerated, wants

T = TypeVar("T")
HOSTNAME = "kubernetes.io/hostname"
MIB = 1 << 20
WEIGHTS = {"TaintToleration": 3, "NodeAffinity": 2, "PodTopologySpread": 2, "InterPodAffinity": 2, "ImageLocality": 1}
"""Of the default profile."""

IMAGES = ("app:1", "base:2")
PLACES = ("zone", "disk", HOSTNAME)
APPS = ("web", "db")


def some(rng: random.Random, make: Callable[[random.Random], T], most: int) -> tuple[T, ...]:
    return tuple(make(rng) for _ in range(rng.randint(0, most)))


def requirement(rng: random.Random) -> Requirement:
    operator = rng.choice(["In", "NotIn", "Exists", "DoesNotExist"])
    values = tuple(rng.sample("abc", rng.randint(1, 2))) if operator.endswith("In") else ()
    return Requirement(rng.choice(PLACES[:2]), operator, values)


def selector(rng: random.Random) -> tuple[Requirement, ...] | None:
    by_app = (Requirement("app", rng.choice(["In", "In", "NotIn"]), (rng.choice(APPS),)),)
    return rng.choice([None, (), by_app, by_app, by_app, by_app])


def pod_term(rng: random.Random) -> PodTerm:
    return PodTerm(rng.choice(PLACES), selector(rng), rng.choice([(), (), ("default",), ("other",)]))


def pod_wish(rng: random.Random) -> WeightedPodTerm:
    return WeightedPodTerm(rng.choice([-100, -3, 1, 50]), pod_term(rng))


def node_wish(rng: random.Random) -> WeightedNodeTerm:
    fields = (Requirement("metadata.name", "In", (f"node-{rng.randint(0, 5)}",)),)
    return WeightedNodeTerm(
        rng.choice([0, 1, 40, 100]), NodeTerm(some(rng, requirement, 2), rng.choice([(), (), fields]))
    )


def spread_of(rng: random.Random) -> Spread:
    return Spread(
        rng.choice(PLACES),
        rng.randint(1, 4),
        rng.random() < 0.2,
        selector(rng),
        honor_affinity=rng.random() < 0.7,
        honor_taints=rng.random() < 0.5,
    )


def taint(rng: random.Random) -> Taint:
    return Taint(rng.choice(["gpu", "spot"]), rng.choice(["", "x"]), rng.choice(["PreferNoSchedule", "NoSchedule"]))


def toleration(rng: random.Random) -> Toleration:
    effect = rng.choice(["", "NoSchedule", "PreferNoSchedule"])
    return Toleration(rng.choice(["", "gpu", "spot"]), rng.choice(["Exists", "Equal"]), rng.choice(["", "x"]), effect)


def node(rng: random.Random, index: int) -> NodeSpec:
    labels = {key: rng.choice("abc") for key in PLACES[:2] if rng.random() < 0.8}
    labels |= {HOSTNAME: f"node-{index}"} if rng.random() < 0.9 else {}
    sizes = {name: rng.choice([1, 30, 400, 2500]) * MIB for name in IMAGES if rng.random() < 0.6}
    taints = tuple(sorted({*some(rng, taint, 2)}, key=str))
    amounts = (("cpu", 1000), ("pods", 99))
    return NodeSpec(f"node-{index}", amounts, tuple(sorted(labels.items())), taints, images=tuple(sizes.items()))


def pod(rng: random.Random) -> PodSpec:
    """Of one namespace most of the time, so that pods are meant by each other."""
    node_rules = NodeRules(
        node_selector=rng.choice([(), (), (), (("zone", "a"),)]),
        preferred=some(rng, node_wish, 2),
        tolerations=some(rng, toleration, 2),
    )
    pod_rules = PodRules(
        affinity=some(rng, pod_term, 1), preferred=some(rng, pod_wish, 2), spread=some(rng, spread_of, 2)
    )
    return PodSpec(
        (("cpu", 0),),
        namespace=rng.choice(["default", "default", "default", "other"]),
        labels=(("app", rng.choice(APPS)),),
        node_rules=node_rules,
        pod_rules=pod_rules,
        images=tuple(rng.choice(IMAGES) for _ in range(rng.randint(0, 2))),
        num_containers=rng.randint(1, 2),
        leaving=rng.random() < 0.2,
    )


def normalised(raw: list[int], *, reverse: bool = False) -> list[int]:
    """``DefaultNormalizeScore``."""
    most = max(raw)
    scaled = [100 * score // most if most else 0 for score in raw]
    return [100 - score for score in scaled] if reverse else scaled


def taint_toleration(spec: PodSpec, feasible: Sequence[NodeSpec]) -> list[int]:
    heard = [t for t in spec.node_rules.tolerations if t.effect in ("", "PreferNoSchedule")]
    soft = [[t for t in each.taints if t.effect == "PreferNoSchedule"] for each in feasible]
    return normalised([sum(not tolerated(taint, heard) for taint in taints) for taints in soft], reverse=True)


def node_affinity(spec: PodSpec, feasible: Sequence[NodeSpec]) -> list[int]:
    return normalised([sum(w.weight for w in spec.node_rules.preferred if term_holds(w.term, n)) for n in feasible])


def spread(spec: PodSpec, feasible: Sequence[NodeSpec], nodes: Sequence[NodeSpec], placed: Sequence[On]) -> list[int]:
    """``podtopologyspread/scoring.go``."""
    soft = [c for c in spec.pod_rules.spread if not c.hard]
    if not soft:
        return [0] * len(feasible)
    labels = {each.name: dict(each.labels) for each in nodes}
    scored = [each for each in feasible if all(c.topology_key in labels[each.name] for c in soft)]
    if not scored:
        return [0] * len(feasible)

    def matching(constraint: Spread, names: set[str]) -> int:
        if not constraint.selector:
            return 0
        here = [on.spec for on in placed if on.node.name in names and not on.spec.leaving]
        return sum(p.namespace == spec.namespace and selected(constraint.selector, p) for p in here)

    def counted(constraint: Spread, each: NodeSpec) -> bool:
        return (
            all(c.topology_key in labels[each.name] for c in soft)
            and (not constraint.honor_affinity or wants(spec, each))
            and (not constraint.honor_taints or taints_ok(spec, each))
        )

    def raw(each: NodeSpec) -> int:
        total = 0.0
        for constraint in soft:
            key = constraint.topology_key
            if key == HOSTNAME:
                places, names = len(scored), {each.name}
            else:
                places = len({labels[other.name][key] for other in scored})
                mine = labels[each.name][key]
                names = {n.name for n in nodes if labels[n.name].get(key) == mine and counted(constraint, n)}
            total += matching(constraint, names) * math.log(places + 2) + (constraint.max_skew - 1)
        return math.floor(total + 0.5)

    scores = {each.name: raw(each) for each in scored}
    low, high = min(scores.values()), max(scores.values())
    if high == 0:
        return [100 if each.name in scores else 0 for each in feasible]
    return [100 * (high + low - scores[n.name]) // high if n.name in scores else 0 for n in feasible]


def inter_pod(spec: PodSpec, feasible: Sequence[NodeSpec], placed: Sequence[On]) -> list[int]:
    """``interpodaffinity/scoring.go``: in places of whoever is meant, or means the pod."""
    points: Counter[tuple[str, str]] = Counter()
    for on in placed:
        near = dict(on.node.labels)
        said = [(w.term, w.weight, meant(w.term, spec, on.spec)) for w in spec.pod_rules.preferred]
        said += [(w.term, w.weight, meant(w.term, on.spec, spec)) for w in on.spec.pod_rules.preferred]
        said += [(term, 1, meant(term, on.spec, spec)) for term in on.spec.pod_rules.affinity]
        for term, weight, is_meant in said:
            if is_meant and term.topology_key in near:
                points[term.topology_key, near[term.topology_key]] += weight
    raw = [sum(points[pair] for pair in each.labels) for each in feasible]
    low, high = min(raw), max(raw)
    return [int(100.0 * ((score - low) / (high - low))) if high > low else 0 for score in raw]


def image_locality(spec: PodSpec, feasible: Sequence[NodeSpec], nodes: Sequence[NodeSpec]) -> list[int]:
    holders = Counter(name for each in nodes for name, _ in each.images)
    low, high = 23 * MIB, 1000 * MIB * spec.num_containers
    there = [
        sum(int(dict(each.images)[i] * (holders[i] / len(nodes))) for i in spec.images if i in dict(each.images))
        for each in feasible
    ]
    return [100 * (min(max(size, low), high) - low) // (high - low) for size in there]


@pytest.mark.parametrize("seed", range(20))
def test_soft_rules_score_as_kube_schedulers_plug_ins_do(seed: int) -> None:
    rng = random.Random(seed)
    nodes = [node(rng, i) for i in range(rng.randint(2, 7))]
    state, placed = ClusterState(), list[On]()
    for each in nodes:
        state.add_node(each)
    for i in range(rng.randint(0, 12)):
        on = On(pod(rng), rng.choice(nodes))
        state.bind(f"uid-{i}", on.spec, on.node.name)
        placed.append(on)
    for _ in range(12):
        spec, feasible = pod(rng), rng.sample(nodes, rng.randint(1, len(nodes)))
        expected = {
            "TaintToleration": taint_toleration(spec, feasible),
            "NodeAffinity": node_affinity(spec, feasible),
            "PodTopologySpread": spread(spec, feasible, nodes, placed),
            "InterPodAffinity": inter_pod(spec, feasible, placed),
            "ImageLocality": image_locality(spec, feasible, nodes),
        }
        weighted = {
            name: [WEIGHTS[name] * score for score in scores] for name, scores in expected.items() if len({*scores}) > 1
        }
        rows = [state.row_of[each.name] for each in feasible]
        mask = np.zeros(state.num_rows, np.bool_)
        mask[rows] = True
        found = soft_parts(state.rules, spec, mask)
        assert {name: part[rows].tolist() for name, part in found.items()} == weighted
        total = soft_score(state.rules, spec, mask)
        assert (None if total is None else total[rows].tolist()) == (
            [sum(scores) for scores in zip(*weighted.values(), strict=True)] if weighted else None
        )
