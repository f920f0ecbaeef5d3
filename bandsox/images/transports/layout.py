"""``oci:``, ``oci-archive:`` and ``dir:``: images kept as the blobs they consist of.

An OCI image layout (image-spec, ``image-layout.md``) is a directory or a tar archive; ``dir:`` is containers/image's own
format, ``manifest.json`` beside files named by hex digest.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from bandsox.errors import CorruptImage, ImageNotFound
from bandsox.images import spec
from bandsox.images.blobs import file_chunks
from bandsox.images.reference import Reference, Transport
from bandsox.images.transports import Context, Fetched
from bandsox.images.transports.archive import Archive, open_archive
from bandsox.workers import Task, in_thread

REF_NAME = "org.opencontainers.image.ref.name"
FULL_NAME = "io.containerd.image.name"
_MAX_INDEX_DEPTH = 3


class Files(Protocol):
    """The files an image is kept in."""

    def read(self, name: str, limit: int) -> bytes:
        """A small file's content."""

    def chunks(self, name: str) -> Iterator[bytes]:
        """A file's content, a mebibyte at a time."""


class FilesOfDirectory:
    """A layout that is a directory."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, name: str, limit: int) -> bytes:
        """A small file's content.

        Raises
        ------
        CorruptImage: it cannot be read, or has more than `limit` bytes.
        """
        data = b""
        for chunk in self.chunks(name):
            data += chunk
            if len(data) > limit:
                raise CorruptImage(f"{self._path / name} is longer than {limit} bytes")
        return data

    def chunks(self, name: str) -> Iterator[bytes]:
        """A file's content; errors as `read`."""
        try:
            yield from file_chunks(self._path / name)
        except OSError as error:
            raise CorruptImage(f"{self._path / name} cannot be read", cause=error.strerror) from error


async def fetch(reference: Reference, context: Context) -> Fetched:
    """Copy an image of a layout into the blob store.

    Raises
    ------
    ImageNotFound: there is nothing at the path, or no such tag.
    CorruptImage, DigestMismatch, StorageFull: as they say.
    """
    copied = Task(context.progress, str(reference), f"copying {reference.name}", unit="bytes")

    def work(stop: threading.Event) -> Fetched:
        if reference.transport is Transport.OCI_ARCHIVE:
            with open_archive(reference.path, context.blobs, context.limits.unpacked, stop) as archive:
                return _fetch(reference, archive, context, copied, stop)
        if not reference.path.is_dir():
            raise ImageNotFound(f"{reference.path} is not a directory")
        return _fetch(reference, FilesOfDirectory(reference.path), context, copied, stop)

    fetched = await in_thread(work)
    copied.finish()
    return fetched


def fetch_all(path: Path, archive: Archive, context: Context, task: Task, stop: threading.Event) -> list[tuple[list[str], Fetched]]:
    """Copy every image of an archive into the blob store, with the names it has there; blocks.

    Raises
    ------
    As `fetch`.
    """
    index = spec.decode(archive.read("index.json", spec.MAX_MANIFEST), spec.Index, "index.json")
    found = []
    for descriptor in index.manifests:
        annotations = descriptor.annotations or {}
        names = [annotations[key] for key in (FULL_NAME, REF_NAME) if "/" in annotations.get(key, "")]
        reference = Reference(Transport.OCI_ARCHIVE, str(path), descriptor.digest)
        found.append((names[:1], _fetch(reference, archive, context, task, stop)))
    return found


def _fetch(reference: Reference, files: Files | Archive, context: Context, task: Task, stop: threading.Event) -> Fetched:
    nested = reference.transport is not Transport.DIRECTORY
    if nested:
        index = spec.decode(files.read("index.json", spec.MAX_MANIFEST), spec.Index, "index.json")
        chosen = _tagged(reference, index)
        data = spec.verify(files.read(_name(chosen.digest, nested), spec.MAX_MANIFEST), chosen.digest, "the manifest")
    else:
        data = files.read("manifest.json", spec.MAX_MANIFEST)
    document = spec.decode_manifest(data)
    for _ in range(_MAX_INDEX_DEPTH):
        if isinstance(document, spec.Manifest):
            break
        chosen = spec.select(document, context.platform)
        name = _name(chosen.digest, nested) if nested else chosen.digest.removeprefix("sha256:") + ".manifest.json"
        data = spec.verify(files.read(name, spec.MAX_MANIFEST), chosen.digest, "the manifest")
        document = spec.decode_manifest(data, chosen.media_type)
    if not isinstance(document, spec.Manifest):
        raise CorruptImage(f"the indexes in {reference.name} are nested too deep")
    done = 0
    for blob in (document.config, *document.layers):
        if not context.blobs.has(blob.digest):
            context.blobs.require_space(blob.size)
            context.blobs.copy_in(files.chunks(_name(blob.digest, nested)), blob.digest, stop)
        done += blob.size
        task.update(done)
    config = spec.decode_config(context.blobs.read(document.config.digest, spec.MAX_CONFIG), document)
    return Fetched(context.blobs.put(data), document, config)


def _name(digest: str, nested: bool) -> str:
    return digest.replace(":", "/").join(("blobs/", "")) if nested else digest.removeprefix("sha256:")


def _tagged(reference: Reference, index: spec.Index) -> spec.Descriptor:
    """The entry of ``index.json`` that the reference means: the tagged one, or the only one there is."""
    names = [(_names(descriptor), descriptor) for descriptor in index.manifests]
    if reference.tag is None:
        if len(index.manifests) == 1:
            return index.manifests[0]
        untagged_problem = "has no image" if not names else "has several images"
        known = ", ".join(sorted({name for given, _ in names for name in given}))
        raise ImageNotFound(f"{reference.name} {untagged_problem}", remedy=f"name one of its tags: {known}" if known else None)
    for given, descriptor in names:
        if reference.tag in given or reference.tag == descriptor.digest:
            return descriptor
    known = ", ".join(sorted({name for given, _ in names for name in given}))
    raise ImageNotFound(f"{reference.name} has no image with the tag {reference.tag}", cause=f"it has: {known}" if known else None)


def _names(descriptor: spec.Descriptor) -> set[str]:
    annotations = descriptor.annotations or {}
    return {annotations[key] for key in (REF_NAME, FULL_NAME) if key in annotations}
