"""A real etcd, kube-apiserver and kube-scheduler on free loopback ports, built from Go modules.

One Go module pins everything; nothing but Go modules is downloaded, and no container engine is needed. The
binaries are built once per pin and kept in a cache. Authorisation is RBAC with our own manifests, and
``ullage serve`` runs as its service account, as it would in a cluster.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml

REPO = Path(__file__).resolve().parents[2]
MODULE = Path(__file__).resolve().parent / os.environ.get("ULLAGE_E2E_MODULE", "go")
"""Pins of one minor version; ``go-oldest`` and ``go-newest`` have those of the oldest and newest that we support."""
VERSION = tuple(map(int, re.findall(r"\bk8s\.io/kubernetes v(\d+)\.(\d+)", (MODULE / "go.mod").read_text())[0]))
"""Kubernetes' minor version."""
needs_admission_policies = pytest.mark.skipif(
    VERSION < (1, 36), reason="MutatingAdmissionPolicy is served in its version v1 from Kubernetes 1.36 on"
)
TOOLS = {
    "etcd": "go.etcd.io/etcd/server/v3",
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
    "kube-scheduler": "k8s.io/kubernetes/cmd/kube-scheduler",
}
GO_NAMES = {"etcd": "server"}
NAMESPACE = "ullage-system"
GPU_SHARE = "ullage.dev/gpu-milli"
READY_S = 300
"""Generous: a machine that is busy with other things is slow, and that is no failure."""
GUARD = """
import os, signal, sys
running = set()
for line in sys.stdin:
    word, pid = line.split()
    (running.add if word == "started" else running.discard)(int(pid))
for pid in running:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
"""
"""Ends what is left when the tests themselves were killed: then its standard input closes."""


class ControlPlaneError(Exception):
    """The control plane cannot be built or started."""


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def binaries() -> Path:
    """Folder of the three binaries, built if this pin was not built before (four minutes cold on two cores).

    Raises
    ------
    ControlPlaneError : there is no Go, or the build fails.
    """
    pin = hashlib.sha256((MODULE / "go.mod").read_bytes() + (MODULE / "go.sum").read_bytes()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ullage" / "control-plane" / pin
    if all((cache / name).is_file() for name in TOOLS):
        return cache
    if shutil.which("go") is None:
        raise ControlPlaneError("`go` is not installed; the end-to-end tests build etcd and Kubernetes from Go modules")
    staging = cache.with_suffix(f".{os.getpid()}")
    staging.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "GOBIN": str(staging), "GOFLAGS": "-buildvcs=false"}
    built = subprocess.run(
        ["go", "install", *TOOLS.values()], cwd=MODULE, env=environment, capture_output=True, text=True, check=False
    )
    if built.returncode:
        raise ControlPlaneError(f"building the control plane failed:\n{built.stderr[-3000:]}")
    for name, go_name in GO_NAMES.items():
        (staging / go_name).rename(staging / name)
    shutil.rmtree(cache, ignore_errors=True)
    staging.rename(cache)
    return cache


class ControlPlane:
    """One cluster in ``folder``. Everything it starts ends with :meth:`stop`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = binaries()
        self.api_options: tuple[str, ...] = ()
        """More of the API server's, from its next start on."""
        self.scheduler_options: tuple[str, ...] = ()
        """The same, of kube-scheduler's."""
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._guard = subprocess.Popen([sys.executable, "-c", GUARD], stdin=subprocess.PIPE, start_new_session=True)
        self.etcd_port, self.peer_port, self.api_port = free_port(), free_port(), free_port()

    # ── processes ─────────────────────────────────────────────────────────────────────────────

    def spawn(self, name: str, *command: str) -> subprocess.Popen[bytes]:
        """Start a process whose output goes to ``NAME.log``; replaces an earlier one of that name."""
        self.end(name)
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder)
        self.processes[name] = process
        self._tell_guard("started", process)
        return process

    def _tell_guard(self, word: str, process: subprocess.Popen[bytes]) -> None:
        assert self._guard.stdin is not None, "the guard was given a pipe"
        self._guard.stdin.write(f"{word} {process.pid}\n".encode())
        self._guard.stdin.flush()

    def end(self, name: str, number: int = signal.SIGTERM) -> None:
        """End a process of ours, if it runs."""
        process = self.processes.pop(name, None)
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(number)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._tell_guard("ended", process)

    def stop(self) -> None:
        """End everything, at once: an API server with open watches would take its time."""
        for name in list(self.processes)[::-1]:
            self.end(name, signal.SIGKILL)
        self._guard.communicate()

    def log_of(self, name: str) -> str:
        """The end of a process's output, for messages."""
        path = self.folder / f"{name}.log"
        return path.read_text(errors="replace")[-3000:] if path.exists() else ""

    # ── the control plane ─────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """etcd and API server, our RBAC applied."""
        for args in (("genrsa", "-out", "sa.key", "2048"), ("rsa", "-in", "sa.key", "-pubout", "-out", "sa.pub")):
            subprocess.run(["openssl", *args], cwd=self.folder, check=True, capture_output=True)
        (self.folder / "tokens.csv").write_text(
            'admin-token,admin,admin,"system:masters"\nscheduler-token,system:kube-scheduler,scheduler\n'
        )
        self.start_etcd()
        self.start_api()
        self.call("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
        self.apply_rbac()

    def start_etcd(self) -> None:
        """Start (again) on the same data."""
        client, peer = f"http://127.0.0.1:{self.etcd_port}", f"http://127.0.0.1:{self.peer_port}"
        self.spawn(
            "etcd", str(self.bin / "etcd"), "--data-dir", str(self.folder / "etcd"), "--unsafe-no-fsync",
            "--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer,
            "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}", "--log-level", "warn",
        )  # fmt: skip

    def start_api(self) -> None:
        """Start (again) and wait until it is ready."""
        self.spawn(
            "kube-apiserver", str(self.bin / "kube-apiserver"), f"--etcd-servers=http://127.0.0.1:{self.etcd_port}",
            f"--secure-port={self.api_port}", "--bind-address=127.0.0.1", f"--cert-dir={self.folder}/certs",
            "--service-account-issuer=https://kubernetes.default.svc", "--authorization-mode=RBAC",
            f"--service-account-key-file={self.folder}/sa.pub", f"--token-auth-file={self.folder}/tokens.csv",
            f"--service-account-signing-key-file={self.folder}/sa.key", "--service-cluster-ip-range=10.0.0.0/24",
            "--disable-admission-plugins=ServiceAccount,TaintNodesByCondition", "--etcd-compaction-interval=0",
            "--max-requests-inflight=4000", "--max-mutating-requests-inflight=2000",
            *self.api_options,
        )  # fmt: skip
        self.wait("kube-apiserver", lambda: self.call("GET", "/readyz") == "ok")

    def wait(self, name: str, is_ready: Any) -> None:
        """Until ``is_ready()``; raises with the process's last words if it ends or takes too long."""
        end = time.monotonic() + READY_S
        while True:
            try:
                if is_ready():
                    return
            except (OSError, urllib.error.URLError):
                pass
            process = self.processes.get(name)
            if time.monotonic() > end or (process is not None and process.poll() is not None):
                raise ControlPlaneError(f"{name} did not become ready:\n{self.log_of(name)}")
            time.sleep(0.1)

    def call(
        self, method: str, path: str, body: Any = None, content_type: str = "application/json", *, user: str = ""
    ) -> Any:
        """One request as administrator, or in the name of ``user``; decoded JSON, or text."""
        headers = {"Authorization": "Bearer admin-token", "Content-Type": content_type}
        request = urllib.request.Request(
            f"https://127.0.0.1:{self.api_port}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers=headers | ({"Impersonate-User": user} if user else {}),
        )
        context = ssl._create_unverified_context()
        with urllib.request.urlopen(request, context=context, timeout=30) as answer:
            text = answer.read().decode()
        return json.loads(text) if text.startswith("{") else text

    def apply_rbac(self) -> None:
        """The rights that our manifests ask for, nothing more."""
        groups = {"ServiceAccount": "/api/v1", "default": "/apis/rbac.authorization.k8s.io/v1"}
        text = (REPO / "manifests" / "kustomize" / "base" / "rbac.yaml").read_text()
        for document in yaml.safe_load_all(text):
            kind = document["kind"]
            prefix = groups.get(kind, groups["default"])
            scope = "" if kind.startswith("Cluster") else f"/namespaces/{NAMESPACE}"
            self.call("POST", f"{prefix}{scope}/{kind.lower()}s", document)

    def kubeconfig(self, name: str, token: str) -> Path:
        """A kubeconfig that trusts the API server's certificate."""
        path = self.folder / f"{name}.kubeconfig"
        cluster = {
            "server": f"https://127.0.0.1:{self.api_port}",
            "certificate-authority": str(self.folder / "certs" / "apiserver.crt"),
        }
        path.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [{"name": "c", "cluster": cluster}],
                    "users": [{"name": "u", "user": {"token": token}}],
                    "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                    "current-context": "x",
                }
            )
        )
        return path

    def service_account(self) -> Path:
        """A kubeconfig with a fresh token of our service account."""
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": 7200},
        }
        answer = self.call("POST", f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/ullage/token", request)
        return self.kubeconfig("ullage", answer["status"]["token"])

    def start_scheduler(self, extenders: list[dict[str, Any]], percentage: int = 100, qps: int = 2000) -> None:
        """kube-scheduler with these extenders; ``qps``: requests a second that it allows itself (its own default: 50)."""
        kubeconfig = str(self.kubeconfig("scheduler", "scheduler-token"))
        path = self.folder / "scheduler.json"
        path.write_text(
            json.dumps(
                {
                    "apiVersion": "kubescheduler.config.k8s.io/v1",
                    "kind": "KubeSchedulerConfiguration",
                    "leaderElection": {"leaderElect": False},
                    "clientConnection": {"kubeconfig": kubeconfig, "qps": qps, "burst": 2 * qps},
                    "percentageOfNodesToScore": percentage,
                    "podInitialBackoffSeconds": 1,
                    "podMaxBackoffSeconds": 1,
                    "extenders": extenders,
                }
            )
        )
        self.spawn(
            "kube-scheduler", str(self.bin / "kube-scheduler"), f"--config={path}", "--bind-address=127.0.0.1",
            f"--secure-port={free_port()}", f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}", *self.scheduler_options,
        )  # fmt: skip


class Ullage:
    """``ullage serve`` beside a control plane, as a user starts it."""

    def __init__(self, plane: ControlPlane, name: str = "ullage", **settings: Any) -> None:
        self.plane = plane
        self.name = name
        self.port, self.admin_port = free_port(), free_port()
        self.program = ["-m", "scheduler"]
        http = {"host": "127.0.0.1", "port": self.port, "admin_port": self.admin_port, "deadline_ms": 10_000}
        kube: dict[str, Any] = {"kubeconfig": str(plane.service_account())}
        if "lease" in settings:  # a short one leaves Bindings little time
            kube["bind_timeout_s"] = min(settings["lease"]["duration_s"] / 6, settings.get("assume_timeout_s", 60) / 2)
        self.settings = {"mode": "decide", "strategy": "best-fit", "http": http, "kube": kube, **settings}

    def start(self, *, wait: bool = True) -> None:
        """Start (again), and wait until it is ready and binds devices."""
        path = self.plane.folder / f"{self.name}.json"
        path.write_text(json.dumps(self.settings))
        self.plane.spawn(self.name, sys.executable, *self.program, "serve", "--config", str(path))
        if wait:
            self.plane.wait(self.name, lambda: self.get("/readyz") == "ok" and bool(self.ledger()["binding"]))

    def end(self, number: int = signal.SIGTERM) -> None:
        """End it, politely or not."""
        self.plane.end(self.name, number)

    def get(self, path: str, *, admin: bool = False) -> str:
        """A page."""
        port = self.admin_port if admin else self.port
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return str(answer.read().decode())

    def ledger(self) -> dict[str, Any]:
        """Who is where, as Ullage counts it."""
        found: dict[str, Any] = json.loads(self.get("/ledger", admin=True))
        return found

    def switch(self, mode: str) -> None:
        """Set the global mode."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.admin_port}/mode", method="POST", data=json.dumps({"mode": mode}).encode()
        )
        with urllib.request.urlopen(request, timeout=10):
            pass

    def stanzas(self, *, prioritizes: bool = True) -> list[dict[str, Any]]:
        """What kube-scheduler's configuration says of us: all pods, fail open; GPU shares, fail closed."""
        url = f"http://127.0.0.1:{self.port}/v1"
        common = {"httpTimeout": "20s", "nodeCacheCapable": True, "weight": 5}
        everyone = {"urlPrefix": url, "filterVerb": "filter", "preemptVerb": "preempt", "ignorable": True, **common}
        if prioritizes:
            everyone["prioritizeVerb"] = "prioritize"
        shares = {"urlPrefix": f"{url}/gpu", "filterVerb": "filter", "bindVerb": "bind", **common}
        return [everyone, {**shares, "managedResources": [{"name": GPU_SHARE}]}]
