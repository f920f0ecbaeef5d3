"""Answers that go on: a line of JSON for each thing that happens, and for each step of long work.

A client that asks for ``text/event-stream`` gets them as server-sent events (WHATWG HTML, 9.2), others as ``application/x-ndjson``. Both
have something every `BEAT_S` seconds, a comment or an empty line, so that nobody on the way takes a silent connection for a dead one. What
fails after the first line is a last line ``{"type": "error", "failure": {…}}``.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any

import anyio
import msgspec
from starlette.requests import Request
from starlette.responses import Response

from bandsox.errors import BandSoxError
from bandsox.models import Progress, ProgressCallback
from bandsox.server.leases import Lease, unknown
from bandsox.server.replies import Streamed, json_reply, textual

BEAT_S = 15.0
"""How many seconds of silence there are at most."""

_SSE, _LINES = "text/event-stream", "application/x-ndjson"
_MAX_OUTPUT_LINES = 4096

Line = Mapping[str, Any]


def described(what: str) -> dict[int | str, dict[str, Any]]:
    """The description of an answer that goes on, for a route's ``responses``."""
    return {200: {"description": what, "content": {kind: {"schema": {"type": "string"}} for kind in (_LINES, _SSE)}}}


async def stream(request: Request, source: AbstractAsyncContextManager[AsyncIterator[Line]]) -> Response:
    """An answer of all that `source` gives, for as long as its caller may call. What fails before the block begins is an error as ever."""
    async with AsyncExitStack() as stack:
        items = await stack.enter_async_context(source)
        return _answer(request, stack.pop_all(), items)
    raise AssertionError


async def with_progress(
    request: Request, work: Callable[[ProgressCallback], Coroutine[Any, Any, Line]], held: AsyncExitStack | None = None
) -> Response:
    """What `work` returns; as a stream of its steps and then that, where the client asks for a stream.

    Steps are ``{"type": "progress", task, label, done, total, unit, finished}``, the end is ``{"type": "result", "result": {…}}``. Of steps
    that come faster than they are read only the latest of each task is sent. The work is given up when the client goes away.

    Parameters
    ----------
    held: what the work needs. It is left when that is done, perhaps after this has returned.
    """
    if not _wants(request, _SSE) and not _wants(request, _LINES):
        return json_reply(await work(_ignore))
    steps = _Steps()
    working = asyncio.ensure_future(work(steps.report))
    working.add_done_callback(lambda _: steps.tell())
    try:
        with anyio.move_on_after(BEAT_S):
            await steps.news.wait()
        if working.done():
            working.result()  # what failed at once has its own status
    except BaseException:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        raise

    async def lines() -> AsyncGenerator[Line, None]:
        while True:
            await steps.news.wait()
            steps.news.clear()
            ended = working.done()
            for step in steps.take():
                yield {"type": "progress", **msgspec.to_builtins(step)}
            if ended:
                yield {"type": "result", "result": working.result()}
                return

    stack = AsyncExitStack() if held is None else held.pop_all()

    async def give_up() -> None:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)

    stack.push_async_callback(give_up)
    return _answer(request, stack, lines())


class _Steps:
    """The steps of work that were not sent yet. `report` may be called in any thread."""

    def __init__(self) -> None:
        self.news = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._latest: dict[str, Progress] = {}
        self._output: deque[Progress] = deque(maxlen=_MAX_OUTPUT_LINES)

    def report(self, step: Progress) -> None:
        self._loop.call_soon_threadsafe(self._note, step)

    def _note(self, step: Progress) -> None:
        if step.task == "output":
            self._output.append(step)
        else:
            self._latest[step.task] = step
        self.news.set()

    def tell(self) -> None:
        self.news.set()

    def take(self) -> list[Progress]:
        taken = [*self._output, *self._latest.values()]
        self._output.clear()
        self._latest.clear()
        return taken


def _ignore(step: Progress) -> None:
    del step


def _wants(request: Request, kind: str) -> bool:
    return kind in request.headers.get("accept", "")


def _answer(request: Request, stack: AsyncExitStack, items: AsyncIterator[Line]) -> Response:
    kind = _SSE if _wants(request, _SSE) else _LINES
    encode, beat = (_event, b": \n\n") if kind == _SSE else (_line, b"\n")
    lease: Lease = request.scope["lease"]
    lease.polite = True
    pieces = _encoded(items, encode, beat, lease.over)
    return Streamed(stack, pieces, 200, {"X-Accel-Buffering": "no"}, kind)


async def _encoded(
    items: AsyncIterator[Line], encode: Callable[[Line], bytes], beat: bytes, over: asyncio.Future[None]
) -> AsyncGenerator[bytes, None]:
    following = asyncio.ensure_future(_next(items))
    try:
        while True:
            either: set[asyncio.Future[Any]] = {following, over}
            done, _ = await asyncio.wait(either, timeout=BEAT_S, return_when=asyncio.FIRST_COMPLETED)
            if over.done():
                yield encode(_failure(unknown()))
                return
            if not done:
                yield beat
                continue
            item = following.result()
            if item is None:
                return
            yield encode(item)
            following = asyncio.ensure_future(_next(items))
    except BandSoxError as error:
        yield encode(_failure(error))
    finally:
        following.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await following
        if isinstance(items, AsyncGenerator):
            await items.aclose()


async def _next(items: AsyncIterator[Line]) -> Line | None:
    return await anext(items, None)


def _failure(error: BandSoxError) -> Line:
    return {"type": "error", "failure": error.to_dict()}


def _line(item: Line) -> bytes:
    return msgspec.json.encode(textual(item)) + b"\n"


def _event(item: Line) -> bytes:
    number = f"id: {item['id']}\n".encode() if "id" in item else b""
    return number + b"data: " + msgspec.json.encode(textual(item)) + b"\n\n"
