"""Answers: JSON for everybody, MessagePack for who asks for it, streams and ranges of files.

MessagePack carries bytes as bytes, where JSON has text with U+FFFD for what is not UTF-8. Both are written by msgspec in a fraction of the
time that Python's own encoder takes, which matters on an event loop.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

MESSAGEPACK = "application/msgpack"

_RANGE = re.compile(r"bytes=(\d*)-(\d*)", re.ASCII)


def json_reply(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """`value` as JSON."""
    return plain_reply(textual(value), status, headers)


def plain_reply(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """`value` as JSON, of which it is known that it has no bytes and no text that is not UTF-8: what comes out of the store."""
    return Response(msgspec.json.encode(value), status, dict(headers or {}), "application/json")


def reply(request: Request, value: Any, status: int = 200) -> Response:
    """`value`, which may hold dataclasses and bytes, in the form that `request` asks for."""
    if request.headers.get("accept") == MESSAGEPACK:
        return Response(msgspec.msgpack.encode(value), status, media_type=MESSAGEPACK)
    return json_reply(value, status)


def textual(value: Any) -> Any:
    """`value` of plain types, with text in the place of bytes. What is encoded already (`msgspec.Raw`) stays as it is."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, Mapping):
        return {textual(key): textual(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [textual(each) for each in value]
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "replace") if not value.isascii() else value
    if value is None or isinstance(value, int | float | msgspec.Raw):
        return value
    return textual(msgspec.to_builtins(value, builtin_types=(bytes,)))


class Streamed(StreamingResponse):
    """The pieces of a context that is left when the client has them all, or has gone."""

    def __init__(
        self, stack: AsyncExitStack, pieces: AsyncIterator[bytes], status: int, headers: Mapping[str, str], media_type: str
    ) -> None:
        super().__init__(pieces, status, headers, media_type)
        self._stack = stack

    async def __call__(self, scope: Any, receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
        """Send them."""
        async with self._stack:
            await super().__call__(scope, receive, send)


async def streamed(
    source: AbstractAsyncContextManager[AsyncIterator[bytes]],
    *,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    media_type: str = "application/octet-stream",
) -> Response:
    """An answer of the pieces that `source` gives. What fails before the first piece is an error of its own."""
    async with AsyncExitStack() as stack:
        pieces = await stack.enter_async_context(source)
        first = await anext(pieces, b"")
        return Streamed(stack.pop_all(), _all(first, pieces), status, headers or {}, media_type)
    raise AssertionError


async def _all(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in rest:
        yield piece


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """The first byte and the number of bytes that a Range header asks for (RFC 9110, 14.1.2); None: all.

    Several ranges, and what is no range of bytes, are ignored, as the RFC allows.

    Raises
    ------
    RangeError: none of it is there.
    """
    found = None if header is None else _RANGE.fullmatch(header.replace(" ", ""))
    if found is None or not (found[1] or found[2]):
        return None
    if not found[1]:
        length = min(int(found[2]), size)
        if length == 0:
            raise RangeError
        return size - length, length
    start, end = int(found[1]), int(found[2]) if found[2] else size - 1
    if found[2] and end < start:
        return None
    if start >= size:
        raise RangeError
    return start, min(end, size - 1) - start + 1


class RangeError(Exception):
    """A range that lies behind the end."""
