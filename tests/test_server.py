"""The HTTP server: correct answers to correct requests, clean refusals to everything else."""

from __future__ import annotations

import asyncio
import errno
import gc
import http.client
import os
import random
import resource
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from placement.errors import ConfigError
from scheduler.errors import ListenError, WireError
from scheduler.metrics import Metrics
from scheduler.server import (
    COUNTED_BODY,
    FIRST_BUFFER,
    KEEP_BUFFER,
    MAX_LINGERING,
    HttpServer,
    Request,
    Response,
    Unhandled,
)
from scheduler.settings import HttpSettings
from tests.certificates import found, issue
from tests.waiting import until

SMALL = HttpSettings(host="127.0.0.1", port=0, max_body_bytes=3 * 2**20, max_pending_bytes=2**30)


def echo(request: Request) -> Response:
    """Answers with what came; some paths misbehave on purpose."""
    if request.path == "/wire":
        raise WireError("no good", 400)
    if request.path == "/defect":
        raise RuntimeError("a defect")
    return Response(bytes(request.body))


async def slow(request: Request) -> Response:
    await asyncio.sleep(0.01)
    return Response(bytes(request.body))


def route(request: Request) -> object:
    return slow(request) if request.path == "/slow" else echo(request)


@asynccontextmanager
async def serving(
    http: HttpSettings = SMALL, handler: Callable[[Request], object] = route
) -> AsyncIterator[HttpServer]:
    server = HttpServer(http, handler, Metrics())  # type: ignore[arg-type]  # both kinds of answers
    await server.start()
    try:
        yield server
    finally:
        await server.stop(0.1)


def post(body: bytes, path: str = "/", extra: str = "") -> bytes:
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n{extra}\r\n".encode() + body


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 60)
    length = next(
        int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")
    )
    return int(head.split(b" ", 2)[1]), await asyncio.wait_for(reader.readexactly(length), 60)


async def send_all(writer: asyncio.StreamWriter, parts: list[bytes]) -> None:
    for part in parts:
        writer.write(part)
        await writer.drain()


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


@asynccontextmanager
async def connected(server: HttpServer) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        yield reader, writer
    finally:
        await hang_up(writer)


async def ask(port: int, data: bytes, host: str = "127.0.0.1") -> tuple[int, bytes]:
    reader, writer = await asyncio.open_connection(host, port)
    try:
        writer.write(data)
        return await answer(reader)
    finally:
        await hang_up(writer)


async def test_requests_on_one_connection_are_answered_in_order_whatever_their_size() -> None:
    async with serving() as server, connected(server) as (reader, writer):
        bodies = [os.urandom(n) for n in (0, 1, 70_000, 2**20 + 1, 5, 2 * 2**20, 3)]
        for body in bodies:
            writer.write(post(body, "/slow" if len(body) % 2 else "/"))
        for body in bodies:
            assert await answer(reader) == (200, body)


async def test_whoever_asks_much_at_once_keeps_nobody_waiting_until_all_is_answered() -> None:
    asked: list[bytes] = []

    def handle(request: Request) -> Response:
        asked.append(bytes(request.body))
        if len(asked) == 1:
            other.write(post(b"other"))
        return Response(asked[-1])

    async with serving(handler=handle) as server, connected(server) as (reader, writer):
        _, other = await asyncio.open_connection("127.0.0.1", server.port)
        many = [b"%d" % i for i in range(500)]
        writer.write(b"".join(post(body) for body in many))
        writer.write_eof()
        for body in many:
            assert await answer(reader) == (200, body)
        assert await asyncio.wait_for(reader.read(), 10) == b"", "nothing is left to be asked"
        assert asked.index(b"other") < 50
        await hang_up(other)


async def test_nothing_is_done_for_a_request_that_comes_after_the_last_one() -> None:
    """Its caller will send it again elsewhere: a pod would be counted twice."""
    done: list[bytes] = []

    def kept(request: Request) -> Response:
        done.append(bytes(request.body))
        return Response(done[-1])

    async with serving(handler=kept) as server, connected(server) as (reader, writer):
        writer.write(post(b"first") + post(b"last", extra="Connection: close\r\n") + post(b"late"))
        assert [await answer(reader), await answer(reader)] == [(200, b"first"), (200, b"last")]
        assert await asyncio.wait_for(reader.read(), 10) == b""
        assert done == [b"first", b"last"]


async def test_large_answers_stay_whole_while_their_reader_dawdles() -> None:
    async with serving() as server, connected(server) as (reader, writer):
        bodies = [bytes([i]) * (200_000 + 4_000 * i) for i in range(24)]
        sending = asyncio.ensure_future(send_all(writer, [post(body) for body in bodies]))
        await asyncio.sleep(0.2)  # answers fill every buffer on the way
        for body in bodies:
            assert await answer(reader) == (200, body)
        await sending


async def test_whoever_asks_on_before_an_answer_is_there_waits_and_takes_no_memory() -> None:
    gate = asyncio.Event()

    async def wait(request: Request) -> Response:
        await gate.wait()
        return Response(bytes(request.body))

    async with serving(handler=wait) as server, connected(server) as (reader, writer):
        bodies = [bytes([i]) * 300_000 for i in range(100)]
        sending = asyncio.ensure_future(send_all(writer, [post(body) for body in bodies]))
        await asyncio.sleep(0.3)  # all that may be read has been
        (connection,) = server.limits.connections
        assert connection.is_busy
        assert len(connection.buffer) <= 2 * FIRST_BUFFER
        gate.set()
        for body in bodies:
            assert await answer(reader) == (200, body)
        await sending


async def test_an_answer_may_take_longer_than_a_request_and_the_last_one_says_so() -> None:
    gate = asyncio.Event()

    async def wait(request: Request) -> Response:
        await gate.wait()
        return Response(bytes(request.body), closes=request.path == "/last")

    server = HttpServer(replace(SMALL, request_timeout_s=0.1), wait, Metrics())
    await server.start()
    heads: list[Any] = []
    for path in ("/", "/last", "/"):
        gate.clear()
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(post(b"x", path))
        await asyncio.sleep(0.4)  # the sweeper has come by
        stopping = asyncio.create_task(server.stop()) if len(heads) == 2 else None
        await asyncio.sleep(0)
        gate.set()
        heads.append(await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10))
        await hang_up(writer)
        if stopping is not None:
            await stopping
    assert [head.split()[1] for head in heads] == [b"200"] * 3
    assert [b"Connection: close" in head for head in heads] == [False, True, True]


@pytest.mark.parametrize("path", ["/", "/slow"])
async def test_whoever_has_nothing_more_to_ask_still_gets_the_answer(path: str) -> None:
    async with serving() as server, connected(server) as (reader, writer):
        writer.write(post(b"last words", path))
        writer.write_eof()
        assert await answer(reader) == (200, b"last words")
        assert await reader.read() == b""


async def test_a_handler_that_goes_on_later_keeps_its_body() -> None:
    async with serving() as server, connected(server) as (reader, writer):
        bodies = [bytes([i]) * 40_000 for i in range(6)]
        for body in bodies:
            writer.write(post(body, "/slow"))
        for body in bodies:
            assert await answer(reader) == (200, body)


async def test_what_comes_after_an_answer_is_done_before_the_next_request_and_may_fail() -> None:
    told: list[bytes] = []

    def handle(request: Request) -> Response:
        body = bytes(request.body)
        assert len(told) == int(body)

        def after() -> None:
            told.append(body)
            if body == b"1":
                raise RuntimeError("a defect")

        return Response(body, after=after)

    async with serving(handler=handle) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"".join(post(b"%d" % i) for i in range(4)))
        for i in range(4):
            assert await answer(reader) == (200, b"%d" % i)
        await hang_up(writer)
        assert told == [b"0", b"1", b"2", b"3"]


@given(st.binary(max_size=300), st.lists(st.integers(1, 400), max_size=6), st.booleans())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_how_bytes_are_cut_into_packets_does_not_matter(body: bytes, cuts: list[int], twice: bool) -> None:
    async def run() -> None:
        async with serving() as server, connected(server) as (reader, writer):
            data = post(body) * (2 if twice else 1)
            at = 0
            for cut in cuts:
                writer.write(data[at : at + cut])
                at += cut
                await asyncio.sleep(0)
            writer.write(data[at:])
            for _ in range(2 if twice else 1):
                assert await answer(reader) == (200, body)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\r\n\r\n", 400),
        (b"GET\r\n\r\n", 400),
        (b"GET x HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\n\r\n", 505),
        (b"GET / HTTP/1.1\r\nbroken\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: y\r\n folded: z\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length : 1\r\n\r\nx", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
        (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1e3\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", 413),
        (b"POST / HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX: " + b"y" * 20_000 + b"\r\n\r\n", 431),
        (b"z" * 40_000, 431),
        (post(b"", "/wire"), 400),
        (post(b"", "/defect"), 500),
    ],
)
async def test_what_is_wrong_gets_its_status_and_a_reason(data: bytes, status: int) -> None:
    async with serving() as server:
        got, body = await ask(server.port, data)
        assert got == status
        assert b"Error" in body
        assert b"Traceback" not in body
        assert await ask(server.port, post(b"still alive")) == (200, b"still alive")


async def test_a_post_without_a_length_has_no_body() -> None:
    """The kill switch is thrown by ``curl -X POST``, which sends no length where there is nothing to send."""
    async with serving() as server, connected(server) as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\n\r\n" + post(b"next"))
        assert await answer(reader) == (200, b"")
        assert await answer(reader) == (200, b"next")


async def test_a_client_that_dawdles_is_told_so_and_others_are_not_held_up() -> None:
    async with serving(replace(SMALL, request_timeout_s=0.2)) as server, connected(server) as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nContent-Le")
        assert await ask(server.port, post(b"quick")) == (200, b"quick")
        status, _ = await answer(reader)
        assert status == 408
        assert await reader.read() == b""


async def test_whoever_dawdles_after_an_answer_is_told_so_too() -> None:
    async with serving(replace(SMALL, request_timeout_s=0.2)) as server, connected(server) as (reader, writer):
        writer.write(post(b"x") + b"POST / HTTP/1.1\r\nContent-Le")
        assert await answer(reader) == (200, b"x")
        assert (await answer(reader))[0] == 408


async def test_who_hangs_up_in_the_moment_of_its_refusal_is_forgotten_like_any_other() -> None:
    """The last act of a caller may be on the wire already when the look for those that dawdle finds it; what that look
    raises would end it, and nobody who dawdles would ever be told again."""
    async with serving() as server:
        caller = socket.create_connection(("127.0.0.1", server.port))
        caller.sendall(b"POST / HTTP/1.1\r\nContent-Le")
        while not (held := [c for c in server.limits.connections if c.have]):
            await asyncio.sleep(0.01)
        caller.close()
        held[0].refuse(408, "late")
        await until(lambda: not server.limits.lingering)
        assert await ask(server.port, post(b"next")) == (200, b"next")


async def test_an_idle_connection_outlives_a_request_timeout() -> None:
    async with serving(replace(SMALL, request_timeout_s=0.05)) as server, connected(server) as (reader, writer):
        for _ in range(2):
            writer.write(post(b"x"))
            assert await answer(reader) == (200, b"x")
            await asyncio.sleep(0.3)


async def test_connections_beyond_the_limit_are_turned_away() -> None:
    async with serving(replace(SMALL, max_connections=1)) as server, connected(server) as (reader, writer):
        writer.write(post(b"x"))
        assert (await answer(reader))[0] == 200
        other, closing = await asyncio.open_connection("127.0.0.1", server.port)
        assert (await answer(other))[0] == 429
        await hang_up(closing)
        writer.write(post(b"y"))
        assert await answer(reader) == (200, b"y")


async def test_callers_that_only_hold_connections_make_room_for_those_that_ask() -> None:
    async with serving(replace(SMALL, max_connections=8)) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(post(b"x"))
        assert (await answer(reader))[0] == 200
        held = []
        for _ in range(30):
            _, idle = await asyncio.open_connection("127.0.0.1", server.port)
            idle.write(b"POST / HTTP/1.1\r\nContent-Le")
            held.append(idle)
            assert (await ask(server.port, post(b"new")))[0] == 200
        writer.write(post(b"y"))
        assert await answer(reader) == (200, b"y")
        assert len(server.limits.connections) <= 8
        for idle in (*held, writer):
            await hang_up(idle)


async def test_announced_bodies_count_against_one_budget_and_are_given_back() -> None:
    async with serving(replace(SMALL, max_pending_bytes=3_000_000)) as server:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"POST / HTTP/1.1\r\nContent-Length: 2000000\r\n\r\n")
        await until(lambda: server.limits.pending_bytes)
        assert (await ask(server.port, b"POST / HTTP/1.1\r\nContent-Length: 1500000\r\n\r\n"))[0] == 429
        assert (await ask(server.port, post(b"z" * 200)))[0] == 200, "small requests always get through"
        await hang_up(writer)
        await until(lambda: not server.limits.pending_bytes)
        assert (await ask(server.port, post(b"z" * 1_500_000)))[0] == 200
        await until(lambda: not server.limits.connections)
        assert server.limits.pending_bytes == 0, "given back once"


async def test_small_bodies_that_are_announced_and_do_not_come_keep_nobody_out() -> None:
    async with serving(replace(SMALL, max_pending_bytes=2_000_000)) as server:
        held = []
        for _ in range(4):
            _, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(b"POST / HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n")
            held.append(writer)
        await until(lambda: sum(connection.head is not None for connection in server.limits.connections) == 4)
        body = b"z" * 1_500_000
        assert await ask(server.port, post(body)) == (200, body)
        for writer in held:
            await hang_up(writer)


async def test_whoever_announces_a_large_body_gets_memory_as_it_comes() -> None:
    async with serving() as server, connected(server) as (_, writer):
        writer.write(b"POST / HTTP/1.1\r\nContent-Length: 3000000\r\n\r\n" + b"x" * FIRST_BUFFER)
        await until(lambda: any(connection.have > FIRST_BUFFER for connection in server.limits.connections))
        (connection,) = server.limits.connections
        assert len(connection.buffer) <= 4 * FIRST_BUFFER


async def test_callers_who_asked_something_large_once_hold_little_of_it() -> None:
    """With the 512 connections of the defaults they held three megabytes each, more than the manifests give."""
    async with serving() as server, AsyncExitStack() as held:
        for size in (1_500_000, 2_000_000, 3_000_000, 700_000):
            reader, writer = await held.enter_async_context(connected(server))
            writer.write(post(b"z" * size))
            assert (await answer(reader))[0] == 200
        assert len(server.limits.connections) == 4
        kept = [server.limits.outgoing, *(connection.buffer for connection in server.limits.connections)]
        assert sum(map(len, kept)) <= 4 * KEEP_BUFFER + COUNTED_BODY + COUNTED_BODY // 8


async def test_a_huge_buffer_does_not_stay_for_small_requests() -> None:
    async with serving(replace(SMALL, max_body_bytes=2**23)) as server, connected(server) as (reader, writer):
        for size in (6_000_000, 400_000, 400_000):
            writer.write(post(b"z" * size))
            assert (await answer(reader))[0] == 200
        assert server.limits.spare is not None
        assert len(server.limits.spare) < 1_000_000


async def test_where_no_more_files_can_be_opened_callers_wait_and_that_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It was said two thousand times a second, traceback and all."""
    asyncio.get_running_loop().set_exception_handler(Unhandled())
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with serving() as server, connected(server) as (reader, writer):
        caller = socket.socket()
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))
        try:
            caller.connect(("127.0.0.1", server.port))
            await until(lambda: caplog.records)
            writer.write(post(b"here"))
            assert await answer(reader) == (200, b"here"), "whoever is connected is answered"
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        caller.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(caller, post(b"late"))
        assert b"late" in await asyncio.wait_for(loop.sock_recv(caller, 1000), 10)
        caller.close()
    assert [record.getMessage() for record in caplog.records] == ["callers wait: no more files can be opened"]


async def test_of_those_who_only_hold_connections_the_first_makes_room() -> None:
    async with serving(replace(SMALL, max_connections=3)) as server:
        silent = []
        for number in range(3):
            silent.append(await asyncio.open_connection("127.0.0.1", server.port))
            async with asyncio.timeout(10):
                while len(server.limits.connections) <= number:
                    await asyncio.sleep(0.01)
        assert await ask(server.port, post(b"new")) == (200, b"new")
        with suppress(ConnectionError):
            assert await asyncio.wait_for(silent[0][0].read(), 10) == b""
        for reader, writer in silent[1:]:
            writer.write(post(b"late"))
            assert await answer(reader) == (200, b"late")
        for _, writer in silent:
            await hang_up(writer)


def posted(port: int, size: int, context: ssl.SSLContext | None = None) -> tuple[int, bytes]:
    """As most clients do it: the whole request is sent before its answer is looked at."""
    if context is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    else:
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=10, context=context)
    try:
        connection.request("POST", "/", bytes(size))
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("status", [413, 429])
async def test_whoever_is_refused_hears_why_though_most_of_the_body_is_still_to_come(
    status: int, tls: bool, certificates: Path
) -> None:
    size = 32 * 2**20
    limited = replace(SMALL, max_body_bytes=size - 1 if status == 413 else size, max_pending_bytes=2**20)
    context = None
    if tls:
        limited = replace(limited, tls_cert=str(certificates / "server.pem"), tls_key=str(certificates / "server.key"))
        context = ssl.create_default_context(cafile=str(certificates / "authority.pem"))
    async with serving(limited) as server:
        got, body = await asyncio.to_thread(posted, server.port, size, context)
        assert got == status
        assert b"Error" in body
        await until(lambda: not server.limits.lingering)
        assert server.limits.pending_bytes == 0


async def test_whoever_waits_for_leave_to_send_is_refused_without_it() -> None:
    async with serving(replace(SMALL, max_body_bytes=2000)) as server, connected(server) as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 2001\r\n\r\n")
        assert (await answer(reader))[0] == 413


async def refused(server: HttpServer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A caller who was refused and has not hung up."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n")
    assert (await answer(reader))[0] == 413
    return reader, writer


async def test_whoever_was_refused_and_sends_on_and_on_is_hung_up_on() -> None:
    async with serving() as server:
        _, writer = await refused(server)
        with pytest.raises(ConnectionError):
            await send_all(writer, [bytes(2**20)] * 200)
        assert not server.limits.lingering
        await hang_up(writer)


async def test_whoever_was_refused_and_stays_is_hung_up_on() -> None:
    async with serving(replace(SMALL, request_timeout_s=0.2)) as server:
        _, writer = await refused(server)
        await until(lambda: not server.limits.lingering)
        await hang_up(writer)


async def test_callers_who_were_refused_and_stay_are_few_and_keep_nobody_out() -> None:
    async with serving(replace(SMALL, max_connections=2)) as server:
        held = [await refused(server) for _ in range(MAX_LINGERING + 3)]
        assert len(server.limits.lingering) == MAX_LINGERING
        assert not server.limits.connections
        for _, writer in held[-3:]:
            writer.write(post(b"late"))
        assert await ask(server.port, post(b"new")) == (200, b"new")
        for _, writer in held:
            await hang_up(writer)


async def test_a_body_may_be_as_large_as_is_allowed_and_no_larger() -> None:
    async with serving(replace(SMALL, max_body_bytes=100_000)) as server:
        assert await ask(server.port, post(b"x" * 100_000)) == (200, b"x" * 100_000)
        assert (await ask(server.port, b"POST / HTTP/1.1\r\nContent-Length: 100001\r\n\r\n"))[0] == 413


async def test_the_last_answer_on_a_connection_has_its_own_time_to_be_read() -> None:
    """However long it took to be made."""

    async def late(_request: Request) -> Response:
        for connection in server.limits.connections:
            connection.expires = 0.0
        return Response(bytes(2**25))

    async with serving(handler=late) as server, connected(server) as (reader, writer):
        writer.write(post(b"", extra="Connection: close\r\n"))
        await asyncio.sleep(1.2)  # two looks at who takes too long
        assert await answer(reader) == (200, bytes(2**25))


@pytest.mark.parametrize(
    ("version", "extra", "stays"),
    [
        ("1.0", "", False),
        ("1.0", "Connection: keep-alive\r\n", True),
        ("1.0", "Connection: close, keep-alive\r\n", False),
        ("1.1", "", True),
        ("1.1", "Connection: Close\r\n", False),
    ],
)
async def test_a_connection_stays_as_its_caller_expects(version: str, extra: str, stays: bool) -> None:
    async with serving() as server, connected(server) as (reader, writer):
        writer.write(post(b"x", extra=extra).replace(b"HTTP/1.1", f"HTTP/{version}".encode()))
        assert await answer(reader) == (200, b"x")
        if stays:
            writer.write(post(b"y"))
            assert await answer(reader) == (200, b"y")
        else:
            assert await asyncio.wait_for(reader.read(), 10) == b""


async def test_a_large_body_that_somebody_still_reads_is_not_written_over() -> None:
    goes_on, found = asyncio.Event(), list[bytes]()

    async def patient(request: Request) -> Response:
        await goes_on.wait()
        found.append(bytes(request.body))
        return Response()

    def handler(request: Request) -> object:
        return patient(request) if request.path == "/patient" else echo(request)

    async with serving(handler=handler) as server, connected(server) as (reader, writer):
        body = b"a" * (5 * 2**19)
        writer.write(post(body, "/patient"))
        await until(lambda: any(connection.is_busy for connection in server.limits.connections))
        for letter in (b"b", b"c"):
            other = letter * (5 * 2**19)
            assert await ask(server.port, post(other)) == (200, other)
        goes_on.set()
        assert (await answer(reader))[0] == 200
        assert found == [body]


async def test_noise_never_harms_a_good_client() -> None:
    noise = random.Random(7)
    async with serving() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        for _ in range(300):
            _, bad = await asyncio.open_connection("127.0.0.1", server.port)
            bad.write(noise.randbytes(noise.randrange(200)))
            await hang_up(bad)
            writer.write(post(b"good"))
            assert await answer(reader) == (200, b"good")
        await hang_up(writer)
        await asyncio.sleep(0.05)
        gc.collect()
        assert len(server.limits.connections) <= 1
        assert server.limits.pending_bytes == 0


def has_ipv6() -> bool:
    """Whether this machine has a loopback address of it."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")
async def test_pods_with_addresses_of_either_kind_are_reached_without_a_setting() -> None:
    async with serving(HttpSettings(port=0)) as server:
        for host in ("127.0.0.1", "::1"):
            assert await ask(server.port, post(b"hello"), host) == (200, b"hello")


async def test_where_ipv6_is_switched_off_the_other_addresses_are_listened_on(monkeypatch: pytest.MonkeyPatch) -> None:
    create = socket.create_server

    def without_ipv6(address: tuple[str, int], *, family: int = socket.AF_INET, **more: Any) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
        return create(address, family=family, **more)

    monkeypatch.setattr(socket, "create_server", without_ipv6)
    async with serving(HttpSettings(port=0)) as server:
        assert await ask(server.port, post(b"hello")) == (200, b"hello")


async def test_a_taken_port_is_one_sentence() -> None:
    async with serving() as server:
        with pytest.raises(ListenError, match=r"cannot listen on .* stop what holds the port"):
            await HttpServer(replace(SMALL, port=server.port), echo, Metrics()).start()


async def test_certificates_that_are_none_are_one_sentence(tmp_path: object) -> None:
    bad = f"{tmp_path}/cert.pem"
    with open(bad, "w", encoding="ascii") as file:
        file.write("not a certificate")
    with pytest.raises(ConfigError, match="must be PEM"):
        await HttpServer(replace(SMALL, tls_cert=bad, tls_key=bad), echo, Metrics()).start()


# ── TLS ───────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    for name in ("authority", "stranger"):
        found(folder, name)
    issue(folder, "server", "authority")
    issue(folder, "client", "authority")
    issue(folder, "expired", "authority", "-1")
    issue(folder, "foreign", "stranger")
    return folder


async def ask_over_tls(port: int, folder: Path, client: str | None, authority: str = "authority") -> tuple[int, bytes]:
    context = ssl.create_default_context(cafile=str(folder / f"{authority}.pem"))
    if client is not None:
        context.load_cert_chain(folder / f"{client}.pem", folder / f"{client}.key")
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    try:
        writer.write(post(b"secret"))
        return await answer(reader)
    finally:
        with suppress(ssl.SSLError):
            await hang_up(writer)


async def test_only_callers_with_a_good_certificate_are_answered(certificates: Path) -> None:
    http = replace(
        SMALL,
        tls_cert=str(certificates / "server.pem"),
        tls_key=str(certificates / "server.key"),
        client_ca=str(certificates / "authority.pem"),
    )
    async with serving(http) as server:
        assert await ask_over_tls(server.port, certificates, "client") == (200, b"secret")
        for bad in (None, "expired", "foreign"):
            with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
                await ask_over_tls(server.port, certificates, bad)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError, asyncio.TimeoutError)):
            await ask(server.port, post(b"plain text"))
        assert await ask_over_tls(server.port, certificates, "client") == (200, b"secret")


async def test_renewed_certificates_and_authorities_are_taken_without_a_word(
    certificates: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A certificate and its key come one after the other: between the two, the old pair serves."""
    issue(certificates, "renewed", "stranger")

    def put(target: str, source: str) -> None:
        (tmp_path / target).write_bytes((certificates / source).read_bytes())

    async def refuses(client: str, authority: str) -> bool:
        try:
            await ask_over_tls(server.port, certificates, client, authority)
        except (ssl.SSLError, ConnectionError, asyncio.IncompleteReadError):
            return True
        return False

    for target, source in (("tls.crt", "server.pem"), ("tls.key", "server.key"), ("ca.crt", "authority.pem")):
        put(target, source)
    http = replace(
        SMALL,
        tls_cert=str(tmp_path / "tls.crt"),
        tls_key=str(tmp_path / "tls.key"),
        client_ca=str(tmp_path / "ca.crt"),
    )
    async with serving(http) as server:
        assert await ask_over_tls(server.port, certificates, "client") == (200, b"secret")
        put("tls.crt", "renewed.pem")
        for _ in range(2):
            assert await ask_over_tls(server.port, certificates, "client") == (200, b"secret")
        assert [r.message for r in caplog.records].count("certificates cannot be read again, the old ones serve") == 1
        put("tls.key", "renewed.key")
        put("ca.crt", "stranger.pem")
        assert await ask_over_tls(server.port, certificates, "foreign", "stranger") == (200, b"secret")
        assert await refuses("client", "stranger"), "its authority is not trusted any more"
        assert await refuses("foreign", "authority"), "the old certificate is gone"
        (tmp_path / "tls.key").unlink()
        assert await ask_over_tls(server.port, certificates, "foreign", "stranger") == (200, b"secret")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_sessions_are_resumed_until_their_authority_is_trusted_no_more(
    version: ssl.TLSVersion, certificates: Path, tmp_path: Path
) -> None:
    authority = tmp_path / "ca.crt"
    authority.write_bytes((certificates / "stranger.pem").read_bytes())
    http = replace(
        SMALL,
        tls_cert=str(certificates / "server.pem"),
        tls_key=str(certificates / "server.key"),
        client_ca=str(authority),
    )
    context = ssl.create_default_context(cafile=str(certificates / "authority.pem"))
    context.load_cert_chain(certificates / "foreign.pem", certificates / "foreign.key")
    context.maximum_version = version

    def ask_again(session: ssl.SSLSession | None) -> tuple[bytes, ssl.SSLSession | None]:
        """What is said to it, and the session that another connection may go on with."""
        plain = socket.create_connection(("127.0.0.1", server.port), 5)
        with context.wrap_socket(plain, server_hostname="127.0.0.1", session=session) as connection:
            connection.sendall(post(b"secret"))
            return connection.recv(1000), connection.session

    async with serving(http) as server:
        session = None
        for _ in range(3):
            said, session = await asyncio.to_thread(ask_again, session)
            assert said.endswith(b"secret")
        authority.write_bytes((certificates / "authority.pem").read_bytes())
        with suppress(OSError):  # refused in the handshake, or when something is read
            assert (await asyncio.to_thread(ask_again, session))[0] == b""
        assert await ask_over_tls(server.port, certificates, "client") == (200, b"secret")


async def test_large_bodies_cross_tls_whole(certificates: Path) -> None:
    http = replace(SMALL, tls_cert=str(certificates / "server.pem"), tls_key=str(certificates / "server.key"))
    async with serving(http) as server:
        context = ssl.create_default_context(cafile=str(certificates / "authority.pem"))
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port, ssl=context)
        for size in (10, 2_000_000, 30):
            body = os.urandom(size)
            writer.write(post(body))
            assert await answer(reader) == (200, body)
        await hang_up(writer)
