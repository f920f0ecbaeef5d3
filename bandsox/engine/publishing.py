"""Ports of machines on this host: what is published, and the forwarder that carries it.

What a machine publishes stands in its specification, so it is there again after a stop and a start. The forwarder is asked, never
remembered: where it does not answer (it was killed) it is started again with all of the machine's ports by whoever next uses the
machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import re
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bandsox.engine import forwarder
from bandsox.errors import HostError, InvalidRequest
from bandsox.guest import GuestClient
from bandsox.models import PortState, PublishedPort

MAX_PORTS = 256
"""How many ports one machine may publish."""

Listening = Sequence[tuple[socket.socket, PublishedPort]]

_FORM = re.compile(r"(?:(?:\[(?P<six>[^\]]*)\]|(?P<four>[^\[\]:]+)):)?(?:(?P<host>[0-9]{0,5}):)?(?P<guest>[0-9]{1,5})")


# ── what is to be published ─────────────────────────────────────────────────────────────────────


def parse(text: str) -> PublishedPort:
    """A port as text: ``GUEST``, ``HOST:GUEST`` or ``ADDRESS:HOST:GUEST``, with an IPv6 address in brackets; an empty or absent HOST is
    a free port.

    Raises
    ------
    InvalidRequest: it has another form.
    """
    parts = _FORM.fullmatch(text)
    address, only = (parts["six"] or parts["four"], parts["host"]) if parts else (None, None)
    if parts is None or (address is not None and only is None and not address.isdigit()):
        raise InvalidRequest(f"not a port to publish: {text!r}", remedy="use GUEST, HOST:GUEST or ADDRESS:HOST:GUEST, such as 8080:80")
    if address is not None and only is None:  # "8080:80": a number before the only colon is a port
        address, only = None, address
    return PublishedPort(int(parts["guest"]), int(only or 0), address or "127.0.0.1")


def taken_from(publish: Mapping[int | str, int] | Iterable[PublishedPort | str] | None) -> tuple[PublishedPort, ...]:
    """What a caller wants published: ``{host port: guest port}``, where a host port may be text as ``address:port``, or a list of
    what `parse` reads.

    Raises
    ------
    InvalidRequest: it is something else.
    """
    if publish is None:
        return ()
    if isinstance(publish, str):
        raise InvalidRequest(f"a list of ports is needed, not {publish!r}")
    entries = [f"{host}:{guest}" for host, guest in publish.items()] if isinstance(publish, Mapping) else list(publish)
    return tuple(entry if isinstance(entry, PublishedPort) else parse(str(entry)) for entry in entries)


def check(ports: Sequence[PublishedPort]) -> None:
    """Check every bound.

    Raises
    ------
    InvalidRequest: the first port that cannot be published.
    """
    if len(ports) > MAX_PORTS:
        raise InvalidRequest(f"at most {MAX_PORTS} ports can be published, not {len(ports)}")
    for port in ports:
        _check_number("port of the guest", port.guest_port, 1)
        _check_number("port of this host", port.host_port, 0)
        try:
            ipaddress.ip_address(port.host)
        except ValueError as error:
            raise InvalidRequest(f"not an IP address of this host: {port.host!r}") from error
    fixed = [(port.host, port.host_port) for port in ports if port.host_port]
    if len(set(fixed)) < len(fixed):
        raise InvalidRequest("a port of this host can be published once only")


def _check_number(what: str, number: int, lowest: int) -> None:
    if not isinstance(number, int) or isinstance(number, bool) or not lowest <= number <= 65535:
        raise InvalidRequest(f"a {what} is a number from {lowest} to 65535, not {number!r}")


# ── listening ───────────────────────────────────────────────────────────────────────────────────


class Listeners:
    """Sockets that listen on ports of this host until the block ends; a forwarder that was given them goes on.

    `listening` has each with its port, whose number is known by then.
    """

    def __init__(self, ports: Iterable[PublishedPort]) -> None:
        self._wanted = tuple(ports)
        self._stack = contextlib.ExitStack()
        self.listening: list[tuple[socket.socket, PublishedPort]] = []

    async def __aenter__(self) -> Listeners:
        with contextlib.ExitStack() as undo:
            undo.callback(self._stack.close)
            for port in self._wanted:
                listener, found = forwarder.listen(port)
                self._stack.callback(listener.close)
                self.listening.append((listener, found))
            undo.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def ports(self) -> tuple[PublishedPort, ...]:
        """The ports, each with its number."""
        return tuple(port for _, port in self.listening)


async def carry(directory: Path, client: Callable[[], GuestClient], listening: Listening) -> None:
    """Have the machine's forwarder, which is started where there is none, carry what these sockets accept.

    Raises
    ------
    MachineStopped, Timeout, ProtocolError: its agent does not answer. Unsupported: its agent is older than this. HostError.
    """
    if not listening:
        return
    if not await asyncio.to_thread(_is_running, directory):
        link = await client().hand_over_streams()
        try:
            await asyncio.to_thread(forwarder.start, directory, link)
        finally:
            for descriptor in link:
                if descriptor is not None:
                    os.close(descriptor)
    await asyncio.to_thread(_add, directory, listening)


def states(directory: Path, ports: Iterable[PublishedPort]) -> list[PortState]:
    """How `ports` of the machine with this directory are used."""
    with forwarder.running(directory) as found:
        carried = {} if found is None else {(entry["host"], entry["host_port"]): entry for entry in found.ports()}
    return [_state(port, carried.get((port.host, port.host_port))) for port in ports]


def _state(port: PublishedPort, entry: Mapping[str, Any] | None) -> PortState:
    if entry is None:
        return PortState(port, listening=False)
    return PortState(port, True, entry["open"], entry["accepted"], entry["refused"])


def withdraw(directory: Path, port: PublishedPort) -> None:
    """Publish a port no longer."""
    with forwarder.running(directory) as found:
        if found is not None:
            found.remove(port)


def _is_running(directory: Path) -> bool:
    with forwarder.running(directory) as found:
        return found is not None


def _add(directory: Path, listening: Listening) -> None:
    with forwarder.running(directory) as found:
        if found is None:
            raise HostError("the forwarder of the machine's ports ended as soon as it was started")
        for listener, port in listening:
            found.add(port, listener)
