"""A cluster as it is expected to be: some pods have left, others have come, and what fits is on the nodes that are there.

What remains pending is what nodes have to be bought for. Placement is that of best fit with every hard rule, as the
scheduler would do it; nobody who stays is moved.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import msgspec

from placement.knowledge import workload_of
from placement.planning.cluster import Cluster
from placement.pods import Pod, PodSpec
from placement.resources import FloatArray, IntArray
from placement.strategies import STRATEGIES

EXPECTED = "expected-"
"""Begins the UID of a pod that is not there yet."""


class Growth(msgspec.Struct, frozen=True):
    """``pods`` more of one kind, or fewer where negative, that run for ``use_share`` of the time."""

    spec: PodSpec
    pods: int
    use_share: float = 1.0


def growth_of(specs: Sequence[PodSpec], rise: IntArray, lots: FloatArray) -> tuple[Growth, ...]:
    """``rise`` ``(C,)`` in lots of equal size, the k-th of which runs for ``lots[k]`` of the time; fewer first."""
    found = [Growth(spec, int(n)) for spec, n in zip(specs, rise, strict=True) if n < 0]
    for spec, n in zip(specs, rise.tolist(), strict=True):
        if n <= 0:
            continue
        ends = [n * (k + 1) // len(lots) for k in range(len(lots))]
        parts = zip([0, *ends[:-1]], ends, lots.tolist(), strict=True)
        found += [Growth(spec, end - begin, share) for begin, end, share in parts if end > begin]
    return tuple(found)


def kind_of(spec: PodSpec) -> object:
    """What makes pods replaceable by each other: their workload and what they ask for."""
    return workload_of(spec.namespace, spec.owner), spec.request, spec.gpu


def grown(cluster: Cluster, growth: Sequence[Growth]) -> tuple[Cluster, dict[str, float], int]:
    """The cluster then, with who finds no room as pending; shares of time by UID; and how many found room.

    The cluster's state is changed. Who leaves are the youngest of their kind: most lives are short. Pending pods come
    first, then those that run longest; within each the most important, then the largest. A pod that is not modelled takes
    room where it would fit, and stays pending all the same: whether it does is not known.
    """
    state = cluster.state
    by_kind = defaultdict(list)
    for uid, resident in state.residents.items():
        by_kind[kind_of(resident.spec)].append(uid)
    use: dict[str, float] = {}
    coming = list(cluster.pending)
    for number, one in enumerate(growth):
        if one.pods < 0:
            here = by_kind[kind_of(one.spec)]
            for _ in range(min(-one.pods, len(here))):
                state.release(here.pop())
        for i in range(max(one.pods, 0)):
            uid = f"{EXPECTED}{number}-{i}"
            use[uid] = one.use_share
            name = one.spec.owner.partition("/")[2] or "bare"
            coming.append(Pod(uid, f"{one.spec.namespace}/{name} (expected {i + 1})", one.spec))
    offered = {
        name: sum(node.amounts.get(name, 0) for node in state.nodes if node is not None) for name in _named(coming)
    }

    def size(spec: PodSpec) -> float:
        return max((amount / max(offered[name], 1) for name, amount in spec.request), default=0.0)

    coming.sort(key=lambda p: (p.uid in use, -use.get(p.uid, 1.0), -p.spec.priority, -size(p.spec)))
    strategy, full, left = STRATEGIES["best-fit"], set[PodSpec](), []
    for pod in coming:
        decision = None if pod.spec in full else strategy.decide(state.snapshot(), pod.spec)
        if decision is None or not decision.is_placed:
            full.add(pod.spec)
            left.append(pod)
            continue
        state.bind(pod.uid, pod.spec, decision.node, decision.devices)
        if pod.spec.unmodelled:
            left.append(pod)
    return replace(cluster, pending=tuple(left)), use, len(coming) - len(left)


def _named(pods: Sequence[Pod]) -> set[str]:
    return {name for pod in pods for name, _ in pod.spec.request}
