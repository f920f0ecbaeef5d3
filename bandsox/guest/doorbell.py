"""The agent's word that it is there, on transports where a connection before that would be lost.

A guest without a listener refuses a connection over vsock, and a booting guest does so until its agent runs. So that nobody has to ask
again and again, the agent connects to the host once, when it listens (``docs/protocol.md``, "Booting"). That it connects is all
that is looked at: it says nothing that the host believes, and what the guest says comes in answers to requests.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Protocol

from bandsox import sockets
from bandsox.errors import VMMError
from bandsox.guest.frames import TOKEN_SIZE

DOORBELL_PORT = 1025
"""The vsock port of the host that the agent connects to."""


class Doorbell(Protocol):
    """What listens for an agent until the block ends."""

    @property
    def boot_args(self) -> str:
        """What the machine's kernel has to be told for it."""
        ...

    def __enter__(self) -> Doorbell: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...

    async def rung(self) -> bytes | None:
        """Return when the agent listens: the token that it takes from now on, or None for any."""
        ...


class UnixDoorbell:
    """Listens beside the vsock socket `vsock` of a machine.

    A hypervisor connects there in the guest's name (Firecracker, ``docs/vsock.md``, "Guest-Initiated Connections").
    """

    boot_args = ""

    def __init__(self, vsock: Path) -> None:
        self._path = vsock.with_name(f"{vsock.name}_{DOORBELL_PORT}")

    def __enter__(self) -> UnixDoorbell:
        self._socket = sockets.listen(self._path, queue=1)
        self._socket.setblocking(False)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._socket.close()
        self._path.unlink(missing_ok=True)

    async def rung(self) -> bytes | None:
        """See `Doorbell.rung`; nobody but this user reaches the agent, so it takes any token until it has been set up."""
        connection, _ = await asyncio.get_running_loop().sock_accept(self._socket)
        connection.close()
        return None


class HostVsockDoorbell:
    """Listens on a fresh port of the host's own vsock, which the machine is told with its kernel's arguments.

    Everybody on the host can connect to every guest, and every guest to this port. So the one with the address of this machine, which
    the kernel vouches for, is given a secret, and its agent serves nobody before it has it.

    Parameters
    ----------
    cid: tells the machine's address, once it has begun to boot.

    The block raises VMMError where the host's kernel has no vsock, or not a host's side of it.
    """

    def __init__(self, cid: Callable[[], int]) -> None:
        self._cid = cid

    def __enter__(self) -> HostVsockDoorbell:
        try:
            self._socket = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
        except OSError as error:
            raise VMMError("this host has no vsock", cause=error.strerror) from error
        try:
            self._socket.bind((socket.VMADDR_CID_HOST, socket.VMADDR_PORT_ANY))
            self._socket.listen()
            self._socket.setblocking(False)
        except OSError as error:
            self._socket.close()
            raise VMMError("no machine of this host can reach it over vsock", cause=error.strerror) from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._socket.close()

    @property
    def boot_args(self) -> str:
        """The port, for the agent."""
        return f"bandsox.doorbell={self._socket.getsockname()[1]}"

    async def rung(self) -> bytes | None:
        """See `Doorbell.rung`; who else connects is turned away."""
        loop = asyncio.get_running_loop()
        while True:
            connection, (cid, _) = await loop.sock_accept(self._socket)
            with connection:
                if cid == self._cid():
                    token = secrets.token_bytes(TOKEN_SIZE)
                    await loop.sock_sendall(connection, token)
                    return token
