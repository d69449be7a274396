"""Planned against actual, pod by pod: where a plan wanted a pod, where it is, and why that differs.

Judged from what the API says now: the annotation of the plan stays on the pod, so this needs no memory of ours and
outlives every planner. The planner counts the same words while it runs (``ullage_plan_pods_total``).
"""

from __future__ import annotations

from dataclasses import dataclass

from placement import objects
from scheduler.cluster_reader import listed
from scheduler.gates import NODE_ANNOTATION
from scheduler.kube import KubeClient

AS_PLANNED = "as planned"
NODE_GONE = "the planned node is gone"
NODE_CORDONED = "the planned node is cordoned"
NODE_REFUSED = "the planned node did not take it: filled or changed since the plan"
CLEARED = "the nomination was cleared"
ENDED = "deleted"
EXPIRED = "cleared: not bound in time"
WAITS = "nominated, not bound yet"


@dataclass(frozen=True)
class Adherence:
    """What became of one planned pod, and why it differs from the plan when it does."""

    pod: str
    planned: str
    actual: str
    """Node, or empty when it was not bound."""
    reason: str
    """``as planned``, or what came between."""

    @property
    def outcome(self) -> str:
        """One word for metrics: ``as planned``, ``elsewhere``, ``waiting`` or ``not bound``."""
        if self.reason in (AS_PLANNED, WAITS):
            return "waiting" if self.reason == WAITS else AS_PLANNED
        return "elsewhere" if self.actual else "not bound"


def why_elsewhere(*, is_known: bool, is_cordoned: bool) -> str:
    """Why a pod is not on its planned node, from what is known of that node."""
    return NODE_GONE if not is_known else NODE_CORDONED if is_cordoned else NODE_REFUSED


def why_not_bound(nominated: str) -> str:
    """Why a pod whose nomination is no longer ours is not bound."""
    return f"kube-scheduler nominated {nominated}" if nominated else CLEARED


async def adherence(client: KubeClient, namespace: str = "") -> list[Adherence]:
    """Every live pod that a plan of ours nominated, those that left it included.

    Raises
    ------
    ApiError : pods or nodes cannot be listed.
    """
    path = f"/api/v1/namespaces/{namespace}/pods" if namespace else "/api/v1/pods"
    pods = await listed(client, path, objects.Pod)
    nodes = {node.metadata.name: node for node in await listed(client, "/api/v1/nodes", objects.Node)}
    found = []
    for pod in pods:
        planned = (pod.metadata.annotations or {}).get(NODE_ANNOTATION, "")
        if not planned:
            continue
        actual, nominated = pod.spec.nodeName or "", pod.status.nominatedNodeName or ""
        node = nodes.get(planned)
        if actual == planned:
            reason = AS_PLANNED
        elif actual:
            reason = why_elsewhere(is_known=node is not None, is_cordoned=bool(node and node.spec.unschedulable))
        else:
            reason = WAITS if nominated == planned else why_not_bound(nominated)
        found.append(Adherence(f"{pod.metadata.namespace}/{pod.metadata.name}", planned, actual, reason))
    return found
