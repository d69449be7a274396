"""Latency of the verbs over a bare asyncio echo of the same bytes, one keep-alive connection, loopback.

``python -m benchmarks.verbs [--nodes 500 5000 15000] [--rounds 5]`` prints one line per verb and size: p50 and p99
of both, their ratios (median over interleaved rounds), and requests per second of one core (from CPU time). The echo
reads the same request and writes an answer of the same length that was made before: the floor of any server in this
language on this machine. Ours runs as deployed, with decision records and the event log on disk.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import multiprocessing
import os
import random
import resource
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from placement.nodes import NodeSpec
from placement.pods import PodSpec
from placement.resources import CPU, MEMORY
from placement.state import ClusterState
from placement.strategies import strategy_named

GIB = 2**30
NUM_ORDERS = 20
"""Requests that differ in the order of their nodes; every one asks about a pod of its own."""
WARM_UP = 60
"""Requests that are not measured."""


class Echo(asyncio.BufferedProtocol):
    """The floor: reads a request to its end into one buffer kept for all, and writes as many bytes as its path says.

    Nothing is parsed but the head, nothing is copied, and the answer is made before: what remains is the event loop
    and the kernel moving the same bytes that the real server moves.
    """

    def __init__(self) -> None:
        self.buffer = bytearray(1 << 20)
        self.answers: dict[bytes, bytes] = {}
        self.have = self.need = 0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        if self.have == len(self.buffer):
            grown = bytearray(max(2 * self.have, self.need))
            grown[: self.have] = self.buffer
            self.buffer = grown
        return memoryview(self.buffer)[self.have :]

    def buffer_updated(self, nbytes: int) -> None:
        self.have += nbytes
        if not self.need:
            end = self.buffer.find(b"\r\n\r\n", 0, self.have)
            if end < 0:
                return
            at = self.buffer.find(b"Content-Length: ", 0, end)
            self.need = end + 4 + int(self.buffer[at + 16 : self.buffer.find(b"\r\n", at)])
        if self.have >= self.need:
            self.have = self.need = 0
            self.transport.write(self.answer(bytes(self.buffer[6 : self.buffer.find(b" ", 6)])))

    def answer(self, size: bytes) -> bytes:
        """The head and ``size`` bytes, made once."""
        if size not in self.answers:
            length = int(size)
            self.answers[size] = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length + b"x" * length
        return self.answers[size]


def serve_echo(pipe: Any) -> None:
    """Process: the floor."""

    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


def serve_ullage(pipe: Any, num_nodes: int, mode: str, strategy: str, num_pods: int) -> None:
    """Process: the real server, engine and ledger over a synthetic cluster."""
    from scheduler.app import TICK_S
    from scheduler.binder import Binder
    from scheduler.engine import Engine
    from scheduler.eventlog import DiskLog
    from scheduler.extender import Extender
    from scheduler.ledger import Ledger
    from scheduler.metrics import Metrics
    from scheduler.quiet import Quiet
    from scheduler.recorder import Recorder
    from scheduler.server import HttpServer
    from scheduler.settings import HttpSettings, LogSettings, RecordSettings, Settings
    from scheduler.view import Reader
    from scheduler.warmup import warm_up

    async def run(folder: str) -> None:
        settings = Settings(mode=mode, http=HttpSettings(host="127.0.0.1", port=0))
        metrics, quiet = Metrics(), Quiet(is_ours=True)
        events = DiskLog(LogSettings(folder=folder), metrics, "bench", quiet)
        ledger = Ledger(ClusterState(events=events), time.monotonic, metrics)
        rng = random.Random(1)
        for name in names(num_nodes):
            ledger.see_node(NodeSpec(name, ((CPU, rng.choice((8000, 16000, 64000))), (MEMORY, 64 * GIB))))
        for i in range(num_nodes * 2):
            spec = PodSpec(request=((CPU, rng.choice((250, 500, 1000))), (MEMORY, GIB)))
            ledger.state.bind(f"r{i}", spec, ledger.state.names[i % num_nodes])
        reader = Reader()
        for i in range(num_pods):
            ledger.see(reader.pod(json.dumps(pod(uid_of(i))).encode()))
        records = Recorder(RecordSettings(path=f"{folder}/records.db"), metrics, quiet)
        engine = Engine(ledger, reader, strategy_named(strategy), settings, metrics)
        records.attach(engine)
        events.attach(ledger.state, [engine.strategy], begins_unix_s=int(time.time()))
        await asyncio.to_thread(warm_up, (engine.strategy,))
        quiet.calm()
        extender = Extender(engine, Binder(engine, None), version="bench")  # type: ignore[arg-type]  # no API here
        server = HttpServer(settings.http, extender.handle, metrics, quiet)
        await server.start()
        pipe.send(server.port)
        while True:
            await asyncio.sleep(TICK_S)
            quiet.rest()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(folder))


def names(num_nodes: int) -> list[str]:
    """Node names as a cloud gives them, 42 characters."""
    return [
        f"ip-10-{i // 62500:03d}-{i // 250 % 250:03d}-{i % 250:03d}.eu-north-1.compute.internal"
        for i in range(num_nodes)
    ]


def uid_of(number: int) -> str:
    """UID of one pod, always as long."""
    return f"u{number:011d}"


UID = uid_of(0)


def pod(uid: str) -> dict[str, Any]:
    """A pod of about 5 KB."""
    return {
        "metadata": {
            "name": "web-0",
            "namespace": "default",
            "uid": uid,
            "resourceVersion": "1",
            "annotations": {"note": "x" * 1500},
            "managedFields": [{"manager": "kube-controller-manager", "fieldsV1": {f"f:k{i}": {} for i in range(150)}}],
        },
        "spec": {
            "containers": [
                {
                    "name": "main",
                    "image": "registry.local/app:1",
                    "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}},
                    "env": [{"name": f"E{i}", "value": "v" * 20} for i in range(20)],
                }
            ]
        },
        "status": {"phase": "Pending"},
    }


def node_object(name: str) -> dict[str, Any]:
    """A Node of about 11 KB, most of it images."""
    images = [{"names": [f"registry.local/team/image-{i}@sha256:{'0' * 64}"], "sizeBytes": 10**8} for i in range(80)]
    return {"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}, "status": {"images": images}}


class Client:
    """One connection, one request at a time."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = bytearray(1 << 27)

    def post(self, path: str, body: bytes) -> tuple[float, bytes]:
        """Seconds, and the answer's body."""
        head = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % (
            path.encode(), len(body),
        )  # fmt: skip
        view = memoryview(self.buffer)
        began = time.perf_counter()
        self.socket.sendall(head + body)
        have, need = 0, -1
        while need < 0 or have < need:
            got = self.socket.recv_into(view[have:])
            if not got:
                raise SystemExit("the server closed the connection")
            have += got
            if need < 0:
                end = self.buffer.find(b"\r\n\r\n", 0, have)
                if end >= 0:
                    start = end + 4
                    at = self.buffer.find(b"Content-Length: ", 0, start)
                    need = start + int(self.buffer[at + 16 : self.buffer.find(b"\r\n", at)])
        return time.perf_counter() - began, bytes(view[start:need])


def quantile(times: list[float], share: float) -> float:
    """The value below which ``share`` of the times lie."""
    return sorted(times)[min(int(share * len(times)), len(times) - 1)]


def bodies(num_nodes: int, count: int, *, full: bool) -> list[bytes]:
    """Requests whose node order differs, as kube-scheduler's does."""
    rng = random.Random(2)
    listed = names(num_nodes)
    made = []
    for _ in range(count):
        rng.shuffle(listed)
        nodes = {"metadata": {}, "items": [node_object(n) for n in listed]} if full else None
        args = {"Pod": pod(UID), "Nodes": nodes, "NodeNames": None if full else listed}
        made.append(json.dumps(args, separators=(",", ":")).encode())
    return made


def cpu_s(pid: int) -> float:
    """CPU seconds of a process so far, all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def started(target: Any, *words: Any) -> tuple[multiprocessing.Process, Client]:
    """A server process, and a connection to it."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.Process(target=target, args=(theirs, *words), daemon=True)
    process.start()
    return process, Client(ours.recv())


def one_round(
    echo: Client, ullage: Client, verb: str, asked: list[bytes], count: int, numbers: Iterator[int], pause_s: float
) -> tuple[float, ...]:
    """p50 and p99 of both, seconds; every request asks about the pod of the next number, ``pause_s`` after the last
    answer."""
    times: dict[str, list[float]] = {"echo": [], "ullage": []}
    for i in range(count):
        time.sleep(pause_s)
        body = asked[i % len(asked)].replace(UID.encode(), uid_of(next(numbers)).encode(), 1)
        seconds, answer = ullage.post(f"/v1/{verb}", body)
        times["ullage"].append(seconds)
        time.sleep(pause_s)
        times["echo"].append(echo.post(f"/{len(answer)}", body)[0])
        if b'"Error":""' not in answer[-12:] and not answer.startswith(b'[{"Host"'):
            raise SystemExit(f"unexpected answer: {answer[:200]!r}")
    return tuple(quantile(times[who], q) for who in ("echo", "ullage") for q in (0.5, 0.99))


def measure(verb: str, num_nodes: int, options: argparse.Namespace) -> dict[str, Any]:
    """Interleaved rounds against both servers."""
    mode = "decide" if verb == "filter" else "score"
    floor, echo = started(serve_echo)
    count = max(10, options.requests // (20 if options.full else 1))
    num_pods = 0 if options.unseen else WARM_UP + options.rounds * count
    server, ullage = started(serve_ullage, num_nodes, mode, options.strategy, num_pods)
    asked = bodies(num_nodes, 2 if options.full else NUM_ORDERS, full=options.full)
    numbers = itertools.count()
    one_round(echo, ullage, verb, asked, WARM_UP if not options.full else 6, numbers, 0)
    before = cpu_s(server.pid or 0)
    results = [
        one_round(echo, ullage, verb, asked, count, numbers, options.pause_ms / 1e3) for _ in range(options.rounds)
    ]
    spent = cpu_s(server.pid or 0) - before
    for process in (floor, server):
        process.terminate()
        process.join()
    e50, e99, u50, u99 = (statistics.median(r[k] for r in results) * 1e3 for k in range(4))
    ratios = [(r[2] / r[0], r[3] / r[1]) for r in results]
    return {
        "verb": verb, "form": "full" if options.full else "names", "nodes": num_nodes, "strategy": options.strategy,
        "pause_ms": options.pause_ms, "echo_p50_ms": round(e50, 3), "echo_p99_ms": round(e99, 3),
        "ullage_p50_ms": round(u50, 3), "ullage_p99_ms": round(u99, 3),
        "ratio_p50": round(statistics.median(r[0] for r in ratios), 2),
        "ratio_p99": round(statistics.median(r[1] for r in ratios), 2),
        "rounds_p50": [round(r[0], 2) for r in ratios], "rounds_p99": [round(r[1], 2) for r in ratios],
        "requests_per_core_s": round(count * options.rounds / spent),
    }  # fmt: skip


def main() -> None:
    """Print one JSON line per measurement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, nargs="*", default=[500, 5000, 15000])
    parser.add_argument("--verbs", nargs="*", default=["filter", "prioritize"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--strategy", default="best-fit")
    parser.add_argument("--full", action="store_true", help="send full Node objects")
    parser.add_argument("--unseen", action="store_true", help="ask about pods that the watch has not shown yet")
    parser.add_argument(
        "--pause-ms", type=float, default=0.0, help="rest before every request, as kube-scheduler's own work gives"
    )
    options = parser.parse_args()
    for num_nodes in options.nodes:
        for verb in options.verbs:
            sys.stdout.write(json.dumps(measure(verb, num_nodes, options)) + "\n")
            sys.stdout.flush()
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    sys.stderr.write(f"largest server process: {children.ru_maxrss / 1024:.0f} MB\n")


if __name__ == "__main__":
    main()
