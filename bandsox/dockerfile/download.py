"""`ADD https://…`: a file fetched over HTTP, checked, and kept for the length of the build."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from urllib.parse import unquote, urlsplit

import httpx

from bandsox.dockerfile.files import FileNode
from bandsox.dockerfile.layers import CHUNK, file_content
from bandsox.dockerfile.source import Fault
from bandsox.images.tree import Kind
from bandsox.images.workers import storage_errors

_CHECKSUM = re.compile(r"(sha256|sha384|sha512):([0-9a-f]{64,128})")
_GIT = re.compile(r"(git@|git://|ssh://|https?://.*\.git(#.*)?$|github\.com/)")
_MAX_SIZE = 16 << 30
_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Download:
    """A file that was fetched: the name it gets in a directory, and itself. Whoever asked for it removes ``path``."""

    name: bytes
    node: FileNode
    path: Path


def is_remote(source: str) -> bool:
    """Whether a source of ADD is an address.

    Raises
    ------
    Fault: it is one of a kind that cannot be fetched.
    """
    if _GIT.match(source):
        raise Fault(f"ADD cannot fetch the Git repository {source}", "clone it on the host, and COPY the directory")
    if "://" in source and not source.startswith(("http://", "https://")):
        raise Fault(f"ADD cannot fetch {source}", "it fetches http:// and https:// addresses")
    return source.startswith(("http://", "https://"))


async def fetch(url: str, checksum: str | None, target: Path) -> Download:
    """Fetch a file to `target`.

    Raises
    ------
    Fault: the address or checksum is wrong, the server does not give it, or it is not what the checksum says.
    """
    expected = _CHECKSUM.fullmatch(checksum) if checksum is not None else None
    if checksum is not None and expected is None:
        raise Fault(f"--checksum={checksum} is not a digest", "write sha256: and 64 hexadecimal digits")
    digest = hashlib.new(expected.group(1) if expected else "sha256")
    try:
        mtime = await _transfer(url, target, digest)
    except BaseException as error:
        target.unlink(missing_ok=True)
        if isinstance(error, (httpx.HTTPError, httpx.InvalidURL)):
            raise Fault(f"{url} cannot be fetched: {error or type(error).__name__}") from error
        raise
    if expected is not None and digest.hexdigest() != expected.group(2):
        target.unlink()
        raise Fault(f"{url} is not what --checksum says: it has the digest {expected.group(1)}:{digest.hexdigest()}")
    name = unquote(urlsplit(url).path).rpartition("/")[2].encode()
    size = target.stat().st_size
    return Download(name, FileNode(Kind.FILE, 0o600, mtime=mtime, size=size, read=partial(file_content, target, 0, size)), target)


async def _transfer(url: str, target: Path, digest: hashlib._Hash) -> int:
    async with httpx.AsyncClient(follow_redirects=True, timeout=_TIMEOUT_S) as client, client.stream("GET", url) as response:
        if response.status_code != 200:
            raise Fault(f"{url} cannot be fetched: the server answers {response.status_code} {response.reason_phrase}")
        size = 0
        with storage_errors(target.parent), target.open("wb") as file:
            async for chunk in response.aiter_bytes(CHUNK):
                size += len(chunk)
                if size > _MAX_SIZE:
                    raise Fault(f"{url} is longer than {_MAX_SIZE >> 30} GiB")
                digest.update(chunk)
                file.write(chunk)
        return _modified(response.headers.get("last-modified"))


def _modified(text: str | None) -> int:
    try:
        return max(int(parsedate_to_datetime(text).timestamp()), 0) if text else 0
    except ValueError:
        return 0
