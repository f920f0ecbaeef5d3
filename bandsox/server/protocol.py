"""HTTP/1.1 as uvicorn speaks it, for clients that may be hostile: a request's head is bounded in size and in time.

uvicorn bounds neither with httptools, so a client could hold any number of connections by sending a header every minute (slow loris), or
send one without end. A peer that has silently gone is noticed by the kernel (tcp(7): keep-alive, TCP_USER_TIMEOUT).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD = 64 << 10
"""How many bytes a request's address and headers have at most."""

_PEER_GONE_S = 60
_LATE = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class HeadTooLarge(Exception):
    """A head has more than `MAX_HEAD` bytes; answered with 400."""


def protocol(head_s: float) -> type[asyncio.Protocol]:
    """The protocol that gives the head of each request `head_s` seconds."""

    class Protocol(HttpToolsProtocol):
        _head = 0
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            _notice_dead_peer(transport)
            self._timer = self.loop.call_later(head_s, self._late)

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._head = 0
            if self._timer is None:
                self._timer = self.loop.call_later(head_s, self._late)

        def on_url(self, url: bytes) -> None:
            self._count(len(url))
            super().on_url(url)

        def on_header(self, name: bytes, value: bytes) -> None:
            self._count(len(name) + len(value) + 4)
            super().on_header(name, value)

        def on_headers_complete(self) -> None:
            self._in_time()
            super().on_headers_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self._in_time()
            super().connection_lost(exc)

        def _count(self, size: int) -> None:
            self._head += size
            if self._head > MAX_HEAD:
                raise HeadTooLarge

        def _in_time(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _late(self) -> None:
            self.transport.write(_LATE)
            self.transport.close()

    return Protocol


def _notice_dead_peer(transport: Any) -> None:
    connection = transport.get_extra_info("socket")
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _PEER_GONE_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _PEER_GONE_S * 1000)
