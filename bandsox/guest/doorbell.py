"""The agent's word that it is there, on transports where a connection before that would be lost.

A guest without a listener refuses a connection over vsock, and a booting guest does so until its agent runs. So that nobody has to ask
again and again, the agent connects to the host once, when it listens (``docs/protocol.md``, "Boot"). That it connects is all
that is looked at: it says nothing that the host believes, and what the guest says comes in answers to requests.
"""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from types import TracebackType

DOORBELL_PORT = 1025
"""The vsock port of the host that the agent connects to."""


class Doorbell:
    """Listens, from now on, beside the vsock socket `vsock` of a machine, until the block ends.

    A hypervisor connects there in the guest's name (Firecracker, ``docs/vsock.md``, "Guest-Initiated Connections").
    """

    def __init__(self, vsock: Path) -> None:
        self._path = vsock.with_name(f"{vsock.name}_{DOORBELL_PORT}")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    def __enter__(self) -> Doorbell:
        try:
            self._path.unlink(missing_ok=True)
            self._socket.bind(str(self._path))
            self._path.chmod(0o600)
            self._socket.listen(1)
            self._socket.setblocking(False)
        except BaseException:
            self._socket.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._socket.close()
        self._path.unlink(missing_ok=True)

    async def rung(self) -> None:
        """Return when the agent listens."""
        connection, _ = await asyncio.get_running_loop().sock_accept(self._socket)
        connection.close()
