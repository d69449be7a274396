"""Hostile callers against ``ullage serve`` as a process: a clean answer for each, and good callers are unharmed.

Small here; ``make evidence`` sets ``ULLAGE_FUZZ_HTTP``, ``ULLAGE_FUZZ_GRPC`` (requests), ``ULLAGE_FUZZ_LARGE`` (bodies
of ``ULLAGE_FUZZ_MB`` each) and shows the numbers. ``ULLAGE_FUZZ_SEED`` repeats a run.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from scheduler._pb import placement_pb2 as pb
from scheduler._pb import placement_pb2_grpc
from scheduler.server import SPARE_S
from tests.api_server import api_server, kubeconfig, node_object, pod_object
from tests.hostile import NAMES, REFLECT, REPORT, UNARY, grpc_message, grpc_sample, http_request, large_request

NUM_HTTP = int(os.environ.get("ULLAGE_FUZZ_HTTP", "2000"))
NUM_GRPC = int(os.environ.get("ULLAGE_FUZZ_GRPC", "500"))
NUM_LARGE = int(os.environ.get("ULLAGE_FUZZ_LARGE", "4"))
LARGE_BYTES = int(os.environ.get("ULLAGE_FUZZ_MB", "5")) * 10**6
SEED = int(os.environ.get("ULLAGE_FUZZ_SEED", "11"))
WIDTH = 8
NUM_SLOW = 20
GROWTH_KB = 64_000
"""What the process may gain after the first third: buried UIDs, records on their way, the allocator's slack."""
CLEAN_HTTP = {200, 400, 404, 405, 408, 411, 413, 429, 431, 505}
ENDED = "ended while sending"
"""grpcio's own client makes this up (as INTERNAL) when a stream's status arrives before its last message has gone."""
CLEAN_GRPC = {ENDED, "OK", "INVALID_ARGUMENT", "NOT_FOUND", "RESOURCE_EXHAUSTED", "UNIMPLEMENTED"}


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Service:
    """``ullage serve`` with everything on that listens or writes."""

    process: asyncio.subprocess.Process
    http: int
    grpc: int
    admin: int
    log: Path
    seen: Counter[str] = field(default_factory=Counter)
    """What came back, by protocol and status."""
    is_over: bool = False
    """Whether those that go on and on should end."""
    good_s: list[float] = field(default_factory=list)
    """How long good callers waited."""

    def rss_kb(self) -> int:
        """Resident memory now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0])

    async def page(self, port: int, path: str) -> str:
        """A page; empty while nobody listens."""
        try:
            return (await answered(port, f"GET {path} HTTP/1.1\r\nConnection: close\r\n\r\n".encode()))[1].decode()
        except OSError:
            return ""


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Service]:
    """The service over a small API server whose nodes have room for whatever is invented."""
    async with api_server() as api:
        api.put("namespaces", {"metadata": {"name": "default"}})
        for name in NAMES:
            node = node_object(name, gpus=4, cpu="100000")
            node["status"]["allocatable"] |= {"memory": "1000Ti", "pods": "1000000"}
            api.put("nodes", node)
        http, rpc, admin = free_port(), free_port(), free_port()
        settings = {
            "mode": "decide",
            "strategy": "best-fit",
            "assume_timeout_s": 2,
            "http": {"host": "127.0.0.1", "port": http, "admin_port": admin, "request_timeout_s": 0.5},
            "grpc": {"port": rpc},
            "kube": {"kubeconfig": kubeconfig(api.port, folder), "bind_timeout_s": 1},
            "records": {"path": str(folder / "records.db")},
            "log": {"folder": str(folder / "log"), "max_bytes": 10**8},
        }
        config, log = folder / "ullage.yaml", folder / "stderr"
        config.write_text(json.dumps(settings))
        with log.open("wb") as stderr:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "scheduler", "serve", "--config", str(config), stderr=stderr
            )
        service = Service(process, http, rpc, admin, log)
        try:
            async with asyncio.timeout(100):
                while await service.page(http, "/readyz") != "ok":
                    assert process.returncode is None, log.read_text()
                    await asyncio.sleep(0.1)
            yield service
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


# ── HTTP ──────────────────────────────────────────────────────────────────────────────────────


async def answered(port: int, data: bytes, *, ends: bool = False) -> tuple[int, bytes]:
    """Status and body of the answer on a connection of its own; 0 if it was closed without one."""
    caller = Caller(port)
    try:
        return await caller.ask(data, ends=ends)
    finally:
        caller.close()


class Caller:
    """A connection that is kept as long as the server keeps it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, data: bytes, *, ends: bool = False) -> tuple[int, bytes]:
        """Send and read one answer; ``ends`` says that nothing will follow."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self.port)
        reader, writer = self._streams
        try:
            writer.write(data)
            if ends:
                writer.write_eof()
            async with asyncio.timeout(120):
                head = await reader.readuntil(b"\r\n\r\n")
                while head.startswith(b"HTTP/1.1 100 "):
                    head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                body = await reader.readexactly(length)
        except (OSError, asyncio.IncompleteReadError):
            self.close()
            return 0, b""
        if b"connection: close" in head.lower():
            self.close()
        return int(head.split(b" ")[1]), body

    def close(self) -> None:
        """Hang up."""
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None


async def attack_http(service: Service, numbers: Any) -> None:
    """Requests one after another; one that is complete must be answered."""
    caller = Caller(service.http)
    for number in numbers:
        data, is_complete = http_request(random.Random(SEED * 10**9 + number), number)
        if is_complete:
            status, body = await caller.ask(data)
            assert status in CLEAN_HTTP, f"request {number} of seed {SEED}: status {status}, {body[:200]!r}"
        else:
            status, body = await answered(service.http, data, ends=True)
            assert status in CLEAN_HTTP | {0}, f"request {number} of seed {SEED}: status {status}, {body[:200]!r}"
        assert b"Traceback" not in body
        service.seen[f"http {status}"] += 1
    caller.close()


async def attack_with_large_bodies(service: Service) -> None:
    """Bodies of many megabytes, one after another."""
    rng = random.Random(SEED)
    for _ in range(NUM_LARGE):
        status, _ = await answered(service.http, large_request(rng, LARGE_BYTES))
        assert status in CLEAN_HTTP
        service.seen[f"large {status}"] += 1


async def dawdle(service: Service) -> None:
    """A good request, a byte at a time, for ever: each is told to hurry, and begins anew."""
    data = filter_request("slow")
    while not service.is_over:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.http)
        try:
            for i in range(len(data)):
                writer.write(data[i : i + 1])
                await writer.drain()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.2):
                        line = await reader.readline()
                    service.seen[f"slow {line.split(b' ')[1].decode() if line else 0}"] += 1
                    break
        except OSError:
            service.seen["slow 0"] += 1
        finally:
            writer.transport.abort()


def filter_request(name: str, verb: str = "filter") -> bytes:
    """What kube-scheduler would send."""
    body = json.dumps({"Pod": pod_object(name), "Nodes": None, "NodeNames": NAMES}).encode()
    return f"POST /v1/{verb} HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


async def behave(service: Service) -> None:
    """kube-scheduler among them: it must get what it would get alone."""
    caller = Caller(service.http)
    while not service.is_over:
        began = time.perf_counter()
        status, body = await caller.ask(filter_request("good"))
        service.good_s.append(time.perf_counter() - began)
        passed = json.loads(body)["NodeNames"] if status == 200 else []
        assert passed, f"a good filter call got {status} {body[:200]!r}"
        assert set(passed) <= set(NAMES)
        status, body = await caller.ask(filter_request("other", "prioritize"))
        scores = {entry["Host"]: entry["Score"] for entry in json.loads(body)} if status == 200 else {}
        assert scores.keys() == set(NAMES), f"a good prioritize call got {status} {body[:200]!r}"
        assert all(type(score) is int and 0 <= score <= 10 for score in scores.values())
        service.seen["good http"] += 2
        await asyncio.sleep(0.02)
    caller.close()


# ── gRPC ──────────────────────────────────────────────────────────────────────────────────────


async def attack_grpc(service: Service, numbers: Any) -> None:
    """Calls one after another: every method, absurd messages, noise, streams that are given up."""
    async with grpc.aio.insecure_channel(
        f"127.0.0.1:{service.grpc}", [("grpc.use_local_subchannel_pool", 1)]
    ) as channel:
        for number in numbers:
            rng = random.Random(SEED * 10**9 + number)
            kind = rng.random()
            if kind < 0.02:
                await noise(service, rng)
            elif kind < 0.1:
                stream = channel.unary_stream("/ullage.v1.Placement/WatchDecisions")(rng.randbytes(rng.randrange(9)))
                await asyncio.sleep(0)
                stream.cancel()
            else:
                code, text = await status_of(called(channel, rng, number))
                assert code in CLEAN_GRPC, f"call {number} of seed {SEED}: {code} {text}"
                service.seen[f"grpc {code}"] += 1


def called(channel: Any, rng: random.Random, number: int) -> Any:
    """One call, on its way."""
    if rng.random() < 0.8:
        return channel.unary_unary(rng.choice(UNARY))(grpc_message(rng, number), timeout=60)
    samples = [grpc_sample(rng) for _ in range(rng.randrange(30))]

    async def sending() -> AsyncIterator[bytes]:
        for sample in samples:
            yield sample

    if rng.random() < 0.5:
        return channel.stream_unary(REPORT)(sending(), timeout=60)
    return read_all(channel.stream_stream(REFLECT)(sending(), timeout=60))


async def read_all(stream: Any) -> None:
    """Answers to the end."""
    async for _ in stream:
        pass


async def status_of(call: Awaitable[Any]) -> tuple[str, str]:
    """How the call ended, and the message."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        if error.details() == "Internal error from Core":
            return ENDED, ""
        return str(error.code().name), str(error.details())
    return "OK", ""


async def noise(service: Service, rng: random.Random) -> None:
    """Bytes that are no HTTP/2, or only begin like it."""
    _, writer = await asyncio.open_connection("127.0.0.1", service.grpc)
    with contextlib.suppress(OSError):
        preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" if rng.random() < 0.5 else b""
        writer.write(preface + rng.randbytes(rng.randrange(5000)))
        await writer.drain()
    writer.transport.abort()
    service.seen["grpc noise"] += 1


async def behave_grpc(service: Service) -> None:
    """A good caller."""
    question = pb.DecideRequest(question=pb.PodQuestion(plain=pb.PlainPod(cpu_millicores=500)))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{service.grpc}") as channel:
        stub = placement_pb2_grpc.PlacementStub(channel)
        while not service.is_over:
            assert (await stub.Decide(question, timeout=60)).decision.node in NAMES
            service.seen["good grpc"] += 1
            await asyncio.sleep(0.02)


# ── together ──────────────────────────────────────────────────────────────────────────────────


async def besieged(service: Service, good: Callable[[Service], Awaitable[None]], *attacks: Awaitable[None]) -> None:
    """Run the attacks while a good caller goes on; the first failure of anybody ends it."""
    service.is_over = False
    others: list[asyncio.Future[Any]] = [asyncio.ensure_future(dawdle(service)) for _ in range(NUM_SLOW)]
    others.append(asyncio.ensure_future(good(service)))
    running = asyncio.gather(*attacks)
    try:
        await asyncio.wait([running, *others], return_when=asyncio.FIRST_COMPLETED)
        service.is_over = running.done()
        for task in others if running.done() else [task for task in others if task.done()]:
            await task
        await running
    finally:
        for each in (running, *others):
            each.cancel()
        await asyncio.gather(running, *others, return_exceptions=True)


async def settled(service: Service) -> None:
    """Nothing invented stays counted. A page is cut, and asked for again, where this process did not come to read all of it
    in ``http.request_timeout_s``, which is short here."""
    async with asyncio.timeout(300):
        while not (page := await service.page(service.admin, "/ledger")) or json.loads(page)["pods"]:
            await asyncio.sleep(0.2)


async def rested(service: Service, before_kb: int) -> int:
    """Resident memory once it has not grown too much; the buffer of the largest body is kept for :data:`SPARE_S`."""
    end = time.monotonic() + SPARE_S + 10
    while service.rss_kb() - before_kb >= GROWTH_KB and time.monotonic() < end:
        await asyncio.sleep(1)
    return service.rss_kb()


def dealt(
    attack: Callable[[Service, range], Awaitable[None]], service: Service, numbers: range
) -> list[Awaitable[None]]:
    """``numbers``, dealt to workers."""
    return [attack(service, numbers[i::WIDTH]) for i in range(WIDTH)]


@pytest.mark.timeout(7200)
async def test_hostile_callers_get_clean_answers_and_good_ones_are_unharmed(tmp_path: Path) -> None:
    print(f"seed {SEED}: {NUM_HTTP} HTTP requests, {NUM_LARGE} of {LARGE_BYTES / 1e6:g} MB, {NUM_GRPC} gRPC calls")
    async with serving(tmp_path) as service:
        http, rpc = NUM_HTTP // 3, NUM_GRPC // 3
        await besieged(service, behave, *dealt(attack_http, service, range(http)))
        await besieged(service, behave_grpc, *dealt(attack_grpc, service, range(rpc)))
        await settled(service)
        before = service.rss_kb()
        large = attack_with_large_bodies(service)
        await besieged(service, behave, large, *dealt(attack_http, service, range(http, NUM_HTTP)))
        await besieged(service, behave_grpc, *dealt(attack_grpc, service, range(rpc, NUM_GRPC)))
        await settled(service)
        after = await rested(service, before)
        assert await service.page(service.http, "/readyz") == "ok"
        waits = sorted(service.good_s)
        print(dict(sorted(service.seen.items())))
        print(f"resident: {before / 1e3:.0f} MB after a third, {after / 1e3:.0f} MB at the end")
        shown = {"p50": waits[len(waits) // 2], "p99": waits[len(waits) * 99 // 100], "longest": waits[-1]}
        print("good filter calls:", ", ".join(f"{name} {wait * 1e3:.1f} ms" for name, wait in shown.items()))
        service.process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(service.process.wait(), 60) == 0
    said = service.log.read_text()
    assert "Traceback" not in said
    assert '"level": "error"' not in said
    assert after - before < GROWTH_KB
    for needed in ("http 200", "http 400", "grpc OK", "grpc INVALID_ARGUMENT", "slow 408", "good http", "good grpc"):
        assert service.seen[needed], f"{needed} did not occur: {service.seen}"
