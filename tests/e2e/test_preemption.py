"""Preemption equals kube-scheduler's: the same node and the same victims, on random full clusters with budgets.

Every case fills a few nodes with pods of several priorities and start times, some under PodDisruptionBudgets, and
creates one pod that fits nowhere. Where kube-scheduler's order leaves a tie (it then takes any), an equally good node
with our own victims for it counts as equal. ``ULLAGE_E2E_PREEMPTION`` sets the number of cases. For a resize in place it
evicts where Ullage agrees.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
from dataclasses import dataclass
from typing import Any

import pytest

from placement.nodes import NodeSpec
from placement.pods import GpuRequest, PodSpec
from placement.resources import CPU, MEMORY
from placement.resources import PODS as POD_COUNT
from placement.state import ClusterState
from scheduler.eventlog import NoLog
from scheduler.view import Reader
from simulator.preemption import Budget, _harm, _victims_on, choose_victims
from tests.e2e.control_plane import VERSION, ControlPlane, Ullage
from tests.e2e.drive import PODS, Cluster, cluster_of, pod_json

NUM_CASES = int(os.environ.get("ULLAGE_E2E_PREEMPTION", "60"))
NUM_NODES = 6
PRIORITIES = {"lowest": -10, "low": 0, "middle": 100, "high": 1000}
TOP = {"top": 5000}
APPS = ("web", "db", "cache")
GIB = 2**30


@dataclass
class Case:
    """One full cluster as the API shows it."""

    state: ClusterState
    reader: Reader
    names: dict[str, str]
    """Pod name by UID."""
    budgets: list[Budget]


def started_at(second: int) -> str:
    """A time of day."""
    return f"2026-01-01T{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d}Z"


async def fill(cluster: Cluster, nodes: list[NodeSpec], rng: random.Random) -> Case:
    """Residents until every node is nearly full, and budgets over some of them."""
    state, reader = ClusterState(events=NoLog()), Reader()
    for node in nodes:
        state.add_node(node)
    names: dict[str, str] = {}
    apps: dict[str, list[str]] = {app: [] for app in APPS}

    async def resident(name: str, node: NodeSpec, cpu: int) -> None:
        app, second = rng.choice(APPS), rng.randrange(80_000)
        asks = {"cpu": f"{cpu}m", "memory": f"{rng.choice((1, 2))}Gi"}
        container = {"name": "c", "image": "x", "resources": {"requests": asks}}
        spec = {"nodeName": node.name, "containers": [container], "terminationGracePeriodSeconds": 0}
        spec["priorityClassName"] = rng.choice(sorted(PRIORITIES))
        made = await cluster.call("POST", PODS, {"metadata": {"name": name, "labels": {"app": app}}, "spec": spec})
        made["status"] = {"phase": "Running", "startTime": started_at(second)}
        made = await cluster.call("PUT", f"{PODS}/{name}/status", made)
        uid = made["metadata"]["uid"]
        names[uid] = name
        apps[app].append(uid)
        state.bind(uid, reader.spec(json.dumps(made).encode()), node.name, time_s=second)

    for i, node in enumerate(nodes):
        left, number = dict(node.allocatable)[CPU], 0
        while left >= 500:
            cpu = min(rng.choice((500, 700, 1000, 1500)), left)
            await resident(f"r{i}-{number}", node, cpu)
            left, number = left - cpu, number + 1
    budgets = []
    for app in rng.sample(APPS, rng.randrange(0, 3)):
        allowed = rng.randrange(0, 3)
        await budget(cluster, app, allowed)
        budgets.append(Budget(frozenset(apps[app]), allowed))
    return Case(state, reader, names, budgets)


async def add_priorities(cluster: Cluster) -> None:
    for name, value in (PRIORITIES | TOP).items():
        body = {"metadata": {"name": name}, "value": value}
        await cluster.call("POST", "/apis/scheduling.k8s.io/v1/priorityclasses", body)


async def budget(cluster: Cluster, app: str, allowed: int) -> None:
    """A PodDisruptionBudget with its status, as its controller would write it."""
    path = "/apis/policy/v1/namespaces/default/poddisruptionbudgets"
    spec = {"maxUnavailable": allowed, "selector": {"matchLabels": {"app": app}}}
    made = await cluster.call("POST", path, {"metadata": {"name": app}, "spec": spec})
    counts = {"disruptionsAllowed": allowed, "currentHealthy": 9, "desiredHealthy": 9 - allowed, "expectedPods": 9}
    made["status"] = {**counts, "observedGeneration": made["metadata"]["generation"]}
    await cluster.call("PUT", f"{path}/{app}/status", made)


async def preempt(cluster: Cluster, rng: random.Random) -> tuple[dict[str, Any], str]:
    """Create the pod that fits nowhere; it as made, and its node in the end ("" if nothing helped)."""
    asks = {"cpu": f"{rng.choice((800, 1200, 2000, 3000))}m", "memory": f"{rng.choice((1, 3))}Gi"}
    container = {"name": "c", "image": "x", "resources": {"requests": asks}}
    spec = {"containers": [container], "priorityClassName": rng.choice(("middle", "high", "top"))}
    made = await cluster.call("POST", PODS, {"metadata": {"name": "wanted"}, "spec": spec})
    for _ in range(600):
        seen = await cluster.call("GET", f"{PODS}/wanted")
        if seen["spec"].get("nodeName"):
            return made, seen["spec"]["nodeName"]
        messages = [c.get("message", "") for c in seen["status"].get("conditions") or ()]
        if any("preemption: 0/" in m for m in messages):
            return made, ""
        await asyncio.sleep(0.01)
    raise AssertionError(f"kube-scheduler neither placed nor gave up: {seen['status']}")


async def clear(cluster: Cluster) -> None:
    """Remove pods and budgets."""
    budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets"
    for app in APPS:
        await cluster.call("DELETE", f"{budgets}/{app}", ok=(200, 404))
    for pod in (await cluster.call("GET", PODS))["items"]:
        await cluster.delete(pod["metadata"]["name"])


def difference(case: Case, made: dict[str, Any], node: str, evicted: set[str]) -> str:
    """How the core would have done otherwise; empty if it would not."""
    spec = case.reader.spec(json.dumps(made).encode())
    plan = choose_victims(case.state, spec, budgets=case.budgets)
    if plan is None or not node:
        return "" if plan is None and not node else f"core {plan}, kube-scheduler {node!r} {evicted}"
    ours = _victims_on(case.state, spec, case.state.row_of[node], case.budgets)
    best = _victims_on(case.state, spec, case.state.row_of[plan.node], case.budgets)
    if ours is None or best is None or _harm(ours) != _harm(best):
        return f"kube-scheduler chose {node}, core {plan.node} {[case.names[u] for u in plan.victims]}"
    victims = {case.names[uid] for uid in ours[0].victims}
    return "" if victims == evicted else f"on {node} kube-scheduler evicted {sorted(evicted)}, core {sorted(victims)}"


@pytest.mark.timeout(1800)
async def test_kube_scheduler_evicts_whom_the_core_would_evict(plane: ControlPlane) -> None:
    differences: list[str] = []
    num_helped = 0
    async with cluster_of(plane) as cluster:
        await add_priorities(cluster)
        plane.start_scheduler([])
        offers = [((CPU, cpu), (MEMORY, 32 * GIB), (POD_COUNT, 20)) for cpu in (2000, 2000, 3000, 3000, 4000, 4000)]
        nodes = [NodeSpec(f"n{i}", offer) for i, offer in enumerate(offers)]
        await cluster.add_nodes(nodes)
        for seed in range(NUM_CASES):
            rng = random.Random(seed)
            case = await fill(cluster, nodes, rng)
            await asyncio.sleep(0.15)
            made, node = await preempt(cluster, rng)
            left = {pod["metadata"]["name"] for pod in (await cluster.call("GET", PODS))["items"]}
            found = difference(case, made, node, set(case.names.values()) - left)
            num_helped += bool(node)
            if found:
                differences.append(f"seed {seed}: {found}")
            await clear(cluster)
    print(f"{NUM_CASES} cases, preemption helped in {num_helped}, {len(differences)} differences")
    assert differences == [], "\n".join(differences[:8])
    assert num_helped > NUM_CASES / 2


@pytest.mark.skipif(VERSION < (1, 37), reason="kube-scheduler evicts for a resize in place from Kubernetes 1.37 on")
async def test_a_pod_with_a_share_of_a_device_grows_in_the_place_of_a_lesser_one(plane: ControlPlane) -> None:
    asks = {
        "low": PodSpec(((CPU, 2000), (MEMORY, GIB))),
        "high": PodSpec(((CPU, 3000), (MEMORY, GIB)), GpuRequest(1, 600)),
    }
    async with cluster_of(plane) as cluster:
        await add_priorities(cluster)
        await cluster.add_nodes([NodeSpec("n0", ((CPU, 4000), (MEMORY, 32 * GIB), (POD_COUNT, 20)), num_gpus=1)])
        made = {}
        for name, spec in asks.items():
            body = pod_json(name, spec, "n0", devices=int(spec.gpu is not None))
            body["spec"]["priorityClassName"] = name
            made[name] = await cluster.call("POST", PODS, body)
        ullage = Ullage(plane)
        ullage.start()
        plane.scheduler_options = ("--feature-gates=InPlacePodVerticalScalingSchedulerPreemption=true",)
        plane.start_scheduler(ullage.stanzas())
        waits = {"type": "PodResizePending", "status": "True", "reason": "Deferred"}
        made["high"]["status"] = {"phase": "Running", "conditions": [waits]}
        await cluster.call("PUT", f"{PODS}/high/status", made["high"])
        await cluster.until(lambda: set(cluster.pods) == {"high"}, 60, "it gives way to the one that waits to grow")
