"""What is under way for a caller lasts no longer than what it was let in by: a request, a stream or a WebSocket ends when its key is
revoked, expires or is given other rights, and when its session is ended.

Nobody is asked again and again: the kernel tells when ``auth.json`` is replaced (inotify(7)), and a timer when a key or a session is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import time
from collections.abc import Callable, Iterator

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bandsox import wire
from bandsox.errors import BandSoxError, NotAuthenticated
from bandsox.server.auth.callers import Caller
from bandsox.server.auth.gatekeeper import Gatekeeper
from bandsox.server.faults import failure
from bandsox.vmm import inotify

_log = logging.getLogger(__name__)

_POLITE_S = 5.0
"""How long what is under way may take to end by itself, and after how long one that has not ended is told again."""

_LONGEST_TIMER_S = 24 * 3600.0


class Lease:
    """What a caller has under way. Once `over` is done it has to end: one that is `polite` sees to that by itself, others are cancelled."""

    def __init__(self, caller: Caller, task: asyncio.Task[object]) -> None:
        self.caller = caller
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.polite = False
        self._task = task
        self._timer: asyncio.TimerHandle | None = None

    def end(self) -> None:
        """Have it end."""
        if self.over.done() or not self.polite:
            self._task.cancel()
        if not self.over.done():
            self.over.set_result(None)
        self.call_later(_POLITE_S, self.end)

    def call_later(self, seconds: float, do: Callable[[], None]) -> None:
        """Call `do` in so many seconds, and not what was to be called before."""
        self.release()
        self._timer = asyncio.get_running_loop().call_later(seconds, do)

    def release(self) -> None:
        """Call nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Leases:
    """All that is under way for the callers of one server."""

    def __init__(self, gatekeeper: Gatekeeper) -> None:
        self._gatekeeper = gatekeeper
        self._held: set[Lease] = set()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Notice, for the time of the block, what happens to keys and sessions."""
        path = self._gatekeeper.file.path
        with inotify.Watch({path.parent: inotify.MOVED_TO | inotify.DELETE}) as watch:
            seen = self._now()

            def look() -> None:
                nonlocal seen
                watch.drain()
                if (now := self._now()) is not seen:
                    seen = now
                    for lease in list(self._held):
                        self._check(lease)

            loop = asyncio.get_running_loop()
            loop.add_reader(watch, look)
            try:
                yield
            finally:
                loop.remove_reader(watch)

    async def serve(self, caller: Caller, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Have `app` serve a caller as long as it may call. ``scope["lease"]`` is the lease."""
        task = asyncio.current_task()
        assert task is not None
        answer, lease = _Answer(scope, send), Lease(caller, task)
        scope["lease"] = lease
        self._held.add(lease)
        try:
            self._check(lease)
            await app(scope, receive, answer.send)
            if lease.over.done():
                await asyncio.sleep(0)  # cancelled when it had just ended
        except asyncio.CancelledError:
            if not lease.over.done() or (sys.version_info >= (3, 11) and task.uncancel() > 0):  # somebody else wants it to end as well
                raise
        finally:
            self._held.discard(lease)
            lease.release()
        if lease.over.done():
            await answer.end(receive)

    def _check(self, lease: Lease) -> None:
        """End what is under way for a caller that may not call any more; else do so when its time is over."""
        if lease.over.done():
            return
        try:
            still = self._gatekeeper.still(lease.caller)
        except BandSoxError:  # a file that cannot be read lets nobody in
            still = None
        if still is None:
            lease.end()
        elif still.until is None:
            lease.release()
        else:
            left = max(0.0, still.until - time.time())
            lease.call_later(min(left, _LONGEST_TIMER_S), lambda: self._check(lease))

    def _now(self) -> object:
        try:
            return self._gatekeeper.file.read()
        except BandSoxError as error:
            _log.error("%s", error)
            return error


class _Answer:
    """How far an answer has come."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope, self._send = scope, send
        self._begun = self._closed = False

    async def send(self, message: Message) -> None:
        """Send it on."""
        kind = message["type"]
        self._begun = self._begun or kind in {"http.response.start", "websocket.accept"}
        self._closed = self._closed or kind == "websocket.close"
        await self._send(message)

    async def end(self, receive: Receive) -> None:
        """Say that the caller is not known any more, if that can still be said. A response that has begun breaks off."""
        if self._scope["type"] == "websocket":
            if not self._closed:
                with contextlib.suppress(RuntimeError):  # the client has gone
                    await self._send({"type": "websocket.close", "code": wire.UNKNOWN_CALLER if self._begun else 1008})
        elif not self._begun:
            await failure(unknown())(self._scope, receive, self._send)


def be_answered(request: Request) -> None:
    """Have this request answered although it may end what its own caller was let in by."""
    lease: Lease | None = request.scope.get("lease")
    if lease is not None:
        lease.polite = True


def unknown() -> NotAuthenticated:
    """Why something was ended."""
    return NotAuthenticated("this server does not know the caller any more", cause="its key or session is over, or has other rights now")
