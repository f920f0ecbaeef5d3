"""Images as one file, to be carried to another host: written, and read with the names in it.

What is written is an OCI image layout in a tar archive (image-spec, ``image-layout.md``) with Docker's ``manifest.json``
beside it, as Docker writes since version 25. So `docker load`, `podman load`, skopeo's ``oci-archive:`` and
``docker-archive:``, and `Images.load` all read it. The layers are the blobs as they were fetched; nothing is packed anew, and
the same images give the same file.
"""

from __future__ import annotations

import hashlib
import tarfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec

from bandsox.errors import InvalidReference
from bandsox.images import spec
from bandsox.images.blobs import BlobStore, file_chunks
from bandsox.images.compression import detect
from bandsox.images.reference import Reference, Transport, parse_reference
from bandsox.images.transports import Context, Fetched, docker, layout
from bandsox.images.transports.archive import open_archive, read_head
from bandsox.models import Image
from bandsox.workers import Stopped, Task, in_thread

END = bytes(2 * tarfile.BLOCKSIZE)
"""How a tar archive ends."""

_KINDS = {"gzip": "+gzip", "zstd": "+zstd"}


@dataclass(frozen=True, slots=True)
class Package:
    """An image to be saved: the names it shall have, its manifest as it is stored, and its layers."""

    names: tuple[str, ...]
    config_digest: str
    manifest: bytes
    layers: tuple[spec.Layer, ...]

    @classmethod
    def of(cls, image: Image, layers: tuple[spec.Layer, ...], blobs: BlobStore) -> Package:
        """Read what is needed of a stored image; a manifest of Docker's is written in OCI's words, with the same blobs."""
        names = tuple(name for name in image.references if parse_reference(name).transport is Transport.REGISTRY)
        data = blobs.read(image.manifest_digest, spec.MAX_MANIFEST)
        if spec.decode(data, spec.Manifest, "the stored manifest").media_type != spec.OCI_MANIFEST:
            config = blobs.read(image.id, spec.MAX_CONFIG)
            data = spec.encode_manifest(config, tuple(_in_oci_words(layer, blobs) for layer in layers))
        return cls(names, image.id, data, layers)


def _in_oci_words(layer: spec.Layer, blobs: BlobStore) -> spec.Layer:
    kind = detect(read_head(blobs.path(layer.digest)))
    return spec.Layer(layer.digest, layer.size, spec.OCI_LAYER + _KINDS.get(kind, ""), layer.diff_id)


# ── writing ─────────────────────────────────────────────────────────────────────────────────────


def save(packages: Sequence[Package], blobs: BlobStore, out: BinaryIO, task: Task, stop: threading.Event) -> None:
    """Write `packages` to `out`; blocks.

    Raises
    ------
    DigestMismatch: a stored layer was damaged.
    OSError: `out` cannot be written.
    """
    written: set[str] = set()
    done = 0
    for package in packages:
        add_entry(out, _blob(spec.digest_of(package.manifest)), [package.manifest], len(package.manifest))
        for digest in (package.config_digest, *(layer.digest for layer in package.layers)):
            if digest not in written:
                written.add(digest)
                size = blobs.path(digest).stat().st_size
                add_entry(out, _blob(digest), _checked(blobs, digest, stop), size)
                done += size
                task.update(done)
    index = msgspec.json.encode({"schemaVersion": 2, "mediaType": spec.OCI_INDEX, "manifests": [_descriptor(one) for one in packages]})
    docker_manifest = msgspec.json.encode([_docker_entry(one) for one in packages])
    for name, data in (
        ("index.json", index),
        ("manifest.json", docker_manifest),
        ("oci-layout", b'{"imageLayoutVersion":"1.0.0"}'),
    ):
        add_entry(out, name, [data], len(data))
    out.write(END)


def total_size(packages: Sequence[Package]) -> int:
    """How many bytes of blobs there are to write."""
    sizes = {layer.digest: layer.size for package in packages for layer in package.layers}
    return sum(sizes.values())


def _blob(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


def add_entry(out: BinaryIO, name: str, chunks: Iterable[bytes], size: int) -> None:
    """Write one entry of a tar archive, of which `chunks` are the content."""
    for piece in entry(name, chunks, size):
        out.write(piece)


def entry(name: str, chunks: Iterable[bytes], size: int) -> Iterator[bytes]:
    """One entry of a tar archive, of which `chunks` are the content."""
    yield _head(name, size)
    yield from chunks
    yield bytes(-size % tarfile.BLOCKSIZE)


def entry_size(name: str, size: int) -> int:
    """How many bytes an entry has, of which the content has `size`."""
    return len(_head(name, size)) + size + -size % tarfile.BLOCKSIZE


def _head(name: str, size: int) -> bytes:
    described = tarfile.TarInfo(name)
    described.size = size
    return described.tobuf(tarfile.PAX_FORMAT)


def _checked(blobs: BlobStore, digest: str, stop: threading.Event) -> Iterable[bytes]:
    found = hashlib.sha256()
    for chunk in file_chunks(blobs.path(digest)):
        if stop.is_set():
            raise Stopped
        found.update(chunk)
        yield chunk
    spec.verify_digest(f"sha256:{found.hexdigest()}", digest, f"the stored blob {digest}")


def _descriptor(package: Package) -> dict[str, object]:
    """The entry of ``index.json``. One an image, so that a reader which wants no name finds the only image there is."""
    described: dict[str, object] = {
        "mediaType": spec.OCI_MANIFEST,
        "digest": spec.digest_of(package.manifest),
        "size": len(package.manifest),
    }
    if package.names:
        tag = parse_reference(package.names[0]).tag
        described["annotations"] = {layout.FULL_NAME: package.names[0], **({layout.REF_NAME: tag} if tag else {})}
    return described


def _docker_entry(package: Package) -> dict[str, object]:
    return {
        "Config": _blob(package.config_digest),
        "RepoTags": list(package.names),
        "Layers": [_blob(layer.digest) for layer in package.layers],
    }


# ── reading ─────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Loaded:
    """An image of an archive, whose blobs are stored now, and the names that the archive gives it."""

    names: tuple[Reference, ...]
    fetched: Fetched


async def load(path: Path, context: Context) -> list[Loaded]:
    """Store the images of an archive of `docker save`, `podman save` or `Images.save`.

    Raises
    ------
    ImageNotFound: there is no such file.
    CorruptImage: it is no such archive. DigestMismatch, StorageFull: as they say.
    """
    task = Task(context.progress, f"load {path}", f"loading {path.name}", unit="steps")

    def work(stop: threading.Event) -> list[Loaded]:
        with open_archive(path, context.blobs, context.limits.unpacked, stop) as archive:
            if archive.size("manifest.json") is None and archive.size("index.json") is not None:
                found = layout.fetch_all(path, archive, context, task, stop)
            else:
                found = docker.copy_all(archive, path, context, task, stop)
            return [Loaded(_registry_names(names), fetched) for names, fetched in found]

    loaded = await in_thread(work)
    task.finish()
    return loaded


def _registry_names(texts: Iterable[str]) -> tuple[Reference, ...]:
    """The names an archive may give: those a registry's image can have, and no others."""
    names = []
    for text in texts:
        try:
            reference = parse_reference(text)
        except InvalidReference:
            continue
        if reference.transport is Transport.REGISTRY and reference.digest is None:
            names.append(reference)
    return tuple(dict.fromkeys(names))
