"""kube-scheduler's soft rules: scores that are relative to the candidates.

Arithmetic of ``pkg/scheduler/framework/plugins`` of 1.36 with the default profile's weights: integers where Go has
integers, float64 where Go has float64. Each plug-in's raw score is normalised over the candidates, so a node's score
depends on who else is one; strategies that use these are marked ``relative``.
"""

from __future__ import annotations

import numpy as np

from placement.owners import HOSTNAME
from placement.pods import PodSpec, Spread
from placement.resources import BoolArray, FloatArray, IntArray
from placement.rules import Match, RuleIndex, is_tolerated

MAX_SCORE = 100
TAINT_WEIGHT = 3
NODE_AFFINITY_WEIGHT = 2
SPREAD_WEIGHT = 2
INTER_POD_WEIGHT = 2
IMAGE_WEIGHT = 1
HARD_AFFINITY_WEIGHT = 1
"""``hardPodAffinityWeight``: what a resident's required affinity adds for a pod that it wants near."""
MIN_IMAGE_BYTES = 23 * 1024 * 1024
MAX_IMAGE_BYTES_PER_CONTAINER = 1000 * 1024 * 1024


def wishes(spec: PodSpec) -> tuple[str, ...]:
    """Names of the soft wishes that a pod itself states."""
    rules = spec.pod_rules
    return tuple(
        name
        for name, stated in (
            ("node-affinity", spec.node_rules.preferred),
            ("inter-pod-affinity", rules.preferred),
            ("topology-spread", any(not c.hard and not c.is_default for c in rules.spread)),
        )
        if stated
    )


def fixed_wishes(rules: RuleIndex, spec: PodSpec, feasible: BoolArray) -> IntArray | None:
    """``(N,)`` int64 points above the least liked feasible node, 0 on the others; None if all are liked the same.

    The weighted scores of kube-scheduler for what does not depend on where other pending pods go: preferred node affinity,
    PreferNoSchedule taints, and preferred (anti-)affinity between the pod and residents, both ways.
    """
    stated = spec.node_rules.preferred or spec.pod_rules.preferred
    if not (stated or rules.has_wishes) or not feasible.any():
        return None
    points = node_points(rules, spec, feasible) + INTER_POD_WEIGHT * _inter_pod(rules, spec, feasible)
    points = np.where(feasible, points - points[feasible].min(), 0)
    return points if points.any() else None


def node_points(rules: RuleIndex, spec: PodSpec, feasible: BoolArray) -> IntArray:
    """``(N,)`` int64 weighted scores of what depends on the node alone: PreferNoSchedule taints, preferred node affinity."""
    return TAINT_WEIGHT * _taints(rules, spec, feasible) + NODE_AFFINITY_WEIGHT * _node_affinity(rules, spec, feasible)


def soft_score(rules: RuleIndex, spec: PodSpec, feasible: BoolArray) -> IntArray | None:
    """``(N,)`` int64, the weighted sum over soft plug-ins among ``feasible``; None if it is equal everywhere."""
    parts = soft_parts(rules, spec, feasible)
    if not parts:
        return None
    total: IntArray = np.sum(list(parts.values()), axis=0, dtype=np.int64)
    return total


def soft_parts(rules: RuleIndex, spec: PodSpec, feasible: BoolArray) -> dict[str, IntArray]:
    """Weighted score per plug-in, those that are not equal everywhere; ``(N,)`` int64 each."""
    if not feasible.any():
        return {}
    parts = {
        "TaintToleration": TAINT_WEIGHT * _taints(rules, spec, feasible),
        "NodeAffinity": NODE_AFFINITY_WEIGHT * _node_affinity(rules, spec, feasible),
        "PodTopologySpread": SPREAD_WEIGHT * _spread(rules, spec, feasible),
        "InterPodAffinity": INTER_POD_WEIGHT * _inter_pod(rules, spec, feasible),
        "ImageLocality": IMAGE_WEIGHT * _images(rules, spec),
    }
    return {name: part for name, part in parts.items() if part[feasible].min() != part[feasible].max()}


def _normalised(raw: IntArray, feasible: BoolArray, *, reverse: bool = False) -> IntArray:
    """``helper.DefaultNormalizeScore``: scale by the largest, integer division, optionally turned round."""
    most = int(raw[feasible].max())
    if most == 0:
        return np.full(len(raw), MAX_SCORE if reverse else 0, np.int64)
    scaled = raw * MAX_SCORE // most
    return MAX_SCORE - scaled if reverse else scaled


def _taints(rules: RuleIndex, spec: PodSpec, feasible: BoolArray) -> IntArray:
    """Untolerated PreferNoSchedule taints, fewest best."""
    tolerations = [t for t in spec.node_rules.tolerations if t.effect in ("", "PreferNoSchedule")]
    raw = np.zeros(len(feasible), np.int64)
    for row, taints in rules.soft_tainted():
        raw[row] = sum(not is_tolerated(t, tolerations) for t in taints)
    return _normalised(raw, feasible, reverse=True)


def _node_affinity(rules: RuleIndex, spec: PodSpec, feasible: BoolArray) -> IntArray:
    raw = np.zeros(len(feasible), np.int64)
    for wish in spec.node_rules.preferred:
        if wish.weight and (wish.term.expressions or wish.term.fields):
            raw += wish.weight * rules.term_mask(wish.term)
    return _normalised(raw, feasible)


def _spread(rules: RuleIndex, spec: PodSpec, feasible: BoolArray) -> IntArray:
    """``ScheduleAnyway`` constraints (``podtopologyspread/scoring.go``); lower weighted counts are better."""
    soft = [c for c in spec.pod_rules.spread if not c.hard]
    if not soft:
        return np.zeros(len(feasible), np.int64)
    ignored = np.zeros(len(feasible), np.bool_)
    keys = [c.topology_key for c in soft if not c.is_default]
    for key in keys:
        ignored |= ~rules.has_key(key)
    scored = feasible & ~ignored
    if not scored.any():
        return np.zeros(len(feasible), np.int64)
    raw: FloatArray = np.zeros(len(feasible))
    for constraint in soft:
        raw += _spread_one(rules, spec, constraint, keys, scored)
    rounded = np.floor(raw + 0.5).astype(np.int64)
    low, high = int(rounded[scored].min()), int(rounded[scored].max())
    if high == 0:
        return np.where(scored, MAX_SCORE, 0).astype(np.int64)
    return np.where(scored, MAX_SCORE * (high + low - rounded) // high, 0).astype(np.int64)


def _spread_one(rules: RuleIndex, spec: PodSpec, constraint: Spread, keys: list[str], scored: BoolArray) -> FloatArray:
    counts = spread_counts(rules, spec, constraint, keys)
    weight = spread_weight(rules, constraint, scored)
    has_key = rules.has_key(constraint.topology_key)
    result: FloatArray = np.where(has_key, counts * weight + (constraint.max_skew - 1), 0.0)
    return result


def spread_counts(rules: RuleIndex, spec: PodSpec, constraint: Spread, keys: list[str]) -> IntArray:
    """``(N,)`` int64 residents that a ``ScheduleAnyway`` constraint counts in each node's place; ``keys`` are those of all
    constraints of the pod."""
    counter = rules.counter(("staying", (Match((spec.namespace,), None, constraint.selector),)))
    if not constraint.selector:
        return np.zeros_like(counter)  # an empty selector counts nobody (countPodsMatchSelector)
    if constraint.topology_key == HOSTNAME:
        return np.where(rules.has_key(HOSTNAME), counter, 0)
    return rules.domain_sums(constraint.topology_key, counter, rules.spread_nodes(spec, constraint, keys))


def spread_weight(rules: RuleIndex, constraint: Spread, scored: BoolArray) -> float:
    """What one pod counts: the logarithm of the number of places among ``scored`` nodes, and two more."""
    if constraint.topology_key == HOSTNAME:
        return float(np.log(int(scored.sum()) + 2))
    num_domains = rules.num_domains(constraint.topology_key, scored)
    if (scored & ~rules.has_key(constraint.topology_key)).any():
        num_domains += 1  # nodes without the key, which only defaults score, count as one more domain
    return float(np.log(num_domains + 2))


def _inter_pod(rules: RuleIndex, spec: PodSpec, feasible: BoolArray) -> IntArray:
    """Preferred (anti-)affinity in both directions, and residents' required affinity at weight one."""
    raw = inter_pod_raw(rules, spec)
    low, high = int(raw[feasible].min()), int(raw[feasible].max())
    if high == low:
        return np.zeros(len(feasible), np.int64)
    return (float(MAX_SCORE) * ((raw - low) / float(high - low))).astype(np.int64)


def inter_pod_raw(rules: RuleIndex, spec: PodSpec) -> IntArray:
    """``(N,)`` int64 sum of weights that residents give a node for a pod, before it is scaled."""
    raw = np.zeros(rules.num_rows, np.int64)
    for wish in spec.pod_rules.preferred:
        counter = rules.counter(("all", (Match.of(wish.term, spec.namespace),)))
        raw += wish.weight * rules.domain_sums(wish.term.topology_key, counter)
    return raw + rules.wished_by_residents(spec, HARD_AFFINITY_WEIGHT)


def _images(rules: RuleIndex, spec: PodSpec) -> IntArray:
    """Bytes of the pod's images already there, scaled by how widely each is spread (``imagelocality``)."""
    present = rules.images(spec.images)
    low = MIN_IMAGE_BYTES
    high = MAX_IMAGE_BYTES_PER_CONTAINER * max(spec.num_containers, 1)
    clipped = np.clip(present, low, high)
    result: IntArray = MAX_SCORE * (clipped - low) // (high - low)
    return result
