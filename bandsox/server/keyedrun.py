"""Commands that run once, however often they are asked for: each is a session of the guest under an id that was written down before."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
from collections.abc import Sequence
from typing import Any

from bandsox.engine import identity
from bandsox.errors import BandSoxError, CommandTimeout, LimitExceeded, OutcomeUnknown, SessionNotFound
from bandsox.guest import Execution, GuestClient
from bandsox.guest.processes import CommandOptions
from bandsox.server.once import Attempt
from bandsox.store import KeyedRequests

MAX_OUTPUT = 1 << 20
"""How many bytes of output are kept. (As JSON they may become six times as many.)"""

_STARTED = "started"


class KeyedRun:
    """One command. Its plan is the session's id, the boot of the guest that it belongs to, and in the end that it was started.

    Parameters
    ----------
    place: the caller and the key.
    """

    def __init__(self, guest: GuestClient, program: CommandOptions, table: KeyedRequests, place: tuple[str, str]) -> None:
        self._guest, self._program, self._table, self._place = guest, program, table, place
        self._started = False

    async def attempt(self) -> Attempt:
        """How the command is carried out, to its end."""
        plan = [f"once-{secrets.token_hex(16)}", await self._boot()]
        return Attempt(lambda _: self._run(), plan, self._find, (CommandTimeout, LimitExceeded), lambda: self._started)

    async def session_attempt(self, session: str, *, stdin: bool, tty: tuple[int, int] | None) -> Attempt:
        """How it is started as a session of this id."""
        self._program["tty"] = tty

        async def work() -> dict[str, Any]:
            return {"id": session, "pid": await self._guest.start_session(session, stdin=stdin, **self._program)}

        return Attempt(lambda _: work(), [session, await self._boot()], self._find_session)

    async def _boot(self) -> str:
        return (await self._guest.info()).boot_id.hex()

    async def _run(self) -> dict[str, Any]:
        session, boot = identity.record_id(), identity.record_id()
        await self._guest.start_session(session, stdin=False, **self._program)
        self._started = True
        await asyncio.to_thread(self._table.plan, *self._place, [session, boot, _STARTED])
        return await self._followed(session)

    async def _find(self, plan: Sequence[str]) -> dict[str, Any] | None:
        """The outcome of a command that a server which was killed had started; None: it had not."""
        session, boot, *marks = plan
        if boot != await self._boot():
            raise OutcomeUnknown("it is not known how the command ended", cause="the VM was started anew since")
        try:
            return await self._followed(session)
        except SessionNotFound as error:
            if marks:
                raise OutcomeUnknown("it is not known how the command ended", cause="it was too long ago") from error
            return None

    async def _find_session(self, plan: Sequence[str]) -> dict[str, Any] | None:
        session, boot = plan
        if boot != await self._boot():
            raise OutcomeUnknown("it is not known what became of the session", cause="the VM was started anew since")
        return next(({"id": each.id, "pid": each.pid} for each in await self._guest.list_sessions() if each.id == session), None)

    async def _followed(self, session: str) -> dict[str, Any]:
        """Wait for the end of a session, and tell how it ended."""
        try:
            async with await self._guest.attach_session(session, stdout=0, stderr=0, input=False) as execution:
                lost = sum(execution.offsets.values())
                output = await self._collected(session, execution)
                ended = execution.result
        except (CommandTimeout, LimitExceeded, SessionNotFound):
            raise
        except BandSoxError as error:
            raise OutcomeUnknown("the command runs, or ran, and it is not known how it ended", cause=error.message) from error
        assert ended is not None
        if ended.timed_out:
            raise CommandTimeout(f"the command ran longer than {self._program.get('timeout')} s and was killed")
        if lost:
            raise LimitExceeded(f"the command printed {lost} bytes more than are kept")
        facts = {name: getattr(ended, name) for name in ("exit_code", "signal", "timed_out", "cpu_ms", "max_rss")}
        return {**facts, **{stream: data.decode(errors="replace") for stream, data in output.items()}}

    async def _collected(self, session: str, execution: Execution) -> dict[str, bytearray]:
        output = {"stdout": bytearray(), "stderr": bytearray()}
        async for stream, data in execution:
            output[stream] += data
            if sum(map(len, output.values())) > MAX_OUTPUT:
                with contextlib.suppress(BandSoxError):
                    await self._guest.signal_session(session, signal.SIGKILL)
                raise LimitExceeded(
                    f"the command printed more than {MAX_OUTPUT} bytes and was killed", remedy="redirect its output to a file"
                )
        return output
