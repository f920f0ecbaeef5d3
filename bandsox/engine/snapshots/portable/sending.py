"""A snapshot written for other hosts: as an OCI image layout, in a directory or in one tar archive.

What is sent is the whole snapshot with the kernel, the initramfs and the root file system that its machine runs on, or without the latter
where the receiver is known to have it. Only what is in the files is packed, and on a base only what differs from it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from bandsox.engine.snapshots import extents
from bandsox.engine.snapshots.portable import parcel as documents
from bandsox.engine.snapshots.portable import signing
from bandsox.engine.snapshots.portable.parcel import Base, Parcel
from bandsox.errors import CorruptImage, InvalidRequest
from bandsox.images import spec
from bandsox.images.archives import END, entry, entry_size
from bandsox.images.blobs import file_chunks
from bandsox.models import Snapshot, StoredFile
from bandsox.workers import Stopped


@dataclass(frozen=True, slots=True)
class Content:
    """A file to be sent: what it is called, where it is, and a file that the receiver has, from which it is told by what differs.

    One that is not ``sent`` is named by its digest alone.
    """

    title: str
    path: Path
    base: Path | None = None
    sent: bool = True


@dataclass(frozen=True, slots=True)
class Package:
    """A snapshot ready to be sent: its documents, its signature if it has one, and the files with its layers by title, each with digest and
    size."""

    config: bytes
    manifest: bytes
    layers: Mapping[str, tuple[Path, str, int]]
    signature: bytes | None = None

    @property
    def digest(self) -> str:
        """The manifest's, which names the whole."""
        return spec.digest_of(self.manifest)

    @property
    def size(self) -> int:
        """The bytes of all layers."""
        return sum(size for _, _, size in self.layers.values())


def pack(
    snapshot: Snapshot,
    contents: Sequence[Content],
    base: Base | None,
    work: Path,
    stop: threading.Event,
    advance: Callable[[int], object],
) -> Package:
    """Pack a snapshot's files into the empty directory `work`. Blocks.

    Parameters
    ----------
    advance: told how many bytes of the files have been looked at.
    """
    layers: dict[str, tuple[Path, str, int]] = {}
    artefacts: dict[str, StoredFile] = {}
    done = 0
    for content in contents:
        if content.title in documents.ARTEFACTS:
            artefacts[content.title] = StoredFile(content.path.stat().st_size, _digest(content.path, stop))
        if content.sent:
            chunks = extents.pack(content.path, content.base, lambda part, before=done: advance(before + part))  # type: ignore[misc]
            digest, size = _write(work / content.title, chunks, stop)
            layers[content.title] = (work / content.title, digest, size)
        done += content.path.stat().st_size
    config = documents.encode_parcel(Parcel(snapshot, artefacts, base))
    manifest = documents.encode_manifest(config, {title: (digest, size) for title, (_, digest, size) in layers.items()})
    return Package(config, manifest, layers)


def write_archive(package: Package, out: BinaryIO, stop: threading.Event, advance: Callable[[int], object]) -> None:
    """Write a package as one tar archive. Blocks.

    Raises
    ------
    OSError: `out` cannot be written.
    """
    done = 0
    for piece in archive(package):
        if stop.is_set():
            raise Stopped
        out.write(piece)
        done += len(piece)
        advance(min(done, package.size))


def archive(package: Package) -> Generator[bytes, None, None]:
    """A package as one tar archive, piece by piece."""
    for name, data in _documents(package).items():
        yield from entry(name, [data], len(data))
    for path, digest, size in package.layers.values():
        yield from entry(_blob(digest), file_chunks(path), size)
    yield END


def archive_size(package: Package) -> int:
    """How many bytes `archive` gives."""
    small = sum(entry_size(name, len(data)) for name, data in _documents(package).items())
    return small + sum(entry_size(_blob(digest), size) for _, digest, size in package.layers.values()) + len(END)


def write_layout(package: Package, directory: Path, stop: threading.Event, advance: Callable[[int], object]) -> None:
    """Write a package into a new or empty directory, or add it to a layout, whose index then lists it too. Blocks.

    Raises
    ------
    InvalidRequest: there is something else in the directory.
    """
    blobs = directory / "blobs" / "sha256"
    if directory.is_dir() and any(directory.iterdir()) and not (directory / "oci-layout").is_file():
        raise InvalidRequest(f"{directory} is neither empty nor an OCI image layout")
    blobs.mkdir(parents=True, exist_ok=True)
    done = 0
    for path, digest, size in package.layers.values():
        _place(blobs / digest.removeprefix("sha256:"), _stoppable(path, stop))
        done += size
        advance(done)
    for name, data in _documents(package, _others(directory, package)).items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        _place(directory / name, iter([data]), again=True)


def _documents(package: Package, others: Sequence[spec.Descriptor] = ()) -> dict[str, bytes]:
    """The small files of a layout by name; ``index.json`` comes last, so that what it lists is there."""
    descriptor = spec.Descriptor(package.digest, len(package.manifest), spec.OCI_MANIFEST)
    signature = package.signature
    listed = [*others, descriptor, *([signing.described(signature)] if signature is not None else [])]
    index = {"schemaVersion": 2, "mediaType": spec.OCI_INDEX, "manifests": listed}
    blobs = [package.config, package.manifest, *([signing.EMPTY, signature] if signature is not None else [])]
    return {
        "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
        **{_blob(spec.digest_of(blob)): blob for blob in blobs},
        "index.json": documents.encode_document(index),
    }


def _others(directory: Path, package: Package) -> list[spec.Descriptor]:
    """What the index of a layout lists already, but for what is to be added."""
    try:
        data = (directory / "index.json").read_bytes()
    except FileNotFoundError:
        return []
    try:
        listed = spec.decode(data, spec.Index, "index.json").manifests
    except CorruptImage as error:
        raise InvalidRequest(f"{directory} is not an OCI image layout", cause=error.cause) from error
    added = {package.digest, *([spec.digest_of(package.signature)] if package.signature is not None else [])}
    return [each for each in listed if each.digest not in added]


def _blob(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


def _write(path: Path, chunks: Iterator[bytes], stop: threading.Event) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    with path.open("xb") as file:
        for chunk in chunks:
            if stop.is_set():
                raise Stopped
            digest.update(chunk)
            size += len(chunk)
            file.write(chunk)
    return f"sha256:{digest.hexdigest()}", size


def _digest(path: Path, stop: threading.Event) -> str:
    digest = hashlib.sha256()
    for chunk in _stoppable(path, stop):
        digest.update(chunk)
    return f"sha256:{digest.hexdigest()}"


def _stoppable(path: Path, stop: threading.Event) -> Iterator[bytes]:
    for chunk in file_chunks(path):
        if stop.is_set():
            raise Stopped
        yield chunk


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file, owner-only, that is there when it has been written, whole or not at all."""
    work = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(work, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "r+b") as file:
            yield file
        work.replace(path)
    finally:
        work.unlink(missing_ok=True)


def _place(path: Path, chunks: Iterator[bytes], *, again: bool = False) -> None:
    """Write a file; one that is there already stays, or is replaced."""
    if again or not path.exists():
        with whole_file(path) as file:
            for chunk in chunks:
                file.write(chunk)
