"""What stands before every gRPC method: garbage is refused, and streams leave room for questions.

Bytes that are no message end a call with INVALID_ARGUMENT; by itself grpcio would call that the server's failure
(UNKNOWN or INTERNAL) and write a traceback into the log for each. Streams last as long as their callers like, so they
may take only a part of the calls at once; whoever stops reading what comes loses the stream, for behind it may be what
there is one of: the process that plans, or the one that applies a plan.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, nullcontext
from typing import Any

import grpc  # type: ignore[import-untyped]  # the library has no types
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # nor has this

READ_S = 30.0
"""A caller takes a message of its stream within this time, or the stream ends."""
TELL_S = 1.0
"""For the status of such a stream to leave; it may wait behind what is not read."""
_GARBAGE = object()
Behavior = Callable[[Any, Any], Any]


def _forgiving(decode: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """``decode``, but :data:`_GARBAGE` where it would raise."""

    def decode_or_mark(data: bytes) -> Any:
        try:
            return decode(data)
        except (DecodeError, UnicodeDecodeError, RecursionError):
            return _GARBAGE

    return decode_or_mark


async def _check(message: Any, context: Any) -> None:
    if message is _GARBAGE:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the request is not a message of this method")


async def _checked(messages: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
    async for message in messages:
        await _check(message, context)
        yield message


class _Slots:
    """How many streams are open, and may be."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0

    @asynccontextmanager
    async def one(self, context: Any) -> AsyncIterator[None]:
        """A place for the length of the block; RESOURCE_EXHAUSTED if there is none."""
        if self.taken >= self.limit:
            message = f"{self.limit} streams are open; end some, or raise grpc.max_calls (streams may be half of them)"
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, message)
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1


async def _send(responses: AsyncIterator[Any], context: Any) -> None:
    """Every response, each in its time; then the generator is closed at once, and what it holds given back."""
    async with aclosing(responses):  # type: ignore[type-var]  # every method that streams is a generator
        async for response in responses:
            try:
                async with asyncio.timeout(READ_S):
                    await context.write(response)
            except TimeoutError:
                break
        else:
            return
    message = f"nothing was read of this stream for {READ_S:g} s; call again, and read on"
    try:
        async with asyncio.timeout(TELL_S):
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, message)
    except TimeoutError as error:  # it leaves once the caller reads again
        raise asyncio.CancelledError(message) from error


def _guarded(behavior: Behavior, *, takes_stream: bool, slots: _Slots | None) -> Behavior:
    """The same method as a coroutine; one that is an asynchronous generator is read here."""
    is_generator = inspect.isasyncgenfunction(behavior)

    async def answer(request: Any, context: Any) -> Any:
        if not takes_stream:
            await _check(request, context)
        place: AbstractAsyncContextManager[None] = nullcontext() if slots is None else slots.one(context)
        async with place:
            answers = behavior(_checked(request, context) if takes_stream else request, context)
            return await (_send(answers, context) if is_generator else answers)

    return answer


class Guard(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # the library has no types
    """Wraps every method of the server; at most ``max_streams`` streams at once."""

    def __init__(self, max_streams: int) -> None:
        self._slots = _Slots(max_streams)

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        """The method's handler, guarded; None if there is no such method."""
        handler = await continuation(details)
        if handler is None:
            return None
        streams = (handler.request_streaming, handler.response_streaming)
        kind = "_".join("stream" if flag else "unary" for flag in streams)
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        slots = self._slots if any(streams) else None
        return make(
            _guarded(getattr(handler, kind), takes_stream=handler.request_streaming, slots=slots),
            _forgiving(handler.request_deserializer),
            handler.response_serializer,
        )
