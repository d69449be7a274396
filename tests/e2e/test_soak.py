"""Everything at once for a while: pods, nodes and names come and go, and what serves them is killed under it.

``ULLAGE_E2E_SOAK`` sets the seconds. Nothing is ever given twice, nothing of ours is left behind, and memory, threads and
open files are those of a process that holds a cluster, not its past.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

from placement.nodes import NodeSpec
from placement.pods import GpuRequest, PodSpec
from placement.resources import CPU, MEMORY, PODS
from scheduler.gates import GATE
from tests.e2e.control_plane import ControlPlane, Ullage
from tests.e2e.drive import PODS as PATH
from tests.e2e.drive import Cluster, cluster_of, pod_json
from tests.e2e.test_nominate import grant, left_behind

SECONDS = float(os.environ.get("ULLAGE_E2E_SOAK", "60"))
EVERY_S = 15.0
"""Between faults."""
PODS_PER_S = 20
LIVES_S = 15.0
"""Of a pod, on average."""
MOST_NODES = 45
GIB = 2**30
OFFER = ((CPU, 16_000), (MEMORY, 64 * GIB), (PODS, 110))
SHAPES = (
    (0.60, PodSpec(((CPU, 250), (MEMORY, GIB)))),
    (0.95, PodSpec(((CPU, 100), (MEMORY, GIB)), gpu=GpuRequest(1, 300))),
    (1.00, PodSpec(((CPU, 200), (MEMORY, GIB)), gpu=GpuRequest(2, 1000))),
)
MORE_MIB = 64
"""What the process may grow by while the number of its pods stays the same."""


class Size(NamedTuple):
    """What a process holds."""

    rss_mib: int
    threads: int
    files: int

    @classmethod
    def of(cls, pid: int) -> Size:
        lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
        return cls(int(lines["VmRSS"].split()[0]) // 1024, int(lines["Threads"]), files)


class Churn:
    """Users and machines that never rest. Whatever the API refuses meanwhile is done without."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self.cluster = cluster
        self.rng = random.Random(seed)
        self.up = {f"node-{i:03d}" for i in range(40)}
        self.number = 0
        self.dies_s: dict[str, float] = {}

    @staticmethod
    def node(name: str) -> NodeSpec:
        return NodeSpec(name, OFFER, num_gpus=4 if int(name[-3:]) % 2 else 0)

    async def attempt(self, work: Awaitable[Any]) -> bool:
        with suppress(RuntimeError, aiohttp.ClientError, OSError):
            await work
            return True
        return False

    def pod(self, name: str) -> dict[str, Any]:
        draw = self.rng.random()
        body = pod_json(name, next(spec for share, spec in SHAPES if draw <= share))
        job = f"job-{self.number // 7}"
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": job, "uid": job, "controller": True}
        body["metadata"] |= {"labels": {"job-name": job}, "ownerReferences": [owner]}
        if self.rng.random() < 0.3:
            body["spec"]["schedulingGates"] = [{"name": GATE}]
        return body

    async def a_pod(self) -> None:
        """One comes, and those whose time is over go; a few are made anew under their names."""
        now, self.number = time.monotonic(), self.number + 1
        name = f"p{self.number:06d}"
        self.dies_s[name] = now + min(3 * LIVES_S, self.rng.expovariate(1 / LIVES_S))
        await self.attempt(self.cluster.call("POST", PATH, self.pod(name)))
        for old in [n for n, at in self.dies_s.items() if at < now]:
            if await self.attempt(self.cluster.delete(old)):
                self.dies_s.pop(old, None)  # the garbage collector may have been first
                if self.rng.random() < 0.1:
                    await self.attempt(self.cluster.call("POST", PATH, self.pod(old)))
                    self.dies_s[old] = now + LIVES_S

    async def a_node(self) -> None:
        """One is cordoned, opened, taken away (and made anew under its name, with its pods), or new."""
        draw, name = self.rng.random(), self.rng.choice(sorted(self.up))
        if draw < 0.4:
            spec = {"unschedulable": self.rng.random() < 0.5 or None}
            await self.attempt(asyncio.to_thread(self.patch, f"/api/v1/nodes/{name}", {"spec": spec}))
        elif draw < 0.7 and await self.attempt(self.cluster.call("DELETE", f"/api/v1/nodes/{name}")):
            self.up.discard(name)
            if self.rng.random() < 0.5:
                await self.add(name)
            await self.collect_garbage()
        elif draw >= 0.7 and len(self.up) < MOST_NODES:
            await self.add(f"node-{self.rng.randrange(100, 1000):03d}")

    def patch(self, path: str, body: dict[str, Any]) -> None:
        self.cluster.plane.call("PATCH", path, body, "application/merge-patch+json")

    async def add(self, name: str) -> None:
        if name not in self.up and await self.attempt(self.cluster.add_nodes([self.node(name)])):
            self.up.add(name)

    async def collect_garbage(self) -> None:
        """As the controller of that name: pods of nodes that are gone go."""
        for name in [n for n in self.cluster.bound if self.cluster.node_of(n) not in self.up]:
            await self.attempt(self.cluster.delete(name))
            self.dies_s.pop(name, None)

    async def run(self, until_s: float) -> None:
        async def again(act: Callable[[], Awaitable[None]], per_s: float) -> None:
            while time.monotonic() < until_s:
                await act()
                await asyncio.sleep(1 / per_s)

        await asyncio.gather(again(self.a_pod, PODS_PER_S), again(self.a_node, 0.7))


async def faults(plane: ControlPlane, ullage: Ullage, until_s: float) -> None:
    """Now Ullage is killed, now the API server."""
    for turn in range(10_000):
        await asyncio.sleep(EVERY_S)
        if time.monotonic() > until_s:
            return
        if turn % 2:
            await asyncio.to_thread(ullage.end, signal.SIGKILL)
            await asyncio.to_thread(ullage.start)
        else:
            await asyncio.to_thread(plane.end, "kube-apiserver", signal.SIGKILL)
            await asyncio.to_thread(plane.start_api)


async def keep_scheduler(plane: ControlPlane, ullage: Ullage) -> None:
    """As its kubelet: kube-scheduler ends itself where a pod was made anew under its name while its watch was away."""
    while True:
        if plane.processes["kube-scheduler"].poll() is not None:
            await asyncio.to_thread(plane.start_scheduler, ullage.stanzas())
        await asyncio.sleep(0.5)


async def calm(cluster: Cluster, churn: Churn) -> None:
    """Every node is open, and every pod gets its place."""
    for name in sorted(churn.up):
        await asyncio.to_thread(churn.patch, f"/api/v1/nodes/{name}", {"spec": {"unschedulable": None}})

    def is_calm() -> bool:
        return cluster.all_bound() and all(cluster.node_of(name) in churn.up for name in cluster.bound)

    for _ in range(60):
        await churn.collect_garbage()
        if is_calm():
            return
        await asyncio.sleep(1)
    await cluster.until(is_calm, 60, "all pods are bound to nodes that are there")


async def test_a_cluster_that_never_rests_leaves_nothing_behind(plane: ControlPlane, tmp_path: Path) -> None:
    grant(plane, "rbac.yaml")
    ullage = Ullage(
        plane,
        strategy="emptying",
        lease={"enabled": True, "duration_s": 6, "renew_s": 1, "identity": "only"},
        plan={"enabled": True, "gate_deadline_s": 20, "nomination_deadline_s": 20},
        records={"path": str(tmp_path / "records.db")},
        log={"folder": str(tmp_path / "log"), "segment_bytes": 2**22},
        lifetimes_every_s=10,
        learn_every_s=20,
        assume_timeout_s=10,
    )
    await asyncio.to_thread(ullage.start)
    plane.start_scheduler(ullage.stanzas())
    async with cluster_of(plane) as cluster:
        churn = Churn(cluster, seed=5)
        await cluster.add_nodes(map(churn.node, sorted(churn.up)))
        keeping = asyncio.create_task(keep_scheduler(plane, ullage))
        half = SECONDS / 2
        await asyncio.gather(
            churn.run(time.monotonic() + half), faults(plane, ullage, time.monotonic() + half - EVERY_S / 2)
        )
        pid = plane.processes[ullage.name].pid
        await churn.run(time.monotonic() + half / 4)
        before = Size.of(pid)
        await churn.run(time.monotonic() + half)
        await calm(cluster, churn)
        await cluster.ledger_agrees(ullage)
        after = Size.of(pid)
        print(f"{churn.number} pods; {len(cluster.pods)} at the end; {before} → {after}")
        wrongs = [wrong for wrong in cluster.wrongs if wrong.split(":")[0] in churn.up]
        assert wrongs == []
        assert left_behind(cluster) == []
        assert not [pod for pod in (await asyncio.to_thread(ullage.ledger))["pods"].values() if not pod["bound"]]
        assert after.rss_mib < before.rss_mib + MORE_MIB
        assert after.threads <= before.threads + 2
        assert after.files <= before.files + 16
        for name in list(cluster.pods):
            await cluster.delete(name)
        await cluster.until(lambda: not cluster.pods, 60, "all pods are gone")
        await cluster.ledger_agrees(ullage)
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
