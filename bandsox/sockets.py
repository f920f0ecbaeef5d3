"""Unix sockets in directories that somebody else may write to, such as a hypervisor that its guest has taken over."""

from __future__ import annotations

import os
import socket
from pathlib import Path


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
