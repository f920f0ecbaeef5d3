"""Work that ends when whoever asked for it has gone. The protocol tells of that (`bandsox.server.protocol`), in the scope of a request.

A request could wait for ``http.disconnect`` beside its work; but that takes two tasks for each, and a tenth of a millisecond.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

Result = TypeVar("Result")

DEPARTURE = "bandsox.departure"
"""The `Departure` of a request's client."""

ARRIVED = "bandsox.arrived"
"""Whether the body of a request is there, whole."""


class Departure:
    """That a client goes away, and the tasks that end with it."""

    def __init__(self) -> None:
        self.happened = False
        self._tasks: set[asyncio.Task[Any]] = set()

    def happen(self) -> None:
        """The client has gone."""
        self.happened = True
        for task in self._tasks:
            task.cancel()

    async def ends(self, work: Coroutine[Any, Any, Result]) -> Result:
        """What `work` returns; it is cancelled when the client goes away.

        Raises
        ------
        ClientDisconnect: it did.
        """
        if self.happened:
            work.close()
            raise ClientDisconnect
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            return await work
        except asyncio.CancelledError:
            if not self.happened or (sys.version_info >= (3, 11) and task.uncancel() > 0):  # somebody else wants it to end as well
                raise
            raise ClientDisconnect from None
        finally:
            self._tasks.discard(task)


async def while_present(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """What `work` returns; it is cancelled when the client of `request` goes away.

    Raises
    ------
    ClientDisconnect: it did.
    """
    departure: Departure = request.scope[DEPARTURE]
    return await departure.ends(work)
