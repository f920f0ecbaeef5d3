"""Files from the web: to the disk, whole and verified or not at all.

A file arrives under another name beside its own and gets its own when all of it is there, has the digest that was asked
for, and is on the disk. An interrupted download goes on where it broke off: within one call where the server vouches that
it is the same file still, and across processes where a digest was given, which tells at the end. Two processes that fetch
the same file to the same place do the work once.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx

from bandsox import http
from bandsox.errors import BandSoxError, DigestMismatch, DownloadFailed, DownloadInterrupted, InvalidRequest
from bandsox.http import Patience
from bandsox.locks import Locks
from bandsox.models import ProgressCallback
from bandsox.workers import Stopped, Task, in_thread, storage_errors

MAX_SIZE = 16 << 30
"""The most bytes a file may have where the caller does not say."""

_CHUNK = 1 << 20
_LENGTHS = {"sha256": 64, "sha384": 96, "sha512": 128}
_DIGEST = re.compile(r"(?:(sha256|sha384|sha512):)?([0-9a-f]+)")


@dataclass(frozen=True, slots=True)
class Digest:
    """What a file's content must be: the name of a hash algorithm, and its value in lowercase hexadecimal digits."""

    algorithm: str
    value: str

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Read ``sha256:…``, ``sha384:…``, ``sha512:…``, or the 64 digits of a SHA-256 alone.

        Raises
        ------
        InvalidRequest: it is none of them.
        """
        found = _DIGEST.fullmatch(text.strip().lower())
        if found is None or len(found[2]) != _LENGTHS[found[1] or "sha256"]:
            raise InvalidRequest(f"{text[:160]!r} is not a digest", remedy="write sha256: and 64 hexadecimal digits")
        return cls(found[1] or "sha256", found[2])

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.value}"


@dataclass(frozen=True, slots=True)
class Downloaded:
    """A file that is here: its path, size in bytes and SHA-256 (or what `digest` asked for), and when the server says
    that it was last changed, in seconds since 1970; 0 where it does not say."""

    path: Path
    size: int
    digest: Digest
    modified: int = 0


def digest_of(path: Path, algorithm: str = "sha256") -> Digest:
    """The digest of a file's content; blocks."""
    found = hashlib.new(algorithm)
    with path.open("rb", buffering=0) as file:
        _hash_file(file.fileno(), found, threading.Event())
    return Digest(algorithm, found.hexdigest())


def file_name(url: str) -> str:
    """The name at the end of an address; empty where there is none that a file could have."""
    name = unquote(urlsplit(url).path).rpartition("/")[2]
    return "" if name in (".", "..") or "\0" in name else name


async def download(
    url: str,
    target: Path,
    *,
    digest: Digest | None = None,
    max_size: int = MAX_SIZE,
    label: str | None = None,
    progress: ProgressCallback | None = None,
    patience: Patience | None = None,
) -> Downloaded:
    """Fetch `url` (http or https) to `target`, whose directory exists; nothing is fetched when it is here with this digest.

    Parameters
    ----------
    digest: what its content must be.
    max_size: the most bytes that are taken.
    label: what it is called in the reports of `progress`; by default its name.

    Raises
    ------
    InvalidRequest: `url` is no such address.
    DownloadFailed: the server refuses, or has more than `max_size` bytes.
    DownloadInterrupted: it cannot be reached or broke off too often; what came is kept for another try where a digest was given.
    DigestMismatch: it is something else; nothing of it is kept.
    StorageFull: there is no room for it.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidRequest(f"{url} cannot be fetched", remedy="give an http:// or https:// address")
    server = _Server(url, parts.hostname, patience or Patience())
    task = Task(progress, url, label or f"fetching {file_name(url) or url}")
    async with _partial(target, digest, max_size, server) as partial:
        if digest is not None and (found := await in_thread(lambda stop: _found(target, digest, stop))) is not None:
            task.finish()
            return found
        await partial.take_up()
        resumed = partial.offset > 0
        modified = await _fetch(server, partial, task)
        if resumed and digest is not None and partial.digest != digest:
            partial.restart()  # what an earlier process left was something else
            modified = await _fetch(server, partial, task)
        done = await partial.finish(target, modified)
    task.finish()
    return done


async def _fetch(server: _Server, partial: _Partial, task: Task) -> int:
    async with http.client(server.patience) as asking:
        try:
            headers = await http.receive(asking, server.url, server, partial, verified=partial.expected is not None, report=task.update)
        except httpx.HTTPError as error:
            raise server.unreachable(http.reason(error)) from error
    return _modified(headers.get("Last-Modified"))


class _Server:
    """The server of one file, as `bandsox.http` wants it."""

    def __init__(self, url: str, host: str, patience: Patience) -> None:
        self.url = url
        self._host = host
        self._patience = patience

    @property
    def patience(self) -> Patience:
        return self._patience

    def headers(self) -> dict[str, str]:
        return {}

    async def authorize(self, response: httpx.Response, sent: dict[str, str]) -> bool:
        return False

    async def refusal(self, response: httpx.Response) -> BandSoxError:
        status = f"{response.status_code} {response.reason_phrase}".strip()
        kind = DownloadInterrupted if response.status_code == 429 or response.status_code >= 500 else DownloadFailed
        return kind(f"{self.url} cannot be fetched", cause=f"{response.url.host} answers {status}")

    def unreachable(self, cause: str) -> BandSoxError:
        return DownloadInterrupted(
            f"{self.url} cannot be fetched",
            cause=cause,
            remedy="check the address, the network and the proxy settings (HTTPS_PROXY, NO_PROXY)",
        )

    def misdirected(self, cause: str) -> BandSoxError:
        return DownloadFailed(f"{self.url} cannot be fetched", cause=cause)

    def too_long(self, limit: int) -> BandSoxError:
        """The error for a file of more bytes than are wanted."""
        return DownloadFailed(f"{self.url} is longer than {limit} bytes")


class _Partial:
    """A file that is on its way; ``offset`` is how many bytes of it are here."""

    def __init__(self, descriptor: int, path: Path, expected: Digest | None, limit: int, server: _Server) -> None:
        self.path = path
        self.expected = expected
        self.offset = os.fstat(descriptor).st_size
        self._descriptor = descriptor
        self._limit = limit
        self._server = server
        self._hash = self._new_hash()
        if self.offset > limit:
            self.restart()

    @property
    def digest(self) -> Digest:
        """The digest of what is here."""
        return Digest(self._hash.name, self._hash.hexdigest())

    async def take_up(self) -> None:
        """Read what an earlier process left."""
        if self.offset:
            await in_thread(lambda stop: _hash_file(self._descriptor, self._hash, stop))

    async def write(self, data: bytes) -> None:
        """Add what came next.

        Raises
        ------
        DownloadFailed: that is more than is wanted.
        """
        if self.offset + len(data) > self._limit:
            self.restart()
            raise self._server.too_long(self._limit)
        await in_thread(lambda _: self._append(data))

    def restart(self) -> None:
        """Drop what is here."""
        os.ftruncate(self._descriptor, 0)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        self._hash = self._new_hash()
        self.offset = 0

    async def finish(self, target: Path, modified: int) -> Downloaded:
        """Give the file its name.

        Raises
        ------
        DigestMismatch: it is not what it should be; it is dropped.
        """
        found = self.digest
        if self.expected is not None and found != self.expected:
            self.restart()
            raise DigestMismatch(f"{self._server.url} is not what it should be", cause=f"its digest is {found}, and not {self.expected}")
        await in_thread(lambda _: self._publish(target))
        return Downloaded(target, self.offset, found, modified)

    def _append(self, data: bytes) -> None:
        self._hash.update(data)
        view = memoryview(data)
        while view:
            view = view[os.write(self._descriptor, view) :]
        self.offset += len(data)

    def _publish(self, target: Path) -> None:
        os.fsync(self._descriptor)
        self.path.rename(target)

    def _new_hash(self) -> hashlib._Hash:
        return hashlib.new(self.expected.algorithm if self.expected else "sha256")


@asynccontextmanager
async def _partial(target: Path, digest: Digest | None, limit: int, server: _Server) -> AsyncIterator[_Partial]:
    """The file a download goes to, which is this task's alone. Without a digest it is a new one, and removed unless it was finished."""
    suffix = digest.value[:16] if digest else os.urandom(8).hex()
    path = target.with_name(f".{target.name}.{suffix}.partial")
    with storage_errors(target.parent):
        while True:
            async with Locks(path).hold() as descriptor:
                if not _is_at(descriptor, path):
                    continue  # whoever had it has finished or dropped it
                partial = _Partial(descriptor, path, digest, limit, server)
                try:
                    yield partial
                finally:
                    if _is_at(descriptor, path) and (digest is None or partial.offset == 0):
                        path.unlink()
                return


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _found(target: Path, expected: Digest, stop: threading.Event) -> Downloaded | None:
    """The file, if it is here with this digest."""
    try:
        with target.open("rb", buffering=0) as file:
            found = hashlib.new(expected.algorithm)
            _hash_file(file.fileno(), found, stop)
            status = os.fstat(file.fileno())
    except FileNotFoundError:
        return None
    if found.hexdigest() != expected.value:
        return None
    return Downloaded(target, status.st_size, expected, int(status.st_mtime))


def _hash_file(descriptor: int, into: hashlib._Hash, stop: threading.Event) -> None:
    os.lseek(descriptor, 0, os.SEEK_SET)
    while chunk := os.read(descriptor, _CHUNK):
        if stop.is_set():
            raise Stopped
        into.update(chunk)


def _modified(text: str | None) -> int:
    try:
        return max(int(parsedate_to_datetime(text).timestamp()), 0) if text else 0
    except (ValueError, OverflowError):
        return 0
