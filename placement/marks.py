"""What Kubernetes objects say about planning: who must not be touched, who is not to be placed now, and what budgets allow.

Marks are annotations that other tools know, too. Budgets (PodDisruptionBudgets) allow so many of their pods to be down
at a time. Pods that wait for somebody else (a gate that is not ours, the rest of their gang) are nobody's to place yet.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec

from placement import objects
from placement.gangs import Groups, gang_size
from placement.resources import PLAN_GATE
from placement.rules import integer, matches_labels
from placement.specs import gang_besides_labels, selector

NEVER = {
    "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
    "karpenter.sh/do-not-disrupt": "true",
    "karpenter.sh/do-not-evict": "true",
}
"""Annotations on pods and nodes that forbid touching them, and the value that does."""
FORBIDDEN = "annotation "
"""Begins the reason of what is marked for good; other reasons, such as a disruption budget, come and go."""
CONTROL_PLANE = tuple(f"node-role.kubernetes.io/{role}" for role in ("control-plane", "master", "etcd"))
"""Labels of nodes that run Kubernetes itself, by pods that come and go with their node and so keep none."""
DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
"""Annotation on a pod: among pods that are alike, those with less of it go first."""
DELETED = "it is being deleted"


class Budget(msgspec.Struct):
    """policy/v1 PodDisruptionBudget, as far as we read it."""

    class Spec(msgspec.Struct):
        selector: objects.Selector | None = None

    class Status(msgspec.Struct):
        disruptionsAllowed: int = 0

    metadata: objects.Metadata = msgspec.field(default_factory=objects.Metadata)
    spec: Spec = msgspec.field(default_factory=Spec)
    status: Status = msgspec.field(default_factory=Status)

    def covers(self, pod: objects.Pod) -> bool:
        """Whether it protects this pod."""
        same = self.metadata.namespace == pod.metadata.namespace
        return same and matches_labels(selector(self.spec.selector), pod.metadata.labels or {})


def forbidden(metadata: objects.Metadata) -> str:
    """The annotation that forbids touching a pod or node, in words; empty when there is none."""
    annotations = metadata.annotations or {}
    return next((f"{FORBIDDEN}{key}={value}" for key, value in NEVER.items() if annotations.get(key) == value), "")


def why_node_stays(metadata: objects.Metadata) -> str:
    """Why a plan must not empty this node; empty when nothing says so."""
    role = next((label for label in CONTROL_PLANE if label in (metadata.labels or {})), "")
    return forbidden(metadata) or (f"label {role}" if role else "")


def why_stays(pod: objects.Pod, budgets: Iterable[Budget]) -> str:
    """Why a plan must not move this pod; empty when nothing says so. ``budgets`` are those that cover it."""
    if why := forbidden(pod.metadata):
        return why
    if pod.metadata.deletionTimestamp:
        return DELETED
    covering = [(b.metadata.name, b.status.disruptionsAllowed) for b in budgets]
    if len(covering) > 1:
        both = " and ".join(name for name, _ in covering[:2])
        return f"disruption budgets {both} both cover it, and the API evicts no pod with more than one"
    empty = next((name for name, allowed in covering if allowed < 1), "")
    return f"disruption budget {empty} allows none" if empty else ""


def deletion_cost(pod: objects.Pod) -> int:
    """What its deletion is said to cost; 0 where nothing is said that can be read."""
    return integer((pod.metadata.annotations or {}).get(DELETION_COST)) or 0


def why_waits(pods: Iterable[objects.Pod], groups: Groups) -> dict[str, str]:
    """UID → why a pending pod is not to be placed now; ``pods`` are all of a cluster that have not ended."""
    pods = list(pods)
    lowest_leaving: dict[str, int] = {}
    for pod in pods:
        if pod.spec.nodeName and pod.metadata.deletionTimestamp:
            priority = pod.spec.priority or 0
            lowest_leaving[pod.spec.nodeName] = min(priority, lowest_leaving.get(pod.spec.nodeName, priority))
    why: dict[str, str] = {}
    sizes: Counter[tuple[str, str]] = Counter()
    ready: Counter[tuple[str, str]] = Counter()
    gangs: dict[tuple[str, str], list[str]] = {}
    held: set[tuple[str, str]] = set()
    for pod in pods:
        meta = pod.metadata
        uid = meta.uid or f"{meta.namespace}/{meta.name}"
        reason = "" if pod.spec.nodeName else _why_held(pod, lowest_leaving)
        if reason:
            why[uid] = reason
        named = groups.named(meta.namespace, gang_besides_labels(pod), meta.labels or {})
        if not named:
            continue
        gang = meta.namespace, named
        sizes[gang] = max(sizes[gang], gang_size(meta.annotations or {}))
        if not meta.deletionTimestamp:
            held |= {gang} if reason else set()
            ready[gang] += not reason
            if not (pod.spec.nodeName or reason):
                gangs.setdefault(gang, []).append(uid)
    for gang, members in gangs.items():
        if reason := groups.why_waits(gang, ready[gang], sizes[gang]):
            why |= dict.fromkeys(members, reason)
        elif gang in held:
            why |= dict.fromkeys(members, "a pod of its gang must wait")
    return why


def _why_held(pod: objects.Pod, lowest_leaving: Mapping[str, int]) -> str:
    """Why a pending pod waits, whatever its gang does; empty when nothing holds it. ``lowest_leaving`` is the lowest priority
    of who leaves a node.

    kube-scheduler preempts for no pod while somebody whom it preempted leaves the node that the pod is nominated to
    (``PodEligibleToPreemptOthers``). Nobody else is to make room for it then either, nor while others leave.
    """
    if pod.metadata.deletionTimestamp:
        return DELETED
    gates = [gate.get("name", "") for gate in pod.spec.schedulingGates or ()]
    foreign = next((gate for gate in gates if gate != PLAN_GATE), "")
    if foreign:
        return f"it waits behind the gate {foreign}"
    promised, priority = pod.status.nominatedNodeName or "", pod.spec.priority or 0
    if lowest_leaving.get(promised, priority) < priority:
        return f"it is nominated to node {promised}, which pods leave for it"
    return ""
