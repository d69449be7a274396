"""Hostile requests against the real server, verbs and engine: 200 or a clean 4xx, and good callers are unharmed.

``ULLAGE_FUZZ=100000`` runs as many as ``make evidence`` does.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import time
from typing import Any

import pytest

from placement.nodes import NodeSpec
from placement.resources import CPU, MEMORY
from placement.state import ClusterState
from placement.strategies import STRATEGIES
from scheduler.binder import Binder
from scheduler.engine import Engine
from scheduler.errors import ApiError
from scheduler.eventlog import NoLog
from scheduler.extender import Extender
from scheduler.ledger import Ledger
from scheduler.metrics import Metrics
from scheduler.server import HttpServer
from scheduler.settings import HttpSettings, Settings
from scheduler.view import Reader
from tests.api_server import pod_object

NUM_REQUESTS = int(os.environ.get("ULLAGE_FUZZ", "1500"))
NAMES = [f"node-{i:04d}" for i in range(20)]
VERBS = ("filter", "prioritize", "preempt", "bind", "gpu/filter", "gpu/bind", "nonsense", "filter/", "../etc/passwd")
VALUES: tuple[Any, ...] = (
    None, True, -1, 2**70, 1e400, "", "x" * 5000, "\u0000", [], {}, [[[]]], {"a": {"b": []}}, "node-0001", [1, "a"],
)  # fmt: skip


class NoApi:
    """There is no API server here: every bind fails in an orderly way."""

    async def call(self, method: str, path: str, body: object = None, **how: object) -> bytes:
        raise ApiError(f"{method} {path}: no API server")


def extender() -> Extender:
    settings = Settings(mode="decide")
    metrics = Metrics()
    ledger = Ledger(ClusterState(events=NoLog()), time.monotonic, metrics)
    for name in NAMES:
        ledger.see_node(NodeSpec(name, ((CPU, 64_000), (MEMORY, 2**40)), num_gpus=4))
    engine = Engine(ledger, Reader(), STRATEGIES["best-fit"], settings, metrics)
    return Extender(engine, Binder(engine, NoApi()), version="test")


def whole(rng: random.Random, number: int) -> dict[str, Any]:
    """A request as kube-scheduler would send it."""
    pod = pod_object(f"p{number}", milli=rng.choice((0, 300)))
    victims = {"node-0001": {"Pods": [{"UID": "u"}], "NumPDBViolations": 0}}
    identity = {"PodName": "p", "PodNamespace": "default", "PodUID": f"u{number}", "Node": "node-0001"}
    return {"Pod": pod, "Nodes": None, "NodeNames": NAMES, "NodeNameToMetaVictims": victims, **identity}


def spoil(rng: random.Random, value: Any, depth: int = 0) -> Any:
    """The same with something replaced, removed or added somewhere."""
    if depth > 6 or rng.random() < 0.15:
        return rng.choice(VALUES)
    if isinstance(value, dict) and value:
        key = rng.choice(sorted(value))
        spoiled = dict(value)
        if rng.random() < 0.2:
            del spoiled[key]
        else:
            spoiled[key] = spoil(rng, value[key], depth + 1)
        return spoiled
    if isinstance(value, list) and value:
        at = rng.randrange(len(value))
        return [*value[:at], spoil(rng, value[at], depth + 1), *value[at + 1 :]]
    return rng.choice(VALUES)


def hostile(rng: random.Random, number: int) -> bytes:
    """Bytes of one request, seldom a good one."""
    body = json.dumps(spoil(rng, whole(rng, number))).encode()
    kind = rng.randrange(10)
    if kind == 0:
        body = bytes(b ^ (1 << rng.randrange(8)) if rng.random() < 0.02 else b for b in body)
    elif kind == 1:
        body = body[: rng.randrange(len(body) + 1)]
    elif kind == 2:
        body = rng.choice((b"[", b'{"Pod":', b'{"Pod":{"spec":')) * rng.randrange(1, 3000)
    elif kind == 3:
        body = rng.randbytes(rng.randrange(400))
    method = rng.choice(("POST",) * 20 + ("GET", "PUT", "post", "\x00"))
    length = len(body) if rng.random() < 0.97 else rng.choice((0, 10**12, -5, len(body) // 2))
    head = f"{method} /v1/{rng.choice(VERBS)} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n"
    if rng.random() < 0.05:
        head += rng.choice(
            ("Transfer-Encoding: chunked\r\n", "X: " + "y" * 20_000 + "\r\n", "no colon\r\n", "\x01: 2\r\n")
        )
    return head.encode() + b"\r\n" + body


async def answered(port: int, data: bytes) -> int:
    """Status of the first answer; 0 if the request could not complete and the connection was ended."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(data)
        writer.write_eof()
        line = await asyncio.wait_for(reader.readline(), 10)
        text = await asyncio.wait_for(reader.read(), 10)
        assert b"Traceback" not in text
        return int(line.split(b" ")[1]) if line else 0
    except ConnectionError:
        return 0
    finally:
        writer.close()
        try:
            await writer.wait_closed()
        except ConnectionError:
            writer.transport.abort()


@pytest.mark.timeout(3600)
async def test_hostile_requests_get_200_or_4xx_and_good_ones_their_answer() -> None:
    rng = random.Random(11)
    app = extender()
    http = HttpSettings(host="127.0.0.1", port=0, request_timeout_s=2)
    server = HttpServer(http, app.handle, app.engine.metrics)
    await server.start()
    statuses: dict[int, int] = {}
    before_kb = 0
    try:
        for number in range(NUM_REQUESTS):
            status = await answered(server.port, hostile(rng, number))
            statuses[status] = statuses.get(status, 0) + 1
            if number % 50 == 0:
                good = json.dumps({"Pod": pod_object(f"good{number}"), "Nodes": None, "NodeNames": NAMES}).encode()
                head = f"POST /v1/filter HTTP/1.1\r\nContent-Length: {len(good)}\r\nConnection: close\r\n\r\n".encode()
                assert await answered(server.port, head + good) == 200
                app.engine.ledger.forget(f"uid-good{number}", "test")
            if number == NUM_REQUESTS // 3:
                before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    finally:
        await server.stop(0.1)
    assert set(statuses) <= {0, 200, 400, 404, 405, 408, 411, 413, 429, 431, 505}, statuses
    assert statuses[200] > 0
    assert statuses[400] > 0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 100_000
    assert server.limits.pending_bytes == 0
