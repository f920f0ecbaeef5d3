"""The filter of one machine's network: what it is started with, its commands, and the log it writes.

The filter is a process in the machine's namespace (``bandsox-filter``, ``agent/internal/filter``). The keeper starts it at once where the
machine has a policy, and otherwise when somebody first has a command for it. It takes commands on ``network.sock`` in the machine's
directory, and writes what was opened, closed and refused into ``connections.0`` and ``connections.1`` there, by turns, at most 2 MiB each.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from bandsox import sockets
from bandsox.decoding import ready
from bandsox.errors import HostError
from bandsox.models import NetworkConfig, NetworkEvent, Policy
from bandsox.network import plan, rules, vault
from bandsox.network.policy import INTERNET, compiled

CUT = "its network is cut off until it is started again"

_SOCKET = "network.sock"
_LOGS = ("connections.0", "connections.1")
_PATIENCE_S = 60.0
_MAX_REPLY = 64 << 10


class State(msgspec.Struct):
    """What the filter answers (``agent/internal/filter/control.go``, ``State``)."""

    pid: int
    open: int
    opened: int
    refused: int
    sent: int
    received: int
    error: str | None = None


def configuration(
    program: Path, nft: str, config: NetworkConfig, policy: Policy | None, secrets: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The keeper's ``Filter``: what the filter is started with, and whether at once.

    Parameters
    ----------
    secrets: of `bandsox.network.vault`, ``opened``; None: there are none.
    """
    place = {
        "tap": config.tap_name,
        "guest": [config.guest_ip, config.guest_ipv6],
        "gateway": [config.host_ip, config.host_ipv6],
        "machines": [str(plan.POOL4), str(plan.POOL6)],
        "special": [*rules.NOT_INTERNET4, *rules.NOT_INTERNET6],
    }
    settings = {"place": place, "nft": nft, "policy": compiled(policy or INTERNET), "vault": secrets}
    roots = "" if secrets is None else vault.trusted_file()
    return {"program": str(program), "config": settings, "roots": roots, "now": policy is not None or secrets is not None}


def command(directory: Path, **fields: Any) -> State:
    """Give the filter of the machine with this directory a command, and return its answer. Blocks for some ms.

    Raises
    ------
    HostError: it has ended, or could not do it.
    """
    with _connected(directory) as control:
        try:
            control.sendall(msgspec.json.encode(fields))
            answer = control.recv(_MAX_REPLY)
        except OSError as error:
            raise _gone(error) from error
        return _read(answer)


def was_killed(directory: Path) -> bool:
    """Whether the keeper of a machine that does not run had no time to take its network down."""
    return (directory / _SOCKET).exists()


def is_alive(directory: Path) -> bool:
    """Whether somebody takes commands there: the filter, or the keeper that would start it."""
    try:
        with _connected(directory):
            return True
    except HostError:
        return False


@contextlib.asynccontextmanager
async def following(directory: Path) -> AsyncIterator[AsyncIterator[NetworkEvent]]:
    """What the filter writes down from the beginning of the block on, as it comes, until it ends.

    Raises
    ------
    HostError: it has ended already.
    """
    loop = asyncio.get_running_loop()
    with await asyncio.to_thread(_connect, directory) as control:
        control.setblocking(False)
        try:
            await loop.sock_sendall(control, msgspec.json.encode({"op": "follow"}))
            _read(await loop.sock_recv(control, _MAX_REPLY))
        except ConnectionError as error:
            raise _gone(error) from error
        async with contextlib.aclosing(_entries(control)) as entries:
            yield entries


async def _entries(control: socket.socket) -> AsyncGenerator[NetworkEvent, None]:
    loop = asyncio.get_running_loop()
    with contextlib.suppress(ConnectionError):
        while entry := await loop.sock_recv(control, _MAX_REPLY):
            yield msgspec.json.decode(entry, type=ready(NetworkEvent))


def written(directory: Path) -> list[NetworkEvent]:
    """What the filter has written down and kept, the oldest first."""
    events: list[NetworkEvent] = []
    for name in _LOGS:
        with contextlib.suppress(FileNotFoundError):
            events += _decode((directory / name).read_bytes())
    return sorted(events, key=lambda event: event.time)


def _decode(lines: bytes) -> Iterator[NetworkEvent]:
    """The entries of a log; one that a full disk has cut off is none."""
    for line in lines.splitlines():
        with contextlib.suppress(msgspec.DecodeError):
            yield msgspec.json.decode(line, type=ready(NetworkEvent))


def _connect(directory: Path) -> socket.socket:
    control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        control.settimeout(_PATIENCE_S)
        sockets.connect(control, directory / _SOCKET)
    except OSError as error:
        control.close()
        raise _gone(error) from error
    return control


@contextlib.contextmanager
def _connected(directory: Path) -> Iterator[socket.socket]:
    with _connect(directory) as control:
        yield control


def _read(answer: bytes) -> State:
    if not answer:
        raise _gone(None)
    state = msgspec.json.decode(answer, type=ready(State))
    if state.error is not None:
        raise HostError("the filter of the VM's network refused", cause=state.error)
    return state


def _gone(error: OSError | None) -> HostError:
    cause = CUT + (f": {error}" if error is not None else "")
    return HostError("the filter of the VM's network has ended", cause=cause, remedy="stop and start the VM; its network.log says more")
