"""The extender's latency while the planner works at full load, over the same while it has nothing to do.

``python -m benchmarks.planner_beside [--nodes 5000] [--rounds 6]`` starts ``ullage serve`` as a user does, and beside it a
stand-in for the API: it lists a synthetic cluster, streams watches, takes patches, and binds pods that are free. In busy
rounds gated pods of many sizes never run out: batch after batch is solved and delivered, and each pod's four watch events
reach the process that answers and the one that plans. Rounds of both kinds alternate; one line of JSON per pair, with the
CPU seconds per second of each process, and one with the medians, and the p99 of all requests together with an interval. A
real API server has processors of its own, and so has kube-scheduler: the stand-in takes those that nobody else wants, and
who asks gets one at once (``--client equal`` has it wait for its turn, as up to 7576618).
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import multiprocessing
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import numpy as np

from benchmarks.verbs import NUM_ORDERS, UID, Client, bodies, cpu_s, names, pod, quantile
from scheduler.slices import answer_soon

PATCH_S = 0.005
WAITING = 300
"""Gated pods that wait at any moment of a busy round."""
END_S = 60.0
"""For ``ullage serve`` to end."""
PIECE = 4
"""Events, of 5 KB each, that are written at once."""
HISTORY = 10_000
"""Events that a watch may ask for afterwards."""
SIZES = (100, 200, 250, 400, 500, 700, 1000, 1500)
POD_PATH = "/api/v1/pods"
PATCHED = b'{"kind":"PartialObjectMetadata","metadata":{}}'


class Gated:
    """A pod that is planned: what changes of it."""

    __slots__ = ("cpu", "is_gated", "memory", "name", "node", "nominated", "notes")

    def __init__(self, name: str, cpu: int, memory: int) -> None:
        self.name = name
        self.cpu = cpu
        self.memory = memory
        self.notes: dict[str, str] = {}
        """Annotations beside the one of every pod."""
        self.nominated = ""
        self.node = ""
        self.is_gated = True

    def encoded(self, version: int) -> bytes:
        """As JSON."""
        spec = b',"schedulingGates":[{"name":"ullage.dev/plan"}]' if self.is_gated else b""
        status = b""
        if self.node:
            spec += b',"nodeName":"%b"' % self.node.encode()
        elif self.nominated:
            status = b',"nominatedNodeName":"%b"' % self.nominated.encode()
        notes = b"".join([b',"%b":"%b"' % (key.encode(), text.encode()) for key, text in self.notes.items()])
        return _GATED % (self.name.encode(), self.name.encode(), version, notes, self.cpu, self.memory, spec, status)


def _gated() -> bytes:
    """Encoded once for all: everything that :class:`Gated` pods have in common, with gaps."""
    value = pod("{uid}")
    value["metadata"] |= {"name": "{name}", "resourceVersion": "{version}"}
    value["metadata"]["annotations"]["{notes}"] = ""
    value["spec"]["containers"][0]["resources"]["requests"] = {"cpu": "{cpu}m", "memory": "{memory}Mi"}
    value["spec"]["{spec}"] = value["status"]["{status}"] = ""
    text = encoded(value)
    for gap in ("notes", "spec", "status"):
        text = text.replace(b',"{%b}":""' % gap.encode(), b"%b")
    for gap in ("name", "uid"):
        text = text.replace(b"{%b}" % gap.encode(), b"%b")
    for gap in ("version", "cpu", "memory"):
        text = text.replace(b"{%b}" % gap.encode(), b"%d")
    return text


class Still:
    """Objects of a stand-in, by path and name, of which none changes."""

    def __init__(self, lists: dict[str, dict[str, bytes]]) -> None:
        self.lists = lists
        self.version = 1
        self.watchers: dict[str, set[asyncio.Transport]] = {}

    def since(self, version: int) -> bytes:
        """What a watch of pods from ``version`` on is told first."""
        return b""

    def patch(self, name: str, body: dict[str, Any]) -> None:
        """A pod is patched."""


class World(Still):
    """Nodes and pods of the stand-in, and what its watches say of gated pods: created, nominated, free, bound, gone."""

    def __init__(self, num_nodes: int) -> None:
        rng = random.Random(1)
        nodes = names(num_nodes)
        super().__init__(
            {
                "/api/v1/nodes": {n: encoded(_node(n, rng.choice((8, 16, 64)))) for n in nodes},
                "/api/v1/namespaces": {"default": encoded({"metadata": {"name": "default"}})},
            }
        )
        self.is_busy = False
        self.num_bound = 0
        pods = [_bound(f"r{i}", nodes[i % num_nodes], f"{rng.choice((250, 500, 1000))}m") for i in range(num_nodes * 2)]
        self.lists[POD_PATH] = {p["metadata"]["name"]: encoded(p) for p in (*pods, pod(UID))}
        self.history: deque[tuple[int, bytes]] = deque(maxlen=HISTORY)
        self._unsent: list[bytes] = []
        self._pods: dict[str, Gated] = {}
        self._waiting: set[str] = set()
        self._old: deque[str] = deque()
        self._numbers = itertools.count(1)
        self._rng = random.Random(3)

    def patch(self, name: str, body: dict[str, Any]) -> None:
        """A patch, and the events that it causes."""
        gated = self._pods.get(name)
        if gated is None:
            return
        if "status" in body:
            said: dict[str, str | None] = gated.notes | body["metadata"]["annotations"]
            gated.notes = {key: text for key, text in said.items() if text is not None}
            gated.nominated = body["status"]["nominatedNodeName"]
            self._tell(b"MODIFIED", gated)
        elif gated.is_gated:
            gated.is_gated = False
            self._tell(b"MODIFIED", gated)
            gated.node = gated.nominated
            self._tell(b"MODIFIED", gated)
            self._waiting.discard(name)
            self._old.append(name)
            self.num_bound += 1

    def _tell(self, what: bytes, gated: Gated) -> None:
        self.version += 1
        raw = gated.encoded(self.version)
        if what == b"DELETED":
            del self.lists[POD_PATH][gated.name]
        else:
            self.lists[POD_PATH][gated.name] = raw
        line = b'{"type":"%b","object":%b}\n' % (what, raw)
        self.history.append((self.version, line))
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._send)
        self._unsent.append(line)

    def _send(self) -> None:
        """Events of one turn of the loop go out together, as a real server flushes when it has no more to say; in small
        pieces, for a call into the kernel keeps others off a processor."""
        lines, self._unsent = self._unsent, []
        for first in range(0, len(lines), PIECE):
            data = b"".join(lines[first : first + PIECE])
            for transport in self.watchers.get(POD_PATH, ()):
                if not transport.is_closing():
                    transport.write(data)

    def since(self, version: int) -> bytes:
        if self.history and version + 1 < self.history[0][0]:
            return b'{"type":"ERROR","object":{"kind":"Status","code":410,"message":"too old resource version"}}\n'
        self._send()
        return b"".join([line for at, line in self.history if at > version])

    async def run(self) -> None:
        """Keep pods waiting while it is busy, and let bound ones go."""
        while True:
            await asyncio.sleep(0.01)
            missing = WAITING - len(self._waiting) if self.is_busy else 0
            for _ in range(min(missing, 10)):
                gated = Gated(f"g{next(self._numbers)}", self._rng.choice(SIZES), self._rng.choice(SIZES))
                self._pods[gated.name] = gated
                self._waiting.add(gated.name)
                self._tell(b"ADDED", gated)
            for _ in range(min(10, len(self._old) - (5 * WAITING if self.is_busy else 0))):
                self._tell(b"DELETED", self._pods.pop(self._old.popleft()))


def ask_first() -> None:
    """Let this thread run whenever it can; short slices are the best that a user may have."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    except PermissionError:
        answer_soon()


def encoded(value: Any) -> bytes:
    """JSON."""
    return json.dumps(value, separators=(",", ":")).encode()


_GATED = _gated()


def _node(name: str, cores: int) -> dict[str, Any]:
    offered = {"cpu": str(cores), "memory": "64Gi", "pods": "110"}
    return {"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}, "status": {"allocatable": offered}}


def _bound(name: str, node: str, cpu: str) -> dict[str, Any]:
    asks = {"cpu": cpu, "memory": "1Gi"}
    containers = [{"name": "main", "image": "x", "resources": {"requests": asks}}]
    meta = {"name": name, "namespace": "default", "uid": name, "resourceVersion": "1"}
    return {"metadata": meta, "spec": {"nodeName": node, "containers": containers}, "status": {"phase": "Running"}}


class Api(asyncio.Protocol):
    """An API server that says yes, after as long as a real one takes."""

    def __init__(self, world: Still) -> None:
        self.world = world
        self.read = b""
        self.watched = ""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.world.watchers.get(self.watched, set()).discard(self.transport)

    def data_received(self, data: bytes) -> None:
        self.read += data
        while (end := self.read.find(b"\r\n\r\n")) >= 0:
            at = self.read.find(b"Content-Length: ", 0, end)
            length = int(self.read[at + 16 : self.read.find(b"\r\n", at)]) if at >= 0 else 0
            if len(self.read) < end + 4 + length:
                return
            head, body = self.read[:end], self.read[end + 4 : end + 4 + length]
            self.read = self.read[end + 4 + length :]
            method, target, _ = head.split(b" ", 2)
            path, _, query = target.decode("ascii").partition("?")
            if method == b"PATCH":
                self.world.patch(path.split("/")[6], json.loads(body))
                asyncio.get_running_loop().call_later(PATCH_S, self._say, PATCHED)
            else:
                self._answer(path, dict(parse_qsl(query)))

    def _answer(self, path: str, query: dict[str, str]) -> None:
        if "watch" in query:
            self._watch(path, int(query["resourceVersion"]))
        elif path.startswith("/api/v1/namespaces/default/pods/"):
            found = self.world.lists[POD_PATH].get(path.rsplit("/", 1)[-1])
            self._say(found or b'{"code":404}', b"200 OK" if found else b"404 Not Found")
        else:
            items = list(self.world.lists.get(path, {}).values())
            start, limit = int(query.get("continue", 0)), int(query.get("limit", 500))
            token = str(start + limit) if start + limit < len(items) else ""
            meta = f'{{"resourceVersion":"{self.world.version}","continue":"{token}"}}'.encode()
            self._say(b'{"metadata":%b,"items":[%b]}' % (meta, b",".join(items[start : start + limit])))

    def _watch(self, path: str, version: int) -> None:
        self.watched = path
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
        if path == POD_PATH:
            self.transport.write(self.world.since(version))
        self.world.watchers.setdefault(path, set()).add(self.transport)

    def _say(self, body: bytes, status: bytes = b"200 OK") -> None:
        if not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body))


def serve_api(pipe: Any, num_nodes: int) -> None:
    """Process: the stand-in. Told whether it is busy, it says how many pods were bound so far.

    It is told the process of ``ullage serve`` first, and ends it when whoever started both was killed.
    """
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    world = World(num_nodes)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Api(world), "127.0.0.1", 0)
        work = asyncio.create_task(world.run())

        def obey() -> None:
            serving = pipe.recv()
            try:
                while (is_busy := pipe.recv()) is not None:
                    world.is_busy = is_busy
                    pipe.send(world.num_bound)
            except (EOFError, OSError):
                with suppress(ProcessLookupError):
                    os.kill(serving, signal.SIGTERM)
            loop.call_soon_threadsafe(work.cancel)

        threading.Thread(target=obey, daemon=True).start()
        pipe.send(server.sockets[0].getsockname()[1])
        with suppress(asyncio.CancelledError):
            await work

    asyncio.run(run())


def kubeconfig(folder: Path, api_port: int) -> Path:
    """That leads to a stand-in."""
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "x",
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{api_port}"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
    }  # fmt: skip
    path = folder / "kubeconfig"
    path.write_text(json.dumps(config), encoding="utf-8")
    return path


def _settings(folder: Path, api_port: int, options: argparse.Namespace) -> Path:
    """Settings of ``ullage serve``."""
    settings = {
        "mode": "decide", "strategy": options.strategy, "http": {"host": "127.0.0.1", "port": options.port},
        "kube": {"kubeconfig": str(kubeconfig(folder, api_port))}, "log": {"folder": str(folder / "log")},
        "records": {"path": str(folder / "records.db")}, "plan": {"enabled": True, "time_s": options.time},
    }  # fmt: skip
    path = folder / "ullage.json"
    path.write_text(json.dumps(settings), encoding="utf-8")
    return path


def page(port: int, path: str) -> str:
    """A page of the server; empty while it does not answer."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return str(answer.read().decode())
    except (urllib.error.URLError, OSError):
        return ""


def tree(pid: int, depth: int = 0) -> dict[str, float]:
    """CPU seconds of a process and of those that it started: ``answers``, ``planner``, and the planner's ``solvers``."""
    used: dict[str, float] = {}
    with suppress(OSError):
        used = {("answers", "planner", "solvers")[min(depth, 2)]: cpu_s(pid)}
        for path in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in path.read_text(encoding="ascii").split():
                for name, seconds in tree(int(child), depth + 1).items():
                    used[name] = used.get(name, 0.0) + seconds
    return used


class Bench:
    """Stand-in, server, and a connection to it."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        context = multiprocessing.get_context("spawn")  # it inherits neither our end of the pipe nor our signals
        self.pipe, theirs = context.Pipe()
        self.api = context.Process(target=serve_api, args=(theirs, options.nodes), daemon=True)
        self.api.start()
        theirs.close()
        config = _settings(folder, self.pipe.recv(), options)
        command = [sys.executable, "-m", "scheduler", "serve", "--config", str(config), "--log-level", "error"]
        self.server = subprocess.Popen(command)
        self.pipe.send(self.server.pid)
        try:
            while page(options.port, "/readyz") != "ok" or "planner_ready 1.0" not in page(options.port, "/metrics"):
                if self.server.poll() is not None:
                    raise SystemExit("ullage serve ended")
                time.sleep(0.2)
            self.client = Client(options.port)
        except BaseException:
            self.close()
            raise

    def switch(self, is_busy: bool) -> tuple[int, dict[str, float]]:
        """Planned pods bound so far, and CPU seconds by process."""
        self.pipe.send(is_busy)
        bound: int = self.pipe.recv()
        return bound, {**tree(self.server.pid), "api": cpu_s(self.api.pid or 0), "client": cpu_s(os.getpid())}

    def close(self) -> None:
        """End both; they end by themselves when this process is killed."""
        self.server.terminate()
        try:
            self.server.wait(END_S)
        except subprocess.TimeoutExpired:
            self.server.kill()
            raise SystemExit(f"ullage serve did not end within {END_S:g} s of SIGTERM") from None
        finally:
            self.pipe.send(None)
            self.api.join()


def one_round(bench: Bench, asked: list[bytes], count: int, pause_s: float) -> list[float]:
    """Milliseconds of each request."""
    times = []
    for i in range(count):
        seconds, answer = bench.client.post("/v1/filter", asked[i % len(asked)])
        if b'"Error":""' not in answer[-12:]:
            raise SystemExit(f"unexpected answer: {answer[:200]!r}")
        times.append(1000 * seconds)
        time.sleep(pause_s)
    return times


def interval(rounds: list[tuple[list[float], list[float]]], draws: int = 2000) -> dict[str, Any]:
    """p99 of the requests of all busy rounds over that of all idle ones, with a 95 % interval.

    The bootstrap draws rounds, and of each drawn round its requests, with replacement: rounds differ by more than the
    luck of their requests.
    """
    rng = np.random.default_rng(1)
    idle, busy = (np.array([pair[k] for pair in rounds]) for k in (0, 1))
    p99 = [float(np.quantile(times, 0.99)) for times in (idle, busy)]
    drawn = []
    for _ in range(draws):
        pick = rng.integers(len(rounds), size=len(rounds))[:, None]
        of = rng.integers(idle.shape[1], size=(2, *idle.shape))
        drawn.append(np.quantile(busy[pick, of[0]], 0.99) / np.quantile(idle[pick, of[1]], 0.99))
    low, high = np.quantile(drawn, (0.025, 0.975))
    return {
        "idle_p99_ms": round(p99[0], 3), "busy_p99_ms": round(p99[1], 3), "ratio_p99": round(p99[1] / p99[0], 3),
        "ratio_p99_95": [round(float(low), 3), round(float(high), 3)],
    }  # fmt: skip


def measure(bench: Bench, options: argparse.Namespace) -> None:
    """Rounds of both kinds in turn."""
    asked = bodies(options.nodes, NUM_ORDERS, full=False)
    if options.client == "first":
        ask_first()
    bench.switch(True)
    one_round(bench, asked, 500, options.pause)  # the solvers' processes are up, everything is compiled
    pairs, rounds = [], []
    for _ in range(options.rounds):
        bench.switch(False)
        time.sleep(options.time + 1)  # the last batch ends
        idle = one_round(bench, asked, options.requests, options.pause)
        bench.switch(True)
        time.sleep(0.5)
        before, used = bench.switch(True)
        began = time.monotonic()
        busy = one_round(bench, asked, options.requests, options.pause)
        after, then = bench.switch(True)
        seconds = time.monotonic() - began
        if after == before:
            raise SystemExit(
                "no pod was planned while busy, so there is nothing to compare; see what serve and the stand-in say"
            )
        cores = {f"{name}_cores": (then[name] - used.get(name, 0.0)) / seconds for name in then}
        row = {
            "idle_p50_ms": quantile(idle, 0.5), "idle_p99_ms": quantile(idle, 0.99),
            "busy_p50_ms": quantile(busy, 0.5), "busy_p99_ms": quantile(busy, 0.99),
            "planned_pods_per_s": (after - before) / seconds, **cores,
            "ratio_p50": quantile(busy, 0.5) / quantile(idle, 0.5),
            "ratio_p99": quantile(busy, 0.99) / quantile(idle, 0.99),
        }  # fmt: skip
        pairs.append(row)
        rounds.append((idle, busy))
        sys.stdout.write(json.dumps({key: round(value, 3) for key, value in row.items()}) + "\n")
        sys.stdout.flush()
    medians = {key: round(statistics.median(pair[key] for pair in pairs), 3) for key in pairs[0]}
    head = {key: getattr(options, key) for key in ("nodes", "rounds", "requests", "client")}
    summary = {**head, "medians": medians, "pooled": interval(rounds)}
    sys.stdout.write(json.dumps(summary) + "\n")


def main() -> None:
    """Print one JSON line per pair of rounds, and the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--requests", type=int, default=500, help="per round")
    parser.add_argument("--pause", type=float, default=0.005, help="seconds between two requests")
    parser.add_argument("--client", choices=("first", "equal"), default="first", help="when who asks may run")
    parser.add_argument("--strategy", default="best-fit")
    parser.add_argument("--time", type=float, default=2.0, help="plan.time_s: the longer, the harder the solver works")
    options = parser.parse_args()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        options.port = probe.getsockname()[1]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as Ctrl-C: what was started is ended
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), options)
        try:
            measure(bench, options)
        finally:
            bench.close()


if __name__ == "__main__":
    main()
