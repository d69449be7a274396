"""The extender's latency while the planner works at full load, over the same while it has nothing to do.

``python -m benchmarks.planner_beside [--nodes 5000] [--rounds 6]`` starts the real server, engine, ledger and planner in one
process, as ``ullage serve`` does, and a socket that accepts patches in another. In busy rounds gated pods of many sizes never
run out: batch after batch is solved and delivered, and the four watch events that each pod causes are decoded. Rounds of
both kinds alternate; one line of JSON per pair, and one with the medians.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.verbs import GIB, NUM_ORDERS, UID, Client, bodies, cpu_s, names, pod, quantile
from placement.nodes import NodeSpec
from placement.pods import PodSpec
from placement.resources import CPU, MEMORY, PODS
from placement.state import ClusterState
from placement.strategies import strategy_named

PATCH_S = 0.005
WAITING = 300
"""Gated pods that wait at any moment of a busy round."""
SIZES = (100, 200, 250, 400, 500, 700, 1000, 1500)


class Patched(asyncio.Protocol):
    """An API server that says yes, after as long as a real one takes."""

    ANSWER = b'{"kind":"PartialObjectMetadata","metadata":{}}'

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.read = b""

    def data_received(self, data: bytes) -> None:
        self.read += data
        while (end := self.read.find(b"\r\n\r\n")) >= 0:
            head = self.read[:end].lower()
            at = head.find(b"content-length: ")
            length = int(head[at + 16 :].split(b"\r\n")[0]) if at >= 0 else 0
            if len(self.read) < end + 4 + length:
                return
            self.read = self.read[end + 4 + length :]
            answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(self.ANSWER) + self.ANSWER
            asyncio.get_running_loop().call_later(PATCH_S, self.transport.write, answer)


def serve_patches(pipe: Any) -> None:
    """Process: the API."""

    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(Patched, "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


class World:
    """What the watch would say of gated pods: created, nominated, free, bound, and gone a little later."""

    def __init__(self, patcher: Any, sink: Any) -> None:
        self.patcher, self.sink = patcher, sink
        self.is_busy = False
        self.num_bound = 0
        self._pods: dict[str, dict[str, Any]] = {}
        self._waiting: set[str] = set()
        self._old: list[str] = []
        self._numbers = itertools.count()
        self._rng = random.Random(3)

    async def call(self, method: str, path: str, body: object = None, **how: Any) -> bytes:
        """A patch, and the event that it causes."""
        answer: bytes = await self.patcher.call(method, path, body, **how)
        name = path.partition("?")[0].split("/")[6]
        value = self._pods.get(name)
        if value is not None and isinstance(body, dict):
            if "status" in body:
                value["metadata"]["annotations"] |= body["metadata"]["annotations"]
                value["status"] |= body["status"]
                self._tell(value)
            else:
                value["spec"]["schedulingGates"] = []
                self._tell(value)
                value["spec"]["nodeName"] = value["status"].pop("nominatedNodeName")
                self._tell(value)
                self._waiting.discard(name)
                self._old.append(name)
                self.num_bound += 1
        return answer

    def _tell(self, value: dict[str, Any]) -> None:
        value["metadata"]["resourceVersion"] = str(next(self._numbers))
        self.sink.put(msgspec.Raw(msgspec.json.encode(value)))

    async def run(self) -> None:
        """Keep pods waiting while it is busy, and let bound ones go."""
        while True:
            await asyncio.sleep(0.01)
            missing = WAITING - len(self._waiting) if self.is_busy else 0
            for _ in range(min(missing, 10)):
                value = pod(f"g{next(self._numbers)}")
                value["metadata"]["name"] = value["metadata"]["uid"]
                value["spec"]["schedulingGates"] = [{"name": "ullage.dev/plan"}]
                asks = {"cpu": f"{self._rng.choice(SIZES)}m", "memory": f"{self._rng.choice(SIZES)}Mi"}
                value["spec"]["containers"][0]["resources"]["requests"] = asks
                self._pods[value["metadata"]["name"]] = value
                self._waiting.add(value["metadata"]["name"])
                self._tell(value)
            for _ in range(min(10, len(self._old) - (5 * WAITING if self.is_busy else 0))):
                self.sink.drop(msgspec.Raw(msgspec.json.encode(self._pods.pop(self._old.pop(0)))))


def serve_ullage(pipe: Any, num_nodes: int, strategy: str, api_port: int, time_s: float) -> None:
    """Process: everything that ``ullage serve`` runs, over a synthetic cluster."""
    from scheduler.binder import Binder
    from scheduler.engine import Engine
    from scheduler.eventlog import DiskLog
    from scheduler.extender import Extender
    from scheduler.kube import KubeClient
    from scheduler.ledger import Ledger
    from scheduler.metrics import Metrics
    from scheduler.nominator import Nominator
    from scheduler.patcher import Patcher
    from scheduler.recorder import Recorder
    from scheduler.server import HttpServer
    from scheduler.settings import HttpSettings, KubeSettings, LogSettings, PlanSettings, RecordSettings, Settings
    from scheduler.view import Reader, sinks
    from scheduler.warmup import warm_up

    async def run(folder: str) -> None:
        settings = Settings(mode="decide", http=HttpSettings(host="127.0.0.1", port=0))
        metrics = Metrics()
        events = DiskLog(LogSettings(folder=folder), metrics, "bench")
        ledger = Ledger(ClusterState(events=events), time.monotonic, metrics)
        rng = random.Random(1)
        for name in names(num_nodes):
            amounts = ((CPU, rng.choice((8000, 16000, 64000))), (MEMORY, 64 * GIB), (PODS, 110))
            ledger.see_node(NodeSpec(name, amounts))
        for i in range(num_nodes * 2):
            spec = PodSpec(request=((CPU, rng.choice((250, 500, 1000))), (MEMORY, GIB)))
            ledger.state.bind(f"r{i}", spec, ledger.state.name(i % num_nodes))
        reader = Reader()
        ledger.see(reader.pod(json.dumps(pod(UID)).encode()))
        records = Recorder(RecordSettings(path=f"{folder}/records.db"), metrics)
        engine = Engine(ledger, reader, strategy_named(strategy), settings, metrics, recorder=records)
        records.attach(engine)
        events.attach(ledger.state, [engine.strategy])
        await asyncio.to_thread(warm_up, (engine.strategy,))
        config = Path(folder) / "kubeconfig"
        config.write_text(json.dumps(_kubeconfig(api_port)), encoding="utf-8")
        client = await KubeClient.connect(KubeSettings(kubeconfig=str(config)))
        plan = PlanSettings(enabled=True, time_s=time_s)
        pods = next(sink for sink in sinks(ledger, engine.modes, reader) if sink.kind == "pods")
        world = World(Patcher(client, width=plan.width), pods)
        server = HttpServer(settings.http, Extender(engine, Binder(engine, client), version="bench").handle, metrics)
        await server.start()
        pipe.send(server.port)
        loop = asyncio.get_running_loop()

        parts = [asyncio.create_task(Nominator(engine, client, plan, world).run()), asyncio.create_task(world.run())]

        def end() -> None:
            for part in parts:
                part.cancel()

        def obey() -> None:
            while (wanted := pipe.recv()) is not None:
                world.is_busy = wanted
                loop.call_soon_threadsafe(pipe.send, (world.num_bound, _children_s()))
            loop.call_soon_threadsafe(end)

        threading.Thread(target=obey, daemon=True).start()
        await asyncio.gather(*parts, return_exceptions=True)
        await server.stop()
        await world.patcher.close()
        await client.close()
        records.close()
        events.close()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(folder))


def _children_s() -> float:
    """CPU seconds of this process's children so far."""
    found = 0.0
    for path in Path(f"/proc/{os.getpid()}/task").glob("*/children"):
        found += sum(cpu_s(int(pid)) for pid in path.read_text(encoding="ascii").split())
    return found


def _kubeconfig(port: int) -> dict[str, Any]:
    return {
        "apiVersion": "v1", "kind": "Config", "current-context": "x",
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
    }  # fmt: skip


class Server:
    """The process under test, and its switch."""

    def __init__(self, *words: Any) -> None:
        self.pipe, theirs = multiprocessing.Pipe()
        self.process = multiprocessing.Process(target=serve_ullage, args=(theirs, *words))
        self.process.start()
        self.client = Client(self.pipe.recv())

    def switch(self, is_busy: bool) -> tuple[int, float]:
        """Planned pods bound so far, and the planner's CPU seconds."""
        self.pipe.send(is_busy)
        found: tuple[int, float] = self.pipe.recv()
        return found


def one_round(server: Server, asked: list[bytes], count: int, pause_s: float) -> tuple[float, float]:
    """p50 and p99 in milliseconds."""
    times = []
    for i in range(count):
        seconds, answer = server.client.post("/v1/filter", asked[i % len(asked)])
        if b'"Error":""' not in answer[-12:]:
            raise SystemExit(f"unexpected answer: {answer[:200]!r}")
        times.append(1000 * seconds)
        time.sleep(pause_s)
    return quantile(times, 0.5), quantile(times, 0.99)


def main() -> None:
    """Print one JSON line per pair of rounds, and the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--requests", type=int, default=500, help="per round")
    parser.add_argument("--pause", type=float, default=0.005, help="seconds between two requests")
    parser.add_argument("--strategy", default="best-fit")
    parser.add_argument("--time", type=float, default=2.0, help="plan.time_s: the longer, the harder the solver works")
    options = parser.parse_args()
    ours, theirs = multiprocessing.Pipe()
    patches = multiprocessing.Process(target=serve_patches, args=(theirs,), daemon=True)
    patches.start()
    server = Server(options.nodes, options.strategy, ours.recv(), options.time)
    try:
        asked = bodies(options.nodes, NUM_ORDERS, full=False)
        server.switch(True)
        one_round(server, asked, 500, options.pause)  # the solver's process is up, everything is compiled
        pairs = []
        for _ in range(options.rounds):
            server.switch(False)
            time.sleep(options.time + 1)  # the last batch ends
            idle = one_round(server, asked, options.requests, options.pause)
            before, used = server.switch(True)
            time.sleep(0.5)
            began = time.monotonic()
            busy = one_round(server, asked, options.requests, options.pause)
            seconds = time.monotonic() - began
            after, then = server.switch(True)
            row = {
                "idle_p50_ms": idle[0], "idle_p99_ms": idle[1], "busy_p50_ms": busy[0], "busy_p99_ms": busy[1],
                "planned_pods_per_s": (after - before) / (seconds + 0.5), "planner_cores": (then - used) / (seconds + 0.5),
                "ratio_p50": busy[0] / idle[0], "ratio_p99": busy[1] / idle[1],
            }  # fmt: skip
            pairs.append(row)
            sys.stdout.write(json.dumps({key: round(value, 3) for key, value in row.items()}) + "\n")
            sys.stdout.flush()
        medians = {key: round(statistics.median(pair[key] for pair in pairs), 3) for key in pairs[0]}
        sys.stdout.write(json.dumps({"nodes": options.nodes, "rounds": options.rounds, "medians": medians}) + "\n")
    finally:
        server.pipe.send(None)
        server.process.join(20)
        for process in (server.process, patches):
            process.terminate()
            process.join(5)


if __name__ == "__main__":
    main()
