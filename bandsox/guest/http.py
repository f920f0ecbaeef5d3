"""One HTTP/1.1 request to a port of the guest, and its answer.

httpx makes the request out of what the caller gives, h11 puts it on the wire and takes the answer apart. What answers is hostile: its
head, its body (before and after decompression), its interim answers and the time it takes are bounded, no redirect is followed, and a
connection serves one request, so that nothing it says beyond its answer is looked at.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import zlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio
import h11
import httpx

from bandsox.errors import (
    BandSoxError,
    GuestConnectionError,
    InvalidRequest,
    InvalidResponse,
    LimitExceeded,
    MachineStopped,
    OutcomeUnknown,
    Timeout,
)
from bandsox.version import __version__

if TYPE_CHECKING:
    from bandsox.guest.streams import GuestStream, StreamOperations

DEFAULT_TIMEOUT = 30.0
"""How long a request may take in all, in seconds, where the caller does not say."""

DEFAULT_MAX_BYTES = 64 << 20
"""How many bytes of body are taken, where the caller does not say."""

MAX_HEAD = 64 << 10
"""How many bytes of status line and headers, and of trailers, are taken."""

_MAX_INTERIM = 16  # answers with a status below 200
_PIECE = 16 << 10  # what is decompressed at once may become a thousand times as much
_SAFE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
"""Methods that change nothing (RFC 9110, section 9.2.1)."""


@dataclass(frozen=True)
class HttpResponse:
    """The answer to a request. Its attributes are those of a `requests.Response`, as far as they mean something here.

    ``content`` is decompressed. ``headers`` are looked up in any case; ``elapsed`` is in seconds.
    """

    status_code: int
    reason: str
    headers: httpx.Headers
    content: bytes
    url: str
    elapsed: float

    @property
    def ok(self) -> bool:
        """Whether the status is below 400."""
        return self.status_code < 400

    @property
    def encoding(self) -> str:
        """The character set that the answer names; else UTF-8."""
        _, _, name = self.headers.get("content-type", "").lower().partition("charset=")
        return name.split(";")[0].strip(" \"'") or "utf-8"

    @property
    def text(self) -> str:
        """The content as text; what is not text becomes U+FFFD, and a character set that is none counts as UTF-8."""
        with contextlib.suppress(LookupError, ValueError):
            return self.content.decode(self.encoding, errors="replace")
        return self.content.decode(errors="replace")

    def json(self) -> Any:
        """The content as JSON; ValueError where it is none."""
        return json.loads(self.content)

    def raise_for_status(self) -> None:
        """Raise InvalidResponse for a status of 400 or more."""
        if not self.ok:
            message = f"the guest answered {self.status_code} to {self.url}"
            raise InvalidResponse(message, detail={"status_code": self.status_code})


def build_request(
    method: str,
    port: int,
    path: str,
    *,
    params: Any = None,
    headers: Mapping[str, str] | None = None,
    content: bytes | str | None = None,
    data: Mapping[str, Any] | bytes | str | None = None,
    json: Any = None,
    files: Any = None,
    cookies: Mapping[str, str] | None = None,
) -> httpx.Request:
    """A request as `requests` and httpx would make it.

    Raises
    ------
    InvalidRequest: it cannot be one.
    """
    if not path.startswith("/"):
        raise InvalidRequest(f"a path begins with '/': {path!r}")
    if method.upper() == "CONNECT":
        raise InvalidRequest("CONNECT makes a tunnel, which is no request", remedy="use connect()")
    if isinstance(data, (bytes, str)):
        content, data = data, None
    ours = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": f"bandsox/{__version__}"}
    try:
        request = httpx.Request(
            method,
            f"http://localhost:{port}{path}",
            params=params,
            headers=ours,
            content=content,
            data=data,
            json=json,
            files=files,
            cookies=dict(cookies) if cookies else None,
        )
        request.headers.update(headers)
    except (httpx.InvalidURL, TypeError, ValueError) as error:
        raise InvalidRequest(f"not a request: {method} {path!r}", cause=str(error)) from error
    request.headers["Connection"] = "close"
    return request


async def send(
    guest: StreamOperations,
    request: httpx.Request,
    *,
    host: str = "",
    timeout: float = DEFAULT_TIMEOUT,
    max_bytes: int = DEFAULT_MAX_BYTES,
) -> HttpResponse:
    """Send `request` to the port of its URL and return the answer.

    Parameters
    ----------
    host: where the port is, as for `StreamOperations.connect`; the request's Host is the caller's own.
    timeout: seconds for everything.
    max_bytes: how long the body may be, decompressed.

    Raises
    ------
    ConnectionRefused, GuestConnectionError; InvalidResponse: the answer is not HTTP, or breaks off. LimitExceeded: it is too long.
    Timeout: there was no answer in time; OutcomeUnknown instead, where the request may have changed something.
    """
    port = request.url.port or 80
    started = time.monotonic()
    began = False
    try:
        with anyio.fail_after(timeout):
            async with await guest.connect(port, host, timeout=timeout) as stream:
                began = True
                return await _exchange(stream, request, max_bytes, started)
    except TimeoutError as error:
        if isinstance(error, BandSoxError) and not began:
            raise
        message = f"the guest did not answer {request.method} {request.url} within {timeout:g} s"
        if request.method in _SAFE or not began:
            raise Timeout(message) from None
        raise OutcomeUnknown(message, cause="it may still carry it out") from None
    except MachineStopped as error:
        if request.method in _SAFE or not began:
            raise
        raise OutcomeUnknown(f"the machine stopped in the middle of {request.method} {request.url}") from error


async def _exchange(stream: GuestStream, request: httpx.Request, max_bytes: int, started: float) -> HttpResponse:
    """Send the request, and read the answer meanwhile: it may come before the request was read."""
    wire = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
    try:
        frames = _encoded(wire, request)
    except h11.LocalProtocolError as error:
        raise InvalidRequest(f"not a request: {request.method} {request.url}", cause=str(error)) from error
    sending = asyncio.ensure_future(_send(stream, frames))
    try:
        head, body = await _receive(stream, wire, max_bytes)
    except h11.RemoteProtocolError as error:
        raise InvalidResponse(f"port {stream.port} of the guest did not answer in HTTP", cause=str(error)) from error
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
    headers = httpx.Headers([(bytes(name), bytes(value)) for name, value in head.headers])
    return HttpResponse(
        head.status_code,
        bytes(head.reason).decode("ascii", errors="replace"),
        headers,
        _decompressed(body, headers.get("content-encoding", ""), max_bytes),
        str(request.url),
        time.monotonic() - started,
    )


def _encoded(wire: h11.Connection, request: httpx.Request) -> Sequence[bytes]:
    content = request.read()
    head = h11.Request(method=request.method, target=request.url.raw_path, headers=request.headers.raw)
    pieces = [wire.send(head), wire.send(h11.Data(data=content)) if content else b"", wire.send(h11.EndOfMessage())]
    return [piece for piece in pieces if piece]


async def _send(stream: GuestStream, frames: Sequence[bytes]) -> None:
    with contextlib.suppress(GuestConnectionError):  # what it has answered before it broke off tells more
        for frame in frames:
            await stream.write(frame)


async def answer(stream: GuestStream, wire: h11.Connection) -> tuple[h11.Response, AsyncIterator[bytes]]:
    """The head of the guest's answer, and its body piece by piece; interim answers are passed over.

    Raises
    ------
    InvalidResponse: it is no answer, or too many interim ones. h11.RemoteProtocolError: it is not HTTP, or breaks off.
    """
    for _ in range(_MAX_INTERIM + 1):
        event = await _event(stream, wire)
        if isinstance(event, h11.Response):
            return event, _body(stream, wire)
        if not isinstance(event, h11.InformationalResponse):
            raise _unanswered(stream, event)
    raise InvalidResponse(f"port {stream.port} of the guest sent more than {_MAX_INTERIM} interim answers")


async def _body(stream: GuestStream, wire: h11.Connection) -> AsyncIterator[bytes]:
    while isinstance(event := await _event(stream, wire), h11.Data):
        yield bytes(event.data)
    if not isinstance(event, h11.EndOfMessage):
        raise _unanswered(stream, event)


async def _event(stream: GuestStream, wire: h11.Connection) -> object:
    while (event := wire.next_event()) is h11.NEED_DATA:
        wire.receive_data(await stream.read())
    return event


def _unanswered(stream: GuestStream, event: object) -> InvalidResponse:
    """The error for a guest that closed the connection, or wants another protocol."""
    return InvalidResponse(f"port {stream.port} of the guest did not answer the request", cause=type(event).__name__)


async def _receive(stream: GuestStream, wire: h11.Connection, max_bytes: int) -> tuple[h11.Response, bytes]:
    head, pieces = await answer(stream, wire)
    body = bytearray()
    async for piece in pieces:
        body += piece
        if len(body) > max_bytes:
            raise _too_long(max_bytes)
    return head, bytes(body)


def _decompressed(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """`body` without gzip or deflate; in any other encoding, which nobody asked for but the caller, as it is.

    Raises
    ------
    LimitExceeded: it becomes too long. InvalidResponse: it is something else.
    """
    if encoding.lower().strip() not in {"gzip", "x-gzip", "deflate"} or not body:
        return body
    inflater = zlib.decompressobj(zlib.MAX_WBITS | 32)  # with a header of gzip or zlib (RFC 9110, section 8.4.1)
    content = bytearray()
    view = memoryview(body)
    try:
        for start in range(0, len(view), _PIECE):
            content += inflater.decompress(view[start : start + _PIECE], max_bytes - len(content) + 1)
            if len(content) > max_bytes:
                raise _too_long(max_bytes)
    except zlib.error as error:
        raise InvalidResponse(f"the guest's answer is not in the encoding it names ({encoding[:20]!r})", cause=str(error)) from error
    return bytes(content)


def _too_long(max_bytes: int) -> LimitExceeded:
    return LimitExceeded(f"the guest's answer is longer than {max_bytes} bytes", remedy="allow more with max_bytes")
