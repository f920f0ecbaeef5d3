"""Artifacts that are no images, in a registry (OCI distribution-spec 1.1, "Pull" and "Push").

They are fetched as images are: every blob is checked, and goes on where it broke off. What is pushed is asked for first, so that nothing is
sent which the repository has; a blob is streamed from its file in one request, and sent again from its beginning when that breaks off.
Credentials go to the registry alone, wherever it wants a blob to be sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from bandsox import http
from bandsox.errors import CorruptImage, ImageNotFound, InvalidReference
from bandsox.images import spec
from bandsox.images.blobs import BlobStore
from bandsox.images.reference import Reference, Transport, parse_reference
from bandsox.images.registries import Registries
from bandsox.images.registry import Session, fetch_blob, open_session
from bandsox.workers import Task

_ATTEMPTS = 4
_AUTHORIZATIONS = 2
_CHUNK = 1 << 20
_MAX_ANSWER = 64 * 1024


@asynccontextmanager
async def opened(text: str, registries: Registries, *, push: bool = False) -> AsyncIterator[Repository]:
    """The repository that ``HOST/NAME:TAG`` or ``HOST/NAME@DIGEST`` is in.

    Raises
    ------
    InvalidReference: it names none.
    RegistryUnavailable, RegistryError, ImageNotFound: from whatever is done within the block.
    """
    reference = parse_reference(text)
    if reference.transport is not Transport.REGISTRY or (push and reference.digest):
        raise InvalidReference(f"{text!r} names no place in a registry", remedy="use HOST/NAME:TAG")
    endpoint = registries.endpoints(reference.domain)[-1]
    async with open_session(endpoint, reference, "pull,push" if push else "pull") as session:
        yield Repository(session, reference)


class Repository:
    """One repository, and the artifact in it that a reference names."""

    def __init__(self, session: Session, reference: Reference) -> None:
        self._session = session
        self._reference = reference

    # ── pulling ─────────────────────────────────────────────────────────────────────────────────

    async def manifest(self) -> bytes:
        """The artifact's manifest, checked where the reference has its digest."""
        return (await self._session.manifest(self._reference.digest or self._reference.tag or ""))[0]

    async def tagged(self, tag: str) -> bytes | None:
        """The manifest that another tag of the repository names; None where there is no such tag."""
        try:
            return (await self._session.manifest(tag))[0]
        except ImageNotFound:
            return None

    async def document(self, blob: spec.Descriptor, limit: int) -> bytes:
        """A small blob, checked."""
        url = f"{self._session.base}/blobs/{blob.digest}"
        async with http.request(self._session.client, url, self._session) as response:
            try:
                data = await http.body(response, limit)
            except httpx.TransportError as error:
                raise self._session.unreachable(http.reason(error)) from error
        if data is None:
            raise CorruptImage(f"the blob {blob.digest} is longer than {limit} bytes")
        return spec.verify(data, blob.digest, f"the blob {blob.digest}")

    async def fetch(self, blob: spec.Descriptor, blobs: BlobStore, task: Task) -> None:
        """Download a blob into a store, unless it is there."""
        await fetch_blob(self._session, blob, blobs, task)

    # ── pushing ─────────────────────────────────────────────────────────────────────────────────

    async def push_blob(self, digest: str, size: int, content: Path | bytes, advance: Callable[[int], object] = lambda _: None) -> None:
        """Send a blob, unless the repository has it.

        Parameters
        ----------
        content: the blob, or the file that it is in. advance: told how many bytes have been sent.
        """
        there = await self._send("HEAD", f"{self._session.base}/blobs/{digest}", (200, 404))
        if there.status_code == 200:
            advance(size)
            return
        for attempt in range(1, _ATTEMPTS + 1):
            begun = await self._send("POST", f"{self._session.base}/blobs/uploads/", (202,))
            place = begun.url.join(begun.headers.get("Location", "")).copy_merge_params({"digest": digest})
            if begun.url.scheme == "https" and place.scheme != "https":
                raise self._session.misdirected(f"it wants a blob to be sent in the clear, to {place.host}")
            try:
                await self._send("PUT", place, (201, 204), {"Content-Type": "application/octet-stream"}, size, content, advance)
            except _BrokenOff as error:
                if attempt == _ATTEMPTS:
                    raise self._session.unreachable(error.reason) from error
                await asyncio.sleep(self._session.patience.pause_s * 2**attempt)
            else:
                return

    async def push_manifest(self, data: bytes, tag: str | None = None) -> None:
        """Send the manifest of an artifact whose blobs are there, which makes it one.

        Parameters
        ----------
        tag: another one than the reference's.
        """
        url = f"{self._session.base}/manifests/{tag or self._reference.tag or spec.digest_of(data)}"
        await self._send("PUT", url, (201,), {"Content-Type": spec.OCI_MANIFEST}, len(data), data)

    async def _send(
        self,
        method: str,
        url: str | httpx.URL,
        expected: tuple[int, ...],
        headers: dict[str, str] | None = None,
        size: int = 0,
        content: Path | bytes = b"",
        advance: Callable[[int], object] = lambda _: None,
    ) -> httpx.Response:
        """The answer to a request, whose body has been read."""
        session, place = self._session, httpx.URL(url)
        own = _origin(place) == _origin(httpx.URL(session.base))
        wanted = {**(headers or {}), "Content-Length": str(size)} if method != "HEAD" else {}
        failures = authorized = 0
        while True:
            sent = session.headers() if own else {}
            body = _chunks(content, advance) if isinstance(content, Path) else content
            request = session.client.build_request(method, place, headers={**wanted, **sent}, content=body or None)
            try:
                response = await session.client.send(request, stream=True)
                try:
                    if response.status_code in expected:
                        await http.body(response, _MAX_ANSWER)
                        return response
                    if response.status_code == 401 and own and authorized < _AUTHORIZATIONS:
                        authorized += 1
                        if await session.authorize(response, sent):
                            continue
                    failures += 1
                    if not http.is_passing(response) or failures >= _ATTEMPTS:
                        raise await session.refusal(response)
                finally:
                    await response.aclose()
            except httpx.TransportError as error:
                failures += 1
                if isinstance(content, Path):
                    raise _BrokenOff(http.reason(error)) from error
                if failures >= _ATTEMPTS or http.is_tls_error(error):
                    raise session.unreachable(http.reason(error)) from error
            await asyncio.sleep(session.patience.pause_s * 2**failures)


class _BrokenOff(Exception):
    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


async def _chunks(path: Path, advance: Callable[[int], object]) -> AsyncIterator[bytes]:
    done = 0
    with path.open("rb", buffering=0) as file:
        while chunk := await asyncio.to_thread(file.read, _CHUNK):
            yield chunk
            done += len(chunk)
            advance(done)


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port
