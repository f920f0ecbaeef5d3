"""A snapshot taken in from elsewhere: its documents checked, its files unpacked into a directory and compared with their digests.

Artefacts that are here already, found by their content, are neither read nor kept twice. What is new gets a name made of its content.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bandsox.engine import sparse
from bandsox.engine.snapshots import extents
from bandsox.engine.snapshots.portable import parcel as documents
from bandsox.engine.snapshots.portable import signing
from bandsox.engine.snapshots.portable.parcel import ARTEFACTS, Manifest, Parcel
from bandsox.engine.snapshots.portable.signing import Trust
from bandsox.engine.snapshots.shelf import IMPORTED
from bandsox.errors import CorruptImage, CorruptSnapshot, DigestMismatch, SnapshotNotFound
from bandsox.images import spec
from bandsox.images.limits import Limits
from bandsox.images.transports.layout import Files
from bandsox.models import Snapshot, StoredFile
from bandsox.settings import Layout, sync
from bandsox.workers import Stopped


@dataclass(frozen=True, slots=True)
class Arrival:
    """A snapshot whose documents have been read and checked: what it is, and where its layers are."""

    files: Files
    manifest: Manifest
    parcel: Parcel
    digest: str

    @property
    def snapshot(self) -> Snapshot:
        """What is said of it, in which the paths of its artefacts are still those of where it comes from."""
        return self.parcel.snapshot

    @property
    def size(self) -> int:
        """The bytes of all layers."""
        return sum(layer.size for layer in self.manifest.layers)


def read(files: Files, wanted: str | None, vmms: Mapping[str, Collection[str]], trust: Trust | None) -> Arrival:
    """Read the documents of a layout's snapshot. Blocks.

    Parameters
    ----------
    wanted: the digest of its manifest, or the beginning of that; None: the only one there is.
    trust: by whom it has to be signed; None: it need not be.

    Raises
    ------
    SnapshotNotFound: there is none, or there are several. UntrustedSnapshot: it is not signed as it has to be.
    CorruptImage, CorruptSnapshot, DigestMismatch: what is there cannot be, or is damaged. Unsupported: as `decode_parcel`.
    """
    index = spec.decode(files.read("index.json", spec.MAX_MANIFEST), spec.Index, "index.json")
    snapshots = [each for each in index.manifests if each.artifact_type != signing.ARTIFACT]
    found = [each for each in snapshots if wanted is None or each.digest.startswith((wanted, f"sha256:{wanted}"))]
    if len(found) != 1:
        remedy = f"name one of them: {', '.join(each.digest[7:19] for each in snapshots[:8])}" if found else None
        raise SnapshotNotFound("there is no such snapshot" if not found else "there are several snapshots", remedy=remedy)
    (descriptor,) = found
    if trust is not None:
        trust.check(descriptor.digest, _signatures(files, index))
    data = spec.verify(files.read(_blob(descriptor.digest), spec.MAX_MANIFEST), descriptor.digest, "the manifest")
    manifest = documents.decode_manifest(data)
    config = spec.verify(files.read(_blob(manifest.config.digest), spec.MAX_CONFIG), manifest.config.digest, "the configuration")
    parcel = documents.decode_parcel(config, vmms)
    return Arrival(files, manifest, parcel, descriptor.digest)


def _signatures(files: Files, index: spec.Index) -> Iterator[bytes]:
    """The signatures in a layout, of whatever."""
    listed = [each for each in index.manifests if each.artifact_type == signing.ARTIFACT]
    for each in listed[: signing.MOST]:
        with contextlib.suppress(CorruptImage, DigestMismatch):
            yield spec.verify(files.read(_blob(each.digest), signing.LIMIT), each.digest, "a signature")


class Unpacker:
    """Unpacks what has arrived.

    Parameters
    ----------
    work: an empty directory. limits: how large what is unpacked may be.
    stop: set by who does not want it any more. advance: told how many bytes of the layers have been read.
    """

    def __init__(
        self, layout: Layout, arrival: Arrival, work: Path, limits: Limits, stop: threading.Event, advance: Callable[[int], object]
    ) -> None:
        self._layout = layout
        self._arrival = arrival
        self._work = work
        self._limits = limits
        self._stop = stop
        self._advance = advance
        self._done = 0
        self._written = 0

    def needed(self) -> Sequence[spec.Descriptor]:
        """The layers that are needed: those of artefacts that are not here, and of the snapshot's own files. Blocks."""
        titles = [*(name for name in ARTEFACTS if self._found(name) is None), *self._arrival.snapshot.files]
        return [layer for layer in map(self._arrival.manifest.layer, titles) if layer is not None]

    def artefacts(self) -> tuple[Path, Path, Path]:
        """Where the kernel, the initramfs and the root file system are, relative to the storage directory; those that were missing are put
        there. Blocks.

        Raises
        ------
        CorruptSnapshot: one is neither here nor sent.
        """
        kernel, initramfs, rootfs = (self._artefact(name).relative_to(self._layout.root) for name in ARTEFACTS)
        return kernel, initramfs, rootfs

    def files(self, bases: Mapping[str, Path]) -> None:
        """Unpack the files of the snapshot itself.

        Parameters
        ----------
        bases: those of the snapshot that it is told by what differs from, if it is.
        """
        for name, file in self._arrival.snapshot.files.items():
            base = bases.get(name)
            if base is not None:
                sparse.copy(base, self._work / name)
            self._unpack(name, self._work / name, file.size, new=base is None)
            if sparse.digest(self._work / name) != file.digest:
                raise CorruptSnapshot("the snapshot is damaged", cause=f"its {name} is not what was saved")
            (self._work / name).chmod(0o444)

    # ── artefacts ───────────────────────────────────────────────────────────────────────────────

    def _artefact(self, name: str) -> Path:
        found = self._found(name)
        if found is not None:
            self._skip(name)
            return found
        wanted = self._arrival.parcel.artefacts[name]
        place = self._place(name, wanted)
        if self._arrival.manifest.layer(name) is None:
            image = self._arrival.snapshot.spec.image
            raise CorruptSnapshot(
                f"the snapshot needs a {name} that is neither here nor with it",
                remedy=f"pull {image} first, or export the snapshot with it" if name == "rootfs" else "export it again",
            )
        work = self._work / f"new-{name}"
        self._unpack(name, work, wanted.size, new=True)
        if self._digest(work) != wanted.digest:
            raise CorruptSnapshot("the snapshot is damaged", cause=f"its {name} is not what was exported")
        work.chmod(0o400)
        sync(work)
        place.parent.mkdir(mode=0o700, exist_ok=True)
        work.replace(place)
        sync(place.parent)
        return place

    def _found(self, name: str) -> Path | None:
        """An artefact with the wanted content that is here."""
        wanted = self._arrival.parcel.artefacts[name]
        for path in sorted(self._candidates(name)):
            if (
                not path.parent.is_symlink()
                and path.is_file()
                and path.stat().st_size == wanted.size
                and self._digest(path) == wanted.digest
            ):
                return path
        return None

    def _candidates(self, name: str) -> Iterator[Path]:
        """The artefacts of its kind that are here, whatever they are called."""
        if name == "rootfs":
            return self._layout.images.glob("rootfs/*.squashfs")
        return self._layout.kernels.glob("*/vmlinux" if name == "kernel" else "*/initramfs*.cpio")

    def _place(self, name: str, wanted: StoredFile) -> Path:
        content = wanted.digest.removeprefix("sha256:")
        if name == "rootfs":
            return self._layout.images / "rootfs" / f"{content}.squashfs"
        return self._layout.kernels / f"{IMPORTED}{content[:32]}" / ("vmlinux" if name == "kernel" else "initramfs.cpio")

    def _digest(self, path: Path) -> str:
        digest = hashlib.sha256()
        with path.open("rb", buffering=0) as file:
            while chunk := file.read(1 << 20):
                if self._stop.is_set():
                    raise Stopped
                digest.update(chunk)
        return f"sha256:{digest.hexdigest()}"

    # ── layers ──────────────────────────────────────────────────────────────────────────────────

    def _unpack(self, title: str, target: Path, size: int, *, new: bool) -> None:
        """Unpack a layer, whose digest and size are checked meanwhile."""
        layer = self._arrival.manifest.layer(title)
        if layer is None:
            raise CorruptSnapshot("the snapshot is damaged", cause=f"its {title} is missing")
        with target.open("xb" if new else "r+b") as file:
            try:
                left = self._limits.unpacked - self._written
                self._written += extents.unpack(self._verified(layer), file.fileno(), size, limit=left)
            except CorruptImage as error:
                raise CorruptSnapshot("the snapshot is damaged", cause=error.cause or error.message) from error

    def _verified(self, layer: spec.Descriptor) -> Iterator[bytes]:
        digest, size = hashlib.sha256(), 0
        for chunk in self._arrival.files.chunks(_blob(layer.digest)):
            if self._stop.is_set():
                raise Stopped
            digest.update(chunk)
            size += len(chunk)
            if size > layer.size:
                break
            yield chunk
            self._advance(self._done + size)
        if size != layer.size:
            raise CorruptSnapshot("the snapshot is damaged", cause=f"the blob {layer.digest} has another size than its manifest says")
        spec.verify_digest(f"sha256:{digest.hexdigest()}", layer.digest, f"the blob {layer.digest}")
        self._done += size

    def _skip(self, title: str) -> None:
        layer = self._arrival.manifest.layer(title)
        if layer is not None:
            self._done += layer.size
            self._advance(self._done)


def check_base(parcel: Parcel, here: Sequence[Snapshot]) -> Snapshot | None:
    """The snapshot here that an arriving one is told by the differences from; None where it is told in full.

    Raises
    ------
    SnapshotNotFound: it is not here.
    """
    if parcel.base is None:
        return None
    for snapshot in here:
        if all(snapshot.files.get(name) == file for name, file in parcel.base.files.items()):
            return snapshot
    raise SnapshotNotFound(
        f"the snapshot was exported on the base of another, {parcel.base.id}, which is not here",
        remedy="import that first, or export this one without a base",
    )


def _blob(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")
