"""What happens in a storage directory, as it happens, whichever process does it.

The journal (`bandsox.store.changes`) says what; the kernel says when to look (inotify(7) on SQLite's log). That a machine died is nobody's
doing, so while a feed is followed it waits for the VMMs of running machines and records their end, under the machine's lock: who stops or
deletes one holds that, so only a death that nobody caused is called one, and only once, however many feeds there are.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TYPE_CHECKING

from bandsox.errors import Timeout, VMNotFound
from bandsox.models import Change, VMStatus
from bandsox.process import ProcessId
from bandsox.store import Changes
from bandsox.vmm import inotify

if TYPE_CHECKING:
    from bandsox.engine.engine import Engine


class Feed:
    """The changes of one storage directory. Any number may follow it; it watches while somebody does."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._journal = Changes(engine.database)
        self._followers = 0
        self._watching: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[None] | None = None
        self._news = asyncio.Event()

    @contextlib.asynccontextmanager
    async def following(self, after: int | None = None) -> AsyncIterator[tuple[int, AsyncGenerator[Change, None]]]:
        """The number of the latest change, and those after it as they come, without end.

        Parameters
        ----------
        after: begin behind the change with this number instead, to go on where one left off. Where the journal does not go back so far,
            the first change is of the kind ``lost``.
        """
        last = await asyncio.to_thread(self._journal.last)
        async with self._watched():
            if after is None:
                last = await asyncio.to_thread(self._journal.last)
            async with contextlib.aclosing(self._changes(last if after is None else after, last)) as changes:
                yield (last if after is None else after), changes

    async def _changes(self, position: int, last: int) -> AsyncGenerator[Change, None]:
        if position > last:  # of another journal
            yield _lost(last)
            position = last
        while True:
            news = self._news
            found = await asyncio.to_thread(self._journal.after, position)
            if found and found[0].id > position + 1:
                yield _lost(found[0].id - 1)
            for change in found:
                position = change.id
                yield change
            if not found:
                await news.wait()
                if self._watching is not None and self._watching.done():
                    self._watching.result()

    @contextlib.asynccontextmanager
    async def _watched(self) -> AsyncIterator[None]:
        self._followers += 1
        try:
            if self._watching is None or self._watching.done():
                self._ready = asyncio.get_running_loop().create_future()
                self._watching = asyncio.create_task(self._watch(self._ready), name="changes")
            assert self._ready is not None
            await asyncio.shield(self._ready)
            yield
        finally:
            self._followers -= 1
            if not self._followers and self._watching is not None:
                watching, self._watching = self._watching, None
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)

    async def _watch(self, ready: asyncio.Future[None]) -> None:
        loop, noticed = asyncio.get_running_loop(), asyncio.Event()
        deaths: dict[ProcessId, asyncio.Task[None]] = {}
        try:
            with inotify.Watch({self._journal.notice: inotify.MODIFY}) as watch:

                def note() -> None:
                    watch.drain()
                    noticed.set()

                loop.add_reader(watch, note)
                try:
                    await asyncio.to_thread(self._journal.settle)  # whoever wrote before there was a watch can be seen by now
                    ready.set_result(None)
                    while True:
                        await self._await_deaths(deaths)
                        await noticed.wait()
                        noticed.clear()
                        await asyncio.to_thread(self._journal.settle)
                        self._tell()
                finally:
                    loop.remove_reader(watch)
        except BaseException as error:
            if not ready.done():
                ready.set_exception(error)
            raise
        finally:
            self._tell()
            for waiting in deaths.values():
                waiting.cancel()

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    # ── machines that die ───────────────────────────────────────────────────────────────────────

    async def _await_deaths(self, deaths: dict[ProcessId, asyncio.Task[None]]) -> None:
        """Wait in the background for the end of every VMM that should be running."""
        alive = {process: vm_id for vm_id, process in await asyncio.to_thread(self._engine.vms.processes)}
        for process in deaths.keys() - alive.keys():
            deaths.pop(process).cancel()
        for process in alive.keys() - deaths.keys():
            deaths[process] = asyncio.create_task(self._await_death(alive[process], process), name=f"end of {process.pid}")

    async def _await_death(self, vm_id: str, process: ProcessId) -> None:
        await process.wait()
        with contextlib.suppress(VMNotFound, Timeout):
            async with self._engine.locked(vm_id):
                record = await asyncio.to_thread(self._engine.vms.get, vm_id)
                same = (record.pid, record.pid_start) == (process.pid, process.start)
                if same and record.status in {VMStatus.RUNNING, VMStatus.PAUSED}:
                    await self._engine.update(vm_id, status=VMStatus.DEAD)


def _lost(number: int) -> Change:
    return Change(number, time.time(), "lost", "", "")
