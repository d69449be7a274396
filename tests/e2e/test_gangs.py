"""Gangs of owners, of scheduler-plugins' PodGroup and of Kubernetes' own on a real control plane, with our rights."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from placement.gangs import MEMBER_GROUP, POD_GROUP, POD_GROUP_1_36, SIZE, Kind
from tests.e2e.control_plane import VERSION, ControlPlane, Ullage
from tests.e2e.drive import cluster_of
from tests.e2e.test_nominate import GANG_LABEL, create, grant, node, planned, planner, pod

NATIVE = POD_GROUP if VERSION >= (1, 37) else POD_GROUP_1_36
WHOLE = "--feature-gates=GenericWorkload=true" + (",GangScheduling=true" if VERSION < (1, 37) else "")
"""kube-scheduler tries groups whole; in 1.37 one gate stands for both."""
DEFINITION = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "podgroups.scheduling.x-k8s.io"},
    "spec": {
        "group": "scheduling.x-k8s.io",
        "scope": "Namespaced",
        "names": {"kind": "PodGroup", "plural": "podgroups", "singular": "podgroup", "listKind": "PodGroupList"},
        "versions": [
            {
                "name": "v1alpha1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
            }
        ],
    },
}


def serve_groups(plane: ControlPlane) -> None:
    """Kubernetes' own kind, which is off by default, and scheduler-plugins'."""
    if VERSION >= (1, 36):
        plane.api_options = ("--feature-gates=GenericWorkload=true", f"--runtime-config={NATIVE.version}=true")
        plane.start_api()
    plane.call("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", DEFINITION)
    plane.wait("kube-apiserver", lambda: plane.call("GET", f"/apis/{MEMBER_GROUP.version}/podgroups")["items"] == [])


def create_group(plane: ControlPlane, kind: Kind, name: str, spec: dict[str, Any]) -> None:
    body = {"apiVersion": kind.version, "kind": kind.name, "metadata": {"name": name}, "spec": spec}
    plane.call("POST", f"/apis/{kind.version}/namespaces/default/{kind.plural}", body)


def members(number: int) -> list[dict[str, Any]]:
    """One pod of each gang."""
    labelled, owned = pod(f"train-{number}", 1), pod(f"owned-{number}", 1)
    labelled["metadata"]["labels"] = {GANG_LABEL: "train"}
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "0b9d7a2e-job", "controller": True}
    owned["metadata"] |= {"ownerReferences": [owner], "annotations": {SIZE: "3"}}
    found = [labelled, owned]
    if VERSION >= (1, 36):
        native = pod(f"native-{number}", 1)
        native["spec"]["schedulingGroup"] = {"podGroupName": "train"}
        found.append(native)
    return found


def test_gangs_wait_for_as_many_as_their_owner_or_object_says(plane: ControlPlane) -> None:
    async def run() -> None:
        serve_groups(plane)
        async with cluster_of(plane) as cluster:
            grant(plane, "rbac.yaml")
            await cluster.add_nodes(node(f"n{i}") for i in range(4))
            planner(plane, gang_deadline_s=600).start()
            plane.start_scheduler([])
            await create(cluster, [*members(0), *members(1), pod("alone")])
            await cluster.until(lambda: bool(cluster.node_of("alone")), 60, "a pod without a gang does not wait")
            create_group(plane, MEMBER_GROUP, "train", {"minMember": 3})
            if VERSION >= (1, 36):
                create_group(plane, NATIVE, "train", {"schedulingPolicy": {"gang": {"minCount": 3}}})
            await create(cluster, [pod("alone-too")])
            await cluster.until(lambda: bool(cluster.node_of("alone-too")), 60, "nor does the next")
            kinds = {body["metadata"]["name"].partition("-")[0] for body in members(0)}
            waiting = [f"{kind}-{i}" for kind in kinds for i in range(2)]
            assert not any(cluster.node_of(name) for name in waiting), "two of three"
            assert all(cluster.pods[name]["spec"]["schedulingGates"] for name in waiting)
            await create(cluster, members(2))
            await cluster.until(cluster.all_bound, 60, "each gang is whole, long before its deadline")
            assert all(body["spec"]["nodeName"] == planned(body) for body in cluster.pods.values())
        assert "is forbidden" not in plane.log_of("ullage"), "our rights suffice"

    asyncio.run(run())


@pytest.mark.skipif(VERSION < (1, 36), reason="PodGroups of Kubernetes are of 1.36")
def test_a_group_that_kube_scheduler_cannot_place_keeps_no_room_from_others(plane: ControlPlane) -> None:
    """It asks about pod after pod of a group, and takes all of them back where one has no place: nobody tells an extender."""

    async def run() -> None:
        serve_groups(plane)
        async with cluster_of(plane) as cluster:
            await cluster.add_nodes([node("n0", 4)])
            ullage = Ullage(plane)
            ullage.start()
            plane.scheduler_options = (WHOLE,)
            plane.start_scheduler(ullage.stanzas())
            create_group(plane, NATIVE, "train", {"schedulingPolicy": {"gang": {"minCount": 3}}})
            group = [pod(f"train-{i}", 1.5, gated=False) for i in range(3)]
            for body in group:
                body["spec"]["schedulingGroup"] = {"podGroupName": "train"}
            await create(cluster, group)

            def was_tried() -> bool:
                conditions = [c for p in cluster.pods.values() for c in p["status"].get("conditions") or ()]
                return sum(c["type"] == "PodScheduled" and c["status"] == "False" for c in conditions) == 3

            await cluster.until(was_tried, 60, "two find a place, and the third none")
            await create(cluster, [pod("alone", 3, gated=False)])
            await cluster.until(lambda: bool(cluster.node_of("alone")), 30, "the node is empty")
            await cluster.delete("alone")
            await cluster.add_nodes([node("n1", 4)])
            await cluster.until(cluster.all_bound, 60, "all of the group have a place now")

    asyncio.run(run())
