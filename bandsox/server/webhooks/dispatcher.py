"""Tells each webhook of its changes, one after the other, and tries again where that fails: after a second, then twice as long each
time, up to an hour, for a day.

Of the servers of a storage directory one does so, and when it dies another one goes on (a lock of the kernel's). It waits for the
journal, for changes of webhooks (inotify(7)) and for the time of the next attempt.
"""

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
import logging
import random
import sqlite3
import time
from collections.abc import AsyncIterator, Collection
from dataclasses import replace
from functools import partial
from urllib.parse import urlsplit, urlunsplit

import anyio
import httpx

from bandsox.engine.feed import Feed
from bandsox.errors import BandSoxError, NotFound
from bandsox.locks import Locks
from bandsox.models import Change, Delivery, Webhook
from bandsox.server.webhooks import message as messages
from bandsox.server.webhooks.message import Message
from bandsox.server.webhooks.target import Address, Network, address_of
from bandsox.settings import Layout
from bandsox.store import Webhooks
from bandsox.version import __version__
from bandsox.vmm import inotify

LOCK = "webhooks.server"
"""The file below ``locks`` whose lock the server holds that tells webhooks."""

ANSWER_S = 15.0
"""How long an attempt may take."""

FIRST_S, LONGEST_S, GIVEN_UP_S = 1.0, 3600.0, 24 * 3600.0
"""How long to wait after the first attempt that failed, at most, and after how long a change is given up."""

_log = logging.getLogger(__name__)

_AGAIN_S = 60.0
_PASSED = 1000
_READ = 64 << 10


class Dispatcher:
    """Tells the webhooks of one storage directory.

    Parameters
    ----------
    allowed: networks besides the Internet that they may be in.
    """

    def __init__(self, layout: Layout, feed: Feed, table: Webhooks, allowed: Collection[Network]) -> None:
        self._layout = layout
        self._feed = feed
        self._table = table
        self._allowed = allowed
        self._telling: dict[str, tuple[Webhook, asyncio.Task[None]]] = {}
        self._waiting: set[str] = set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """A block during which they are told, from when no other server does so."""
        task = asyncio.create_task(self._run(), name="webhooks")
        task.add_done_callback(_noticed)
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        async with Locks(self._layout.locks / LOCK).hold():
            self._table.notice.touch(mode=0o600)
            try:
                with inotify.Watch({self._table.notice: inotify.ATTRIB}) as watch:
                    await self._follow(watch)
            finally:
                await self._stop(*self._telling)

    async def _follow(self, watch: inotify.Watch) -> None:
        loop, changed = asyncio.get_running_loop(), asyncio.Event()

        def note() -> None:
            watch.drain()
            changed.set()

        loop.add_reader(watch, note)
        try:
            while True:
                hooks = {hook.id: hook for hook in await asyncio.to_thread(self._table.list) if hook.enabled}
                await self._stop(*(each for each in self._telling if self._is_stale(hooks.get(each), each)))
                for each in hooks.keys() - self._telling.keys():
                    self._telling[each] = hooks[each], asyncio.create_task(self._keep_telling(each), name=f"webhook {each}")
                await changed.wait()
                changed.clear()
        finally:
            loop.remove_reader(watch)

    async def _stop(self, *hooks: str) -> None:
        tasks = [self._telling.pop(each)[1] for each in hooks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _is_stale(self, now: Webhook | None, hook_id: str) -> bool:
        """Whether what tells a webhook has to begin anew, or to end: it is another one now, or need not wait any more."""
        known = self._telling[hook_id][0]
        return now is None or (known.url, known.kinds) != (now.url, now.kinds) or (hook_id in self._waiting and not now.next_at)

    async def _keep_telling(self, hook_id: str) -> None:
        """Tell a webhook, and begin anew where the registry cannot be used for a while, as when the disk is full."""
        while True:
            try:
                await self._tell(await asyncio.to_thread(self._table.get, hook_id))
            except NotFound:
                return
            except (BandSoxError, OSError, sqlite3.Error) as error:
                _log.warning("webhook %s: %s", hook_id, error)
                await asyncio.sleep(_AGAIN_S)

    async def _tell(self, hook: Webhook) -> None:
        """Tell a webhook of all that happens, from where it is in the journal on."""
        async with _client() as client, self._feed.following(hook.position) as (_, changes):
            passed = 0
            async for change in changes:
                if wants(hook, change.kind):
                    await self._deliver(client, hook.id, change)
                    passed = 0
                elif (passed := passed + 1) >= _PASSED:
                    await asyncio.to_thread(self._table.passed, hook.id, change)
                    passed = 0

    async def _deliver(self, client: httpx.AsyncClient, hook_id: str, change: Change) -> None:
        """Tell a webhook of a change until it has taken it, or it is given up."""
        while True:
            hook = await asyncio.to_thread(self._table.get, hook_id)
            await self._wait(hook)
            delivery = await self._attempt(client, hook, messages.of(hook, change), hook.attempts + 1)
            next_at = None if delivery.outcome == "delivered" else _next_at(hook, delivery)
            if next_at is None and delivery.outcome == "failed":
                delivery = replace(delivery, outcome="given_up")
            await asyncio.to_thread(self._table.settle, hook, change, delivery, next_at)
            if next_at is None:
                return

    async def _wait(self, hook: Webhook) -> None:
        """Until the next attempt is due."""
        self._waiting.add(hook.id)
        try:
            await asyncio.sleep(max(0.0, min(hook.next_at - time.time(), LONGEST_S)))
        finally:
            self._waiting.discard(hook.id)

    async def attempt(self, hook: Webhook) -> Delivery:
        """Send a message that is about nothing, once, and keep what became of it."""
        now = time.time()
        async with _client() as client:
            delivery = await self._attempt(client, hook, messages.of_nothing(hook, f"{now * 1000:.0f}", now), 1)
        await asyncio.to_thread(self._table.note, hook.id, delivery)
        return delivery

    async def _attempt(self, client: httpx.AsyncClient, hook: Webhook, message: Message, number: int) -> Delivery:
        began = time.monotonic()
        delivery = partial(Delivery, message.id, message.kind, time.time(), number)
        status: int | None = None
        error: str | None = None
        try:
            with anyio.fail_after(ANSWER_S):
                status = await _post(client, hook, message, await address_of(hook.url, self._allowed))
        except TimeoutError:
            error = f"no answer within {ANSWER_S:g} s"
        except BandSoxError as refused:
            error = refused.message
        except (httpx.HTTPError, OSError, ValueError) as failed:
            error = f"{type(failed).__name__}: {failed}"[:500]
        taken = status is not None and 200 <= status < 300
        return delivery("delivered" if taken else "failed", status, error, round((time.monotonic() - began) * 1000))


def wants(hook: Webhook, kind: str) -> bool:
    """Whether a webhook is told of changes of a kind. That some are lost concerns all."""
    return kind == "lost" or any(fnmatch.fnmatchcase(kind, each) for each in hook.kinds)


def _client() -> httpx.AsyncClient:
    """A client for one webhook: a connection is never used for another one, whose name may lead to the same address."""
    return httpx.AsyncClient(trust_env=False, follow_redirects=False, timeout=ANSWER_S, headers={"user-agent": f"bandsox/{__version__}"})


async def _post(client: httpx.AsyncClient, hook: Webhook, message: Message, address: Address) -> int:
    """Send a message to just this address, under the webhook's own name. Returns the status of the answer."""
    parts = urlsplit(hook.url)
    place = f"[{address}]" if address.version == 6 else str(address)
    url = urlunsplit(parts._replace(netloc=place if parts.port is None else f"{place}:{parts.port}"))
    headers = {"host": parts.netloc, **message.headers(hook.secret, time.time())}
    names = {"sni_hostname": parts.hostname or ""}
    async with client.stream("POST", url, content=message.body, headers=headers, extensions=names) as answer:
        taken = 0
        async for piece in answer.aiter_raw():  # what it says is of no interest, but the connection can be used again
            taken += len(piece)
            if taken > _READ:
                break
        return answer.status_code


def _next_at(hook: Webhook, failed: Delivery) -> float | None:
    """When to try again, with a jitter, so that not all come back at once where many have failed together; None: not any more."""
    if hook.failing_since is not None and failed.at - hook.failing_since >= GIVEN_UP_S:
        return None
    wait: float = min(FIRST_S * 2.0 ** min(failed.attempt - 1, 20), LONGEST_S)
    return time.time() + wait * random.uniform(0.5, 1)  # noqa: S311 — no secret


def _noticed(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("webhooks are told of nothing any more", exc_info=error)
