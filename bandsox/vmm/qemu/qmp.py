"""A client of the QEMU monitor protocol (QEMU, docs/interop/qmp-spec.rst), bounded on every side.

The monitor serves one client at a time. Two can meet here, one under the machine's lock and one that adds a port: the second
waits in the socket's queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio

from bandsox.errors import MachineStopped, VMMError

_LINE_LIMIT = 1 << 20
_DEADLINE_S = 30.0
_EVENTS_KEPT = 64


class Monitor:
    """A connection to one QEMU."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._events: deque[dict[str, Any]] = deque(maxlen=_EVENTS_KEPT)
        self._greeted = False

    def greet(self) -> None:
        """Say that commands follow. QEMU's greeting and its answer are read with that to the first of them, which saves a round trip."""
        self._writer.write(b'{"execute": "qmp_capabilities"}\n')

    async def execute(self, command: str, *, descriptor: int | None = None, **arguments: Any) -> Any:
        """Run `command` and return its ``return`` value.

        Parameters
        ----------
        descriptor: an open file that QEMU gets with the command.

        Raises
        ------
        VMMError: QEMU refused, or does not answer.
        MachineStopped: QEMU ended meanwhile.
        """
        request = {"execute": command, **({"arguments": arguments} if arguments else {})}
        try:
            with anyio.fail_after(_DEADLINE_S):
                await self._send(json.dumps(request).encode() + b"\n", descriptor)
                if not self._greeted:
                    await self._answer("qmp_capabilities")
                    self._greeted = True
                return await self._answer(command)
        except ConnectionError as error:
            raise MachineStopped("the VMM ended", cause=str(error)) from error
        except TimeoutError as error:
            raise VMMError(f"QEMU did not answer `{command}` within {_DEADLINE_S:.0f} s") from error

    async def _answer(self, command: str) -> Any:
        while True:
            answer = await self._message()
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                raise VMMError(f"QEMU refused `{command}`: {answer['error'].get('desc', answer['error'])}")
            self._events.append(answer)

    async def event(self, name: str, deadline_s: float = _DEADLINE_S) -> dict[str, Any]:
        """The data of the next event `name` that was not asked for yet.

        Raises
        ------
        VMMError: none came within `deadline_s` seconds. MachineStopped: QEMU ended meanwhile.
        """
        try:
            with anyio.fail_after(deadline_s):
                while True:
                    message = self._events.popleft() if self._events else await self._message()
                    if message.get("event") == name:
                        data: dict[str, Any] = message.get("data", {})
                        return data
        except ConnectionError as error:
            raise MachineStopped("the VMM ended", cause=str(error)) from error
        except TimeoutError as error:
            raise VMMError(f"QEMU did not tell of `{name}` within {deadline_s:.0f} s") from error

    async def _send(self, line: bytes, descriptor: int | None) -> None:
        if descriptor is None:
            self._writer.write(line)
            await self._writer.drain()
            return
        # asyncio's own socket cannot pass descriptors; nothing is waiting in it, since every command was answered.
        with socket.socket(fileno=os.dup(self._writer.get_extra_info("socket").fileno())) as own:
            socket.send_fds(own, [line], [descriptor])

    async def _message(self) -> dict[str, Any]:
        try:
            line = await self._reader.readuntil(b"\n")
            message = json.loads(line)
        except asyncio.IncompleteReadError as error:
            raise MachineStopped("the VMM ended") from error
        except (asyncio.LimitOverrunError, ValueError) as error:
            raise VMMError("QEMU's monitor sent something that is not QMP") from error
        if not isinstance(message, dict):
            raise VMMError("QEMU's monitor sent something that is not QMP")
        return message


@contextlib.asynccontextmanager
async def connect(path: Path) -> AsyncIterator[Monitor]:
    """A monitor connection, ready for commands.

    Raises
    ------
    MachineStopped: no QEMU is behind the socket.
    """
    try:
        reader, writer = await asyncio.open_unix_connection(str(path), limit=_LINE_LIMIT)
    except OSError as error:
        raise MachineStopped("the VMM is not running", cause=str(error)) from error
    try:
        monitor = Monitor(reader, writer)
        monitor.greet()
        yield monitor
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()  # the next client is served when this one has gone
