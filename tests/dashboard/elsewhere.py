"""A place for a browser where it does not see this machine's network change.

Chromium drops what it is loading whenever an address comes or goes (``net::ERR_NETWORK_CHANGED``), and other tests, those of networks,
give addresses to this machine and take them away.

The place is a network namespace with a loopback device. A SOCKS proxy (RFC 1928) listens there and connects from here.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CHROMIUM_ELSEWHERE = Path(__file__).with_name("chromium-elsewhere")
"""Starts Chromium in the network namespace of the process `PLACE`."""

_HOLD = """
import socket, subprocess, sys
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
with socket.socket(fileno=int(sys.argv[1])) as parent, socket.create_server(("127.0.0.1", 0)) as listener:
    socket.send_fds(parent, [b"."], [listener.fileno()])
    parent.recv(1)
"""


@dataclass(frozen=True)
class Place:
    """A network namespace, and the way out of it."""

    holder: int
    """The process that is in it."""
    proxy: str
    """The URL of the proxy, as it is reached from there."""


@contextlib.contextmanager
def elsewhere() -> Iterator[Place]:
    """A place for the time of the block. Only root can make one."""
    here, there = socket.socketpair()
    with here, there:
        holder = subprocess.Popen(["unshare", "--net", sys.executable, "-c", _HOLD, str(there.fileno())], pass_fds=[there.fileno()])
        there.close()
        with holder, here:
            _, [listener], _, _ = socket.recv_fds(here, 1, 1)
            with socket.socket(fileno=listener) as door, _relaying(door):
                yield Place(holder.pid, f"socks5://127.0.0.1:{door.getsockname()[1]}")
            here.close()


@contextlib.contextmanager
def _relaying(door: socket.socket) -> Iterator[None]:
    """Serve the proxy at `door` for the time of the block."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    server = asyncio.run_coroutine_threadsafe(asyncio.start_server(_serve, sock=door.dup()), loop).result()

    async def close() -> None:
        server.close()
        connections = asyncio.all_tasks() - {asyncio.current_task()}
        for each in connections:
            each.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    try:
        yield
    finally:
        asyncio.run_coroutine_threadsafe(close(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, asyncio.IncompleteReadError), contextlib.closing(writer):
        _, methods = await reader.readexactly(2)
        await reader.readexactly(methods)
        writer.write(b"\x05\x00")  # nobody has to say who they are
        kind = (await reader.readexactly(4))[3]
        host = await reader.readexactly(4) if kind == 1 else await reader.readexactly((await reader.readexactly(1))[0])
        port = int.from_bytes(await reader.readexactly(2), "big")
        name = socket.inet_ntoa(host) if kind == 1 else host.decode()
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1" if name.endswith("localhost") else name, port)
        except OSError:
            writer.write(b"\x05\x05\x00\x01" + bytes(6))  # connection refused
            return
        with contextlib.closing(far_writer):
            writer.write(b"\x05\x00\x00\x01" + bytes(6))
            await asyncio.gather(_pass_on(reader, far_writer), _pass_on(far_reader, writer))


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    writer.write_eof()
