"""HTTP/1.1 as uvicorn speaks it, for clients that may be hostile: a request's head is bounded in size and in time, and a client has so
many connections.

uvicorn bounds none of them with httptools, so a client could hold any number of connections by sending a header every minute (slow
loris), or send one without end. A peer that has silently gone is noticed by the kernel (tcp(7): keep-alive, TCP_USER_TIMEOUT).
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import socket
from collections import Counter
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from bandsox.errors import TooManyRequests
from bandsox.server.presence import ARRIVED, DEPARTURE, Departure

MAX_HEAD = 64 << 10
"""How many bytes a request's address and headers have at most."""

_PEER_GONE_S = 60
_LATE = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
_SITE_BITS = 64
_SMALL = 16 << 10
"""How many bytes may be worth waiting for others."""


class HeadTooLarge(Exception):
    """A head has more than `MAX_HEAD` bytes; answered with 400."""


class Connections:
    """The connections that each client has, at most `most`; 0: any number.

    A client is an address, or a network of 64 bits of IPv6, of which everybody has a whole one.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._counts: Counter[str] = Counter()
        self._clients: dict[asyncio.BaseTransport, str] = {}
        self._answer = _too_many(most)

    def enter(self, transport: asyncio.Transport) -> None:
        """Count a connection; one too many is told so, and closed."""
        if not self._most:
            return
        client = client_of(transport.get_extra_info("peername"))
        if self._counts[client] >= self._most:
            transport.write(self._answer)
            transport.close()
            return
        self._counts[client] += 1
        self._clients[transport] = client

    def leave(self, transport: asyncio.BaseTransport) -> None:
        """A connection has ended."""
        client = self._clients.pop(transport, None)
        if client is not None:
            self._counts[client] -= 1
            if not self._counts[client]:
                del self._counts[client]


class Joining(asyncio.Transport):
    """A transport that sends what is written in one turn of the event loop at once: uvicorn writes the head and the body of an answer one
    after the other, which would be two packets, and wake the client twice."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport, self._loop = transport, loop
        self._gathered: list[bytes] = []
        self._sending: asyncio.Handle | None = None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send `data` soon; what is large at once, with what was written before."""
        self._gathered.append(bytes(data))
        if len(data) > _SMALL:
            self.flush()
        elif self._sending is None:
            self._sending = self._loop.call_soon(self.flush)

    def flush(self) -> None:
        """Send now what was written: what is done after an answer keeps nobody waiting."""
        if self._sending is not None:
            self._sending.cancel()
            self._sending = None
        if self._gathered:
            gathered, self._gathered = self._gathered, []
            self._transport.write(gathered[0] if len(gathered) == 1 else b"".join(gathered))

    def close(self) -> None:
        """Close it, once all was sent."""
        self.flush()
        self._transport.close()

    def abort(self) -> None:
        """Close it at once."""
        self._transport.abort()

    def is_closing(self) -> bool:
        """Whether it is closed, or about to be."""
        return self._transport.is_closing()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """What is known of the connection."""
        return self._transport.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Hand it to another protocol."""
        self._transport.set_protocol(protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """Whose it is."""
        return self._transport.get_protocol()

    def pause_reading(self) -> None:
        """Read no more for now."""
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        self._transport.resume_reading()

    def is_reading(self) -> bool:
        """Whether it reads."""
        return self._transport.is_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """How much may be waiting to be sent."""
        self._transport.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        """How much waits."""
        return self._transport.get_write_buffer_size() + sum(map(len, self._gathered))

    def write_eof(self) -> None:
        """End this direction."""
        self.flush()
        self._transport.write_eof()

    def can_write_eof(self) -> bool:
        """Whether that is possible."""
        return self._transport.can_write_eof()


def protocol(head_s: float, connections: Connections) -> type[asyncio.Protocol]:
    """The protocol that gives the head of each request `head_s` seconds."""

    class Protocol(HttpToolsProtocol):
        _head = 0
        _within_head = False
        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            self._departure = Departure()
            self._joining = transport = Joining(transport, self.loop)
            super().connection_made(transport)
            connections.enter(transport)
            if not transport.is_closing():
                _notice_dead_peer(transport)
                self._timer = self.loop.call_later(head_s, self._late)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._within_head and self._timer is None:  # most heads come whole
                self._timer = self.loop.call_later(head_s, self._late)

        def on_message_begin(self) -> None:
            super().on_message_begin()
            self._head, self._within_head = 0, True

        def on_url(self, url: bytes) -> None:
            self._head += len(url)
            if self._head > MAX_HEAD:
                raise HeadTooLarge
            super().on_url(url)

        def on_header(self, name: bytes, value: bytes) -> None:
            self._head += len(name) + len(value) + 4
            if self._head > MAX_HEAD:
                raise HeadTooLarge
            super().on_header(name, value)

        def on_headers_complete(self) -> None:
            self._within_head = False
            self._in_time()
            self.scope[DEPARTURE] = self._departure  # type: ignore[literal-required]
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            self.scope[ARRIVED] = True  # type: ignore[literal-required]
            super().on_message_complete()

        def on_response_complete(self) -> None:
            self._joining.flush()
            super().on_response_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self._in_time()
            connections.leave(self.transport)
            super().connection_lost(exc)
            self._departure.happen()

        def _in_time(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _late(self) -> None:
            self.transport.write(_LATE)
            self.transport.close()

    return Protocol


def websocket_protocol(connections: Connections) -> type[asyncio.Protocol]:
    """The protocol to which a connection changes over for a WebSocket."""

    class Protocol(WebSocketsSansIOProtocol):
        def connection_lost(self, exc: Exception | None) -> None:
            connections.leave(self.transport)
            super().connection_lost(exc)

    return Protocol


def client_of(peer: Any) -> str:
    """Who is at the other end, given its address as a socket tells it."""
    try:
        address = ipaddress.ip_address(str(peer[0]).partition("%")[0])
    except (TypeError, ValueError, IndexError):
        return "unknown"
    if isinstance(address, ipaddress.IPv6Address):
        mapped = address.ipv4_mapped
        return str(mapped or ipaddress.ip_network((address, _SITE_BITS), strict=False))
    return str(address)


def _too_many(most: int) -> bytes:
    """The answer to a connection too many."""
    error = TooManyRequests(f"a client has at most {most} connections", remedy="end some, or ask for a higher --client-connections")
    body = json.dumps(error.to_dict()).encode()
    head = f"HTTP/1.1 429 Too Many Requests\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
    return f"{head}retry-after: 1\r\nconnection: close\r\n\r\n".encode() + body


def _notice_dead_peer(transport: Any) -> None:
    connection = transport.get_extra_info("socket")
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _PEER_GONE_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _PEER_GONE_S * 1000)
