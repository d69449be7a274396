"""Live batches on a real control plane: gate, solve, nominate, lift; and every way in which that can be cut short."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from placement import gangs
from placement.nodes import NodeSpec
from placement.pods import GpuRequest, PodSpec
from placement.resources import CPU, DEVICES_ANNOTATION, MEMORY, PODS
from scheduler.gates import GATE, NODE_ANNOTATION, PLANNED_DEVICES_ANNOTATION
from tests.e2e.control_plane import REPO, VERSION, ControlPlane, Ullage, needs_admission_policies
from tests.e2e.drive import PATIENCE, Cluster, cluster_of, pod_json
from tests.e2e.drive import PODS as PATH

GIB = 2**30
NUM_NODES = int(os.environ.get("ULLAGE_NOMINATE_NODES", "200"))
NUM_PODS = int(os.environ.get("ULLAGE_NOMINATE_PODS", "300"))
QPS = int(os.environ.get("ULLAGE_NOMINATE_QPS", "2000"))
"""Requests a second that kube-scheduler allows itself; 50 is its own default, which would hide what a pod costs."""
GANG_LABEL = "scheduling.x-k8s.io/pod-group"
PLAN = {"enabled": True, "gate_deadline_s": 20, "gang_deadline_s": 30, "nomination_deadline_s": 10}


def node(name: str, cores: int = 8) -> NodeSpec:
    amounts = {CPU: cores * 1000, MEMORY: 4 * cores * GIB, PODS: 110}
    return NodeSpec(name, tuple(sorted(amounts.items())))


def pod(name: str, cores: float = 0.5, *, gated: bool = True, gang: str = "", size: int = 0) -> dict[str, Any]:
    """A pod as its author writes it, behind our gate."""
    body = pod_json(name, PodSpec(((CPU, int(cores * 1000)), (MEMORY, GIB))))
    if gated:
        body["spec"]["schedulingGates"] = [{"name": GATE}]
    if gang:
        body["metadata"]["labels"] = {GANG_LABEL: gang}
        body["metadata"]["annotations"] = {gangs.SIZE: str(size)}
    return body


async def create(cluster: Cluster, pods: list[dict[str, Any]]) -> None:
    await cluster.many(("POST", PATH, body) for body in pods)


def grant(plane: ControlPlane, file: str) -> None:
    """Apply a file of the component ``plan``, RBAC only."""
    text = (REPO / "manifests" / "kustomize" / "components" / "plan" / file).read_text()
    for document in yaml.safe_load_all(text):
        kind = document["kind"]
        if kind.startswith("ClusterRole"):
            plane.call("POST", f"/apis/rbac.authorization.k8s.io/v1/{kind.lower()}s", document)
        elif kind == "ServiceAccount":
            plane.call("POST", "/api/v1/namespaces/ullage-system/serviceaccounts", document)


def apply_policy(plane: ControlPlane, scheduler: str) -> None:
    """The admission policy of the component ``plan``, for a kube-scheduler of this name."""
    text = (REPO / "manifests" / "kustomize" / "components" / "plan" / "policy.yaml").read_text()
    for document in yaml.safe_load_all(
        text.replace('"/spec/schedulerName", value: "ullage-scheduler"', f'"/spec/schedulerName", value: "{scheduler}"')
    ):
        plural = {"MutatingAdmissionPolicy": "mutatingadmissionpolicies"}.get(
            document["kind"], "mutatingadmissionpolicybindings"
        )
        plane.call("POST", f"/apis/admissionregistration.k8s.io/v1/{plural}", document)


def label_namespace(plane: ControlPlane, name: str, planned: bool) -> None:
    """Have a namespace's pods planned or not, and wait until the admission policy knows (asked by dry runs)."""
    end = time.monotonic() + 60 * PATIENCE
    labels = {"ullage.dev/plan": "enabled" if planned else None}
    path = f"/api/v1/namespaces/{name}"
    plane.call("PATCH", path, {"metadata": {"labels": labels}}, content_type="application/merge-patch+json")
    body = pod("asked", gated=False)
    body["metadata"]["namespace"] = name
    while bool(plane.call("POST", f"{path}/pods?dryRun=All", body)["spec"].get("schedulingGates")) != planned:
        assert time.monotonic() < end, "the policy takes effect"
        time.sleep(0.2)


def planner(plane: ControlPlane, name: str = "ullage", **plan: Any) -> Ullage:
    return Ullage(plane, name, plan={**PLAN, **plan})


def planned(body: dict[str, Any]) -> str:
    return str((body["metadata"].get("annotations") or {}).get(NODE_ANNOTATION, ""))


def left_behind(cluster: Cluster) -> list[str]:
    """Pods that are gated or nominated and not bound."""
    return [
        name
        for name, body in cluster.pods.items()
        if not body["spec"].get("nodeName")
        and (body["spec"].get("schedulingGates") or body["status"].get("nominatedNodeName"))
    ]


def sweeper(plane: ControlPlane, *options: str) -> str:
    """``ullage sweep`` with the rights of its own service account."""
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
    path = "/api/v1/namespaces/ullage-system/serviceaccounts/ullage-sweeper/token"
    config = plane.kubeconfig("sweeper", plane.call("POST", path, request)["status"]["token"])
    command = [sys.executable, "-m", "scheduler", "sweep", "--kubeconfig", str(config), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def cpu_s(cluster: Cluster) -> dict[str, float]:
    """CPU seconds of each process of the run so far, those that it started included; ``test`` is this process."""
    parent, used, names = {}, {}, {os.getpid(): "test"}
    names |= {process.pid: name for name, process in cluster.plane.processes.items()}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            pid = int(path.parent.name)
            parent[pid], used[pid] = int(fields[1]), (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    total = dict.fromkeys(names.values(), 0.0)
    for pid, seconds in used.items():
        owner = pid
        while owner and owner not in names:
            owner = parent.get(owner, 0)
        if owner:
            total[names[owner]] += seconds
    return total


async def timed(cluster: Cluster, pods: list[dict[str, Any]]) -> tuple[float, dict[str, float]]:
    """Pods per second from the first creation to the last binding, and CPU milliseconds per pod by process."""
    began, before = time.monotonic(), cpu_s(cluster)
    await create(cluster, pods)
    names = {body["metadata"]["name"] for body in pods}
    await cluster.until(lambda: names.issubset(cluster.bound), 240, "every pod is bound")
    rate = len(pods) / (time.monotonic() - began)
    used = cpu_s(cluster)
    return rate, {name: round(1000 * (used[name] - before.get(name, 0.0)) / len(pods), 2) for name in used}


def test_every_pod_lands_on_its_nominated_node_about_as_fast_as_stock(plane: ControlPlane) -> None:
    async def run() -> None:
        async with cluster_of(plane) as cluster:
            grant(plane, "rbac.yaml")
            await cluster.add_nodes(node(f"n{i}") for i in range(NUM_NODES))
            ullage = planner(plane)
            ullage.start()
            plane.start_scheduler([], percentage=0, qps=QPS)
            if has_policies := VERSION >= (1, 36):
                apply_policy(plane, "default-scheduler")
            await timed(cluster, [pod("warm-gated")])
            await timed(cluster, [pod("warm", gated=False)])
            rates: dict[str, list[float]] = {"stock": [], "nominate": []}
            cpu: dict[str, list[dict[str, float]]] = {"stock": [], "nominate": []}
            for turn in range(4):
                kind = ("stock", "nominate", "nominate", "stock")[turn]
                if has_policies:
                    label_namespace(plane, "default", kind == "nominate")
                gated = kind == "nominate" and not has_policies
                bodies = [pod(f"{kind}-{turn}-{i}", 0.1, gated=gated) for i in range(NUM_PODS)]
                rate, used = await timed(cluster, bodies)
                rates[kind].append(rate)
                cpu[kind].append(used)
                if kind == "nominate":
                    done = [cluster.pods[b["metadata"]["name"]] for b in bodies]
                    astray = [b["metadata"]["name"] for b in done if b["spec"]["nodeName"] != planned(b)]
                    assert not astray, f"{len(astray)} of {NUM_PODS} left the plan"
            mean = {kind: sum(found) / len(found) for kind, found in rates.items()}
            used_ms = {
                kind: {name: round(sum(turn[name] for turn in found) / len(found), 2) for name in found[0]}
                for kind, found in cpu.items()
            }
            print(json.dumps({"nodes": NUM_NODES, "pods": NUM_PODS, "qps": QPS, "pods_per_s": rates,
                              "ratio": mean["nominate"] / mean["stock"],
                              "cpu_ms_per_pod": used_ms}))  # fmt: skip
            print(
                "\n".join(
                    li
                    for li in ullage.get("/metrics").splitlines()
                    if li.startswith("ullage_plan") and "bucket" not in li
                )
            )
            assert not cluster.wrongs
            assert not left_behind(cluster)
            await cluster.ledger_agrees(ullage)

    asyncio.run(run())


def test_a_gang_is_nominated_whole_or_not_at_all(plane: ControlPlane) -> None:
    async def run() -> None:
        async with cluster_of(plane) as cluster:
            grant(plane, "rbac.yaml")
            await cluster.add_nodes(node(f"n{i}") for i in range(16))
            planner(plane).start()
            plane.start_scheduler([])
            gang = [pod(f"g{i}", 1, gang="g", size=64) for i in range(64)]
            await create(cluster, gang[:63])
            await create(cluster, [pod("alone")])
            await cluster.until(lambda: bool(cluster.node_of("alone")), 60, "a pod without a gang does not wait")
            assert not any(cluster.node_of(f"g{i}") for i in range(63)), "a gang that lacks a member waits"
            await create(cluster, gang[63:])
            await cluster.until(cluster.all_bound, 60, "the gang is whole")
            assert all(b["spec"]["nodeName"] == planned(b) for b in cluster.pods.values())
            await create(cluster, [pod(f"h{i}", 1, gang="h", size=64) for i in range(64)])
            await asyncio.sleep(8)
            assert not any(cluster.node_of(f"h{i}") for i in range(64)), "63 of 64 fit, so none may start"
            assert all(not cluster.pods[f"h{i}"]["status"].get("nominatedNodeName") for i in range(64))

    asyncio.run(run())


def gpu_pod(
    name: str, milli: int, count: int = 1, *, gated: bool = True, gang: str = "", size: int = 0
) -> dict[str, Any]:
    """A pod that asks for devices, behind our gate."""
    asked = pod_json(name, PodSpec(((CPU, 100), (MEMORY, GIB)), gpu=GpuRequest(count, milli)))
    marked = pod(name, gated=gated, gang=gang, size=size)
    asked["spec"]["schedulingGates"] = marked["spec"].get("schedulingGates", [])
    for field in ("labels", "annotations"):
        both = {**(asked["metadata"].get(field) or {}), **(marked["metadata"].get(field) or {})}
        asked["metadata"][field] = both
    return asked


def test_planned_pods_get_the_devices_that_were_kept_for_them(plane: ControlPlane) -> None:
    """Shares that fill devices in pairs, a gang of whole devices, and pods without a gate that ask for shares meanwhile."""

    async def run() -> None:
        async with cluster_of(plane) as cluster:
            grant(plane, "rbac.yaml")
            offer = tuple(sorted({CPU: 16_000, MEMORY: 64 * GIB, PODS: 110}.items()))
            await cluster.add_nodes(NodeSpec(f"n{i}", offer, num_gpus=4) for i in range(5))
            ullage = planner(plane)
            ullage.start()
            plane.start_scheduler(ullage.stanzas())
            gang = [gpu_pod(f"g{i}", 1000, 2, gang="g", size=3) for i in range(3)]
            shares = [gpu_pod(f"s{i}-{milli}", milli) for i in range(8) for milli in (600, 400)]
            loose = [gpu_pod(f"l{i}", 500, gated=False) for i in range(4)]
            await create(cluster, [*gang, *shares, *loose])
            await cluster.until(
                cluster.all_bound, 90, "everything fits: 6 devices whole, 8 shared, 4 in halves at most"
            )
            used: dict[tuple[str, str], int] = {}
            for name, body in cluster.pods.items():
                marks = body["metadata"]["annotations"]
                milli = 1000 if name.startswith("g") else 500 if name.startswith("l") else int(name[-3:])
                for index in marks[DEVICES_ANNOTATION].split(","):
                    key = body["spec"]["nodeName"], index
                    used[key] = used.get(key, 0) + milli
            assert max(used.values()) <= 1000
            kept = [body["metadata"]["annotations"] for name, body in cluster.pods.items() if not name.startswith("l")]
            assert all(marks[PLANNED_DEVICES_ANNOTATION] for marks in kept)
            as_planned = [marks for marks in kept if marks[PLANNED_DEVICES_ANNOTATION] == marks[DEVICES_ANNOTATION]]
            print(f"{len(as_planned)} of {len(kept)} with the devices of their plan")
            homes = [body for body in cluster.pods.values() if planned(body) == body["spec"]["nodeName"]]
            assert len(homes) >= len(as_planned) > 0
            assert not left_behind(cluster)
            await cluster.ledger_agrees(ullage)

    asyncio.run(run())


async def half_delivered(cluster: Cluster) -> Ullage:
    """A planner in the middle of 200 pods: some have their nomination, others still our gate."""
    grant(cluster.plane, "rbac.yaml")
    await cluster.add_nodes(node(f"n{i}") for i in range(40))
    ullage = planner(cluster.plane, width=2)
    ullage.start()
    await create(cluster, [pod(f"p{i}") for i in range(200)])
    await cluster.until(lambda: any(planned(b) for b in cluster.pods.values()), 60, "the batch is delivered")
    return ullage


def test_a_planner_killed_in_a_batch_leaves_nothing_to_the_next_but_work(plane: ControlPlane) -> None:
    async def run() -> None:
        async with cluster_of(plane) as cluster:
            ullage = await half_delivered(cluster)
            plane.start_scheduler([])
            ullage.end(signal.SIGKILL)
            assert any(b["spec"].get("schedulingGates") for b in cluster.pods.values()), "killed in the middle"
            planner(plane, "second").start()
            await cluster.until(cluster.all_bound, 90, "the next planner finishes")
            assert not cluster.wrongs
            assert not left_behind(cluster)

    asyncio.run(run())


def test_the_planning_process_killed_in_a_batch_is_started_anew_and_answers_go_on(plane: ControlPlane) -> None:
    async def run() -> None:
        async with cluster_of(plane) as cluster:
            ullage = await half_delivered(cluster)
            plane.start_scheduler(ullage.stanzas())
            serving = plane.processes["ullage"].pid
            (planning,) = Path(f"/proc/{serving}/task/{serving}/children").read_text().split()
            os.kill(int(planning), signal.SIGKILL)
            assert any(b["spec"].get("schedulingGates") for b in cluster.pods.values()), "killed in the middle"
            await create(cluster, [pod("plain", gated=False)])
            await cluster.until(cluster.all_bound, 90, "the next planning process finishes")
            assert plane.processes["ullage"].poll() is None
            assert "ullage_planner_starts_total 2.0" in ullage.get("/metrics")
            assert not cluster.wrongs
            assert not left_behind(cluster)
            await cluster.ledger_agrees(ullage)

    asyncio.run(run())


def test_the_sweeper_frees_pods_when_no_replica_lives(plane: ControlPlane) -> None:
    async def run() -> None:
        async with cluster_of(plane) as cluster:
            for file in ("rbac.yaml", "sweeper.yaml"):
                grant(plane, file)
            await cluster.add_nodes(node(f"n{i}") for i in range(10))
            ullage = planner(plane, width=1)
            ullage.start()
            await create(cluster, [pod(f"p{i}") for i in range(60)])
            await cluster.until(lambda: any(planned(b) for b in cluster.pods.values()), 60, "the batch is delivered")
            ullage.end(signal.SIGKILL)
            assert "0 gates lifted, 0 nominations cleared" in await asyncio.to_thread(sweeper, plane)
            print(await asyncio.to_thread(sweeper, plane, "--deadline", "1"))
            await cluster.until(lambda: not left_behind(cluster), 30, "no gate and no nomination is left")
            plane.start_scheduler([])
            await cluster.until(cluster.all_bound, 60, "stock kube-scheduler places them")
            assert not cluster.wrongs

    asyncio.run(run())


def test_a_node_filled_by_somebody_else_and_an_api_outage_strand_no_pod(plane: ControlPlane) -> None:
    async def run() -> None:
        async with cluster_of(plane) as cluster:
            grant(plane, "rbac.yaml")
            await cluster.add_nodes([node("full", 4)])
            planner(plane).start()
            await create(cluster, [pod("p", 3)])
            await cluster.until(lambda: "p" in cluster.pods and planned(cluster.pods["p"]) == "full", 60, "nominated")
            await create(cluster, [pod("thief", 3, gated=False)])
            binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "thief"},
                       "target": {"apiVersion": "v1", "kind": "Node", "name": "full"}}  # fmt: skip
            await cluster.call("POST", f"{PATH}/thief/binding", binding)
            plane.start_scheduler([])
            await cluster.until(lambda: not left_behind(cluster), 60, "the nomination is cleared")
            assert not cluster.node_of("p")
            plane.end("kube-apiserver", signal.SIGKILL)
            await asyncio.to_thread(plane.start_api)
            await asyncio.sleep(1)  # connections that the old server left are noticed
            await cluster.add_nodes(node(f"n{i}") for i in range(10))
            await create(cluster, [pod(f"q{i}") for i in range(40)])
            await cluster.until(cluster.all_bound, 90, "planning goes on after the outage")
            assert not cluster.wrongs
            assert not left_behind(cluster)

    asyncio.run(run())


@needs_admission_policies
def test_the_admission_policy_sets_gate_and_scheduler_by_namespace_label(plane: ControlPlane) -> None:
    apply_policy(plane, "ullage-scheduler")
    plane.call("POST", "/api/v1/namespaces", {"metadata": {"name": "batch"}})
    label_namespace(plane, "batch", True)

    def made(namespace: str, body: dict[str, Any], query: str = "", method: str = "POST") -> dict[str, Any]:
        body["metadata"]["namespace"] = namespace
        path = f"/api/v1/namespaces/{namespace}/pods"
        if method == "POST":
            return plane.call("POST", path + query, body)
        path = f"{path}/{body['metadata']['name']}{query}"
        return plane.call(method, path, body, content_type="application/apply-patch+yaml")

    ours = made("batch", pod("ours", gated=False))
    assert ours["spec"]["schedulingGates"] == [{"name": GATE}]
    assert ours["spec"]["schedulerName"] == "ullage-scheduler"
    other = made("default", pod("other", gated=False))
    assert not other["spec"].get("schedulingGates")
    assert other["spec"]["schedulerName"] == "default-scheduler"

    placed, foreign = pod("placed", gated=False), pod("foreign", gated=False)
    placed["spec"]["nodeName"], foreign["spec"]["schedulerName"] = "n0", "another-scheduler"
    for body in (placed, foreign):  # a gate would have the first refused
        left = made("batch", body)
        assert not left["spec"].get("schedulingGates")
        assert left["spec"]["schedulerName"] != "ullage-scheduler"
        assert left["metadata"]["managedFields"], "of what is not ours nothing is left out"

    another = pod("gated", gated=False)
    another["spec"]["schedulingGates"] = [{"name": "example.com/quota"}]
    assert [gate["name"] for gate in made("batch", another)["spec"]["schedulingGates"]] == ["example.com/quota", GATE]
    assert made("batch", pod("twice"))["spec"]["schedulingGates"] == [{"name": GATE}], "a gate of ours is not set twice"

    # Who owns which field costs a quarter of what planning does in the API server: written only of what is applied.
    assert other["metadata"]["managedFields"]
    assert not ours["metadata"].get("managedFields")
    query = "?fieldManager=somebody&force=true"
    applied = made("batch", pod("applied", gated=False), query, "PATCH")
    assert [entry["manager"] for entry in applied["metadata"]["managedFields"]] == ["somebody"]
    assert applied["spec"]["schedulingGates"] == [{"name": GATE}]
    label = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ours", "labels": {"a": "b"}}}
    managers = [entry["manager"] for entry in made("batch", label, query, "PATCH")["metadata"]["managedFields"]]
    assert sorted(managers) == ["before-first-apply", "somebody"], "ownership begins with the first apply"


pytestmark = pytest.mark.timeout(1200)
