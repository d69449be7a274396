"""A user of the cluster: makes nodes and pods, watches what becomes of them, and judges from the API alone."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
import msgspec

from placement.nodes import NodeSpec
from placement.pods import PodSpec
from placement.resources import (
    CPU,
    DEVICES_ANNOTATION,
    GPU_COUNT_ANNOTATION,
    GPU_MODEL_ANNOTATION,
    GPU_MODEL_LABEL,
    GPU_SHARE,
    MEMORY,
    parse_quantity,
)
from tests.e2e.control_plane import ControlPlane, Ullage

PODS = "/api/v1/namespaces/default/pods"
PATIENCE = 5
"""What a busy machine may take longer than the times that the tests name; waiting ends as soon as it can."""
AGREE_S = 60.0
"""When waiting for the ledger to equal the API ends; five seconds are promised, and how long it took is printed."""


def node_json(node: NodeSpec) -> dict[str, Any]:
    """A Node that offers what ``node`` says."""
    offer = {CPU: f"{node.amounts[CPU]}m", MEMORY: str(node.amounts[MEMORY]), "pods": str(node.amounts["pods"])}
    if node.num_gpus:
        offer[GPU_SHARE] = str(node.amounts[GPU_SHARE])
    labels = dict(node.labels) | {"kubernetes.io/hostname": node.name}
    if node.gpu_model:
        labels[GPU_MODEL_LABEL] = node.gpu_model
    status = {"allocatable": offer, "capacity": offer, "conditions": [{"type": "Ready", "status": "True"}]}
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": node.name, "labels": labels}, "status": status}


def pod_json(name: str, spec: PodSpec, node: str = "", devices: int = 0) -> dict[str, Any]:
    """A Pod that asks for what ``spec`` says; already bound if ``node`` is given."""
    asks = {CPU: f"{spec.amount(CPU)}m", MEMORY: str(spec.amount(MEMORY))}
    annotations = {}
    if spec.gpu is not None:
        asks[GPU_SHARE] = str(spec.gpu.total_milli)
        if spec.gpu.count > 1:
            annotations[GPU_COUNT_ANNOTATION] = str(spec.gpu.count)
        if spec.gpu.models:
            annotations[GPU_MODEL_ANNOTATION] = "|".join(spec.gpu.models)
    if devices:
        annotations[DEVICES_ANNOTATION] = ",".join(str(i) for i in range(devices.bit_length()) if devices >> i & 1)
    resources = {"requests": asks, "limits": {GPU_SHARE: asks[GPU_SHARE]} if spec.gpu is not None else {}}
    body = {"terminationGracePeriodSeconds": 0, "containers": [{"name": "c", "image": "x", "resources": resources}]}
    meta = {"name": name, "namespace": "default", "annotations": annotations, "labels": dict(spec.labels)}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": body | ({"nodeName": node} if node else {})}


def devices_of(pod: dict[str, Any]) -> int:
    """Bit mask of the devices in the pod's annotation."""
    text = (pod["metadata"].get("annotations") or {}).get(DEVICES_ANNOTATION, "")
    return sum(1 << int(part) for part in text.split(",") if part)


class Cluster:
    """An administrator's connection, and a watch of all pods in the default namespace."""

    def __init__(self, plane: ControlPlane, session: aiohttp.ClientSession) -> None:
        self.plane = plane
        self.session = session
        self.base = f"https://127.0.0.1:{plane.api_port}"
        self.pods: dict[str, dict[str, Any]] = {}
        self.bound: set[str] = set()
        """Names of pods that have a node."""
        self._on: dict[str, set[str]] = defaultdict(set)
        self.allocatable: dict[str, dict[str, int]] = {}
        self.wrongs: list[str] = []
        """Moments at which a node was over its allocatable, or a device over its thousand."""
        self._made = self._seen = 0
        """Versions of the newest pod that was created here, and of the newest thing that the watch showed."""
        self._changed = asyncio.Event()

    async def call(self, method: str, path: str, body: Any = None, *, ok: Iterable[int] = (200, 201, 202)) -> Any:
        """One request; raises on another status."""
        headers = {"Content-Type": "application/json", "Authorization": "Bearer admin-token"}
        data = None if body is None else json.dumps(body)
        async with self.session.request(method, self.base + path, data=data, headers=headers) as response:
            text = await response.read()
            if response.status not in ok:
                raise RuntimeError(f"{method} {path}: {response.status} {text[:300]!r}")
            answer = json.loads(text)
        if (method, path) == ("POST", PODS):
            self._made = max(self._made, int(answer["metadata"]["resourceVersion"]))
        return answer

    async def many(self, jobs: Iterable[tuple[Any, ...]], width: int = 32) -> None:
        """Many requests, ``width`` at a time."""
        queue = iter(jobs)

        async def worker() -> None:
            for job in queue:
                await self.call(*job)

        await asyncio.gather(*[worker() for _ in range(width)])

    async def add_nodes(self, nodes: Iterable[NodeSpec]) -> None:
        """Create nodes."""
        listed = list(nodes)
        self.allocatable |= {node.name: dict(node.amounts) for node in listed}
        await self.many(("POST", "/api/v1/nodes", node_json(node)) for node in listed)

    async def create(self, name: str, spec: PodSpec) -> None:
        """Create a pending pod."""
        await self.call("POST", PODS, pod_json(name, spec))

    async def delete(self, name: str) -> None:
        """Delete a pod at once; one that is gone already is fine."""
        await self.call("DELETE", f"{PODS}/{name}?gracePeriodSeconds=0", ok=(200, 202, 404))

    # ── the watch ─────────────────────────────────────────────────────────────────────────────

    async def follow(self) -> None:
        """Keep ``pods`` up to date for ever, and note every moment of overcommitment."""
        while True:
            with suppress(aiohttp.ClientError, OSError):
                await self._follow()
            await asyncio.sleep(0.1)

    async def _follow(self) -> None:
        listed = await self.call("GET", PODS)
        self.pods = {pod["metadata"]["name"]: pod for pod in listed["items"]}
        self.bound.clear()
        self._on.clear()
        for name, pod in self.pods.items():
            self._note(name, pod)
        self._seen = int(listed["metadata"]["resourceVersion"])
        self._changed.set()
        query = f"watch=1&resourceVersion={listed['metadata']['resourceVersion']}"
        headers = {"Authorization": "Bearer admin-token"}
        async with self.session.get(f"{self.base}{PODS}?{query}", headers=headers) as response:
            transport = None if response.connection is None else response.connection.transport
            try:
                rest = b""
                async for chunk in response.content.iter_any():
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        self._take(msgspec.json.decode(line))
                    self._changed.set()
            except asyncio.CancelledError:
                if (
                    transport is not None
                ):  # TLS would wait for the server's goodbye, on a busy machine longer than the loop
                    transport.abort()
                raise

    def _take(self, event: dict[str, Any]) -> None:
        pod = event["object"]
        name = pod["metadata"]["name"]
        self._seen = max(self._seen, int(pod["metadata"]["resourceVersion"]))
        old = self.pods.pop(name, None)
        self.bound.discard(name)
        if old is not None:
            self._on[old["spec"].get("nodeName") or ""].discard(name)
        if event["type"] != "DELETED":
            self._note(name, pod)
            self.pods[name] = pod
            if pod["spec"].get("nodeName") and not (old or {"spec": {}})["spec"].get("nodeName"):
                self.wrongs += self.overcommitted(pod["spec"]["nodeName"])

    def _note(self, name: str, pod: dict[str, Any]) -> None:
        node = pod["spec"].get("nodeName") or ""
        self._on[node].add(name)
        if node:
            self.bound.add(name)

    def overcommitted(self, node: str) -> list[str]:
        """What of ``node`` is promised more than once, by the API alone."""
        total: dict[str, int] = defaultdict(int)
        device: dict[int, int] = defaultdict(int)
        for name in self._on[node]:
            pod = self.pods[name]
            if pod.get("status", {}).get("phase") in ("Succeeded", "Failed"):
                continue
            asks = pod["spec"]["containers"][0]["resources"].get("requests", {})
            for resource, text in asks.items():
                total[resource] += parse_quantity(text, resource)
            total["pods"] += 1
            mask = devices_of(pod)
            for index in range(mask.bit_length()):
                if mask >> index & 1:
                    device[index] += parse_quantity(asks[GPU_SHARE], GPU_SHARE) // mask.bit_count()
        offer = self.allocatable.get(node, {})
        wrong = [f"{node}: {r} {amount} > {offer.get(r, 0)}" for r, amount in total.items() if amount > offer.get(r, 0)]
        return wrong + [f"{node}: device {i} has {milli}/1000" for i, milli in device.items() if milli > 1000]

    async def until(self, what: Callable[[], bool], timeout_s: float = 60, why: str = "") -> None:
        """Wait for something the watch will show."""
        end = time.monotonic() + PATIENCE * timeout_s
        while not what():
            if time.monotonic() > end:
                raise AssertionError(f"not in {PATIENCE * timeout_s:g} s: {why or what}; {self.summary()}")
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(0.5):
                    await self._changed.wait()

    def summary(self) -> str:
        """Where pods stand, for messages."""
        waiting = [name for name, pod in self.pods.items() if not pod["spec"].get("nodeName")]
        reasons = {c.get("message", "") for n in waiting[:50] for c in self.pods[n]["status"].get("conditions", ())}
        return f"{len(self.pods)} pods, {len(waiting)} not bound; reasons: {sorted(reasons)[:3]}"

    def node_of(self, name: str) -> str:
        """The pod's node, empty if it has none."""
        return str(self.pods.get(name, {}).get("spec", {}).get("nodeName") or "")

    def is_rejected(self, name: str) -> bool:
        """Whether kube-scheduler has said that the pod fits nowhere."""
        conditions = self.pods.get(name, {}).get("status", {}).get("conditions") or ()
        return any(c["type"] == "PodScheduled" and c["status"] == "False" for c in conditions)

    def all_bound(self) -> bool:
        """Whether every pod has a node, those that were just created and are not in view yet among them."""
        return self._seen >= self._made and all(pod["spec"].get("nodeName") for pod in self.pods.values())

    async def ledger_agrees(self, ullage: Ullage) -> None:
        """Wait until Ullage's ledger equals the API; fails after :data:`AGREE_S`."""
        began = time.monotonic()
        while True:
            listed = await self.call("GET", "/api/v1/pods")
            names = {n["metadata"]["name"] for n in (await self.call("GET", "/api/v1/nodes"))["items"]}
            truth = {
                pod["metadata"]["uid"]: (pod["spec"]["nodeName"], devices_of(pod))
                for pod in listed["items"]
                if pod["spec"].get("nodeName") in names
                and pod.get("status", {}).get("phase") not in ("Succeeded", "Failed")
            }
            ledger = await asyncio.to_thread(ullage.ledger)
            counted = {uid: (p["node"], p["devices"]) for uid, p in ledger["pods"].items() if p["bound"]}
            if counted == truth and set(ledger["nodes"]) == names:
                print(f"the ledger equals the API after {time.monotonic() - began:.1f} s")
                return
            if time.monotonic() > began + AGREE_S:
                wrong = {u for u in counted.keys() | truth.keys() if counted.get(u) != truth.get(u)}
                shown = {u: (counted.get(u), truth.get(u)) for u in list(wrong)[:5]}
                raise AssertionError(f"the ledger differs from the API in {len(wrong)} pods: {shown}")
            await asyncio.sleep(0.2)


@asynccontextmanager
async def cluster_of(plane: ControlPlane) -> AsyncIterator[Cluster]:
    """A connection with its watch running."""
    context = ssl._create_unverified_context()
    connector = aiohttp.TCPConnector(ssl=context, limit=64)
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        cluster = Cluster(plane, session)
        task = asyncio.create_task(cluster.follow())
        try:
            yield cluster
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    await asyncio.sleep(0.1)  # TLS connections close on the loop's next rounds
