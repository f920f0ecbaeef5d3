"""What every HTTP client here does alike: deadlines, redirects, retries, and bodies that go on where they broke off.

The other side is not trusted. A redirect never leads from https to plain http and never takes credentials to another
host, a server that is silent or brings next to nothing is given up, what it answers beside the body is bounded, and a
request to wait is honoured only while it is short. Who is asked, and what a refusal means, is a `Peer`'s business.
"""

from __future__ import annotations

import asyncio
import random
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Protocol

import anyio
import httpx

from bandsox.errors import BandSoxError
from bandsox.version import __version__

MAX_RETRY_AFTER_S = 60.0
"""A server that asks to be left alone for longer is not waited for."""

_ATTEMPTS = 5
_CONNECT_ATTEMPTS = 3
_AUTHORIZATIONS = 2  # a token may have run out, and the next one is refused for good
_MAX_PAUSE_S = 8.0
_MAX_REDIRECTS = 10
_MAX_IGNORED = 64 * 1024
_IGNORED_S = 5.0
_LEAST_PROGRESS = 64 * 1024
_WRITE_SIZE = 1 << 20
_PASSING = frozenset((408, 425, 429, 500, 502, 503, 504))


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait for a server, in seconds: for a connection, for it to bring 64 KiB or the end, and before the first
    request is made again (longer before each further one)."""

    connect_s: float = 15.0
    silence_s: float = 60.0
    pause_s: float = 0.5


class Peer(Protocol):
    """Who is asked: what goes along with a request, and what its failures mean."""

    @property
    def patience(self) -> Patience:
        """How long it is waited for."""

    def headers(self) -> dict[str, str]:
        """What to send with every request, such as credentials."""

    async def authorize(self, response: httpx.Response, sent: dict[str, str]) -> bool:
        """Answer the challenge of a response with status 401 to a request with the headers `sent`; False where that is hopeless."""

    async def refusal(self, response: httpx.Response) -> BandSoxError:
        """The error for a response that is no success and will not become one."""

    def unreachable(self, cause: str) -> BandSoxError:
        """The error for a server that cannot be reached, or breaks off too often."""

    def misdirected(self, cause: str) -> BandSoxError:
        """The error for a redirect that cannot be followed."""


class Sink(Protocol):
    """Where a body goes; ``offset`` is how many bytes of it are there."""

    offset: int

    async def write(self, data: bytes) -> None:
        """Add what comes next."""

    def restart(self) -> None:
        """Drop what is there: the server begins again."""


class _BadRedirect(Exception):
    pass


def client(patience: Patience, *, verify: ssl.SSLContext | bool = True) -> httpx.AsyncClient:
    """A client to ask with; proxies are those of the environment."""
    timeout = httpx.Timeout(patience.silence_s, connect=patience.connect_s, pool=None)
    headers = {"User-Agent": f"bandsox/{__version__}", "Accept-Encoding": "identity"}
    return httpx.AsyncClient(verify=verify, timeout=timeout, headers=headers, follow_redirects=False)


def is_passing(response: httpx.Response) -> bool:
    """Whether the same request may well succeed later."""
    return response.status_code in _PASSING


@asynccontextmanager
async def request(
    asking: httpx.AsyncClient, url: str, peer: Peer, headers: dict[str, str] | None = None, *, form: dict[str, str] | None = None
) -> AsyncIterator[httpx.Response]:
    """A successful response, its body not read yet: after redirects, retries and, where it is asked for, authentication.

    Parameters
    ----------
    form: what to POST; without it, it is a GET.

    Raises
    ------
    BandSoxError: what `peer` makes of the failure.
    """
    wanted = dict(headers or {})
    failures = authorized = 0
    while True:
        sent = peer.headers()
        try:
            first = asking.build_request("POST" if form else "GET", url, headers={**wanted, **sent}, data=form)
            response = await _send(asking, first)
        except _BadRedirect as error:
            raise peer.misdirected(str(error)) from error
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise peer.misdirected(reason(error)) from error
        except httpx.TransportError as error:
            failures += 1
            limit = _CONNECT_ATTEMPTS if isinstance(error, (httpx.ConnectError, httpx.TimeoutException)) else _ATTEMPTS
            if failures >= limit or is_tls_error(error):
                raise peer.unreachable(reason(error)) from error
            await asyncio.sleep(_pause(peer.patience, failures))
            continue
        try:
            if response.status_code in (200, 206):
                yield response
                return
            if response.status_code == 416 and "Range" in wanted:
                wanted = {name: value for name, value in wanted.items() if name not in ("Range", "If-Range")}
                continue
            if response.status_code == 401 and authorized < _AUTHORIZATIONS and _origin(response.url) == _origin(first.url):
                authorized += 1
                if await peer.authorize(response, sent):
                    continue
            failures += 1
            delay = _retry_after(response)
            if not is_passing(response) or failures >= _ATTEMPTS or (delay or 0) > MAX_RETRY_AFTER_S:
                raise await peer.refusal(response)
        finally:
            await response.aclose()
        await asyncio.sleep(_pause(peer.patience, failures) if delay is None else delay)


async def receive(
    asking: httpx.AsyncClient,
    url: str,
    peer: Peer,
    sink: Sink,
    *,
    size: int | None = None,
    verified: bool,
    report: Callable[[int, int | None], None],
) -> httpx.Headers:
    """Bring a body into `sink`, from where that ends, and go on after interruptions as long as the attempts bring something.

    Parameters
    ----------
    size: what it must be in bytes, or None: as the server says.
    verified: a digest will tell if parts of two versions were joined; else parts are joined only where the server vouches for it.
    report: called with how many bytes are there, and how many there will be where that is known.

    Raises
    ------
    BandSoxError: what `peer` makes of the failure, or `sink` refuses.
    """
    failures, most = 0, sink.offset
    validator: str | None = None
    while True:
        if validator is None and not verified:
            sink.restart()
        ranged = {"Range": f"bytes={sink.offset}-"} if sink.offset else {}
        if ranged and validator is not None:
            ranged["If-Range"] = validator
        try:
            async with request(asking, url, peer, ranged) as response:
                if not _continues(response, sink.offset):
                    sink.restart()
                    if response.status_code == 206:
                        raise httpx.RemoteProtocolError("it answers with another part than was asked for")
                validator = _validator(response)
                total = size if size is not None else _total(response)
                await _pour(response, sink, peer.patience, lambda done, total=total: report(done, total))  # type: ignore[misc]
                if total is None or sink.offset >= total:
                    return response.headers
                cause = "the connection was closed too early"
        except httpx.TransportError as error:
            cause = reason(error)
        failures = 1 if sink.offset >= most + _LEAST_PROGRESS else failures + 1
        most = max(most, sink.offset)
        if failures >= _ATTEMPTS:
            raise peer.unreachable(cause)
        await asyncio.sleep(_pause(peer.patience, failures))


async def body(response: httpx.Response, limit: int) -> bytes | None:
    """A short body, or None when it is longer than `limit` bytes."""
    data = bytearray()
    with _transport_errors():
        async for chunk in response.aiter_raw():
            data += chunk
            if len(data) > limit:
                return None
    return bytes(data)


def is_tls_error(error: BaseException) -> bool:
    """Whether TLS itself failed, such as a certificate that nobody known has signed."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def reason(error: Exception) -> str:
    """What an error says, in words."""
    return str(error) or type(error).__name__


@contextmanager
def _transport_errors() -> Iterator[None]:
    """What TLS 1.3 finds out after the handshake, such as a client's certificate that is refused, httpx lets through as it is."""
    try:
        yield
    except ssl.SSLError as error:
        raise httpx.ReadError(reason(error)) from error


# ── redirects ───────────────────────────────────────────────────────────────────────────────────


async def _send(asking: httpx.AsyncClient, asked: httpx.Request) -> httpx.Response:
    """The response at the end of all redirects. httpx drops the credentials when one leaves the host."""
    for _ in range(_MAX_REDIRECTS + 1):
        with _transport_errors():
            response = await asking.send(asked, stream=True)
        following = response.next_request
        if following is None:
            return response
        try:
            with anyio.move_on_after(_IGNORED_S):
                await body(response, _MAX_IGNORED)  # read to the end, the connection can be used again
        finally:
            await response.aclose()
        here, there = asked.url, following.url
        if here.scheme == "https" and there.scheme != "https":
            raise _BadRedirect(f"{here.host} redirects from https to {there.scheme}://{there.host}")
        if following.method != "GET" and _origin(here) != _origin(there):
            raise _BadRedirect(f"{here.host} redirects what is sent to it to {there.host}")
        asked = following
    raise _BadRedirect(f"{asked.url.host} redirects too often")


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


# ── retries ─────────────────────────────────────────────────────────────────────────────────────


def _retry_after(response: httpx.Response) -> float | None:
    """How many seconds a response asks to wait (RFC 9110, section 10.2.3: a number, or a date)."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return max((moment - datetime.now(timezone.utc)).total_seconds(), 0.0)


def _pause(patience: Patience, failures: int) -> float:
    longest = min(_MAX_PAUSE_S, patience.pause_s * float(1 << (failures - 1)))
    return longest * random.uniform(0.5, 1)  # noqa: S311 - spreads retries, nothing more


# ── bodies ──────────────────────────────────────────────────────────────────────────────────────


async def _pour(response: httpx.Response, sink: Sink, patience: Patience, report: Callable[[int], None]) -> None:
    """Write what a response brings, in large pieces; what came before it broke off is kept."""
    pending = bytearray()
    since, received = time.monotonic(), 0
    try:
        with _transport_errors():
            async for chunk in response.aiter_raw():
                pending += chunk
                received += len(chunk)
                report(sink.offset + len(pending))
                if len(pending) >= _WRITE_SIZE:
                    await sink.write(bytes(pending))
                    pending.clear()
                if time.monotonic() - since > patience.silence_s:
                    if received < _LEAST_PROGRESS:
                        raise httpx.ReadTimeout(f"it brought {received} bytes in {patience.silence_s:.0f} seconds")
                    since, received = time.monotonic(), 0
    except httpx.TransportError:
        await sink.write(bytes(pending))
        raise
    await sink.write(bytes(pending))


def _continues(response: httpx.Response, offset: int) -> bool:
    """Whether a response is the body from `offset` on (RFC 9110, section 14.4)."""
    if offset == 0:
        return response.status_code == 200
    return response.status_code == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {offset}-")


def _validator(response: httpx.Response) -> str | None:
    """What says that a body is still the same: a strong entity tag (RFC 9110, section 13.1.5)."""
    tag = response.headers.get("ETag", "")
    return tag if tag.startswith('"') else None


def _total(response: httpx.Response) -> int | None:
    """The size of the whole body in bytes, where the response says it."""
    if response.status_code == 206:
        text = response.headers.get("Content-Range", "").rpartition("/")[2]
    else:
        text = response.headers.get("Content-Length", "")
    return int(text) if text.isascii() and text.isdigit() else None
