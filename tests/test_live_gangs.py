"""Gangs of owners and of objects that say how many pods they need: planner, status and doctor against an API."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from placement.gangs import KINDS, MEMBER_GROUP, POD_GROUP_1_36, SIZE
from scheduler.__main__ import root
from scheduler.cluster_reader import take_snapshot
from scheduler.doctor.live import short_gangs
from tests.api_server import ApiServer, client_of, kubeconfig
from tests.test_gang_membership import LABELS, NATIVE, OF_WORKLOAD, member_group, pod_group, workload
from tests.test_nominator import gated, is_free, nominated, outcome, planning
from tests.waiting import until
from tests.whole_app import cluster

pytestmark = pytest.mark.timeout(90)
LABELLED = {"metadata": {"labels": {LABELS[1]: "train"}}}
PLUGINS, NATIVE_GROUPS, _, WORKLOADS = (f"{kind.plural}.{kind.version.partition('/')[0]}" for kind in KINDS)


def member(number: int, changes: dict[str, Any], cpu: str = "2") -> dict[str, Any]:
    """A gated pod of a gang."""
    body = gated(f"w{number}", cpu, **changes.get("metadata", {}))
    body["spec"] |= {key: value for key, value in changes.items() if key != "metadata"}
    return body


def are_free(api: ApiServer, number: int) -> bool:
    return all(is_free(api, f"w{i}") for i in range(number))


async def others_went(api: ApiServer, name: str) -> None:
    """Until a pod without a gang that came later is planned: then all that could be planned before was."""
    api.put("pods", gated(name, "100m"))
    await until(lambda: is_free(api, name))


@pytest.mark.parametrize(
    ("served", "changes", "group"),
    [
        (PLUGINS, LABELLED, member_group),
        (NATIVE_GROUPS, NATIVE, pod_group),
        (WORKLOADS, OF_WORKLOAD, lambda pods: workload(workers=pods)),
    ],
)
async def test_a_gang_waits_for_as_many_as_its_object_says(
    served: str, changes: dict[str, Any], group: Any, tmp_path: Path
) -> None:
    async with cluster() as api:
        api.more = {served}
        async with planning(api, tmp_path):
            api.put("pods", member(0, changes))
            api.put("pods", member(1, changes))
            await others_went(api, "alone")
            assert not is_free(api, "w0"), "its object may be on its way"
            api.put(served, group(4))
            api.put("pods", member(2, changes))
            await others_went(api, "alone-too")
            assert not is_free(api, "w0"), "three of four"
            api.put(served, group(3))
            await until(lambda: are_free(api, 3))
            assert all(nominated(api, f"w{i}") for i in range(3))
            api.put("pods", member(3, changes))
            await until(lambda: is_free(api, "w3"))
            assert nominated(api, "w3"), "those that are free already count"
            api.delete(served, group(1)["metadata"]["name"], "default")
            api.put("pods", member(4, changes))
            await others_went(api, "alone-again")
            assert not is_free(api, "w4"), "its object is gone"


async def test_what_the_api_does_not_serve_keeps_nobody_waiting(tmp_path: Path) -> None:
    async with cluster() as api, planning(api, tmp_path):
        api.put("pods", member(0, LABELLED))
        api.put("pods", member(1, NATIVE))
        await until(lambda: are_free(api, 2))
        assert nominated(api, "w0")
        assert nominated(api, "w1")


@pytest.mark.parametrize("version", [MEMBER_GROUP.version, POD_GROUP_1_36.version])
async def test_a_kind_that_cannot_be_read_keeps_only_its_own_gangs_waiting(version: str, tmp_path: Path) -> None:
    """The conversion webhook of a definition is down, say: its list answers 500 for as long."""
    changes = LABELLED if version == MEMBER_GROUP.version else NATIVE
    async with cluster() as api:
        for _ in range(9999):
            api.fail_next("GET", f"{version}/podgroups", 500)
        async with planning(api, tmp_path):
            api.put("pods", member(0, changes))
            await others_went(api, "alone")
            await others_went(api, "alone-too")
            assert not is_free(api, "w0"), "how many it needs nobody knows"
            api.faults.clear()
            await until(lambda: is_free(api, "w0"))


async def test_pods_of_a_basic_group_are_planned_one_by_one(tmp_path: Path) -> None:
    async with cluster() as api:
        api.more = {NATIVE_GROUPS}
        api.put(NATIVE_GROUPS, pod_group(0))
        async with planning(api, tmp_path):
            for i in range(4):
                api.put("pods", member(i, NATIVE, "7"))
            await until(lambda: sum(is_free(api, f"w{i}") for i in range(4)) == 3)
        assert sum(bool(nominated(api, f"w{i}")) for i in range(4)) == 3, "three nodes"


async def test_pods_of_one_owner_go_together(tmp_path: Path) -> None:
    def of(uid: str) -> dict[str, Any]:
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": uid, "controller": True}
        return {"metadata": {"ownerReferences": [owner], "annotations": {SIZE: "3"}}}

    async with cluster() as api, planning(api, tmp_path):
        api.put("pods", member(0, of("a")))
        api.put("pods", member(1, of("a")))
        api.put("pods", member(9, of("b")))
        await others_went(api, "alone")
        assert not any(is_free(api, f"w{i}") for i in (0, 1, 9)), "the other Job of this name is another gang"
        api.put("pods", member(2, of("a")))
        await until(lambda: are_free(api, 3))
        assert all(nominated(api, f"w{i}") for i in range(3))
        assert not is_free(api, "w9")


async def test_a_gang_that_stays_short_is_let_go_at_its_deadline_and_the_log_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with cluster() as api:
        api.more = {PLUGINS}
        api.put(PLUGINS, member_group(3))
        async with planning(api, tmp_path) as planner:
            planner.nominator.settings = replace(planner.nominator.settings, gang_deadline_s=1)
            with caplog.at_level(logging.INFO, logger="scheduler.planning.nominator"):
                api.put("pods", member(0, LABELLED))
                await until(lambda: is_free(api, "w0"))
                await until(lambda: outcome(planner, "let go") >= 1)
        assert not nominated(api, "w0")
    said = [record for record in caplog.records if record.message == "gates lifted without a plan"]
    assert {vars(record)["reason"] for record in said} == {"its gang has 1 of 3 pods (minMember of PodGroup train)"}


async def test_snapshot_status_and_doctor_say_what_a_gang_waits_for(tmp_path: Path) -> None:
    why = "its gang has 1 of 3 pods (minMember of PodGroup train)"
    async with cluster() as api:
        api.more = {PLUGINS}
        api.put(PLUGINS, member_group(3))
        api.put("pods", member(0, LABELLED))
        api.put("pods", gated("alone"))
        async with client_of(api, tmp_path) as client:
            rows = {pod.name: pod.waits for pod in (await take_snapshot(client)).pods}
            found = await short_gangs(client)
            api.more = set()
            assert await short_gangs(client) == []
            api.more = {PLUGINS}
            api.fail_next("GET", MEMBER_GROUP.version, 500)
            unread = {pod.name: pod.waits for pod in (await take_snapshot(client)).pods}
            api.put(PLUGINS, member_group(3) | {"spec": {"minMember": "many"}})
            torn = {pod.name: pod.waits for pod in (await take_snapshot(client)).pods}
            api.put(PLUGINS, member_group(3))
        words = ["plan", "status", "--kubeconfig", kubeconfig(api.port, tmp_path), "-o", "json"]
        told = await asyncio.to_thread(CliRunner().invoke, root, words, catch_exceptions=False)
    assert rows == {"default/w0": why, "default/alone": ""}
    assert unread == {
        "default/w0": "podgroups.scheduling.x-k8s.io cannot be read, and its gang may be one",
        "default/alone": "",
    }
    assert torn["default/w0"].startswith("PodGroup train of its gang does not exist or cannot be read")
    assert torn["default/alone"] == "", "nobody else is held up"
    assert [(code, hit.path, hit.message) for code, hit in found] == [("UD416", "(gang default/train)", why)]
    document = json.loads(told.stdout)
    assert document["waiting"] == 2
    assert {row["pod"]: row["reason"] for row in document["items"]} == {
        "default/w0": why,
        "default/alone": "gated, not planned yet",
    }
