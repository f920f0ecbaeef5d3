"""Following sessions: their output handed to callbacks for as long as they run.

A session is a process of the guest that belongs to nobody. Following one is a task of this process: it attaches, hands on what
comes, and ends with the session or with `Followers.close`, which leaves the session running.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from bandsox.errors import BandSoxError
from bandsox.guest import GuestClient, TextCallback
from bandsox.vm.callbacks import Callback, call, deliver

_log = logging.getLogger(__name__)


class Followers:
    """The sessions of one machine that this process follows."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    async def follow(
        self,
        guest: GuestClient,
        session_id: str,
        on_stdout: TextCallback | None,
        on_stderr: TextCallback | None,
        on_exit: Callback[int] | None,
    ) -> None:
        """Attach to a session of `guest`, and hand its output on in the background.

        Raises
        ------
        SessionNotFound: there is none with this id.
        """
        attached: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(self._run(guest, session_id, attached, on_stdout, on_stderr, on_exit), name=f"session {session_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        await attached

    async def close(self) -> None:
        """Stop following. The sessions go on."""
        for task in list(self._tasks):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _run(
        self,
        guest: GuestClient,
        session_id: str,
        attached: asyncio.Future[None],
        on_stdout: TextCallback | None,
        on_stderr: TextCallback | None,
        on_exit: Callback[int] | None,
    ) -> None:
        try:
            async with await guest.attach_session(session_id, input=False) as execution:
                attached.set_result(None)
                result = await deliver(execution, on_stdout, on_stderr)
        except BandSoxError as error:
            if not attached.done():
                attached.set_exception(error)
            else:
                # The machine is gone, or was paused; whoever calls next is told so by the machine's state.
                _log.info("no longer following session %s: %s", session_id, error.message)
            return
        await call(on_exit, result.exit_code)
