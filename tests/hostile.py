"""Requests that nobody honest would send, from a seed: HTTP as bytes on a socket, gRPC as bytes in a message."""

from __future__ import annotations

import json
import random
from typing import Any

from scheduler._pb import placement_pb2 as pb
from scheduler._pb import telemetry_pb2
from tests.api_server import pod_object

NAMES = [f"node-{i:04d}" for i in range(20)]
VERBS = ("filter", "prioritize", "preempt", "bind", "gpu/filter", "gpu/bind")
PAGES = (
    "/",
    "/v1/nonsense",
    "/v1/filter/",
    "/v1/../etc/passwd",
    "/metrics",
    "/readyz",
    "/version",
    "/mode",
    "/ledger",
    "/kill",
    "/metrics?x=" + "y" * 300,
    "/%00",
    "//",
)
VALUES: tuple[Any, ...] = (
    None, True, -1, 2**70, 1e400, 7.5, "", "x" * 5000, "\u0000", "\ud800", "é" * 300, "../../../nodes/x", [], {}, [[[]]],
    {"a": {"b": []}}, "node-0001", [1, "a"], "9" * 400, "1e9Gi", "-5m",
)  # fmt: skip
METHODS = ("GET", "PUT", "DELETE", "OPTIONS", "CONNECT", "TRACE", "post", "\x00", "P" * 9000)
HEADERS = (
    "Transfer-Encoding: chunked\r\n", "X: " + "y" * 20_000 + "\r\n", "no colon\r\n", "\x01: 2\r\n", "X:1\r\n" * 300,
    "Content-Length: 3\r\n", "Content-Length : 3\r\n", "Expect: 100-continue\r\n", "Upgrade: h2c\r\n", "Connection: \xff\r\n",
)  # fmt: skip


def whole(rng: random.Random, number: int) -> dict[str, Any]:
    """A body that every verb would take."""
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


def flipped(rng: random.Random, body: bytes) -> bytes:
    """The same with a few bits turned over: bad UTF-8 among others."""
    spoiled = bytearray(body)
    for _ in range(rng.randrange(1, 8)):
        if spoiled:
            spoiled[rng.randrange(len(spoiled))] ^= 1 << rng.randrange(8)
    return bytes(spoiled)


def http_body(rng: random.Random, number: int) -> bytes:
    """A body, seldom a good one."""
    body = json.dumps(spoil(rng, whole(rng, number))).encode()
    kind = rng.randrange(10)
    if kind == 0:
        return flipped(rng, body)
    if kind == 1:
        return body[: rng.randrange(len(body) + 1)]
    if kind == 2:
        return rng.choice((b"[", b'{"Pod":', b'{"Pod":{"spec":', b'{"NodeNames":[[')) * rng.randrange(1, 3000)
    if kind == 3:
        return rng.randbytes(rng.randrange(400))
    if kind == 4:
        return (
            b'{"Pod":{"metadata":{"name":"'
            + b"n" * rng.randrange(100_000)
            + b'"}},"NodeNames":["'
            + b"x" * 9000
            + b'"]}'
        )
    return body


def http_request(rng: random.Random, number: int) -> tuple[bytes, bool]:
    """Bytes of one request, and whether it is complete, so that an answer is due; its head may be wrong, too."""
    body = http_body(rng, number)
    method = "POST" if rng.random() < 0.9 else rng.choice(METHODS)
    path = f"/v1/{rng.choice(VERBS)}" if rng.random() < 0.95 else rng.choice(PAGES)
    length = len(body) if rng.random() < 0.97 else rng.choice((0, 10**12, -5, len(body) // 2, len(body) + 9, 10**30))
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n"
    is_odd = rng.random() < 0.05
    if is_odd:
        head += rng.choice(HEADERS)
    return head.encode("latin-1") + b"\r\n" + body, length == len(body) and not is_odd


def large_request(rng: random.Random, num_bytes: int) -> bytes:
    """A POST whose body has ``num_bytes``: names, brackets, noise, nodes or victims without end."""
    kind = rng.randrange(6)
    if kind == 4:
        body = b'{"Pod":{},"Nodes":{"items":[{}' + b",{}" * (num_bytes // 3) + b']},"NodeNames":null}'
    elif kind == 5:
        body = b'{"Pod":{},"NodeNameToMetaVictims":{"n":{"Pods":[{}' + b",{}" * (num_bytes // 3) + b"]}}}"
    elif kind == 0:
        body = b'{"Pod":{},"Nodes":null,"NodeNames":["' + b'x","' * (num_bytes // 4) + b'"]}'
    elif kind == 1:
        body = b'{"Pod":' * (num_bytes // 7)
    elif kind == 2:
        body = b'{"Pod":{"metadata":{"name":"' + b"n" * num_bytes + b'"}},"Nodes":null,"NodeNames":[]}'
    else:
        body = rng.randbytes(1000) * (num_bytes // 1000)
    head = f"POST /v1/{rng.choice(VERBS)} HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


# ── gRPC ──────────────────────────────────────────────────────────────────────────────────────

UNARY = (
    "/ullage.v1.Placement/Decide", "/ullage.v1.Placement/Score", "/ullage.v1.Placement/Explain",
    "/grpc.health.v1.Health/Check", "/ullage.v1.Placement/Nothing", "/nothing.at.All/Here",
)  # fmt: skip
REPORT = "/ullage.v1.Telemetry/Report"
REFLECT = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
NUMBERS = (0, 0, 1, 1, 500, 2, -1, 2**31 - 1, -(2**31))
LARGE_NUMBERS = (*NUMBERS, 1000, 1000, 2**62, 2**63 - 1, -(2**63))


def _question(rng: random.Random, number: int) -> pb.PodQuestion:
    unknown = ("", "x" * 3000) if rng.random() < 0.2 else ()
    candidates = [rng.choice((*NAMES, *unknown)) for _ in range(rng.choice((0, 0, 1, 5, 500)))]
    if rng.random() < 0.5:
        text = json.dumps(spoil(rng, pod_object(f"p{number}", milli=300)), ensure_ascii=True)
        return pb.PodQuestion(
            pod_json=text[: rng.randrange(len(text) + 1)] if rng.random() < 0.2 else text, candidates=candidates
        )
    plain = pb.PlainPod(
        namespace=rng.choice(("", "default", "x" * 3000)),
        cpu_millicores=rng.choice(LARGE_NUMBERS),
        memory_bytes=rng.choice(LARGE_NUMBERS),
        extended={rng.choice(("a.b/c", "", "cpu", "x" * 2000)): rng.choice(LARGE_NUMBERS)}
        if rng.random() < 0.3
        else {},
        gpu_count=rng.choice(NUMBERS),
        gpu_milli=rng.choice(NUMBERS),
        gpu_models=[rng.choice(("", "A100", "x" * 2000))] if rng.random() < 0.3 else [],
        node_selector={rng.choice(("", "zone")): rng.choice(("", "a", "\u0000"))} if rng.random() < 0.3 else {},
    )
    return pb.PodQuestion(plain=plain, candidates=candidates)


def grpc_message(rng: random.Random, number: int) -> bytes:
    """Bytes of a question: well formed with absurd content, or spoiled, or noise."""
    request = pb.DecideRequest(question=_question(rng, number), draw=rng.choice((0, 1, 7, 2**63 - 1, -1)))
    return _spoiled(rng, request.SerializeToString())


def grpc_sample(rng: random.Random) -> bytes:
    """Bytes of a usage sample, seldom a good one."""
    values = (0.0, -1.0, 1e308, float("nan"), float("inf"), 0.5)
    sample = telemetry_pb2.UsageSample(cpu_millicores=rng.choice(values), gpu_share=rng.choice(values))
    sample.time.seconds = rng.choice((0, 1, -(10**10), 10**11, 1_700_000_000))
    subject = rng.randrange(4)
    if subject == 0:
        sample.pod.uid = rng.choice(("", "u" * 5000, "uid-1"))
    elif subject == 1:
        sample.node.name = rng.choice(("", "node-0001"))
    elif subject == 2:
        sample.device.index = rng.choice(NUMBERS)
    return _spoiled(rng, sample.SerializeToString())


def _spoiled(rng: random.Random, data: bytes) -> bytes:
    kind = rng.randrange(8)
    if kind == 0:
        return flipped(rng, data)
    if kind == 1:
        return data[: rng.randrange(len(data) + 1)]
    if kind == 2:
        return rng.randbytes(rng.randrange(400))
    if kind == 3 and rng.random() < 0.05:
        return b"\x0b" * rng.randrange(1, 6_000_000)
    return data
