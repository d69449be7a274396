"""Planned against actual: nodes and devices, with the reason for each difference."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from placement.resources import DEVICES_ANNOTATION
from scheduler.__main__ import root
from scheduler.gates import NODE_ANNOTATION, PLANNED_DEVICES_ANNOTATION
from scheduler.planning.adherence import (
    AS_PLANNED,
    NO_DEVICES,
    NODE_CORDONED,
    NODE_GONE,
    NODE_REFUSED,
    OTHER_DEVICES,
    WAITS,
    Place,
    judged,
)
from tests.api_server import api_server, kubeconfig, node_object, pod_object


@pytest.mark.parametrize(
    ("planned", "actual", "reason", "outcome"),
    [
        (Place("a"), Place("a"), AS_PLANNED, "as planned"),
        (Place("a", 0b11), Place("a", 0b11), AS_PLANNED, "as planned"),
        (Place("a"), Place("a", 0b1), AS_PLANNED, "as planned"),
        (Place("a", 0b11), Place("a", 0b101), OTHER_DEVICES, "other devices"),
        (Place("a", 0b11), Place("a"), NO_DEVICES, "other devices"),
        (Place("a", 0b11), Place("b", 0b11), NODE_REFUSED, "elsewhere"),
    ],
)
def test_a_pod_is_as_planned_only_with_the_devices_that_were_planned(
    planned: Place, actual: Place, reason: str, outcome: str
) -> None:
    found = judged("shop/p", planned, actual, is_known=True, is_cordoned=False)
    assert (found.reason, found.outcome) == (reason, outcome)


def test_the_planned_node_tells_why_a_pod_is_elsewhere() -> None:
    a, b = Place("a"), Place("b")
    assert judged("p", a, b, is_known=False, is_cordoned=False).reason == NODE_GONE
    assert judged("p", a, b, is_known=True, is_cordoned=True).reason == NODE_CORDONED


def planned(name: str, node: str = "", *, milli: int = 500, devices: str = "", wanted: str = "0") -> dict[str, Any]:
    """A pod that was planned for device ``wanted`` of node a."""
    body = pod_object(name, milli=milli)
    body["metadata"]["annotations"] |= {NODE_ANNOTATION: "a", PLANNED_DEVICES_ANNOTATION: wanted}
    if devices:
        body["metadata"]["annotations"][DEVICES_ANNOTATION] = devices
    body["spec"]["nodeName"] = node
    body["status"]["nominatedNodeName"] = "" if node else "a"
    return body


async def test_plan_status_lists_devices_that_differ_with_the_reason(tmp_path: Path) -> None:
    async with api_server() as api:
        api.put("nodes", node_object("a", gpus=4))
        api.put("pods", planned("good", "a", devices="1,0", wanted="0,1"))
        api.put("pods", planned("moved", "a", devices="2"))
        api.put("pods", planned("foreign", "a"))
        api.put("pods", planned("waiting"))
        api.put("pods", planned("plain", "a", milli=0))
        strange = planned("strange", "a", devices="0")
        strange["metadata"]["annotations"]["ullage.dev/gpu-count"] = "many"
        strange["spec"]["containers"][0]["resources"]["requests"]["memory"] = "8Ei"
        api.put("pods", strange)
        words = ["plan", "status", "--kubeconfig", kubeconfig(api.port, tmp_path)]
        table = await asyncio.to_thread(CliRunner().invoke, root, words, catch_exceptions=False)
        found = await asyncio.to_thread(CliRunner().invoke, root, [*words, "--differs", "-o", "json"])
    document = json.loads(found.stdout)
    assert document["as planned"] == 3, "whatever somebody made of one of them"
    assert document["other devices"] == 2
    rows = {row["pod"]: row for row in document["items"]}
    assert {pod: row["reason"] for pod, row in rows.items()} == {
        "default/moved": OTHER_DEVICES,
        "default/foreign": NO_DEVICES,
        "default/waiting": WAITS,
    }
    assert (rows["default/moved"]["planned_devices"], rows["default/moved"]["actual_devices"]) == ("0", "2")
    assert f"a [0] -> a [2]  {OTHER_DEVICES}" in table.stdout
    assert f"a [0,1] -> a [0,1]  {AS_PLANNED}" in table.stdout
