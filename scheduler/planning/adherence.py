"""Planned against actual, pod by pod: node and GPU devices that a plan wanted, those that it has, and why they differ.

Judged from what the API says now: the annotation of the plan stays on the pod, so this needs no memory of ours and
outlives every planner. The planner counts the same words while it runs (``ullage_plan_pods_total``).
"""

from __future__ import annotations

from dataclasses import dataclass

from placement import objects
from placement.marks import why_waits
from placement.resources import DEVICES_ANNOTATION
from placement.specs import pod_spec
from placement.state import devices_mask, devices_text
from scheduler.cluster_reader import listed, listed_groups
from scheduler.gates import GATE, NODE_ANNOTATION, PLANNED_DEVICES_ANNOTATION
from scheduler.kube import KubeClient

AS_PLANNED = "as planned"
NODE_GONE = "the planned node is gone"
NODE_CORDONED = "the planned node is cordoned"
NODE_REFUSED = "the planned node did not take it: filled or changed since the plan"
CLEARED = "the nomination was cleared"
OTHER_DEVICES = "on the planned node, with other devices: the planned ones were not free"
NO_DEVICES = "on the planned node, without the planned devices: not bound by Ullage"
ENDED = "deleted"
EXPIRED = "cleared: not bound in time"
WAITS = "nominated, not bound yet"
GATED = "gated, not planned yet"


@dataclass(frozen=True)
class Adherence:
    """What became of one planned pod, and why it differs from the plan when it does."""

    pod: str
    planned: str
    actual: str
    """Node, or empty when it was not bound."""
    reason: str
    """``as planned``, or what came between."""
    planned_devices: str = ""
    """As the annotation writes them; empty for a pod that asks for none."""
    actual_devices: str = ""

    @property
    def outcome(self) -> str:
        """One word for metrics: ``as planned``, ``other devices``, ``elsewhere``, ``waiting`` or ``not bound``."""
        if not (self.planned or self.actual):
            return "waiting"
        words = {WAITS: "waiting", AS_PLANNED: AS_PLANNED, OTHER_DEVICES: "other devices", NO_DEVICES: "other devices"}
        return words.get(self.reason, "elsewhere" if self.actual else "not bound")


@dataclass(frozen=True)
class Place:
    """A node and devices on it, as bits; empty and 0 for none."""

    node: str
    devices: int = 0


def judged(pod: str, planned: Place, actual: Place, *, is_known: bool, is_cordoned: bool) -> Adherence:
    """A bound pod against its plan, from what is known of the planned node."""
    if actual.node != planned.node:
        reason = NODE_GONE if not is_known else NODE_CORDONED if is_cordoned else NODE_REFUSED
    elif not planned.devices or actual.devices == planned.devices:
        reason = AS_PLANNED
    else:
        reason = OTHER_DEVICES if actual.devices else NO_DEVICES
    texts = (devices_text(planned.devices), devices_text(actual.devices))
    return Adherence(pod, planned.node, actual.node, reason, *texts)


def why_not_bound(nominated: str) -> str:
    """Why a pod whose nomination is no longer ours is not bound."""
    return f"kube-scheduler nominated {nominated}" if nominated else CLEARED


async def adherence(client: KubeClient, namespace: str = "") -> list[Adherence]:
    """Every pod that a plan of ours nominated, those that left it or have ended included, and those behind our gate.

    Raises
    ------
    ApiError : a list is refused or cut.
    """
    path = f"/api/v1/namespaces/{namespace}/pods" if namespace else "/api/v1/pods"
    pods = await listed(client, path, objects.Pod)
    nodes = {node.metadata.name: node for node in await listed(client, "/api/v1/nodes", objects.Node)}
    alive = [pod for pod in pods if pod.status.phase not in ("Succeeded", "Failed")]
    waits = why_waits(alive, await listed_groups(client))
    found = []
    for pod in pods:
        marks, name = pod.metadata.annotations or {}, f"{pod.metadata.namespace}/{pod.metadata.name}"
        if not marks.get(NODE_ANNOTATION):
            if not pod.spec.nodeName and any(gate.get("name") == GATE for gate in pod.spec.schedulingGates or ()):
                found.append(Adherence(name, "", "", waits.get(pod.metadata.uid, GATED)))
            continue
        planned = Place(marks[NODE_ANNOTATION], _devices(pod, PLANNED_DEVICES_ANNOTATION))
        if pod.spec.nodeName:
            node, actual = nodes.get(planned.node), Place(pod.spec.nodeName, _devices(pod, DEVICES_ANNOTATION))
            is_cordoned = bool(node and node.spec.unschedulable)
            found.append(judged(name, planned, actual, is_known=node is not None, is_cordoned=is_cordoned))
        else:
            nominated = pod.status.nominatedNodeName or ""
            reason = WAITS if nominated == planned.node else why_not_bound(nominated)
            found.append(Adherence(name, planned.node, "", reason, devices_text(planned.devices)))
    return found


def _devices(pod: objects.Pod, annotation: str) -> int:
    """The devices that an annotation names; 0 for a pod that asks for none, whatever it says."""
    if pod_spec(pod, at_any_rate=True).gpu is None:
        return 0
    return devices_mask((pod.metadata.annotations or {}).get(annotation, ""))
