"""The sessions of a machine: the part of `AsyncMicroVM` for programs that outlive whoever looks on."""

from __future__ import annotations

import functools
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING

from bandsox.vm.access import GuestAccess
from bandsox.vm.commands import Command, program

if TYPE_CHECKING:
    from bandsox.guest import TextCallback
    from bandsox.models import SessionInfo
    from bandsox.vm.callbacks import Callback
    from bandsox.vm.followers import Followers


class GuestSessions(GuestAccess):
    """The methods on sessions."""

    @functools.cached_property
    def _followers(self) -> Followers:
        """The sessions that this handle follows."""
        from bandsox.vm.followers import Followers

        return Followers()

    async def disconnect(self) -> None:
        """Stop following its sessions; they go on in the guest."""
        if "_followers" in vars(self):
            await self._followers.close()

    async def start_session(
        self,
        command: Command,
        on_stdout: TextCallback | None = None,
        on_stderr: TextCallback | None = None,
        on_exit: Callback[int] | None = None,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        timeout: float | None = None,
    ) -> tuple[str, int | None]:
        """Start a command that goes on until it ends or is killed, whoever looks on; return its session id and pid.

        Parameters
        ----------
        timeout: seconds after which it is killed with all it started; None: never.
        """
        guest = await self._live()
        session_id = secrets.token_hex(8)
        pid = await guest.start_session(session_id, **program(command, env=env, cwd=cwd, user=user, timeout=timeout))
        if on_stdout or on_stderr or on_exit:
            await self._followers.follow(guest, session_id, on_stdout, on_stderr, on_exit)
        return session_id, pid

    async def start_pty_session(
        self,
        command: Command,
        cols: int = 80,
        rows: int = 24,
        on_stdout: TextCallback | None = None,
        on_exit: Callback[int] | None = None,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        timeout: float | None = None,
    ) -> str:
        """Start a session on a terminal of `cols` by `rows` characters, and return its id.

        Parameters
        ----------
        timeout: seconds after which it is killed with all it started; None: never.
        """
        guest = await self._live()
        session_id = secrets.token_hex(8)
        await guest.start_session(session_id, **program(command, env=env, cwd=cwd, user=user, timeout=timeout, tty=(cols, rows)))
        if on_stdout or on_exit:
            await self._followers.follow(guest, session_id, on_stdout, None, on_exit)
        return session_id

    async def attach_session(
        self,
        session_id: str,
        on_stdout: TextCallback | None = None,
        on_stderr: TextCallback | None = None,
        on_exit: Callback[int] | None = None,
    ) -> None:
        """Follow a session that another process, or an earlier one, has started; its kept output comes first."""
        guest = await self._live()
        await self._followers.follow(guest, session_id, on_stdout, on_stderr, on_exit)

    async def send_session_input(self, session_id: str, data: str | bytes, encoding: str | None = None) -> None:
        """Feed a session; text is encoded as UTF-8 unless `encoding` says otherwise (``base64``: `data` is base64)."""
        await (await self._live()).send_input(session_id, _input_bytes(data, encoding))

    async def close_session_input(self, session_id: str) -> None:
        """Let a session read the end of its input."""
        await (await self._live()).send_input(session_id, b"", close=True)

    async def resize_session(self, session_id: str, cols: int, rows: int) -> None:
        """Tell a session the size of its terminal."""
        await (await self._live()).resize_session(session_id, cols, rows)

    async def signal_session(self, session_id: str, signal: int) -> None:
        """Send a signal to a session's process group."""
        await (await self._live()).signal_session(session_id, signal)

    async def kill_session(self, session_id: str) -> None:
        """Kill a session with all it has started."""
        await (await self._live()).signal_session(session_id, 9)

    async def list_sessions(self) -> list[SessionInfo]:
        """The sessions of the machine, oldest first, those that have ended lately included."""
        return await (await self._live()).list_sessions()


def _input_bytes(data: str | bytes, encoding: str | None) -> bytes:
    if encoding == "base64":
        import base64

        return base64.b64decode(data, validate=True)
    return data if isinstance(data, bytes) else data.encode(encoding or "utf-8")
