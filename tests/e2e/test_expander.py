"""An autoscaler asks which group to grow: Kubernetes' own Go types over gRPC's Go client, and pods that wait on a real API.

Cluster Autoscaler's module is none that can be built here, so its client is repeated (``autoscaler.go``) and its scaling up
played: the nodes of the group that was named are made, and kube-scheduler binds the pods.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.e2e.control_plane import MODULE, NAMESPACE, ControlPlane, ControlPlaneError, Ullage, binaries, free_port
from tests.e2e.test_operate import SCRIPT

SOURCE = Path(__file__).with_name("autoscaler.go")
PRICES = "name,usd_per_hour\nsmall,0.20\nlarge,1.50\ngpu,4.00\n"
OFFERS = {
    "small": {"cpu": "4", "memory": "16Gi", "pods": "110"},
    "large": {"cpu": "32", "memory": "128Gi", "pods": "110"},
    "gpu": {"cpu": "16", "memory": "64Gi", "pods": "110", "nvidia.com/gpu": "4"},
}
Table = dict[str, Any]


def autoscaler() -> Path:
    """The client, built beside the control plane (ten seconds after that).

    Raises
    ------
    ControlPlaneError : the build fails.
    """
    built = binaries() / f"autoscaler-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]}"
    if not built.is_file():
        environment = {**os.environ, "GOFLAGS": "-buildvcs=false"}
        command = ["go", "build", "-o", f"{built}.{os.getpid()}", str(SOURCE)]
        done = subprocess.run(command, cwd=MODULE, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ControlPlaneError(f"building the autoscaler's client failed:\n{done.stderr[-3000:]}")
        Path(command[3]).rename(built)
    return built


def node(name: str, shape: str) -> Table:
    labels = {"node.kubernetes.io/instance-type": shape, "kubernetes.io/hostname": name}
    ready = {"type": "Ready", "status": "True"}
    offer = OFFERS[shape]
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "status": {"capacity": offer, "allocatable": offer, "conditions": [ready]},
    }


class Scene:
    """A cluster without nodes, ``ullage serve`` with the shipped certificates, and an autoscaler."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane, self.client = plane, autoscaler()
        self.tls, self.prices = plane.folder / "tls", plane.folder / "prices.csv"
        subprocess.run(["sh", str(SCRIPT), NAMESPACE, "30", str(self.tls)], check=True, capture_output=True)
        self.prices.write_text(PRICES)
        self.port = free_port()
        self.ullage = Ullage(plane, expander={"port": self.port, "prices": str(self.prices)})
        files = {"tls_cert": "server.crt", "tls_key": "server.key", "client_ca": "ca.crt"}
        self.ullage.settings["http"] |= {key: str(self.tls / name) for key, name in files.items()}
        self.ullage.start(wait=False)
        plane.start_scheduler([])

    def create(self, name: str, **requests: str) -> None:
        """A pod that waits."""
        container = {"name": "c", "image": "app:1", "resources": {"requests": requests, "limits": requests}}
        body = {"metadata": {"name": name}, "spec": {"containers": [container]}}
        self.plane.call("POST", "/api/v1/namespaces/default/pods", body)

    def pods(self) -> dict[str, Table]:
        """All of them, as the API has them."""
        return {p["metadata"]["name"]: p for p in self.plane.call("GET", "/api/v1/namespaces/default/pods")["items"]}

    def named(self, options: dict[str, tuple[int, list[str]]], *, new: bool = True) -> tuple[list[str], str]:
        """Group → nodes and for whom: the groups that the autoscaler keeps, and what it logs."""
        pods = self.pods()
        asked = {
            "URL": f"127.0.0.1:{self.port}",
            "Authority": str(self.tls / "ca.crt"),
            "New": new,
            "Options": [
                {"Group": group, "Count": count, "Pods": [pods[name] for name in names]}
                for group, (count, names) in options.items()
            ],
            "Nodes": {f"pool-{shape}": node("template", shape) for shape in OFFERS},
        }
        command = [str(self.client)]
        done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, check=True, timeout=60)
        return done.stdout.split(), done.stderr

    def is_answering(self) -> bool:
        """Once its process has loaded what it needs; until then it is late at most."""
        groups, said = self.named({"pool-small": (1, list(self.pods()))})
        return bool(groups) and not said

    def grow(self, group: str, count: int) -> None:
        """As a cloud would."""
        shape = group.removeprefix("pool-")
        for number in range(count):
            body = node(f"{shape}-{number}", shape)
            self.plane.call("POST", "/api/v1/nodes", body)
            path = f"/api/v1/nodes/{shape}-{number}/status"
            self.plane.call("PATCH", path, {"status": body["status"]}, "application/merge-patch+json")

    def are_bound(self, names: list[str]) -> bool:
        """Whether all of these are on nodes."""
        pods = self.pods()
        return all(pods[name]["spec"].get("nodeName") for name in names)


def test_an_autoscaler_buys_what_the_purchase_would(plane: ControlPlane) -> None:
    scene = Scene(plane)
    web = [f"web-{number}" for number in range(4)]
    for name in web:
        scene.create(name, cpu="1500m", memory="2Gi")
    plane.wait("ullage", scene.is_answering)

    options = {"pool-large": (1, web), "pool-small": (2, web)}
    for new in (False, True):
        assert scene.named(options, new=new) == (["pool-small"], ""), "the one node of the other group is dearer"

    scene.create("training", cpu="2", memory="8Gi", **{"nvidia.com/gpu": "1"})
    options = {"pool-small": (2, web), "pool-gpu": (1, [*web, "training"])}
    assert scene.named(options) == (["pool-gpu"], ""), "it must be bought for the training, and has room for all"
    scene.grow("pool-gpu", 1)
    plane.wait("kube-scheduler", lambda: scene.are_bound([*web, "training"]))

    scene.prices.write_text(PRICES.replace("gpu,", "another,"))
    groups, said = scene.named(options)
    assert groups == list(options), "the next expander decides"
    assert "no price of group pool-gpu (gpu)" in said
    log = plane.log_of("ullage")
    assert '"groups": "pool-gpu"' in log
    assert '"outcome": "no price"' in log


def test_an_autoscaler_goes_on_whose_question_was_cut_off(plane: ControlPlane) -> None:
    scene = Scene(plane)
    scene.create("web", cpu="1")
    plane.wait("ullage", scene.is_answering)
    scene.prices.unlink()
    os.mkfifo(scene.prices)
    with ThreadPoolExecutor(1) as asking:
        asked = asking.submit(scene.named, {"pool-small": (1, ["web"]), "pool-large": (1, ["web"])})
        with scene.prices.open("w"):  # it is being answered from now on
            scene.ullage.end(signal.SIGKILL)
            groups, said = asked.result()
    assert groups == ["pool-small", "pool-large"], "the next expander decides"
    assert "Unavailable" in said, "at once, not when its five seconds are over"
    scene.prices.unlink()
    scene.prices.write_text(PRICES)
    scene.ullage.start(wait=False)
    plane.wait("ullage", scene.is_answering)
    assert scene.named({"pool-small": (1, ["web"]), "pool-large": (1, ["web"])}) == (["pool-small"], "")
