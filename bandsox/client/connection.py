"""Requests to a server: one pool of connections, what a failure means, and when trying again is safe."""

from __future__ import annotations

import contextlib
import secrets
import ssl
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import httpx
import msgspec

from bandsox.client.faults import error_of
from bandsox.client.transport import Answer, Request, Transport
from bandsox.decoding import ready
from bandsox.errors import BandSoxError, OutcomeUnknown, ServerUnavailable
from bandsox.models import Progress, ProgressCallback
from bandsox.tracing import carried
from bandsox.version import __version__

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

T = TypeVar("T")

MESSAGEPACK = "application/msgpack"
LINES = "application/x-ndjson"
_CONNECT_S = 10.0
_SAFE = frozenset({"GET", "HEAD"})
_IS_JSON = {"Content-Type": "application/json"}


class Connection:
    """A way to one server.

    Parameters
    ----------
    url: of the server, without a path.
    headers: for every request, such as ``Authorization``.
    timeout: how many seconds a server may be silent that is not working on something long.
    """

    def __init__(self, url: str, headers: Mapping[str, str] | None, timeout: float) -> None:
        self.url = url.rstrip("/")
        self.headers = {"User-Agent": f"bandsox/{__version__}", **(headers or {})}
        self.timeout = timeout
        self._transport: Transport | None = None

    async def close(self) -> None:
        """Close what is open."""
        if self._transport is not None:
            await self._transport.aclose()
            self._transport = None

    async def call(self, method: str, path: str, *, patient: bool = False, **options: Any) -> Answer:
        """Send a request, and return its answer, whole.

        Parameters
        ----------
        patient: the server may take as long as it likes.

        Raises
        ------
        ServerUnavailable: it was not reached. OutcomeUnknown: the connection was lost after something was sent that has effects.
        BandSoxError: what the server says.
        """
        try:
            answer = await self._connections().ask(self._request(method, path, patient, **options))
        except httpx.HTTPError as error:
            raise self._failure(error, method, path) from error
        if answer.is_error:
            raise error_of(_object(answer.content), answer.status)
        return answer

    async def get(self, path: str, kind: type[T], /, **params: Any) -> T:
        """What a GET answers, as `kind`. Tried once more where the connection was lost: it has no effects."""
        options: dict[str, Any] = {"params": params, "headers": {"Accept": MESSAGEPACK}}
        try:
            answer = await self.call("GET", path, **options)
        except ServerUnavailable:
            answer = await self.call("GET", path, **options)
        if answer.header("content-type") == MESSAGEPACK:
            return msgspec.msgpack.decode(answer.content, type=ready(kind))
        return msgspec.json.decode(answer.content, type=ready(kind))

    async def lines(self, method: str, path: str, **options: Any) -> AsyncGenerator[dict[str, Any], None]:
        """An answer that goes on, line by line; raises as `call`, and what the server says in the middle."""
        headers = {"Accept": LINES, **options.pop("headers", {})}
        async with self.streaming(method, path, patient=True, headers=headers, **options) as answer:
            async for line in answer.aiter_lines():
                if line:
                    said = msgspec.json.decode(line, type=dict[str, Any])
                    if said.get("type") == "error":
                        raise error_of(said.get("failure"))
                    yield said

    async def make(self, path: str, progress: ProgressCallback | None = None, **options: Any) -> dict[str, Any]:
        """Have the server make something, once: where the answer is lost, it is asked for again. Raises as `work`.

        Where it is still not known what happened, the error's ``detail`` has the key, with which to ask later.
        """
        key = secrets.token_hex(16)
        options["headers"] = {"Idempotency-Key": key, **options.get("headers", {})}
        try:
            return await self.work("POST", path, progress, **options)
        except OutcomeUnknown:
            try:
                return await self.work("POST", path, progress, **options)
            except (OutcomeUnknown, ServerUnavailable) as error:
                cause = error.cause or error.message
                lost = f"the connection to {self.url} was lost in the middle of POST {path}"
                raise OutcomeUnknown(lost, cause=cause, detail={"idempotency_key": key}) from error

    async def work(self, method: str, path: str, progress: ProgressCallback | None = None, **options: Any) -> dict[str, Any]:
        """Have the server do something long, and return its result. Raises as `call`.

        Parameters
        ----------
        progress: called with each step; the connection is then never silent for long, whatever lies between.
        """
        if progress is None:
            answer = await self.call(method, path, patient=True, **options)
            return msgspec.json.decode(answer.content, type=dict[str, Any])
        async with contextlib.aclosing(self.lines(method, path, **options)) as lines:
            async for line in lines:
                if line.get("type") == "result":
                    result: dict[str, Any] = line["result"]
                    return result
                progress(msgspec.convert({name: value for name, value in line.items() if name != "type"}, ready(Progress)))
        raise OutcomeUnknown(f"{self.url} ended its answer to {method} {path} before the result")

    @contextlib.asynccontextmanager
    async def streaming(self, method: str, path: str, *, patient: bool = False, **options: Any) -> AsyncIterator[httpx.Response]:
        """An answer whose body is still to be read. Takes what `call` takes, and raises as that, also while it is read."""
        try:
            answer = await self._connections().send(self._request(method, path, patient, **options))
            try:
                if answer.is_error:
                    await answer.aread()
                    raise error_of(_object(answer.content), answer.status_code)
                yield answer
            finally:
                await answer.aclose()
        except httpx.HTTPError as error:
            raise self._failure(error, method, path) from error

    def _request(
        self,
        method: str,
        path: str,
        patient: bool,
        *,
        content: bytes | AsyncIterable[bytes] | None = None,
        json: Any = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Request:
        return Request(
            method,
            f"{path}?{httpx.QueryParams(params)}" if params else path,
            {**({} if json is None else _IS_JSON), **carried(), **self.headers, **(headers or {})},
            content if json is None else msgspec.json.encode(json),
            connect_s=min(_CONNECT_S, self.timeout),
            silence_s=None if patient else self.timeout,
        )

    async def websocket(self, path: str) -> ClientConnection:
        """Open a WebSocket. Raises as `call`."""
        from websockets.asyncio.client import connect
        from websockets.exceptions import InvalidHandshake

        try:
            return await connect(
                f"ws{self.url.removeprefix('http')}{path}",
                additional_headers={**carried(), **self.headers},
                subprotocols=None,
                compression=None,
                max_size=4 << 20,
                open_timeout=self.timeout,
                proxy=None,
            )
        except (OSError, InvalidHandshake, TimeoutError) as error:
            raise _unreachable(self.url, error) from error

    def _connections(self) -> Transport:
        if self._transport is None:
            # What the system trusts, and SSL_CERT_FILE, as everywhere else on it; httpx would bring a list of its own.
            self._transport = Transport(self.url, ssl.create_default_context() if self.url.startswith("https:") else None)
        return self._transport

    def _failure(self, error: httpx.HTTPError, method: str, path: str) -> BandSoxError:
        """What it means that a request was not answered."""
        if method in _SAFE or isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout):
            return _unreachable(self.url, error)
        cause = f"{type(error).__name__}: {error}".rstrip(": ")
        return OutcomeUnknown(f"the connection to {self.url} was lost in the middle of {method} {path}", cause=cause)


def _object(content: bytes) -> object:
    try:
        return msgspec.json.decode(content)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _unreachable(url: str, error: Exception) -> BandSoxError:
    cause = f"{type(error).__name__}: {error}".rstrip(": ")
    return ServerUnavailable(f"the server at {url} cannot be reached", cause=cause, remedy="see whether `bandsox serve` runs there")
