"""Ports of VMs, and requests to them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from bandsox.server.shapes.base import Given, Seconds, Shape


class NewPort(Shape):
    """A port of the guest to be published on the server's host."""

    guest_port: int = Field(ge=1, le=65535, examples=[80])
    host_port: int = Field(0, ge=0, le=65535, description="0: the one it has already, or a free one")
    host: str = Field("127.0.0.1", max_length=64, description="an address of the server's host; others than loopback take the scope admin")


class PublishedUrl(Given):
    """Where the server's host finds a port now."""

    url: str = Field(examples=["http://127.0.0.1:8080"])


class LinkToPort(Given):
    """Where a browser finds a port of the guest."""

    url: str


class PortInfo(Given):
    """A published port: whether it is listened to, and how many connections are open, came, and were refused by the guest."""

    guest_port: int
    host_port: int
    host: str
    url: str
    listening: bool
    open: int
    accepted: int
    refused: int


class HttpRequest(Shape):
    """A request to a port of the guest. No redirect is followed."""

    port: int = Field(ge=1, le=65535, examples=[8000])
    path: str = Field("/", max_length=64 << 10)
    method: str = Field("GET", max_length=32)
    headers: dict[str, str] | None = None
    body: str | None = None
    json_body: Any = None
    encoding: Literal["utf-8", "base64"] = Field("utf-8", description="how `body` is written")
    response_encoding: Literal["utf-8", "base64"] = Field("utf-8", description="how the answer's body shall be; MessagePack has bytes")
    host: str = Field("localhost", max_length=64, description="an address as seen from within the guest")
    timeout: Seconds = 30


class HttpResponse(Given):
    """The guest's answer, decompressed."""

    status_code: int = Field(examples=[200])
    reason: str
    headers: dict[str, str]
    header_list: list[tuple[str, str]] = Field(description="the headers one by one, as they came")
    body: str
    url: str
    elapsed: float = Field(description="seconds")
