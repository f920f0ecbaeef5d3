"""The forwarder of one machine: a process (``bandsox-forwarder``, a Go program of the agent's module) that carries connections to
ports of this host to ports of the guest.

It works in the machine's directory (`bandsox.engine.ownership`), outlives whoever started it, and ends with the machine, whose agent it has
one connection to. It listens for commands on ``ports.sock`` in that directory, which no hypervisor sees. Ports come to it
as sockets that listen already, so that who publishes one learns at once that it is taken.
"""

from __future__ import annotations

import array
import contextlib
import errno
import ipaddress
import json
import os
import platform
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bandsox import sockets
from bandsox.errors import Conflict, HostError, InvalidRequest
from bandsox.guest.link import HandedOver
from bandsox.models import PublishedPort
from bandsox.process import ProcessId
from bandsox.vmm.built import built_program

_SOCKET, _ERRORS = "ports.sock", "ports.log"
_QUEUE = 128
_PATIENCE_S = 10.0
_MAX_REPLY = 64 << 10

_started: set[ProcessId] = set()
"""Forwarders that this process has started, and has to reap."""


# ── ports of this host ──────────────────────────────────────────────────────────────────────────


def listen(port: PublishedPort) -> tuple[socket.socket, PublishedPort]:
    """A socket that listens on the host's side of `port`, which is returned with its number where it had none.

    Raises
    ------
    Conflict: the port is taken. InvalidRequest: this host has no such address. HostError: this user may not listen there.
    """
    family = socket.AF_INET6 if ipaddress.ip_address(port.host).version == 6 else socket.AF_INET
    with contextlib.ExitStack() as undo:
        listener = socket.socket(family, socket.SOCK_STREAM)
        undo.callback(listener.close)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            listener.bind((port.host, port.host_port))
            listener.listen(_QUEUE)
        except OSError as error:
            raise _cannot_listen(port, error) from error
        undo.pop_all()
    return listener, PublishedPort(port.guest_port, listener.getsockname()[1], port.host)


def _cannot_listen(port: PublishedPort, error: OSError) -> Exception:
    if error.errno == errno.EADDRINUSE:
        return Conflict(
            f"port {port.host_port} of {port.host} is taken",
            cause="another program of this host listens on it",
            remedy=f"choose another, or 0 for a free one; `ss -ltnp sport = :{port.host_port}` shows who has it",
        )
    if error.errno in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:
        return InvalidRequest(f"{port.host} is not an address of this host")
    if error.errno in {errno.EACCES, errno.EPERM}:
        return HostError(f"this user may not listen on port {port.host_port}", remedy="choose one from 1024 on")
    return HostError(f"port {port.address} cannot be listened on", cause=str(error))


# ── the process ─────────────────────────────────────────────────────────────────────────────────


def start(directory: Path, link: HandedOver) -> None:
    """Start the forwarder of the machine with this directory on a connection to its agent; it takes commands when this returns.

    Raises
    ------
    HostError: this installation was made without it.
    """
    program = built_program("bandsox-forwarder", "the forwarder of ports", platform.machine())
    _reap()
    with contextlib.ExitStack() as stack:
        errors = os.open(directory / _ERRORS, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        stack.callback(os.close, errors)
        control = stack.enter_context(sockets.listen(directory / _SOCKET, queue=_QUEUE, kind=socket.SOCK_SEQPACKET))
        inherited = [link.sock, control.fileno(), *([] if link.lock is None else [link.lock])]
        process = subprocess.Popen(
            [str(program), f"-link={link.sock}", f"-control={control.fileno()}"],
            stdin=subprocess.DEVNULL,
            stdout=errors,
            stderr=errors,
            cwd=directory,
            env={},
            pass_fds=inherited,
            start_new_session=True,
        )
    process.returncode = 0  # from here on the process is known by its identity, and reaped by it
    if (identity := ProcessId.of(process.pid)) is not None:
        _started.add(identity)


def _reap() -> None:
    for process in [process for process in _started if process.reap()]:
        _started.discard(process)


# ── its commands ────────────────────────────────────────────────────────────────────────────────


class Forwarder:
    """A running forwarder. Every method blocks for a moment, and raises HostError where it does not answer."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control

    def add(self, port: PublishedPort, listener: socket.socket) -> None:
        """Have it carry what `listener` accepts."""
        self._command({"op": "add", **_fields(port)}, listener)

    def remove(self, port: PublishedPort) -> None:
        """Have it listen there no more; connections that were made go on."""
        self._command({"op": "remove", **_fields(port)})

    def ports(self) -> list[dict[str, Any]]:
        """Its ports: ``host``, ``host_port``, ``guest_port``, and how many connections are ``open``, were ``accepted`` and ``refused``."""
        return list(self._command({"op": "list"})["ports"] or ())

    def process(self) -> ProcessId | None:
        """Its process; None when it has ended."""
        return ProcessId.of(self._command({"op": "list"})["pid"])

    def _command(self, message: dict[str, Any], listener: socket.socket | None = None) -> dict[str, Any]:
        rights = [] if listener is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [listener.fileno()]))]
        try:
            self._control.sendmsg([json.dumps(message).encode()], rights)
            reply: dict[str, Any] = json.loads(self._control.recv(_MAX_REPLY))
        except (OSError, ValueError) as error:
            raise HostError("the forwarder of the machine's ports does not answer", cause=str(error)) from error
        if reply.get("error"):
            raise HostError(f"the forwarder of the machine's ports refused: {reply['error']}")
        return reply


@contextlib.contextmanager
def running(directory: Path) -> Iterator[Forwarder | None]:
    """The forwarder of the machine with this directory; None when there is none, or it was killed."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as control:
        control.settimeout(_PATIENCE_S)
        try:
            sockets.connect(control, directory / _SOCKET)
        except (FileNotFoundError, ConnectionRefusedError):
            yield None
            return
        yield Forwarder(control)


def _fields(port: PublishedPort) -> dict[str, Any]:
    return {"host": port.host, "host_port": port.host_port, "guest_port": port.guest_port}
