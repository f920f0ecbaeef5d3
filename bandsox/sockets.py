"""Unix sockets of this user alone, also in directories that others may write to, such as a hypervisor that its guest has taken over."""

from __future__ import annotations

import os
import socket
from pathlib import Path

_LONGEST = 107
"""How many bytes a socket's address holds (unix(7), ``sun_path``)."""


def listen(path: Path, *, queue: int, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    """A socket that listens at `path`, which may be longer than a socket's address; what stood there before is replaced.

    It is its owner's alone from its first moment on: Linux gives the name the mode that the socket has when it is bound.

    queue: how many may wait to be accepted.

    Raises
    ------
    OSError: it cannot be made.
    """
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, kind)
    try:
        os.fchmod(listener.fileno(), 0o600)
        _bind(listener, path)
        listener.listen(queue)
    except BaseException:
        listener.close()
        raise
    return listener


def _bind(listener: socket.socket, path: Path) -> None:
    if len(os.fsencode(path)) <= _LONGEST:
        listener.bind(str(path))
        return
    place = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        listener.bind(f"/proc/self/fd/{place}/{path.name}")
    finally:
        os.close(place)


def connect(sock: socket.socket, path: Path | str) -> None:
    """Connect to the socket that stands at `path` itself: where a symbolic link stands, nobody listens.

    Raises
    ------
    OSError: as `socket.socket.connect`.
    """
    place = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        sock.connect(f"/proc/self/fd/{place}")
    finally:
        os.close(place)
