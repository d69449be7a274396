"""Bytes that are no message end a gRPC call with INVALID_ARGUMENT.

By itself grpcio would call that the server's failure (UNKNOWN or INTERNAL) and write a traceback into the log for
each such call.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
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


def _guarded(behavior: Behavior, *, is_stream: bool) -> Behavior:
    """The same method; what it is (coroutine or asynchronous generator) stays, for grpcio looks at that."""
    if inspect.isasyncgenfunction(behavior):

        async def generate(request: Any, context: Any) -> AsyncIterator[Any]:
            if not is_stream:
                await _check(request, context)
            async for response in behavior(_checked(request, context) if is_stream else request, context):
                yield response

        return generate

    async def answer(request: Any, context: Any) -> Any:
        if not is_stream:
            await _check(request, context)
        return await behavior(_checked(request, context) if is_stream else request, context)

    return answer


class RefuseGarbage(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # the library has no types
    """Wraps every method of the server."""

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        """The method's handler, guarded; None if there is no such method."""
        handler = await continuation(details)
        if handler is None:
            return None
        kind = "_".join(
            "stream" if flag else "unary" for flag in (handler.request_streaming, handler.response_streaming)
        )
        make = getattr(grpc, f"{kind}_rpc_method_handler")
        return make(
            _guarded(getattr(handler, kind), is_stream=handler.request_streaming),
            _forgiving(handler.request_deserializer),
            handler.response_serializer,
        )
