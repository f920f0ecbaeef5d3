"""The serial console as the way to the agent, for guests whose kernel has no vsock.

The hypervisor's standard input and output are two FIFOs in the machine's sockets directory. A relay (``bandsox-serial-relay``, a Go
program of the agent's module) connects them to ``console.sock``, which speaks as Firecracker's vsock socket does, and keeps
the console log. It ends with the hypervisor. Should it be killed before, `revive` starts another one: the FIFOs stay
open at the hypervisor's end, and the streams of the old one are reset.

FIFOs are opened for reading and writing at the hypervisor's end (fifo(7)), so that it never sees an end of its input and never
writes to nobody.
"""

from __future__ import annotations

import contextlib
import os
import platform
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bandsox.errors import HostError, MachineStopped
from bandsox.locks import Locks
from bandsox.process import ProcessId
from bandsox.sockets import listen
from bandsox.vmm.built import built_program

SOCKET = "console.sock"
"""The relay's socket, in the machine's sockets directory."""

_TO_GUEST, _FROM_GUEST, _LOCK = "console.in", "console.out", "console.lock"
_QUEUE = 128

_started: set[ProcessId] = set()
"""Relays that this process has started, and has to reap."""


@dataclass(frozen=True, slots=True)
class Wires:
    """The hypervisor's ends of the console, as descriptors."""

    standard_input: int
    standard_output: int


@dataclass(frozen=True, slots=True)
class Logs:
    """Where the relay appends what the guest prints, and what goes wrong with itself.

    ``limit``: how many bytes long the console log's file may become; None where the file bounds itself.
    """

    console: Path
    errors: Path
    limit: int | None = None


@contextlib.contextmanager
def wires(sockets: Path) -> Iterator[Wires]:
    """Make the console's FIFOs. Within the block the hypervisor is started with them, then the relay."""
    with contextlib.ExitStack() as stack:
        ends = []
        for name in (_TO_GUEST, _FROM_GUEST):
            os.mkfifo(sockets / name, 0o600)
            ends.append(os.open(sockets / name, os.O_RDWR | os.O_CLOEXEC))
            stack.callback(os.close, ends[-1])
        yield Wires(*ends)


def start_relay(sockets: Path, directory: Path, logs: Logs, *, resume: bool = False) -> ProcessId:
    """Start the relay of the machine with these directories; its socket listens when this returns.

    Parameters
    ----------
    resume: the guest is up already, and may be in a session with an earlier relay.

    Raises
    ------
    MachineStopped: the hypervisor has ended.
    HostError: this installation was made without the relay.
    """
    program = relay_binary(platform.machine())
    _reap()
    with contextlib.ExitStack() as stack:
        from_guest = _opened(stack, sockets / _FROM_GUEST, os.O_RDONLY | os.O_NONBLOCK)
        to_guest = _opened(stack, sockets / _TO_GUEST, os.O_WRONLY | os.O_NONBLOCK)
        kept = _opened(stack, logs.console, os.O_WRONLY | os.O_APPEND)
        printed = _opened(stack, logs.errors, os.O_WRONLY | os.O_APPEND)
        listener = stack.enter_context(listen(sockets / SOCKET, queue=_QUEUE))
        descriptors = {"listen": listener.fileno(), "from-guest": from_guest, "to-guest": to_guest, "log": kept}
        process = subprocess.Popen(
            [
                str(program),
                *(f"-{name}={descriptor}" for name, descriptor in descriptors.items()),
                *([f"-log-limit={logs.limit}"] if logs.limit is not None else []),
                *(["-resume"] if resume else []),
            ],
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=printed,
            cwd=directory,
            env={},
            pass_fds=list(descriptors.values()),
            start_new_session=True,
        )
    process.returncode = 0  # from here on the process is known by its identity, and reaped by it
    identity = ProcessId.of(process.pid)
    if identity is None:
        raise HostError("the relay of the machine's console ended as soon as it was started")
    _started.add(identity)
    return identity


async def revive(sockets: Path, directory: Path, logs: Logs) -> None:
    """Start the relay again if it is gone, whoever else may be about to.

    Raises
    ------
    MachineStopped: the hypervisor has ended.
    """
    if not sockets.is_dir():
        raise MachineStopped(f"{sockets} does not exist", cause="the machine has no sockets: it is not running")
    async with Locks(sockets / _LOCK).hold():
        if not _is_served(sockets / SOCKET):
            start_relay(sockets, directory, logs, resume=True)


def relay_binary(machine: str) -> Path:
    """The relay for `machine` (as ``uname -m`` says), built with the package.

    Raises
    ------
    HostError: this installation was made without it.
    """
    return built_program("bandsox-serial-relay", "the serial relay", machine)


def _opened(stack: contextlib.ExitStack, path: Path, flags: int) -> int:
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:  # ENXIO: nobody reads the FIFO; ENOENT: it is gone with the machine
        raise MachineStopped(f"nobody is behind {path}", cause="the machine's hypervisor has ended") from error
    stack.callback(os.close, descriptor)
    return descriptor


def _is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except BlockingIOError:
            return True  # its queue is full
        except (FileNotFoundError, ConnectionRefusedError):
            return False
    return True


def _reap() -> None:
    for relay in [relay for relay in _started if relay.reap()]:
        _started.discard(relay)
