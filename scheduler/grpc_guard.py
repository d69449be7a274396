"""What stands before every gRPC method: garbage is refused, and streams leave room for questions.

Bytes that are no message end a call with INVALID_ARGUMENT; by itself grpcio would call that the server's failure
(UNKNOWN or INTERNAL) and write a traceback into the log for each. Streams last as long as their callers like, so they
may take only a part of the calls at once.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any

import grpc  # type: ignore[import-untyped]  # the library has no types
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # nor has this

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


def _guarded(behavior: Behavior, *, takes_stream: bool, slots: _Slots | None) -> Behavior:
    """The same method; what it is (coroutine or asynchronous generator) stays, for grpcio looks at that."""

    def place(context: Any) -> AbstractAsyncContextManager[None]:
        return nullcontext() if slots is None else slots.one(context)

    if inspect.isasyncgenfunction(behavior):

        async def generate(request: Any, context: Any) -> AsyncIterator[Any]:
            if not takes_stream:
                await _check(request, context)
            async with place(context):
                async for response in behavior(_checked(request, context) if takes_stream else request, context):
                    yield response

        return generate

    async def answer(request: Any, context: Any) -> Any:
        if not takes_stream:
            await _check(request, context)
        async with place(context):
            return await behavior(_checked(request, context) if takes_stream else request, context)

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
