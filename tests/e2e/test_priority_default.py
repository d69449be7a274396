"""The rival of "Priority Matters" is kube-scheduler: its own runs on published instances, decision by decision.

A real kube-scheduler places the replica sets of an instance, one pod after the other. Before each pod the emulation
is put into the very state that the API shows, and must have the real choice among its equals (ties are random in
both). Where no node is feasible, both must find none. ``ULLAGE_E2E_PRIORITY`` sets the number of instances.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import numpy as np
import pytest

from simulator.planning.instances import PriorityInstance, priority_instance
from simulator.reproduce.default_scheduler import UNPLACED, DefaultScheduler
from tests.e2e.control_plane import VERSION, ControlPlane
from tests.e2e.drive import PODS, Cluster, cluster_of

NUM_INSTANCES = int(os.environ.get("ULLAGE_E2E_PRIORITY", "20"))
APPS = "/apis/apps/v1/namespaces/default/replicasets"
FIRST_SEED = 484806185843093489
"""The golden instance's."""


def node(number: int, instance: PriorityInstance) -> dict[str, Any]:
    cpu, memory = instance.allocatable.tolist()
    offer = {"cpu": f"{cpu}m", "memory": str(memory), "pods": "110"}
    name = f"n{number:02d}"
    meta = {"name": name, "labels": {"kubernetes.io/hostname": name}}
    status = {"allocatable": offer, "capacity": offer, "conditions": [{"type": "Ready", "status": "True"}]}
    return {"metadata": meta, "status": status}


async def replica_set(cluster: Cluster, s: int) -> dict[str, Any]:
    """The owner of a set's pods; the system default spread finds siblings through it."""
    labels = {"set": f"s{s}"}
    container = {"name": "c", "image": "x"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    spec = {"replicas": 0, "selector": {"matchLabels": labels}, "template": template}
    made: dict[str, Any] = await cluster.call("POST", APPS, {"metadata": {"name": f"s{s}"}, "spec": spec})
    return made


async def place(cluster: Cluster, instance: PriorityInstance, name: str, owner: dict[str, Any], s: int) -> int:
    """Create one pod; all have one priority, so nobody is preempted. The number of its node, or ``UNPLACED``."""
    cpu, memory = instance.request[:, s].tolist()
    asks = {"cpu": f"{cpu}m", "memory": str(memory)}
    reference = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "controller": True}
    reference |= {"name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"]}
    meta = {"name": name, "labels": {"set": f"s{s}"}, "ownerReferences": [reference]}
    spec = {
        "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "c", "image": "x", "resources": {"requests": asks}}],
    }
    await cluster.call("POST", PODS, {"metadata": meta, "spec": spec})
    for _ in range(6000):
        seen = await cluster.call("GET", f"{PODS}/{name}")
        if seen["spec"].get("nodeName"):
            return int(seen["spec"]["nodeName"][1:])
        if any(c.get("reason") == "Unschedulable" for c in seen["status"].get("conditions") or ()):
            return UNPLACED
        await asyncio.sleep(0.005)
    raise AssertionError(f"kube-scheduler neither placed nor gave up {name}: {seen['status']}")


async def compare(cluster: Cluster, instance: PriorityInstance) -> tuple[int, list[str]]:
    """Decisions compared, and how they differ."""
    await cluster.many((("POST", "/api/v1/nodes", node(i, instance)) for i in range(instance.num_nodes)), width=4)
    emulated = DefaultScheduler(instance)
    differences = []
    pod = 0
    for s, replicas in enumerate(instance.replicas.tolist()):
        owner = await replica_set(cluster, s)
        await asyncio.sleep(0.05)
        for _ in range(replicas):
            expected = set(emulated.equals(pod).tolist())
            real = await place(cluster, instance, f"p{pod:03d}", owner, s)
            if (real == UNPLACED) != (not expected) or (real != UNPLACED and real not in expected):
                differences.append(f"seed {instance.seed}, pod {pod}: kube-scheduler {real}, ours {sorted(expected)}")
            if real != UNPLACED:
                emulated.bind(pod, real)
            pod += 1
    return pod, differences


async def clear(cluster: Cluster, instance: PriorityInstance) -> None:
    for p in range(instance.num_pods):
        await cluster.delete(f"p{p:03d}")
    for s in range(len(instance.replicas)):
        await cluster.call("DELETE", f"{APPS}/s{s}")
    for i in range(instance.num_nodes):
        await cluster.call("DELETE", f"/api/v1/nodes/n{i:02d}")


@pytest.mark.skipif(
    VERSION < (1, 36), reason="the emulated rival is 1.36; test_stock.py compares the profile of older minors"
)
@pytest.mark.timeout(1200)
async def test_the_emulated_default_scheduler_chooses_as_kube_scheduler_does(plane: ControlPlane) -> None:
    rng = np.random.default_rng(7)
    num_decisions, differences = 0, list[str]()
    async with cluster_of(plane) as cluster:
        plane.start_scheduler([])
        for i in range(NUM_INSTANCES):
            util = float(rng.choice((0.9, 0.95, 1.0, 1.05)))
            instance = priority_instance(
                FIRST_SEED + i, num_nodes=(4, 8)[i % 2], pods_per_node=4, num_priorities=1, util=util
            )
            compared, found = await compare(cluster, instance)
            num_decisions += compared
            differences += found
            await clear(cluster, instance)
    print(f"{NUM_INSTANCES} instances, {num_decisions} decisions, {len(differences)} differences")
    assert not differences, "\n".join(differences[:10])
