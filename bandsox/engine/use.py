"""Operations on the guest of a machine that counts how long it is idle (`bandsox.engine.deadlines`): each is a use while it lasts."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from bandsox.engine.housekeeper import USED
from bandsox.errors import MachineStopped
from bandsox.guest import Channel, Lane, Link
from bandsox.locks import DEADLINE_S, Locks


class UsedLink:
    """The way to a guest, on which each connection is a use of the machine.

    Parameters
    ----------
    directory: the machine's.
    see_to_it: called when the machine can no longer be stopped for being idle, to see whether it was.
    """

    def __init__(self, link: Link, directory: Path, see_to_it: Callable[[], Awaitable[object]]) -> None:
        self._link = link
        self._directory = directory
        self._see_to_it = see_to_it

    async def open(self, lane: Lane, deadline: float | None) -> Channel:
        """See `Link.open`.

        Raises
        ------
        Conflict: the machine was paused because its time was over.
        """
        use = Locks(self._directory / USED).hold(shared=True, deadline_s=DEADLINE_S, what="the end of the machine's time")
        try:
            async with use as lock:
                await self._see_to_it()
                return _UsedChannel(await self._link.open(lane, deadline), os.dup(lock))
        except FileNotFoundError as error:
            raise MachineStopped("the machine was deleted") from error


class _UsedChannel(Channel):
    """A channel with whose release the use ends. `lock` is the descriptor that holds the lock."""

    def __init__(self, channel: Channel, lock: int) -> None:
        super().__init__(channel.sock, preamble=channel.preamble, handed_on=channel.handed_on, may_refuse=channel.may_refuse)
        self._channel = channel
        self._lock = lock

    def release(self, *, clean: bool) -> None:
        try:
            self._channel.release(clean=clean)
        finally:
            os.utime(self._lock)
            os.close(self._lock)
