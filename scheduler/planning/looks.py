"""Looks at the cluster before and after each step of a plan that is being applied: is reality still what was planned?

Read-only. Everything is asked of the API anew; what a step may rely on is decided by the same rules that planned it.
"""

from __future__ import annotations

from collections.abc import Container
from urllib.parse import quote

import msgspec

from placement import objects
from placement.marks import Budget, forbidden
from placement.owners import TEMPLATE_LABELS, template_of
from placement.planning.plans import Step
from placement.planning.snapshots import cluster_of, snapshot_of
from placement.pods import PodSpec
from placement.specs import pod_spec
from scheduler.api import pod_path
from scheduler.cluster_reader import BUDGETS, listed
from scheduler.errors import ApiError
from scheduler.evictions import cordon_state
from scheduler.gates import TIMEOUT_S
from scheduler.kube import KubeClient

_decode_pod = msgspec.json.Decoder(objects.Pod).decode
_decode_node = msgspec.json.Decoder(objects.Node).decode
DAEMONS = ("DaemonSet/", "Node/")


class _Spec(msgspec.Struct):
    terminationGracePeriodSeconds: int | None = None


class _Meta(msgspec.Struct):
    deletionGracePeriodSeconds: int | None = None


class _Leaving(msgspec.Struct):
    metadata: _Meta = msgspec.field(default_factory=_Meta)
    spec: _Spec = msgspec.field(default_factory=_Spec)


_decode_leaving = msgspec.json.Decoder(_Leaving).decode


class PlanLeft(Exception):
    """Reality has left the plan; the message says where."""


def split(step: Step) -> tuple[str, str]:
    """(namespace, name) of a step's pod."""
    namespace, _, name = step.name.partition("/")
    if not name:
        raise PlanLeft(f"step about pod {step.pod} does not name it as namespace/name; plan again with this build")
    return namespace, name


def class_of(pod: objects.Pod) -> PodSpec:
    """The class of a pod, whatever it asks for: who edits one until it makes no sense stops no plan for others."""
    return pod_spec(pod, at_any_rate=True)


async def pod_of(client: KubeClient, step: Step) -> objects.Pod | None:
    """The step's pod, None when that very pod is gone."""
    body = await _read(client, step)
    if body is None:
        return None
    found = _decode_pod(body)
    gone = found.metadata.uid != step.pod or found.status.phase in ("Succeeded", "Failed")
    return None if gone else found


async def grace_s(client: KubeClient, step: Step) -> float:
    """Seconds that the step's pod may take to end once it is evicted; 0 when it is gone."""
    body = await _read(client, step)
    if body is None:
        return 0.0
    pod = _decode_leaving(body)
    given = pod.metadata.deletionGracePeriodSeconds
    return float((given if given is not None else pod.spec.terminationGracePeriodSeconds) or 0)


async def _read(client: KubeClient, step: Step) -> bytes | None:
    """What the API says of a pod of that name, None when there is none."""
    namespace, name = split(step)
    try:
        return await client.call("GET", pod_path(namespace, name), timeout_s=TIMEOUT_S)
    except ApiError as error:
        if error.status == 404:
            return None
        raise


async def _on(client: KubeClient, node: str) -> list[objects.Pod]:
    """Pods that are bound to a node, or nominated to it. A nomination may outlive a binding elsewhere (before 1.35)."""
    found = await listed(client, f"/api/v1/pods?{_selector('spec.nodeName', node)}", objects.Pod)
    found += await listed(client, f"/api/v1/pods?{_selector('status.nominatedNodeName', node)}", objects.Pod)
    found = [pod for pod in found if (pod.spec.nodeName or node) == node]
    by_uid = {pod.metadata.uid: pod for pod in found if pod.status.phase not in ("Succeeded", "Failed")}
    return list(by_uid.values())


def _selector(field: str, value: str) -> str:
    return f"fieldSelector={quote(f'{field}={value}', safe='')}"


async def require_movable(client: KubeClient, step: Step) -> objects.Pod:
    """The pod that a step evicts, after a look that it is what was planned and may be evicted: all of it that can change.

    Raises
    ------
    PlanLeft : it is gone, went elsewhere, is being deleted, or must not be touched (any more).
    """
    pod = await pod_of(client, step)
    if pod is None:
        raise PlanLeft(f"pod {step.name} is gone")
    if pod.metadata.deletionTimestamp:
        raise PlanLeft(f"pod {step.name} is being deleted by somebody else")
    if pod.spec.nodeName != step.source:
        raise PlanLeft(f"pod {step.name} is on {pod.spec.nodeName or 'no node'}, not on {step.source}")
    why = forbidden(pod.metadata)
    if not (why or class_of(pod).owner):
        why = "nobody would recreate it (no controller)"
    if why:
        raise PlanLeft(f"pod {step.name} must not be moved: {why}")
    return pod


async def require_room(client: KubeClient, pods: list[objects.Pod], target: str, leaving: Container[str] = ()) -> None:
    """Look that ``target`` would take all of these pods now, with everything that runs or is nominated there, but for pods of
    which the UIDs are in ``leaving``.

    Raises
    ------
    PlanLeft : the node is gone, cordoned, changed, or fuller than planned.
    """
    try:
        node = _decode_node(await client.call("GET", f"/api/v1/nodes/{target}", timeout_s=TIMEOUT_S))
    except ApiError as error:
        if error.status == 404:
            raise PlanLeft(f"node {target} is gone") from error
        raise
    if node.spec.unschedulable:
        raise PlanLeft(f"node {target} is cordoned")
    coming = {pod.metadata.uid for pod in pods}
    there = [p for p in await _on(client, target) if p.metadata.uid not in coming and p.metadata.uid not in leaving]
    for other in there:
        other.spec.nodeName = target
    cluster = cluster_of(snapshot_of([node], there))
    specs = [class_of(pod) for pod in pods]
    names = ", ".join(pod.metadata.name for pod in pods)
    for spec in specs:
        cluster.state.delta(spec)  # the resource axis grows now: columns made later must agree
    if not cluster.allowed(specs).all():
        raise PlanLeft(f"node {target} has changed: its labels or taints do not let {names} in")
    request, free = cluster.request(specs).sum(axis=1), cluster.free()[:, 0]
    if ((request > free) & (request > 0)).any():
        raise PlanLeft(f"node {target} carries more load than planned: no room for {names}")


async def why_not_at_once(client: KubeClient, pods: list[objects.Pod]) -> str:
    """Which disruption budget does not let all of these pods go now; empty when every one does."""
    for budget in await listed(client, BUDGETS, Budget):
        covered, allowed = sum(budget.covers(pod) for pod in pods), budget.status.disruptionsAllowed
        if covered > allowed:
            name = f"{budget.metadata.namespace}/{budget.metadata.name}"
            return f"disruption budget {name} lets {allowed} of {covered} go now"
    return ""


async def peers(client: KubeClient, template: tuple[str, str, str]) -> list[objects.Pod]:
    """Live pods of the same namespace, owner and template hash."""
    namespace, _, number = template
    path = f"/api/v1/namespaces/{namespace}/pods"
    if number:
        key = TEMPLATE_LABELS[0]
        found = await listed(client, f"{path}?labelSelector={quote(f'{key}={number}', safe='')}", objects.Pod)
        for key in TEMPLATE_LABELS[1:]:
            found += await listed(client, f"{path}?labelSelector={quote(f'{key}={number}', safe='')}", objects.Pod)
    else:
        found = await listed(client, path, objects.Pod)
    return [
        pod
        for pod in found
        if pod.status.phase not in ("Succeeded", "Failed")
        and not pod.metadata.deletionTimestamp
        and template_of(class_of(pod)) == template
    ]


async def require_emptied(client: KubeClient, node: str) -> None:
    """Look that a node takes no pods and that nothing but its own runs there; one that is gone is emptied, too.

    Raises
    ------
    PlanLeft : somebody opened it, or something else runs there.
    """
    try:
        is_closed, _ = await cordon_state(client, node)
    except ApiError as error:
        if error.status == 404:
            return
        raise
    if not is_closed:
        raise PlanLeft(f"node {node} was opened by somebody else")
    for pod in await _on(client, node):
        owner = class_of(pod).owner
        if not owner.startswith(DAEMONS):
            raise PlanLeft(f"node {node} is not empty: {pod.metadata.namespace}/{pod.metadata.name} is there")
