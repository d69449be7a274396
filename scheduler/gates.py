"""The words of planned delivery on a pod, and the three patches that change them; shared by planner and sweeper.

A pod that wants to be planned carries our scheduling gate. One patch of its status writes the nomination and, in the
same write, annotations that say that it is ours: kube-scheduler never writes those, so a nomination is ours exactly
while it equals ``ullage.dev/planned-node``. A second patch takes the gate away. Every patch names the UID, so that a
pod of the same name that came later is never touched, and clearing tests the value that it removes, so that a
nomination by kube-scheduler (preemption) survives.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from placement.resources import PLAN_GATE
from scheduler.api import Api, Who, pod_path
from scheduler.errors import ApiError

GATE = PLAN_GATE
NODE_ANNOTATION = "ullage.dev/planned-node"
TIME_ANNOTATION = "ullage.dev/planned-at"
PLANNED_DEVICES_ANNOTATION = "ullage.dev/planned-devices"
"""Annotation beside the former: which devices of that node the plan keeps for the pod."""
TARGET_ANNOTATION = "ullage.dev/replacement-node"
"""Annotation on a pod that a plan is about to evict: where its replacement belongs."""
MANAGER = "fieldManager=ullage-plan"
WRITE = f"{MANAGER}&fieldValidation=Ignore"
"""Every field is one of the API's own; to have that checked costs a twentieth of a patch."""
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
JSON_PATCH = "application/json-patch+json"
TIMEOUT_S = 10.0


def timestamp(unix_s: float) -> str:
    """RFC 3339, as the API writes it.

    >>> timestamp(0)
    '1970-01-01T00:00:00Z'
    """
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def unix_of(text: str) -> float | None:
    """Seconds since 1970 of an RFC 3339 text; None if it is not one.

    >>> unix_of("1970-01-01T00:01:00Z"), unix_of("soon")
    (60.0, None)
    """
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment.timestamp() if moment.tzinfo else None


async def patch_pod(api: Api, path: str, body: dict[str, Any], content_type: str) -> None:
    """Patch a pod that is named by its UID as well.

    Raises
    ------
    ApiError : 404 when the pod is gone, 409 when another one has its name or it was bound meanwhile (the API server says
        422, for a UID cannot be changed and a bound pod not be nominated); anything else may be tried again.
    """
    try:
        await api.call("PATCH", path, body, content_type=content_type, timeout_s=TIMEOUT_S)
    except ApiError as error:
        if error.status == 422 and any(cause in str(error) for cause in ("metadata.uid", "already bound to a node")):
            raise ApiError(str(error), 409, error.reason) from error
        raise


async def nominate(api: Api, who: Who, node: str, unix_s: float, devices: str = "") -> None:
    """Write the nomination of a pod, marked as ours, with the devices that it is to get there.

    Devices of an earlier plan are taken off (null, in a patch).

    Raises
    ------
    ApiError : as :func:`patch_pod`.
    """
    uid, namespace, name = who
    marks = {NODE_ANNOTATION: node, TIME_ANNOTATION: timestamp(unix_s), PLANNED_DEVICES_ANNOTATION: devices or None}
    body = {"metadata": {"uid": uid, "annotations": marks}, "status": {"nominatedNodeName": node}}
    path = f"{pod_path(namespace, name)}/status?{WRITE}"
    await patch_pod(api, path, body, STRATEGIC)


async def lift(api: Api, who: Who) -> None:
    """Take our gate away; without effect if it is gone. Raises as :func:`nominate` does."""
    uid, namespace, name = who
    body: dict[str, Any] = {
        "metadata": {"uid": uid},
        "spec": {"schedulingGates": [{"name": GATE, "$patch": "delete"}]},
    }
    path = f"{pod_path(namespace, name)}?{WRITE}"
    await patch_pod(api, path, body, STRATEGIC)


async def clear(api: Api, who: Who, node: str) -> bool:
    """Take back our nomination of ``node``; False if it is no longer what the pod says, or the pod is gone."""
    return await _while_nominated(api, who, node, {"op": "remove", "path": "/status/nominatedNodeName"})


async def renew(api: Api, who: Who, node: str, unix_s: float) -> bool:
    """Say that our nomination of ``node`` still holds, so that nobody takes it for old; False as of :func:`clear`."""
    path = f"/metadata/annotations/{TIME_ANNOTATION.replace('/', '~1')}"
    return await _while_nominated(api, who, node, {"op": "replace", "path": path, "value": timestamp(unix_s)})


async def _while_nominated(api: Api, who: Who, node: str, change: dict[str, str]) -> bool:
    uid, namespace, name = who
    body = [
        {"op": "test", "path": "/metadata/uid", "value": uid},
        {"op": "test", "path": "/status/nominatedNodeName", "value": node},
        change,
    ]
    path = f"{pod_path(namespace, name)}/status?{WRITE}"
    try:
        await api.call("PATCH", path, body, content_type=JSON_PATCH, timeout_s=TIMEOUT_S)
    except ApiError as error:
        if error.status in (404, 409, 422):
            return False
        raise
    return True
