"""What runs a command's coroutine: the storage directory is open, and signals end it in good order.

The first SIGINT, SIGTERM or SIGHUP cancels the operation, which then cleans up after itself; a command that talks to a program
in a guest forwards it first. What has begun to clean up is not interrupted again, unless somebody insists.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING

from bandsox.cli import servers
from bandsox.cli.command import Invocation
from bandsox.cli.output import notice
from bandsox.cli.progress import ProgressDisplay
from bandsox.core import AsyncBandSox
from bandsox.errors import VMNotFound

if TYPE_CHECKING:
    from bandsox.engine import Engine
    from bandsox.vm import AsyncMicroVM

GRACE_S = 10.0
"""How long a program may take to end after SIGTERM or SIGHUP was forwarded to it."""

_INSISTING = 2
_HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Signals:
    """What the ending signals do while an operation runs, which is the task that makes this object."""

    def __init__(self, state: Invocation) -> None:
        self.cancelled_by: int | None = None
        self.forward: Callable[[int], object] | None = None
        self._state = state
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._grace: asyncio.TimerHandle | None = None
        self._protected = False
        self._ignored = 0

    @contextlib.contextmanager
    def handled(self) -> Iterator[None]:
        """Handle the signals for the time of the block."""
        for number in _HANDLED:
            self._loop.add_signal_handler(number, self._arrived, int(number))
        try:
            yield
        finally:
            if self._grace is not None:
                self._grace.cancel()
            for number in _HANDLED:
                self._loop.remove_signal_handler(number)

    @contextlib.contextmanager
    def forwarded(self, forward: Callable[[int], object]) -> Iterator[None]:
        """For the time of the block the first signal goes to `forward`; the next one, or the end of `GRACE_S`, cancels."""
        self.forward = forward
        try:
            yield
        finally:
            self.forward = None
            if self._grace is not None:
                self._grace.cancel()

    @contextlib.contextmanager
    def protected(self) -> Iterator[None]:
        """The block is not cancelled: it cleans up."""
        self._protected = True
        try:
            yield
        finally:
            self._protected = False

    def _arrived(self, number: int) -> None:
        if self.forward is not None:
            self.forward(number)
            self.forward = None
            # SIGINT is a person's, who can press the keys again; the others come from a program, perhaps only once.
            if number != signal.SIGINT:
                self._grace = self._loop.call_later(GRACE_S, self._cancel, number)
        elif self.cancelled_by is None and not self._protected:
            self._cancel(number)
        else:
            self.cancelled_by = self.cancelled_by or number
            self._insisted(number)

    def _cancel(self, number: int) -> None:
        if self.cancelled_by is None and self._task is not None:
            self.cancelled_by = number
            if not self._protected:
                self._task.cancel()

    def _insisted(self, number: int) -> None:
        self._ignored += 1
        if self._ignored < _INSISTING:
            notice("cleaning up; press Ctrl-C again to leave that to `bandsox cleanup`", self._state)
            return
        sys.stderr.flush()
        os._exit(128 + number)


class Call:
    """What a command's coroutine works with."""

    def __init__(self, state: Invocation, bandsox: AsyncBandSox, signals: Signals, progress: ProgressDisplay, *, remote: bool) -> None:
        self.state = state
        self.bandsox = bandsox
        self.remote = remote
        self.signals = signals
        self.progress = progress

    @property
    def engine(self) -> Engine:
        """The engine.

        Raises
        ------
        Unsupported: the VMs are a server's.
        """
        return self.bandsox.engine

    async def vm(self, id_or_name: str) -> AsyncMicroVM:
        """The VM with this id, beginning of an id, or name.

        Raises
        ------
        VMNotFound: there is none.
        """
        found = await self.bandsox.get_vm(id_or_name if self.remote else (await self.engine.get(id_or_name)).id)
        if found is None:
            raise VMNotFound(f"no VM has the id or name {id_or_name!r}", remedy="see `bandsox vm list`")
        return found


def run_supervised(state: Invocation, work: Callable[[Call], Awaitable[int | None]]) -> int:
    """Run `work` in an event loop of its own, and return the exit status."""
    return asyncio.run(_supervised(state, work))


async def _supervised(state: Invocation, work: Callable[[Call], Awaitable[int | None]]) -> int:
    signals = Signals(state)
    with signals.handled(), ProgressDisplay(state) as progress:
        try:
            url = servers.url_of(state)
            headers = None if url is None else servers.headers_for(url)
            async with AsyncBandSox(state.storage if url is None else None, url, headers) as bandsox:
                return await work(Call(state, bandsox, signals, progress, remote=url is not None)) or 0
        except asyncio.CancelledError:
            if signals.cancelled_by is None:
                raise
            return 128 + signals.cancelled_by
