"""Requests with an ``Idempotency-Key``: carried out once, however often they are sent, and whoever is killed meanwhile.

Before anything is done, the key is written down with what the request asks for and the ids of what it will make; afterwards its outcome.
Who asks again gets that outcome. Where the server was killed in between, the next one who asks finds by the ids what was made, and answers
with it, or removes what is half made and begins again. A request that fails has made nothing, and its key is free again.

The work goes on when its client goes away, and whoever sends the key again waits for the same work.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
from fastapi import Depends
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from bandsox.client.faults import error_of
from bandsox.engine import identity
from bandsox.errors import BandSoxError, Conflict, InvalidRequest, NotFound
from bandsox.models import ProgressCallback
from bandsox.process import ProcessId
from bandsox.server.auth.callers import Caller
from bandsox.server.replies import textual
from bandsox.server.streams import Line, with_progress
from bandsox.store import KeyedRequests

MAX_OUTCOME = 8 << 20
"""How many bytes an outcome has at most that is kept."""

_HEADER = "idempotency-key"
_KEY = re.compile(r"[\x21-\x7e]{1,255}")


def takes_key(route: APIRoute) -> bool:
    """Whether requests to a route may have a key."""
    return any(each.call is _of_application for each in route.dependant.dependencies)


KEY: dict[str, Any] = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "Carried out once, however often it is sent with this key; who sends it again gets the outcome.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
    "example": "c9a1b6f0-5f5e-4f0b-9d0e-0b5b0f4d7c11",
}
"""The description of the header (OpenAPI)."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """How a request is carried out.

    `work` does it, `plan` are the ids of what it makes; `find` is given the ids that an attempt before had, whose process was killed, and
    returns the answer if that came to its end; else nothing of it is left. `final` are failures that are outcomes: what was asked for
    happened. `effects` tells whether there are any by now, so that a failure does not make the key free again.
    """

    work: Callable[[ProgressCallback], Coroutine[Any, Any, Line]]
    plan: Sequence[str]
    find: Callable[[Sequence[str]], Awaitable[Line | None]]
    final: tuple[type[BandSoxError], ...] = ()
    effects: Callable[[], bool] = lambda: False


class Once:
    """The requests with keys of one storage directory."""

    def __init__(self, table: KeyedRequests) -> None:
        self.table = table
        self._me = ProcessId.current()
        self._working: dict[tuple[str, str], tuple[str, asyncio.Task[Line]]] = {}

    async def answer(
        self, request: Request, caller: Caller, asked: BaseModel | bytes, attempt: Attempt, held: AsyncExitStack | None = None
    ) -> Response:
        """The answer to a request that makes something, which may have a key.

        Parameters
        ----------
        asked: all of it that is not in its address.
        held: as for `with_progress`.
        """
        key = key_of(request)
        if key is None:
            return await with_progress(request, attempt.work, held)
        digest, kept = _digest(request, asked), None if held is None else held.pop_all()
        return await with_progress(request, lambda progress: self._once(caller.id, key, digest, attempt, progress, kept))

    async def outcome(self, caller: Caller, key: str) -> dict[str, Any]:
        """What has become of a request.

        Raises
        ------
        NotFound: there is none with this key, or not any more.
        """
        known = await asyncio.to_thread(self.table.get, caller.id, key)
        if known is None:
            raise NotFound("no request has this key", cause="it was not sent, failed without effects, or was too long ago")
        outcome = {} if known.outcome is None else msgspec.json.decode(known.outcome, type=dict[str, Any])
        lost = known.outcome is None and not known.owner.is_alive()
        return {"status": "done" if outcome else "unknown" if lost else "running", "result": None, "failure": None, **outcome}

    async def finish(self) -> None:
        """Give up what is under way, which leaves nothing behind."""
        tasks = [task for _, task in self._working.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _once(
        self, caller: str, key: str, digest: str, attempt: Attempt, progress: ProgressCallback, held: AsyncExitStack | None
    ) -> Line:
        place = caller, key
        if place in self._working:
            if held is not None:
                await held.aclose()
            asked, task = self._working[place]
            if asked != digest:
                raise _another(key)
            return await asyncio.shield(task)
        task = asyncio.create_task(self._carried_out(place, digest, attempt, progress, held), name="request with a key")
        self._working[place] = digest, task
        task.add_done_callback(lambda done: self._ended(place, done))
        return await asyncio.shield(task)

    def _ended(self, place: tuple[str, str], task: asyncio.Task[Line]) -> None:
        del self._working[place]
        if not task.cancelled():
            task.exception()  # it was looked at, even if nobody waits any more

    async def _carried_out(
        self, place: tuple[str, str], digest: str, attempt: Attempt, progress: ProgressCallback, held: AsyncExitStack | None
    ) -> Line:
        async with held or AsyncExitStack():
            known = await asyncio.to_thread(self.table.claim, *place, digest, attempt.plan, self._me)
            if known.asked != digest:
                raise _another(place[1])
            if known.outcome is not None:
                return _recalled(known.outcome)
            if not known.fresh:
                if known.owner != self._me and known.owner.is_alive():
                    raise _under_way()
                if not await asyncio.to_thread(self.table.take_over, *place, known.owner, self._me):
                    raise _under_way()
                found = await self._final(place, attempt, attempt.find(known.plan))
                if found is not None:
                    return found
            answer = await self._work(place, attempt, known.plan, progress)
            assert answer is not None
            return answer

    async def _work(self, place: tuple[str, str], attempt: Attempt, plan: Sequence[str], progress: ProgressCallback) -> Line | None:
        try:
            with identity.choosing(plan):
                return await self._final(place, attempt, attempt.work(progress))
        except BaseException:
            if not attempt.effects():
                await asyncio.shield(asyncio.to_thread(self.table.forget, *place))
            raise

    async def _final(self, place: tuple[str, str], attempt: Attempt, work: Awaitable[Line | None]) -> Line | None:
        """What `work` returns, once that, or a failure that is an outcome, is kept."""
        try:
            answer = await work
        except attempt.final as error:
            await asyncio.to_thread(self.table.settle, *place, _encoded({"failure": error.to_dict()}))
            raise
        if answer is not None:
            await asyncio.to_thread(self.table.settle, *place, _encoded({"result": answer}))
        return answer


async def _of_application(request: Request) -> Once:
    once = request.app.state.once
    assert isinstance(once, Once)
    return once


TheOnce = Annotated[Once, Depends(_of_application)]


def key_of(request: Request) -> str | None:
    """The key of a request; None where it has none.

    Raises
    ------
    InvalidRequest: it cannot be one.
    """
    keys = request.headers.getlist(_HEADER)
    if not keys:
        return None
    if len(keys) > 1 or not _KEY.fullmatch(keys[0]):
        raise InvalidRequest("an Idempotency-Key has 1 to 255 visible ASCII characters", remedy="use a new UUID for each request")
    return keys[0]


def _digest(request: Request, asked: BaseModel | bytes) -> str:
    body = asked if isinstance(asked, bytes) else msgspec.json.encode(asked.model_dump(mode="json"), order="deterministic")
    address = f"{request.method} {request.url.path}?{request.url.query}\n".encode()
    return hashlib.sha256(address + body).hexdigest()


def _encoded(outcome: dict[str, Any]) -> str:
    encoded = msgspec.json.encode(textual(outcome))
    if len(encoded) > MAX_OUTCOME:
        kept = {"message": "the answer was too long to be kept", "code": "limit_exceeded"}
        encoded = msgspec.json.encode({"failure": {**kept, "cause": None, "remedy": None, "retryable": False, "detail": {}}})
    return encoded.decode()


def _recalled(outcome: str) -> Line:
    """The answer that was kept, or the failure."""
    kept = msgspec.json.decode(outcome, type=dict[str, Any])
    if "failure" in kept:
        raise error_of(kept["failure"])
    result: Line = kept["result"]
    return result


def _another(key: str) -> BandSoxError:
    return Conflict(f"the key {key[:40]!r} was used for another request", remedy="use a new key for each request")


def _under_way() -> BandSoxError:
    return Conflict(
        "the request with this key is being carried out by another server", remedy="ask again later", detail={"under_way": True}
    )
