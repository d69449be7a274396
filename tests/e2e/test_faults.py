"""Faults under a real kube-scheduler: every pod is bound in the end, nothing is ever promised twice.

Overcommitment is judged from the API alone, at every single binding. ``ULLAGE_E2E_BURST`` sets the pods of the burst
in which the extender is killed, and what others scale with.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from aiohttp import web

from placement.nodes import NodeSpec
from placement.pods import GpuRequest, PodSpec
from placement.resources import CPU, MEMORY, PODS
from tests.e2e.control_plane import REPO, ControlPlane, Ullage, free_port
from tests.e2e.drive import PODS as POD_PATH
from tests.e2e.drive import Cluster, cluster_of, pod_json

BURST = int(os.environ.get("ULLAGE_E2E_BURST", "600"))
GIB = 2**30
SHARED = PodSpec(request=((CPU, 100), (MEMORY, GIB)), gpu=GpuRequest(1, 300))
PLAIN = PodSpec(request=((CPU, 250), (MEMORY, GIB)))


def fleet(count: int, *, gpus: int = 4, cpu: int = 16_000) -> list[NodeSpec]:
    """Equal nodes."""
    offer = ((CPU, cpu), (MEMORY, 64 * GIB), (PODS, 110))
    return [NodeSpec(f"node-{i:04d}", offer, num_gpus=gpus) for i in range(count)]


async def burst(cluster: Cluster, count: int, *, name: str = "p") -> None:
    """Pending pods, every third of them a GPU share, as fast as the API takes them."""
    for i in range(count):
        await cluster.create(f"{name}{i:04d}", SHARED if i % 3 == 0 else PLAIN)


async def settled(cluster: Cluster, ullage: Ullage, count: int) -> None:
    """All bound, nothing ever overcommitted, ledger equal to the API."""
    await cluster.until(lambda: len(cluster.pods) >= count and cluster.all_bound(), 240, "all pods bound")
    assert cluster.wrongs == []
    shared = [p for p in cluster.pods.values() if "ullage.dev/gpu-milli" in json.dumps(p["spec"])]
    assert all("ullage.dev/devices" in (p["metadata"].get("annotations") or {}) for p in shared)
    await cluster.ledger_agrees(ullage)


async def test_the_extender_is_killed_and_restarted_in_a_burst(plane: ControlPlane) -> None:
    ullage = Ullage(plane)
    ullage.start()
    plane.start_scheduler(ullage.stanzas())
    async with cluster_of(plane) as cluster:
        await cluster.add_nodes(fleet(BURST // 10))
        work = asyncio.create_task(burst(cluster, BURST))
        for at in (BURST // 10, BURST // 2):
            await cluster.until(lambda at=at: sum(1 for n in cluster.pods if cluster.node_of(n)) > at, 60, "progress")
            await asyncio.to_thread(ullage.end, signal.SIGKILL)
            await asyncio.sleep(1)
            await asyncio.to_thread(ullage.start)
        await work
        await settled(cluster, ullage, BURST)


async def test_the_api_server_is_killed_and_restarted(plane: ControlPlane) -> None:
    ullage = Ullage(plane)
    ullage.start()
    plane.start_scheduler(ullage.stanzas())
    async with cluster_of(plane) as cluster:
        await cluster.add_nodes(fleet(20))
        await burst(cluster, 100, name="before")
        await settled(cluster, ullage, 100)
        for i in range(0, 100, 4):
            await cluster.delete(f"before{i:04d}")
        await asyncio.to_thread(plane.end, "kube-apiserver", signal.SIGKILL)
        await asyncio.to_thread(plane.start_api)
        await burst(cluster, 100, name="after")
        await settled(cluster, ullage, 175)


async def test_history_compacted_while_the_extender_was_frozen_is_read_again(plane: ControlPlane) -> None:
    ullage = Ullage(plane)
    ullage.start()
    plane.start_scheduler(ullage.stanzas())
    async with cluster_of(plane) as cluster:
        await cluster.add_nodes(fleet(10))
        await burst(cluster, 60)
        await settled(cluster, ullage, 60)
        plane.processes["ullage"].send_signal(signal.SIGSTOP)
        for i in range(0, 60, 2):
            await cluster.delete(f"p{i:04d}")
        await cluster.call("DELETE", "/api/v1/nodes/node-0009")
        await asyncio.to_thread(plane.end, "kube-apiserver", signal.SIGKILL)
        compact(plane)
        await asyncio.to_thread(plane.start_api)
        plane.processes["ullage"].send_signal(signal.SIGCONT)
        await asyncio.sleep(2)
        await cluster.ledger_agrees(ullage)
        metrics = await asyncio.to_thread(ullage.get, "/metrics")
        assert 'ullage_cache_relists_total{reason="too old",resource="pods"}' in metrics


def compact(plane: ControlPlane) -> None:
    """Make etcd forget everything but the present."""
    base = f"http://127.0.0.1:{plane.etcd_port}/v3/kv"

    def post(path: str, body: dict[str, object]) -> dict[str, dict[str, str]]:
        request = urllib.request.Request(f"{base}/{path}", method="POST", data=json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=10) as answer:
            found: dict[str, dict[str, str]] = json.loads(answer.read())
            return found

    revision = post("range", {"key": "AA=="})["header"]["revision"]
    post("compaction", {"revision": revision, "physical": True})


async def test_500_identical_pods_at_once_do_not_herd(plane: ControlPlane) -> None:
    ullage = Ullage(plane, mode="score", strategy="worst-fit")
    ullage.start()
    plane.start_scheduler(ullage.stanzas())
    async with cluster_of(plane) as cluster:
        await cluster.add_nodes(fleet(50))
        await cluster.many(("POST", "/api/v1/namespaces/default/pods", body) for body in identical(500))
        await settled(cluster, ullage, 500)
        load = Counter(cluster.node_of(name) for name in cluster.pods)
        assert len(load) == 50
        assert max(load.values()) <= 20


def identical(count: int) -> list[dict[str, object]]:
    """Equal pods."""
    return [pod_json(f"p{i:04d}", PLAIN) for i in range(count)]


async def test_nodes_and_pending_pods_vanish_in_a_burst(plane: ControlPlane) -> None:
    ullage = Ullage(plane)
    ullage.start()
    plane.start_scheduler(ullage.stanzas())
    async with cluster_of(plane) as cluster:
        await cluster.add_nodes(fleet(30))
        work = asyncio.create_task(burst(cluster, 300))
        for i in range(10):
            await asyncio.sleep(0.1)
            await cluster.call("DELETE", f"/api/v1/nodes/node-{i:04d}")
            await cluster.delete(f"p{i * 3:04d}")
        await work
        gone = {f"node-{i:04d}" for i in range(10)}
        for name in [n for n in cluster.pods if cluster.node_of(n) in gone]:
            await cluster.delete(name)
        await cluster.until(cluster.all_bound, 120, "all that is left is bound")
        for name in [n for n in cluster.pods if cluster.node_of(n) in gone]:
            await cluster.delete(name)
        await cluster.ledger_agrees(ullage)
        assert [w for w in cluster.wrongs if w.split(":")[0] not in gone] == []


class Relay:
    """Carries connections to somewhere else; leaves nothing open when it ends."""

    def __init__(self) -> None:
        self.port = free_port()
        self.generation = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []

    async def target(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        """Where a new connection goes; None = nowhere."""
        raise NotImplementedError

    def mute(self) -> None:
        """Connections that are open stay open and carry nothing any more; new ones work."""
        self.generation += 1

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Carry connections until the block ends."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        try:
            yield
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            for writer in self._writers:
                writer.close()
            await asyncio.gather(*(w.wait_closed() for w in self._writers), return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.append(writer)
        found = await self.target()
        if found is None:
            writer.close()
            return
        to, back = found
        self._writers.append(back)
        mine = self.generation
        await asyncio.gather(self._pipe(reader, back, mine), self._pipe(to, writer, mine))

    async def _pipe(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, mine: int) -> None:
        with suppress(OSError):
            while data := await source.read(1 << 16):
                if mine == self.generation:
                    target.write(data)
                    await target.drain()
        target.close()


class Switchboard(Relay):
    """A Service of one port: sends each connection to a replica that says it is ready."""

    def __init__(self, replicas: list[Ullage]) -> None:
        super().__init__()
        self.replicas = replicas

    async def target(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        for replica in self.replicas:
            with suppress(OSError):  # refused, or frozen
                async with asyncio.timeout(1):
                    if await self._is_ready(replica):
                        return await asyncio.open_connection("127.0.0.1", replica.port)
        return None

    @staticmethod
    async def _is_ready(replica: Ullage) -> bool:
        reader, writer = await asyncio.open_connection("127.0.0.1", replica.port)
        try:
            writer.write(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return b" 200 " in await reader.readline()
        finally:
            writer.close()


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_the_lead_changes_under_load_and_no_device_is_given_twice(plane: ControlPlane, how: str) -> None:
    """A frozen leader wakes up with requests in its hands, among them bindings, when another one leads."""
    lease = {"enabled": True, "duration_s": 4, "renew_s": 0.5}
    replicas = [Ullage(plane, f"replica-{i}", lease={**lease, "identity": f"replica-{i}"}) for i in range(2)]
    replicas[0].start()
    replicas[1].start(wait=False)
    board = Switchboard(replicas)
    stanzas = replicas[0].stanzas()
    for stanza in stanzas:
        stanza["urlPrefix"] = stanza["urlPrefix"].replace(str(replicas[0].port), str(board.port))
    plane.start_scheduler(stanzas)
    async with board.open(), cluster_of(plane) as cluster:
        await cluster.add_nodes(fleet(BURST // 20))
        work = asyncio.create_task(burst(cluster, BURST // 2))
        await cluster.until(lambda: sum(1 for n in cluster.pods if cluster.node_of(n)) > 80, 60, "progress")
        if how == "killed":
            await asyncio.to_thread(replicas[0].end, signal.SIGKILL)
        else:
            plane.processes[replicas[0].name].send_signal(signal.SIGSTOP)
        await asyncio.to_thread(plane.wait, replicas[1].name, lambda: replicas[1].get("/readyz") == "ok")
        if how == "frozen":
            assert not cluster.all_bound(), "it wakes up under load"
            plane.processes[replicas[0].name].send_signal(signal.SIGCONT)
        await work
        await settled(cluster, replicas[1], BURST // 2)
        await asyncio.to_thread(plane.wait, replicas[1].name, lambda: replicas[1].get("/readyz") == "ok")
        if how == "frozen":
            with pytest.raises(urllib.error.HTTPError, match="503"):
                await asyncio.to_thread(replicas[0].get, "/readyz")


class Line(Relay):
    """The network to the API server."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.to = port

    async def target(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        return await asyncio.open_connection("127.0.0.1", self.to)


async def test_a_watch_that_falls_silent_is_noticed_and_taken_up_again(plane: ControlPlane) -> None:
    ullage = Ullage(plane)
    line = Line(plane.api_port)
    kubeconfig = Path(ullage.settings["kube"]["kubeconfig"])
    kubeconfig.write_text(kubeconfig.read_text().replace(f":{plane.api_port}", f":{line.port}"))
    ullage.settings["kube"] |= {"silence_timeout_s": 5}
    async with line.open(), cluster_of(plane) as cluster:
        await asyncio.to_thread(ullage.start)
        plane.start_scheduler(ullage.stanzas())
        await cluster.add_nodes(fleet(10))
        await burst(cluster, 60, name="before")
        await settled(cluster, ullage, 60)
        line.mute()
        for i in range(0, 60, 2):
            await cluster.delete(f"before{i:04d}")
        await cluster.call("DELETE", "/api/v1/nodes/node-0009")
        await asyncio.sleep(6)
        await cluster.ledger_agrees(ullage)
        gone = [name for name in cluster.pods if cluster.node_of(name) == "node-0009"]
        for name in gone:
            await cluster.delete(name)
        await burst(cluster, 60, name="after")
        await settled(cluster, ullage, 90 - len(gone))
        await asyncio.to_thread(ullage.end)


async def test_an_etcd_that_is_restored_from_a_backup_is_the_present_for_ullage_too(plane: ControlPlane) -> None:
    """A watch from a version that is still to come is taken by the API server, and silent until that comes."""
    etcd, backup = plane.folder / "etcd", plane.folder / "backup"
    plane.end("etcd")
    shutil.copytree(etcd, backup)
    plane.start_etcd()
    plane.wait("etcd", lambda: plane.call("GET", "/readyz") == "ok")
    ullage = Ullage(plane)
    ullage.start()
    serving = plane.processes[ullage.name]
    plane.call("POST", POD_PATH, pod_json("late", PLAIN))
    for i in range(100):
        plane.call("POST", "/api/v1/namespaces", {"metadata": {"name": f"late-{i}"}})
    seen = 'ullage_cache_objects{resource="pods"}'
    plane.wait(ullage.name, lambda: f"{seen} 1.0" in ullage.get("/metrics"))
    plane.end("kube-apiserver")
    plane.end("etcd")
    shutil.rmtree(etcd)
    shutil.copytree(backup, etcd)
    plane.start_etcd()
    plane.start_api()
    assert await asyncio.to_thread(serving.wait, 60) == 1
    assert "etcd was restored from a backup" in plane.log_of(ullage.name)
    ullage.start()
    assert f"{seen} 0.0" in ullage.get("/metrics")


async def test_a_clock_that_jumps_changes_nothing(plane: ControlPlane, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong_by = plane.folder / "clock"
    wrong_by.write_text("0")
    monkeypatch.setenv("JUMPING_CLOCK", str(wrong_by))
    lease = {"enabled": True, "duration_s": 4, "renew_s": 0.5, "identity": "only"}
    ullage = Ullage(plane, lease=lease)
    ullage.program = ["-m", "tests.e2e.jumping_clock"]
    monkeypatch.setenv("PYTHONPATH", str(REPO))
    await asyncio.to_thread(ullage.start)
    plane.start_scheduler(ullage.stanzas())
    async with cluster_of(plane) as cluster:
        await cluster.add_nodes(fleet(30))
        work = asyncio.create_task(burst(cluster, 300))
        for count, seconds in ((60, 7200), (120, -86_400), (180, 0)):
            await cluster.until(lambda n=count: sum(map(bool, map(cluster.node_of, cluster.pods))) > n, 60, "progress")
            wrong_by.write_text(str(seconds))
        await work
        await settled(cluster, ullage, 300)
        await asyncio.to_thread(plane.wait, ullage.name, lambda: ullage.get("/readyz") == "ok")


class Intruder:
    """Stands between kube-scheduler and Ullage, and deletes the node of a binding just before it arrives."""

    def __init__(self, cluster: Cluster, ullage: Ullage) -> None:
        self.cluster = cluster
        self.ullage = ullage
        self.is_armed = False
        self.deleted: list[str] = []
        self.port = free_port()

    async def start(self) -> web.AppRunner:
        """Serve until the runner is cleaned up."""
        app = web.Application()
        app.router.add_post("/{path:.*}", self._forward)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self.port).start()
        return runner

    async def _forward(self, request: web.Request) -> web.Response:
        body = await request.read()
        if request.path.endswith("/bind") and self.is_armed:
            self.is_armed = False
            node = json.loads(body)["Node"]
            await self.cluster.call("DELETE", f"/api/v1/nodes/{node}", ok=(200, 404))
            self.deleted.append(node)
            while node in (await asyncio.to_thread(self.ullage.ledger))["nodes"]:
                await asyncio.sleep(0.01)
        async with self.cluster.session.post(f"http://127.0.0.1:{self.ullage.port}{request.path}", data=body) as answer:
            return web.Response(body=await answer.read(), status=answer.status, content_type="application/json")


async def test_a_node_deleted_between_filter_and_bind_gets_no_pod(plane: ControlPlane) -> None:
    ullage = Ullage(plane)
    await asyncio.to_thread(ullage.start)
    async with cluster_of(plane) as cluster:
        await cluster.add_nodes(fleet(10))
        intruder = Intruder(cluster, ullage)
        runner = await intruder.start()
        stanzas = ullage.stanzas()
        for stanza in stanzas:
            stanza["urlPrefix"] = stanza["urlPrefix"].replace(str(ullage.port), str(intruder.port))
        plane.start_scheduler(stanzas)
        for i in range(5):
            intruder.is_armed = True
            await cluster.create(f"p{i:04d}", SHARED)
            await settled(cluster, ullage, 1)
            assert cluster.node_of(f"p{i:04d}") != intruder.deleted[i]
            await cluster.delete(f"p{i:04d}")
            await cluster.until(lambda: not cluster.pods, 30, "the pod is gone")
        assert len(set(intruder.deleted)) == 5
        metrics = await asyncio.to_thread(ullage.get, "/metrics")
        assert 'ullage_binds_total{outcome="no node"} 5.0' in metrics
        await runner.cleanup()


async def test_a_binding_that_kube_scheduler_waited_for_in_vain_is_refused_when_it_comes(plane: ControlPlane) -> None:
    """It writes into the pod that it had no answer, and the Binding names the version of before."""
    is_over, versions = asyncio.Event(), list[str]()
    path = "/api/v1/namespaces/default/pods/g"

    async def pass_all(request: web.Request) -> web.Response:
        return web.json_response({"NodeNames": (await request.json())["NodeNames"]})

    async def hang(_request: web.Request) -> web.Response:
        versions.append((await cluster.call("GET", path))["metadata"]["resourceVersion"])
        await is_over.wait()
        return web.json_response({"Error": ""})

    app = web.Application()
    app.router.add_post("/v1/gpu/filter", pass_all)
    app.router.add_post("/v1/gpu/bind", hang)
    runner, port = web.AppRunner(app), free_port()
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    shares = Ullage(plane).stanzas()[1]
    plane.start_scheduler([shares | {"urlPrefix": f"http://127.0.0.1:{port}/v1/gpu", "httpTimeout": "1s"}])
    async with cluster_of(plane) as cluster:
        await cluster.add_nodes(fleet(1))
        await cluster.create("g", SHARED)
        await cluster.until(lambda: bool(versions), 60, "the pod is to be bound")
        await cluster.until(lambda: "deadline exceeded" in json.dumps(cluster.pods["g"]["status"]), 60, "given up")
        await asyncio.to_thread(plane.end, "kube-scheduler")
        meta = {"name": "g", "uid": cluster.pods["g"]["metadata"]["uid"], "resourceVersion": versions[0]}
        late = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": meta,
            "target": {"kind": "Node", "name": "node-0000"},
        }
        with pytest.raises(RuntimeError, match=r"409 .*ResourceVersion in precondition"):
            await cluster.call("POST", f"{path}/binding", late)
        meta["resourceVersion"] = cluster.pods["g"]["metadata"]["resourceVersion"]
        await cluster.call("POST", f"{path}/binding", late)
        is_over.set()
    await runner.cleanup()
