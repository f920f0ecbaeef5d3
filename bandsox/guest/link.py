"""How a connection to one machine's guest is opened, whatever the transport.

A `Link` knows the way to one guest; `Link.open` gives a `Channel`, a connected socket that belongs to one operation until it is
released. `VsockLink` goes through a hypervisor's vsock socket, `HostVsockLink` through the vsock of the host's kernel,
`bandsox.guest.ports.PortLink` through virtio-serial ports.
What travels on the socket is none of their business.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import errno
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple, Protocol

import anyio.to_thread

from bandsox import sockets
from bandsox.errors import MachineStopped, Timeout
from bandsox.guest.waiting import DeadlinePassed, wait_for_io

AGENT_PORT = 1024
"""The vsock port on which the guest's agent listens."""

QUEUE_TIMEOUT = 30.0
"""How long to wait, in seconds, for a listener whose queue is full."""

_FIRST_CONNECT_S, _MOST_CONNECT_S = 0.5, 8.0
"""How long one request for a connection over vsock waits, in seconds, until it is made again, each time twice as long. A guest may be
paused for longer; but one that has ended meanwhile says nothing, and only the next request is told so. What a copy answers before it
has noticed that its address is another one now is dropped by the host's kernel (Linux, drivers/vhost/vsock.c,
``vhost_vsock_handle_tx_kick``)."""

_MOST_CONFUSED = 3
"""How many requests a guest may answer with something else; one that has learned its address does so no more."""

_CONNECT_TIMEOUT = 6
"""``SO_VM_SOCKETS_CONNECT_TIMEOUT`` (Linux, include/uapi/linux/vm_sockets.h)."""


class Lane(enum.IntEnum):
    """How urgent an operation is, where connections are few: the number of reserved ones it may use.

    Long-lived work leaves two connections to short operations, and these leave one to control, so that a
    signal or a shutdown always gets through.
    """

    LONG = 0
    SHORT = 1
    CONTROL = 2


class HandedOver(NamedTuple):
    """A connection that another process is to inherit: its socket, and what it has to hold open as long, as descriptors."""

    sock: int
    lock: int | None


class Channel:
    """A connected, non-blocking socket to the guest, and what its transport asks of its user.

    `preamble` goes out before HELLO. `handed_on` tells that the guest will see the next user's bytes right after this
    one's, so that `release` needs to know whether both ended at a frame boundary. `may_refuse` tells that a connection which closes
    without a byte never reached the guest.
    """

    def __init__(self, sock: socket.socket, *, preamble: bytes = b"", handed_on: bool = False, may_refuse: bool = False) -> None:
        self.sock = sock
        self.preamble = preamble
        self.handed_on = handed_on
        self.may_refuse = may_refuse

    def release(self, *, clean: bool) -> None:
        """Close the socket. `clean`: the operation ended with both sides at a frame boundary."""
        self.sock.close()

    def hand_over(self) -> HandedOver:
        """What another process needs to go on with the connection; nothing of it is left to this object."""
        return HandedOver(self.sock.detach(), None)


class Link(Protocol):
    """The way to one machine's guest."""

    async def open(self, lane: Lane, deadline: float | None) -> Channel:
        """A connection for one operation.

        Parameters
        ----------
        lane: how urgent the operation is.
        deadline: when to give up, on the event loop's clock, in seconds.

        Raises
        ------
        MachineStopped: nobody is at the other end.
        Timeout: no connection was free until the deadline.
        """
        ...


class VsockLink:
    """A guest behind the vsock socket of Firecracker or Cloud Hypervisor.

    The hypervisor reads ``CONNECT <port>\\n``, connects and answers ``OK <n>\\n`` (Firecracker, ``docs/vsock.md``). It reads no
    further before the guest has accepted, so HELLO and request travel with the CONNECT, and its answer is
    skipped as everything before WELCOME is. Where the guest does not accept, it closes the socket without a byte.

    Parameters
    ----------
    revive: called when nobody listens, before another try; it raises MachineStopped when the machine has ended.
    """

    def __init__(self, path: Path, port: int = AGENT_PORT, *, revive: Callable[[], Awaitable[None]] | None = None) -> None:
        self.path = path
        self._preamble = b"CONNECT %d\n" % port
        self._revive = revive

    async def open(self, lane: Lane, deadline: float | None) -> Channel:
        """See `Link.open`; every lane has as many connections as it likes."""
        try:
            sock = await connect_unix(self.path, deadline)
        except MachineStopped:
            if self._revive is None:
                raise
            await self._revive()
            sock = await connect_unix(self.path, deadline)
        return Channel(sock, preamble=self._preamble, may_refuse=True)


class HostVsockLink:
    """A guest behind the vsock of the host's own kernel (vsock(7)).

    Parameters
    ----------
    cid: tells the machine's address; it raises MachineStopped where there is none.
    """

    def __init__(self, cid: Callable[[], int], port: int = AGENT_PORT) -> None:
        self._cid = cid
        self._port = port

    async def open(self, lane: Lane, deadline: float | None) -> Channel:
        """See `Link.open`; every lane has as many connections as it likes."""
        loop = asyncio.get_running_loop()
        patience_s, confused = _FIRST_CONNECT_S, 0
        while True:
            try:
                return Channel(await _connect_vsock(self._cid(), self._port, deadline, patience_s))
            except DeadlinePassed as error:
                if deadline is not None and loop.time() >= deadline:
                    raise Timeout("the guest did not accept a connection over vsock") from error
                patience_s = min(2 * patience_s, _MOST_CONNECT_S)
            except _Confused as error:
                confused += 1
                if confused == _MOST_CONFUSED:
                    raise MachineStopped(
                        f"the guest at vsock address {self._cid()} answers no request for a connection", cause=str(error)
                    ) from error


class _Confused(Exception):
    """A guest has answered a request for a connection with something else.

    So does a copy that learns its address (docs/under-the-hood.md, "The link to the guest") after the request has come and before it is
    answered: the answer with the old address is dropped by the host, and what follows it is not.
    """


async def _connect_vsock(cid: int, port: int, deadline: float | None, patience_s: float) -> socket.socket:
    """A non-blocking socket connected to `port` of the machine `cid`.

    Raises
    ------
    MachineStopped: there is no such machine, or its agent does not listen.
    DeadlinePassed: it said nothing until the deadline, or for `patience_s` seconds. _Confused: it said something else.
    """
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as caller, contextlib.ExitStack() as undo:
        # Python lets nobody set an option of a vsock socket that is not 64 bits wide; under another family's name it does.
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, fileno=os.dup(caller.fileno()))
        undo.callback(sock.close)
        sock.setsockopt(socket.AF_VSOCK, _CONNECT_TIMEOUT, _interval(patience_s))
        sock.setblocking(False)
        caller.setblocking(False)
        code = caller.connect_ex((cid, port))
        if code == errno.EINPROGRESS:
            await wait_for_io(sock, write=True, deadline=deadline)
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code == errno.ETIMEDOUT:
            raise DeadlinePassed
        if code == errno.EPROTO:
            raise _Confused(os.strerror(code))
        if code != 0:
            raise MachineStopped(f"nobody accepts connections at vsock address {cid}", cause=os.strerror(code))
        undo.pop_all()
    return sock


async def connect_unix(path: Path | str, deadline: float | None) -> socket.socket:
    """A non-blocking socket connected to the Unix socket `path`.

    Raises
    ------
    MachineStopped: nobody listens there. Timeout: its queue stayed full until the deadline.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        await _connect(sock, path, deadline)
    except BaseException:
        sock.close()
        raise
    return sock


async def _connect(sock: socket.socket, path: Path | str, deadline: float | None) -> None:
    try:
        try:
            sockets.connect(sock, path)
        except BlockingIOError:
            await _connect_blocking(sock, path, deadline)
    except (FileNotFoundError, ConnectionError) as error:
        raise MachineStopped(f"nobody listens on {path}", cause="the machine's hypervisor has ended") from error
    except DeadlinePassed as error:
        raise Timeout(f"the hypervisor did not accept a connection on {path}") from error


async def _connect_blocking(sock: socket.socket, path: Path | str, deadline: float | None) -> None:
    """Wait in a thread for room in the listener's queue: there is no readiness event for it (connect(2), ``EAGAIN``)."""
    loop = asyncio.get_running_loop()
    remaining = QUEUE_TIMEOUT if deadline is None else max(0.001, min(QUEUE_TIMEOUT, deadline - loop.time()))
    sock.setblocking(True)
    set_socket_timeouts(sock, remaining)
    try:
        await anyio.to_thread.run_sync(sockets.connect, sock, path, abandon_on_cancel=True)
    except BlockingIOError as error:
        raise DeadlinePassed from error
    set_socket_timeouts(sock, 0)
    sock.setblocking(False)


def set_socket_timeouts(sock: socket.socket, seconds: float) -> None:
    """Let each blocking call on `sock` end with ``EAGAIN`` after `seconds`; 0: never (socket(7), ``SO_RCVTIMEO``).

    Other than `socket.settimeout` this costs no further system call for each read.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _interval(seconds))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _interval(seconds))


def _interval(seconds: float) -> bytes:
    """A ``struct timeval``."""
    whole = int(seconds)
    return struct.pack("@ll", whole, int((seconds - whole) * 1_000_000))
