"""An HTTP/1.1 server made for one kind of caller: many small POSTs on few connections that stay open.

It exists because the answer to kube-scheduler is due in well under a millisecond and general servers spend most
of that on generality. It reads straight into one buffer per connection, calls a plain function, and writes one
answer with ``Content-Length``. What it does not speak (chunked bodies, upgrades, HTTP/2) it refuses politely.
Nothing that a client sends can raise here: the worst is a 4xx and a closed connection.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import resource
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast

from scheduler.certificates import FollowedContext
from scheduler.errors import ListenError, WireError
from scheduler.metrics import Metrics
from scheduler.quiet import Quiet
from scheduler.settings import HttpSettings

log = logging.getLogger(__name__)

JSON = "application/json"
FIRST_BUFFER = 1 << 16
KEEP_BUFFER = 1 << 18
"""A larger buffer is not kept by its connection, of which there may be hundreds, but one such for all, for a while."""
COUNTED_BODY = 1 << 20
"""Only larger bodies count as pending, so that announcing some and dawdling keeps nobody out."""
SPARE_S = 60.0
SPARE_TIMES = 8
"""A buffer is taken for what needs an eighth of it at least: small requests keep no huge one for ever."""
MAX_LINGERING = 64
"""Refused callers who may go on sending before the first of them is hung up on."""
BACKLOG = 512
SELDOM_S = 60.0
_REASONS = {
    200: "OK",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    411: "Length Required",
    413: "Content Too Large",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}


@dataclass(slots=True)
class Request:
    """One request, complete."""

    method: str
    path: str
    body: memoryview
    """Valid until the handler returns, or until its answer is there if that is awaited."""
    arrived: float
    """When the first byte was read (``time.perf_counter``)."""


@dataclass(slots=True)
class Response:
    """What goes back."""

    body: bytes | memoryview = b""
    status: int = 200
    content_type: str = JSON
    after: Callable[[], None] | None = None
    """What is left to do once the answer is on its way, before any other request is looked at."""
    closes: bool = False
    """The caller should connect anew: another replica may be the one to ask."""


Handler = Callable[[Request], Response | Awaitable[Response]]


@dataclass
class Limits:
    """What is shared by all connections of one server."""

    http: HttpSettings
    metrics: Metrics
    handler: Handler
    quiet: Quiet
    connections: set[Connection] = field(default_factory=set)
    lingering: dict[Connection, None] = field(default_factory=dict)
    """Those that were refused and may still send, the first one first; they count as connections no more."""
    pending_bytes: int = 0
    is_stopping: bool = False
    spare: bytearray | None = None
    spare_until: float = 0.0
    outgoing: bytearray = field(default_factory=bytearray)
    """Where large answers are put together, one after another."""

    def keep(self, buffer: bytearray) -> None:
        """Keep a large buffer for the next large request: fresh memory costs as much as reading into it."""
        self.spare, self.spare_until = buffer, time.monotonic() + SPARE_S

    def grown(self, buffer: bytearray, wanted: int) -> bytearray:
        """A larger buffer on the way to ``wanted`` bytes; nobody gets memory by promising a large body."""
        if self.spare is not None and KEEP_BUFFER < wanted <= len(self.spare) <= SPARE_TIMES * wanted:
            larger, self.spare = self.spare, None
        else:
            larger = bytearray(max(min(2 * len(buffer), wanted), len(buffer) + FIRST_BUFFER))
        larger[: len(buffer)] = buffer
        return larger


class Connection(asyncio.BufferedProtocol):
    """One caller. Requests are answered strictly one after another."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.transport: asyncio.Transport | None = None
        self.buffer = bytearray(FIRST_BUFFER)
        self.have = 0
        self.head: tuple[str, str, bool] | None = None
        self.body_start = 0
        self.need = 0
        self.reserved = 0
        self.arrived = 0.0
        self.is_busy = False
        self.is_clogged = False
        self.is_closing = False
        self.is_ending = False
        self.ignores = 0
        """Bytes that are still read and thrown away once the connection lingers."""
        self.expires = 0.0
        self.since = 0.0
        self.was_answered = False
        self.is_asking = False

    # ── transport ─────────────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.limits.connections.add(self)
        self.since = time.monotonic()
        self.expires = self.since + self.limits.http.idle_timeout_s
        if len(self.limits.connections) > self.limits.http.max_connections:
            self._make_room()

    def _make_room(self) -> None:
        """Hang up on whoever has held a connection for longest without a whole request, else on the newcomer."""
        useless = (c for c in self.limits.connections if c is not self and not (c.was_answered or c.is_closing))
        oldest = min((c for c in useless if not c.is_busy), key=lambda c: c.since, default=None)
        if oldest is None or oldest.transport is None:
            self.refuse(429, "too many connections; close some, or raise http.max_connections")
            return
        oldest.is_closing = True
        oldest.hang_up()

    def connection_lost(self, exc: Exception | None) -> None:
        self.limits.connections.discard(self)
        self.limits.lingering.pop(self, None)
        self._unreserve()
        self.is_closing = True
        self._end_asking()

    def _end_asking(self) -> None:
        """Nothing that can be done for this caller now is left."""
        if self.is_asking:
            self.is_asking = False
            self.limits.quiet.answered()

    def pause_writing(self) -> None:
        self.is_clogged = True

    def resume_writing(self) -> None:
        self.is_clogged = False
        self._go_on()

    def eof_received(self) -> bool:
        """Whoever has nothing more to ask may still read an answer that is being made; TLS knows no such thing."""
        assert self.transport is not None, "connected"
        self.is_ending = self.is_busy and self.transport.get_extra_info("sslcontext") is None
        return self.is_ending

    def get_buffer(self, sizehint: int) -> memoryview:
        if self.have == len(self.buffer):
            wanted = self.body_start + self.need if self.head else self.limits.http.max_header_bytes * 2
            self.buffer = self.limits.grown(self.buffer, wanted)
        return memoryview(self.buffer)[self.have :]

    def buffer_updated(self, nbytes: int) -> None:
        if self.is_closing:
            self._ignore(nbytes)
            return
        if self.have == 0 and self.head is None:
            self.arrived = time.perf_counter()
            self.expires = time.monotonic() + self.limits.http.request_timeout_s
        if not self.is_asking:
            self.is_asking = True
            self.limits.quiet.asked()
        self.have += nbytes
        self._advance()
        if self.have == 0 or self.is_busy or self.is_clogged or self.is_closing:
            self._end_asking()
        if self.have >= FIRST_BUFFER and (self.is_busy or self.is_clogged) and self.transport is not None:
            self.transport.pause_reading()  # whoever asks on and on before answers are there waits, and takes no memory

    # ── requests ──────────────────────────────────────────────────────────────────────────────

    def _advance(self) -> None:
        """Answer every complete request in the buffer, one at a time."""
        while not (self.is_busy or self.is_clogged or self.is_closing):
            if self.head is None and not self._read_head():
                return
            if self.head is None or self.have - self.body_start < self.need:
                return
            self._answer()

    def _read_head(self) -> bool:
        """Parse request line and headers if they are all there; False to wait, or after refusing."""
        limit = self.limits.http.max_header_bytes
        end = self.buffer.find(b"\r\n\r\n", 0, self.have)
        if end > limit or (end < 0 and self.have > limit):
            self.refuse(431, f"the headers exceed {limit} bytes")
            return False
        if end < 0:
            return False
        try:
            self._understand(bytes(memoryview(self.buffer)[:end]))
        except WireError as error:
            self.refuse(error.status, str(error))
            return False
        self.body_start = end + 4
        self.reserved = self.need if self.need > COUNTED_BODY else 0
        self.limits.pending_bytes += self.reserved
        return True

    def _understand(self, head: bytes) -> None:
        lines = head.split(b"\r\n")
        parts = lines[0].split(b" ")
        if len(parts) != 3 or not parts[1].startswith(b"/") or not lines[0].isascii():
            raise WireError("the request line is not METHOD /PATH HTTP/1.1")
        if parts[2] not in (b"HTTP/1.1", b"HTTP/1.0"):
            raise WireError("only HTTP/1.1 and HTTP/1.0 are spoken here", 505)
        length, keep, is_waiting = -1, parts[2] == b"HTTP/1.1", False
        for line in lines[1:]:
            name, colon, value = line.partition(b":")
            if not colon or not name or name != name.strip():
                raise WireError("a header line is not NAME: VALUE")
            key = name.lower()
            if key == b"content-length":
                length = self._length(value.strip(), length)
            elif key == b"transfer-encoding":
                raise WireError("send a Content-Length; transfer encodings are not spoken here", 411)
            elif key == b"connection":
                options = value.lower()
                keep = b"close" not in options and (keep or b"keep-alive" in options)
            elif key == b"expect":
                is_waiting = value.strip().lower() == b"100-continue"
        if is_waiting and self.transport is not None:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.need = max(length, 0)  # without a length there is no body (RFC 9112, 6.3): `curl -X POST` sends none
        self.head = (parts[0].decode("ascii"), parts[1].decode("ascii"), keep)

    def _length(self, value: bytes, seen: int) -> int:
        if not value.isdigit() or len(value) > 18 or (seen >= 0 and seen != int(value)):
            raise WireError("Content-Length is not one number")
        http, length = self.limits.http, int(value)
        if length > http.max_body_bytes:
            raise WireError(f"the body exceeds http.max_body_bytes ({http.max_body_bytes})", 413)
        if length > COUNTED_BODY and self.limits.pending_bytes + length > http.max_pending_bytes:
            raise WireError("too many bytes in flight; try again", 429)
        return length

    def _answer(self) -> None:
        """Hand the request over where it lies: its body is not copied, and lives until the handler returns.

        A handler that goes on later gets the buffer with it, and the connection a new one.
        """
        assert self.head is not None, "a request is answered after its head was read"
        method, path, keep = self.head
        end = self.body_start + self.need
        request = Request(method, path, memoryview(self.buffer)[self.body_start : end], self.arrived)
        self.was_answered = True
        try:
            answer = self.limits.handler(request)
        except Exception as error:
            answer = self._failed(error)
        self._drop_request(end, is_done=isinstance(answer, Response))
        if isinstance(answer, Response):
            self._write(answer, keep and (bool(self.have) or not self.is_ending))
            self._give_way()
        else:
            self.is_busy = True
            task = asyncio.ensure_future(self._finish(answer, keep))
            task.add_done_callback(_consume)

    def _give_way(self) -> None:
        """Of many requests that came at once each is answered in a turn of its own: others need not wait for all."""
        if self.have and not self.is_closing:
            self.is_busy = True
            asyncio.get_running_loop().call_soon(self._take_turn)

    def _take_turn(self) -> None:
        self.is_busy = False
        self._go_on()

    def _drop_request(self, end: int, *, is_done: bool) -> None:
        """Leave in the buffer only what follows the request; the handler keeps it unless it is done with it."""
        rest = self.have - end
        old = self.buffer
        if not is_done or len(old) > KEEP_BUFFER:
            self.buffer = bytearray(max(FIRST_BUFFER, rest))
            if is_done:
                self.limits.keep(old)
        if rest:
            self.buffer[:rest] = old[end : self.have]
        self.have = rest
        self.head, self.need, self.body_start = None, 0, 0
        self.arrived = time.perf_counter()

    async def _finish(self, answer: Awaitable[Response], keep: bool) -> None:
        try:
            response = await answer
        except Exception as error:
            response = self._failed(error)
        self.is_busy = False
        self._write(response, keep and not self.is_ending)
        self._go_on()

    def _go_on(self) -> None:
        """Answer what came meanwhile, and read further."""
        self._advance()
        if not (self.is_busy or self.is_clogged or self.is_closing) and self.transport is not None:
            self.transport.resume_reading()

    def _failed(self, error: Exception) -> Response:
        if isinstance(error, WireError):
            return problem(error.status, str(error))
        log.error("request failed", exc_info=error)
        return problem(500, "internal error; the log of ullage serve has the details")

    def _write(self, response: Response, keep: bool) -> None:
        """Send the answer, then do what comes after it, whether or not anybody is there to read it."""
        self._unreserve()
        self._send(response, keep and not response.closes and not self.limits.is_stopping)
        if self.is_closing and self.transport is not None:
            self.transport.close()
        if response.after is not None:
            try:
                response.after()
            except Exception as error:
                log.error("what follows an answer failed", exc_info=error)

    def _send(self, response: Response, keep: bool) -> None:
        transport = self.transport
        if transport is None or transport.is_closing():
            return
        if response.status >= 400:
            self.limits.metrics.http_rejected.labels(str(response.status)).inc()
        head = (
            f"HTTP/1.1 {response.status} {_REASONS[response.status]}\r\nContent-Type: {response.content_type}\r\n"
            f"Content-Length: {len(response.body)}\r\n{'' if keep else 'Connection: close' + chr(13) + chr(10)}\r\n"
        ).encode("ascii")
        size = len(head) + len(response.body)
        if size <= FIRST_BUFFER:
            transport.write(head + response.body)
        else:
            self._send_large(transport, head, response.body, size)
        http = self.limits.http
        is_idle = keep and not self.have
        self.expires = time.monotonic() + (http.idle_timeout_s if is_idle else http.request_timeout_s)
        self.is_closing |= not keep

    def _send_large(self, transport: asyncio.Transport, head: bytes, body: bytes | memoryview, size: int) -> None:
        """In one piece, so that the reader wakes once, from memory that is used again: fresh pages cost more than
        the copy."""
        if len(self.limits.outgoing) < size:
            self.limits.outgoing = bytearray(size + size // 8)
        view = memoryview(self.limits.outgoing)
        view[: len(head)] = head
        view[len(head) : size] = body
        transport.write(view[:size])
        if transport.get_write_buffer_size() or size > COUNTED_BODY:
            self.limits.outgoing = bytearray()  # the transport may still read what it was given

    def refuse(self, status: int, message: str) -> None:
        """Answer at once, and close when the caller has, or has sent as much and for as long as any request may."""
        transport, http = self.transport, self.limits.http
        if transport is None or transport.is_closing():
            return
        self._unreserve()
        self._send(problem(status, message), keep=False)
        self._end_asking()
        self.buffer, self.have, self.head = bytearray(FIRST_BUFFER), 0, None
        self.ignores = http.max_body_bytes
        self.limits.connections.discard(self)
        self.limits.lingering[self] = None
        if len(self.limits.lingering) > MAX_LINGERING:
            next(iter(self.limits.lingering)).hang_up()
        if transport.can_write_eof():  # TLS cannot: there the caller has "Connection: close" to go by
            with suppress(OSError):  # who hung up just now is seen to be gone soon
                transport.write_eof()
        transport.resume_reading()

    def _ignore(self, nbytes: int) -> None:
        self.ignores -= nbytes
        if self.ignores < 0 and self in self.limits.lingering:
            self.hang_up()

    def hang_up(self) -> None:
        """Close now, whatever is on its way."""
        self.limits.lingering.pop(self, None)
        if self.transport is not None:
            self.transport.abort()

    def _unreserve(self) -> None:
        self.limits.pending_bytes -= self.reserved
        self.reserved = 0


def _consume(task: asyncio.Future[None]) -> None:
    """A cancelled answer is not an error: its connection is gone."""
    if not task.cancelled():
        task.exception()


def problem(status: int, message: str) -> Response:
    """An error answer: JSON with one ``Error``."""
    quoted = message.replace("\\", "\\\\").replace('"', '\\"')
    text = "".join(c if c >= " " else " " for c in quoted)
    return Response(b'{"Error":"' + text.encode("utf-8", "replace") + b'"}', status)


def _every_address(port: int) -> socket.socket:
    """Listens on one port of all addresses: a cluster's pods may have IPv6 addresses alone, or both."""
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("", port), family=socket.AF_INET6, backlog=BACKLOG, dualstack_ipv6=True)
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:  # IPv6 is built in, and switched off
                raise
    return socket.create_server(("", port), backlog=BACKLOG)


class Unhandled:
    """What an event loop does with errors that are nobody's: it logs them. That no caller can be taken because too many files
    are open, which it finds out thousands of times a second, is said now and then.
    """

    def __init__(self) -> None:
        self._told_s = -math.inf

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """See ``loop.set_exception_handler``."""
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in (errno.EMFILE, errno.ENFILE):
            loop.default_exception_handler(context)
        elif loop.time() >= self._told_s + SELDOM_S:
            self._told_s = loop.time()
            most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            log.error("callers wait: no more files can be opened", extra={"limit": most, "error": str(error)})


class HttpServer:
    """Listens, and ends connections that idle or dawdle."""

    def __init__(self, http: HttpSettings, handler: Handler, metrics: Metrics, quiet: Quiet | None = None) -> None:
        self.limits = Limits(http, metrics, handler, quiet or Quiet())
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The port in use."""
        assert self._server is not None, "the server has been started"
        return int(self._server.sockets[0].getsockname()[1])

    async def start(self) -> None:
        """Begin to listen.

        Raises
        ------
        ListenError : the port is taken or may not be used.
        ConfigError : TLS files are bad.
        """
        http = self.limits.http
        extra: dict[str, Any] = {}
        if http.tls_cert:
            extra = {"ssl": FollowedContext(http), "ssl_handshake_timeout": 10}
        loop = asyncio.get_running_loop()
        try:
            place = {"host": http.host, "port": http.port} if http.host else {"sock": _every_address(http.port)}
            self._server = await loop.create_server(lambda: Connection(self.limits), backlog=BACKLOG, **place, **extra)
        except OSError as error:
            raise ListenError(
                f"cannot listen on {http.host or 'every address'}, port {http.port} ({error.strerror or error}); "
                "stop what holds the port or set http.port"
            ) from error
        self._sweeper = asyncio.create_task(self._sweep())

    async def _sweep(self) -> None:
        pause = min(self.limits.http.request_timeout_s, self.limits.http.idle_timeout_s, 1.0) / 2
        while True:
            await asyncio.sleep(pause)
            now = time.monotonic()
            for connection in (*self.limits.connections, *self.limits.lingering):
                if now > connection.expires and not connection.is_busy:
                    self._expire(connection)
            if now > self.limits.spare_until:
                self.limits.spare = None

    @staticmethod
    def _expire(connection: Connection) -> None:
        transport = connection.transport
        if transport is None:
            return
        if connection.is_closing or connection.is_clogged:
            connection.hang_up()
        elif connection.have or connection.head is not None:
            connection.refuse(408, "the request did not arrive in http.request_timeout_s")
        else:
            connection.is_closing = True
            transport.close()

    async def stop(self, grace_s: float = 5.0) -> None:
        """Stop listening, let answers in progress finish, close the rest."""
        self.limits.is_stopping = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        if self._server is not None:
            self._server.close()
        end = time.monotonic() + grace_s
        while any(c.is_busy for c in self.limits.connections) and time.monotonic() < end:
            await asyncio.sleep(0.01)
        for connection in (*self.limits.connections, *self.limits.lingering):
            if connection.transport is not None:
                connection.transport.close()
