"""The acts of an applied plan on pods and nodes: evict, cordon, open again, and say where a replacement belongs.

Each names what it means by UID or tests what it changes, so that doing one twice, or after somebody else changed the
object, does no harm. Evictions go through the Eviction API, where the API server itself holds disruption budgets.
"""

from __future__ import annotations

from typing import Any

import msgspec

from placement import objects
from scheduler.api import Api, Who, pod_path
from scheduler.errors import ApiError
from scheduler.gates import MANAGER, MERGE, TARGET_ANNOTATION, TIMEOUT_S, patch_pod

CORDON_ANNOTATION = "ullage.dev/cordoned-by"
"""Annotation on a node: the plan that cordoned it, and may open it again."""
TOO_MANY = 429
"""What the API answers when a disruption budget allows no more evictions now."""
SEVERAL_BUDGETS = "more than one PodDisruptionBudget"
"""In the API's answer (500) for a pod that it will not evict while that is so."""


_decode_node = msgspec.json.Decoder(objects.Node).decode


async def evict(api: Api, who: Who) -> None:
    """Ask for the eviction of a pod.

    Raises
    ------
    ApiError : 429 when a budget refuses for now, 404 when the pod is gone, 409 when another pod has its name.
    """
    uid, namespace, name = who
    body = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": name, "namespace": namespace},
        "deleteOptions": {"preconditions": {"uid": uid}},
    }
    await api.call("POST", f"{pod_path(namespace, name)}/eviction", body, timeout_s=TIMEOUT_S)


async def mark_target(api: Api, who: Who, node: str | None) -> None:
    """Write on a pod where its replacement belongs; None takes that back. Raises as :func:`evict` does."""
    uid, namespace, name = who
    body = {"metadata": {"uid": uid, "annotations": {TARGET_ANNOTATION: node}}}
    path = f"{pod_path(namespace, name)}?{MANAGER}"
    await patch_pod(api, path, body, MERGE)


async def cordon_state(api: Api, node: str) -> tuple[bool, str]:
    """Whether a node takes no pods, and the plan that is to thank for it ('' = not one of ours).

    Raises
    ------
    ApiError : 404 when there is no such node.
    """
    found = _decode_node(await api.call("GET", f"/api/v1/nodes/{node}", timeout_s=TIMEOUT_S))
    return bool(found.spec.unschedulable), (found.metadata.annotations or {}).get(CORDON_ANNOTATION, "")


async def cordon(api: Api, node: str, plan: str) -> None:
    """Let the node take no more pods, in the name of ``plan``. Raises as :func:`cordon_state` does."""
    await _set(api, node, {"metadata": {"annotations": {CORDON_ANNOTATION: plan}}, "spec": {"unschedulable": True}})


async def open_again(api: Api, node: str, plan: str) -> bool:
    """Take a cordon of ``plan`` back; False if it is somebody else's by now, or the node is gone."""
    try:
        _, owner = await cordon_state(api, node)
    except ApiError as error:
        if error.status == 404:
            return False
        raise
    if owner != plan:
        return False
    await _set(api, node, {"metadata": {"annotations": {CORDON_ANNOTATION: None}}, "spec": {"unschedulable": None}})
    return True


async def _set(api: Api, node: str, body: dict[str, Any]) -> None:
    await api.call("PATCH", f"/api/v1/nodes/{node}?{MANAGER}", body, content_type=MERGE, timeout_s=TIMEOUT_S)
