"""`ADD https://…`: a file fetched over HTTP, checked, and kept for the length of the build."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bandsox.dockerfile.files import FileNode
from bandsox.dockerfile.layers import file_content
from bandsox.dockerfile.source import Fault
from bandsox.download import Digest, download, file_name
from bandsox.errors import DigestMismatch, DownloadFailed, InvalidRequest
from bandsox.images.tree import Kind
from bandsox.models import ProgressCallback

_GIT = re.compile(r"(git@|git://|ssh://|https?://.*\.git(#.*)?$|github\.com/)")


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


async def fetch(url: str, checksum: str | None, target: Path, progress: ProgressCallback | None = None) -> Download:
    """Fetch a file to `target`.

    Raises
    ------
    Fault: the address or checksum is wrong, the server does not give it, or it is not what the checksum says.
    StorageFull: there is no room for it.
    """
    try:
        expected = Digest.parse(checksum) if checksum is not None else None
        found = await download(url, target, digest=expected, progress=progress)
    except (InvalidRequest, DownloadFailed, DigestMismatch) as error:
        raise Fault(f"{error.message}: {error.cause}" if error.cause else error.message, error.remedy) from error
    read = partial(file_content, target, 0, found.size)
    return Download(file_name(url).encode(), FileNode(Kind.FILE, 0o600, mtime=found.modified, size=found.size, read=read), target)
