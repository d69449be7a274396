"""docs/operate.md as a new user would walk it, against the real control plane: shadow, doctor, explain, decide, back.

Certificates come from the script that we ship, `ullage serve` and every command run as a user starts them.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import grpc
import yaml

from placement.nodes import NodeSpec
from placement.pods import GpuRequest, PodSpec
from placement.resources import CPU, MEMORY, PODS
from scheduler._pb import placement_pb2 as pb
from scheduler._pb import placement_pb2_grpc
from tests.e2e.control_plane import NAMESPACE, REPO, VERSION, ControlPlane, Ullage, free_port
from tests.e2e.drive import Cluster, cluster_of
from tests.e2e.test_security import apply_policy

GIB = 2**30
BATCHING = {"UD125"} if VERSION >= (1, 35) else set[str]()
"""An extender costs the default scheduler its batching, which there is from 1.35 on."""
SCRIPT = REPO / "manifests" / "kustomize" / "overlays" / "self-signed" / "make-certs.sh"


def ullage_command(*words: str) -> subprocess.CompletedProcess[str]:
    """A command as a user types it."""
    command = [sys.executable, "-m", "scheduler", *words]
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment)


class Installed:
    """Ullage over mTLS with records and gRPC, and the stanza as shipped."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane
        self.tls = plane.folder / "tls"
        subprocess.run(["sh", str(SCRIPT), NAMESPACE, "30", str(self.tls)], check=True, capture_output=True)
        self.records = str(plane.folder / "records.db")
        self.grpc_port, self.health_port = free_port(), free_port()
        self.ullage = Ullage(plane, mode="shadow", exempt_namespaces=["kube-system", NAMESPACE])
        files = {"tls_cert": "server.crt", "tls_key": "server.key", "client_ca": "ca.crt"}
        paths = {key: str(self.tls / name) for key, name in files.items()}
        self.ullage.settings["http"] |= {**paths, "health_port": self.health_port, "deadline_ms": 1000}
        self.ullage.settings["records"] = {"path": self.records}
        self.ullage.settings["grpc"] = {"port": self.grpc_port, **paths}
        self.config = plane.folder / "stanza.yaml"

    def start(self) -> None:
        """The service, then kube-scheduler with the shipped stanza; only addresses and paths are ours."""
        self.ullage.start(wait=False)
        self.plane.wait("ullage", self.is_ready)
        shipped = (REPO / "manifests" / "kustomize" / "overlays" / "default-scheduler" / "stanza.yaml").read_text()
        shipped = shipped.replace("https://ullage.ullage-system.svc:8443", f"https://127.0.0.1:{self.ullage.port}")
        for name, file in (("ca.crt", "ca.crt"), ("tls.crt", "client.crt"), ("tls.key", "client.key")):
            shipped = shipped.replace(f"/etc/kubernetes/ullage/{name}", str(self.tls / file))
        self.config.write_text(shipped.replace("300ms", "2s"))
        extenders: list[dict[str, Any]] = yaml.safe_load(self.config.read_text())["extenders"]
        self.plane.start_scheduler(extenders)

    def is_ready(self) -> bool:
        """By the health port, as a kubelet would ask."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.health_port}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)

    def doctor(self, *words: str) -> dict[str, Any]:
        """`ullage doctor --live` with the service account's rights."""
        settings = str(self.plane.folder / "ullage.json")
        kubeconfig = str(self.plane.service_account())
        given = ["--config", str(self.config), "--settings", settings, "--live", "--kubeconfig", kubeconfig]
        run = ullage_command("doctor", *given, "-o", "json", *words)
        assert run.returncode in (0, 1), run.stderr
        report: dict[str, Any] = json.loads(run.stdout)
        assert run.returncode == int(bool(report["findings"]))
        return report


def fleet(count: int) -> list[NodeSpec]:
    offer = ((CPU, 16_000), (MEMORY, 64 * GIB), (PODS, 110))
    return [NodeSpec(f"node-{i:02d}", offer, num_gpus=4) for i in range(count)]


async def make_pods(cluster: Cluster, prefix: str, count: int) -> None:
    """Pods, every third with a GPU share, and wait until all are bound."""
    for i in range(count):
        gpu = GpuRequest(1, 300) if i % 3 == 0 else None
        await cluster.create(f"{prefix}{i:02d}", PodSpec(((CPU, 500), (MEMORY, GIB)), gpu=gpu))
    await cluster.until(cluster.all_bound, 90, f"{prefix} bound")


async def records_settled(installed: Installed, count: int) -> None:
    """Until the records of ``count`` pods say where they were bound."""
    for _ in range(300):
        run = await asyncio.to_thread(
            ullage_command, "decisions", "list", "--records", installed.records, "--limit", "500", "-o", "json"
        )
        items = json.loads(run.stdout)["items"] if run.returncode == 0 else []
        if len({i["uid"] for i in items if i["final_node"]}) >= count:
            return
        await asyncio.sleep(0.2)
    raise AssertionError(f"records of {count} pods do not settle: {run.stdout[-500:]} {run.stderr[-500:]}")


async def ask(installed: Installed, cores: int) -> pb.ExplainResponse:
    """A question over gRPC with mutual TLS."""
    read = {name: (installed.tls / name).read_bytes() for name in ("ca.crt", "client.key", "client.crt")}
    credentials = grpc.ssl_channel_credentials(read["ca.crt"], read["client.key"], read["client.crt"])
    async with grpc.aio.secure_channel(f"localhost:{installed.grpc_port}", credentials) as channel:
        question = pb.PodQuestion(plain=pb.PlainPod(cpu_millicores=cores * 1000))
        return await placement_pb2_grpc.PlacementStub(channel).Explain(pb.ExplainRequest(question=question), timeout=10)


async def test_from_nothing_to_shadow_to_decide_and_back(plane: ControlPlane) -> None:
    installed = await asyncio.to_thread(Installed, plane)
    records = ["--records", installed.records]
    async with cluster_of(plane) as cluster:
        await cluster.add_nodes(fleet(6))
        await asyncio.to_thread(installed.start)

        await make_pods(cluster, "shadow", 12)
        await records_settled(installed, 12)
        run = await asyncio.to_thread(ullage_command, "shadow", "report", *records, "-o", "json")
        report = json.loads(run.stdout)
        assert report["pods"] == 12, run.stdout
        assert report["outcomes"]["agreed"] + report["outcomes"]["differed"] == 12

        found = await asyncio.to_thread(installed.doctor)
        assert {f["code"] for f in found["findings"]} == BATCHING, "only that the default scheduler loses batching"

        await label(installed, "score")
        await make_pods(cluster, "score", 6)
        await records_settled(installed, 18)
        assert {item["mode"] for item in listed(installed, "score")} <= {"score", "decide"}
        assert "score" in {item["mode"] for item in listed(installed, "score")}

        await label(installed, "decide")
        await make_pods(cluster, "decide", 12)
        await records_settled(installed, 30)
        decided = listed(installed, "decide", "--mode", "decide")
        assert len({item["uid"] for item in decided}) == 12
        assert listed(installed, "decide", "--differs") == []
        run = await asyncio.to_thread(
            ullage_command, "explain", "pod/decide05", "-n", "default", "--node", "node-05", *records
        )
        assert run.returncode == 0, run.stderr
        assert f"went to {cluster.node_of('decide05')}" in run.stdout
        assert "as chosen" in run.stdout
        assert "why not node-05?" in run.stdout

        told = await ask(installed, 15)
        assert told.decision.node
        full = await ask(installed, 17)
        assert [(r.reason, len(r.nodes)) for r in full.rejected] == [("Insufficient cpu", 6)]

        await label(installed, "off")
        await make_pods(cluster, "off", 4)
        assert listed(installed, "off") == [], "nothing is decided, and shares still get their devices"

        await label(installed, "decide")
        assert (await asyncio.to_thread(admin, installed, "/kill"))["killed"] is True
        await make_pods(cluster, "killed", 4)
        assert listed(installed, "killed") == []
        assert (await asyncio.to_thread(admin, installed, "/revive"))["killed"] is False
        await make_pods(cluster, "revived", 4)
        await records_settled(installed, 34)
        assert len(listed(installed, "revived", "--mode", "decide")) == 4
        assert cluster.wrongs == []


def listed(installed: Installed, prefix: str, *words: str) -> list[dict[str, Any]]:
    """Records of pods whose name begins so."""
    given = ["--records", installed.records, "--limit", "500", "-o", "json"]
    run = ullage_command("decisions", "list", *given, *words)
    assert run.returncode == 0, run.stderr
    return [item for item in json.loads(run.stdout)["items"] if item["name"].startswith(prefix)]


def admin(installed: Installed, path: str, *, posts: bool = True) -> dict[str, Any]:
    """A call of the loopback port, as `curl` in the walk makes it."""
    url = f"http://127.0.0.1:{installed.ullage.admin_port}{path}"
    with urllib.request.urlopen(urllib.request.Request(url, method="POST" if posts else "GET"), timeout=30) as answer:
        found: dict[str, Any] = json.loads(answer.read())
        return found


async def label(installed: Installed, mode: str) -> None:
    """`kubectl label --overwrite namespace default ullage.dev/mode=MODE`, and until it is in force."""
    body = {"metadata": {"labels": {"ullage.dev/mode": mode}}}
    kind = "application/merge-patch+json"
    await asyncio.to_thread(installed.plane.call, "PATCH", "/api/v1/namespaces/default", body, kind)
    async with asyncio.timeout(60):
        while (await asyncio.to_thread(admin, installed, "/mode", posts=False))["namespaces"] != {"default": mode}:
            await asyncio.sleep(0.05)


async def test_the_doctor_sees_what_is_broken_in_a_live_cluster(plane: ControlPlane, tmp_path: Path) -> None:
    installed = await asyncio.to_thread(Installed, plane)
    async with cluster_of(plane) as cluster:
        await cluster.add_nodes(fleet(2))
        await asyncio.to_thread(installed.start)
        await make_pods(cluster, "p", 3)

        def codes(*words: str) -> set[str]:
            return {f["code"] for f in installed.doctor(*words)["findings"]}

        role = await asyncio.to_thread(plane.call, "GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles/ullage")
        path = "/apis/rbac.authorization.k8s.io/v1/clusterroles/ullage"
        patch: list[dict[str, Any]] = [{"op": "remove", "path": "/rules/0"}]
        await asyncio.to_thread(plane.call, "PATCH", path, patch, "application/json-patch+json")
        assert "UD408" in await asyncio.to_thread(codes)
        patch = [{"op": "replace", "path": "/rules", "value": role["rules"]}]
        await asyncio.to_thread(plane.call, "PATCH", path, patch, "application/json-patch+json")
        wide = {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}
        patch = [{"op": "add", "path": "/rules/-", "value": wide}]
        await asyncio.to_thread(plane.call, "PATCH", path, patch, "application/json-patch+json")
        assert await asyncio.to_thread(codes) == BATCHING | {"UD409"}
        admin = ("--kubeconfig", str(plane.kubeconfig("admin", "admin-token")))
        assert "UD417" in await asyncio.to_thread(codes, *admin), "nobody guards who writes devices"
        await asyncio.to_thread(apply_policy, plane, "base/devices-policy.yaml")
        assert "UD417" not in await asyncio.to_thread(codes, *admin)
        await asyncio.to_thread(installed.ullage.end)
        assert "UD402" in await asyncio.to_thread(codes)
