"""Snapshots that travel: exported to a file, an OCI image layout or a registry, and imported from there.

parcel    the documents, and what is believed of them
sending   writing a layout or an archive        taking   unpacking what has arrived
signing   who vouches for one
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import shutil
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

from bandsox.engine import identity
from bandsox.engine.snapshots.portable import parcel as documents
from bandsox.engine.snapshots.portable import sending, signing, taking
from bandsox.engine.snapshots.portable.parcel import ARTEFACTS, DISK, MEMORY, Base
from bandsox.engine.snapshots.portable.sending import Content, Package
from bandsox.engine.snapshots.portable.taking import Arrival
from bandsox.engine.snapshots.workplace import async_workplace
from bandsox.errors import InvalidRequest, SnapshotNotFound
from bandsox.images import spec
from bandsox.images.blobs import BlobStore, file_chunks
from bandsox.images.limits import Limits
from bandsox.images.registries import Registries
from bandsox.images.transports.archive import Archive
from bandsox.images.transports.layout import Files, FilesOfDirectory
from bandsox.locks import Locks
from bandsox.models import ProgressCallback, Snapshot, StoredFile
from bandsox.settings import default_verify_key
from bandsox.store.snapshots import name_taken
from bandsox.workers import Task, in_thread, storage_errors

if TYPE_CHECKING:
    from bandsox.engine.engine import Engine

LAYOUT, REGISTRY = "oci:", "registry:"
"""How a place is named that is a directory with an OCI image layout, or in a registry, and not a file."""


Fetch = Callable[[Sequence[spec.Descriptor]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a snapshot is sent or taken from: a file, a directory with a layout, of whose snapshots one may be named, or a registry."""

    kind: Literal["file", "layout", "registry"]
    name: str
    wanted: str | None = None

    @classmethod
    def parse(cls, text: str) -> Place:
        """``FILE``, ``oci:DIRECTORY``, ``oci:DIRECTORY@DIGEST``, ``registry:HOST/NAME:TAG`` or ``registry:HOST/NAME@DIGEST``.

        Raises
        ------
        InvalidRequest: it names nothing.
        """
        wanted = None
        if text.startswith(REGISTRY):
            kind: Literal["file", "layout", "registry"] = "registry"
            name = text.removeprefix(REGISTRY)
        elif text.startswith(LAYOUT):
            kind = "layout"
            name, _, wanted = text.removeprefix(LAYOUT).partition("@")
        else:
            kind, name = "file", text
        if not name:
            raise InvalidRequest("a snapshot is exported to a file, to oci:DIRECTORY or to registry:HOST/NAME:TAG")
        return cls(kind, name, wanted or None)

    @property
    def path(self) -> Path:
        """Of the file or directory."""
        return Path(self.name).absolute()


class Portable:
    """Export and import of the snapshots of one storage directory."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._layout = engine.layout
        self._snapshots = engine.snapshots

    async def export(
        self,
        id_or_name: str,
        target: str | BinaryIO,
        *,
        base: str | None = None,
        image: bool = True,
        sign_key: Path | None = None,
        progress: ProgressCallback | None = None,
    ) -> str:
        """Write a snapshot for another host, and return the digest that names what was written.

        Parameters
        ----------
        target: as `Place.parse` reads it, or a binary stream that gets a file's content.
        base: another snapshot, which the receiver has: of memory and disk only what differs is written.
        image: with the root file system of the machine's image; without it the receiver needs the image.
        sign_key: a private key (`signing.sign`); None: it is not signed.

        Raises
        ------
        SnapshotNotFound: there is none. CorruptSnapshot: its files are not what was saved. Conflict: it is a saved machine's memory alone.
        InvalidRequest: the target cannot be written, or the key not be used. StorageFull: there is no room.
        """
        place = Place.parse(target) if isinstance(target, str) else None
        async with self.packed(id_or_name, base=base, image=image, sign_key=sign_key, progress=progress) as package:
            writing = Task(progress, "write", "writing", package.size)
            if place is not None and place.kind == "registry":
                await self._push(package, place.name, writing)
            else:
                await in_thread(lambda stop: _write(package, place, target, stop, writing))
            writing.finish()
        return package.digest

    @contextlib.asynccontextmanager
    async def packed(
        self,
        id_or_name: str,
        *,
        base: str | None = None,
        image: bool = True,
        sign_key: Path | None = None,
        progress: ProgressCallback | None = None,
    ) -> AsyncIterator[Package]:
        """A snapshot, packed for another host in files that are there for the time of the block. Parameters and errors as for `export`."""
        snapshot = await self._snapshots.get(id_or_name)
        reference = await self._snapshots.get(base) if base is not None else None
        async with async_workplace(self._layout) as work:
            async with contextlib.AsyncExitStack() as stack:
                for used in filter(None, (snapshot, reference)):
                    await stack.enter_async_context(self._whole(used))
                contents = self._contents(snapshot, reference, image=image)
                known = Base(reference.id, _comparable(snapshot, reference)) if reference is not None else None
                total = sum(content.path.stat().st_size for content in contents)
                packing = Task(progress, "pack", f"packing {snapshot.name}", total)
                package = await in_thread(lambda stop: sending.pack(snapshot, contents, known, work, stop, packing.update))
                packing.finish()
            if sign_key is not None:
                package = dataclasses.replace(package, signature=signing.sign(package.manifest, sign_key))
            yield package

    async def import_(
        self,
        source: str,
        name: str | None = None,
        *,
        verify_key: Path | None = None,
        limits: Limits | None = None,
        admit: Callable[[Snapshot], object] = lambda _: None,
        progress: ProgressCallback | None = None,
    ) -> Snapshot:
        """Make a snapshot of elsewhere one of this storage directory; what is here of it already is not taken twice.

        Parameters
        ----------
        source: as `Place.parse` reads it.
        name: another name than it had.
        verify_key: public keys (`signing.Trust`), with one of which it has to be signed; by default those of ``BANDSOX_VERIFY_KEY``, and
            where that is not set it need not be signed.
        limits: how much may be in it, unpacked; by default as for images.
        admit: called with what has arrived, and with what of here it turns out to be or is based on, before anything of it is taken; what
            it raises is raised.

        Raises
        ------
        SnapshotNotFound: there is no such file, or what it is based on is not here.
        UntrustedSnapshot: it is not signed as it has to be.
        CorruptSnapshot, CorruptImage, DigestMismatch: it is no snapshot, damaged, or not one that is accepted from elsewhere.
        Unsupported: it is of a later version. Conflict: the name is taken. StorageFull: there is no room.
        """
        chosen = identity.check_name(name) if name is not None else None
        keys = verify_key or default_verify_key()
        trust = signing.Trust(keys) if keys is not None else None
        async with contextlib.AsyncExitStack() as stack:
            arrival, fetch = await stack.enter_async_context(self._arriving(Place.parse(source), trust, progress))
            admit(arrival.snapshot)
            known = {snapshot.id: snapshot for snapshot in await asyncio.to_thread(self._snapshots.shelf.table.list)}
            present = known.get(arrival.snapshot.id)
            if present is not None and present.files == arrival.snapshot.files and chosen in {None, present.name}:
                admit(present)
                return present
            wanted = dataclasses.replace(
                arrival.snapshot,
                id=arrival.snapshot.id if present is None else identity.new_id(),
                name=chosen or arrival.snapshot.name,
            )
            if any(snapshot.name == wanted.name for snapshot in known.values()):
                raise name_taken(wanted.name)
            base = taking.check_base(arrival.parcel, [*known.values()])
            if base is not None:
                admit(base)
                await stack.enter_async_context(self._whole(base))
            await stack.enter_async_context(self._engine.images.adding())
            await stack.enter_async_context(self._snapshots.shelf.artefacts_kept())
            work = await stack.enter_async_context(async_workplace(self._layout))
            task = Task(progress, "import", f"importing {wanted.name}", arrival.size)

            def unpacker(stop: threading.Event) -> taking.Unpacker:
                return taking.Unpacker(self._layout, arrival, work, limits or Limits.configured(), stop, task.update)

            def unpack(stop: threading.Event) -> Snapshot:
                unpacking = unpacker(stop)
                kernel, initramfs, rootfs = unpacking.artefacts()
                unpacking.files({each: self._path(base, each) for each in _told(arrival)} if base is not None else {})
                return dataclasses.replace(wanted, kernel=str(kernel), initramfs=str(initramfs), rootfs=str(rootfs))

            await fetch(await in_thread(lambda stop: unpacker(stop).needed()))
            snapshot = await in_thread(unpack)
            await asyncio.to_thread(self._snapshots.shelf.publish, snapshot, work)
        task.finish()
        return snapshot

    # ── registries ──────────────────────────────────────────────────────────────────────────────

    async def _push(self, package: Package, name: str, task: Task) -> None:
        from bandsox.images import artifacts

        async with artifacts.opened(name, self._registries(), push=True) as repository:
            await repository.push_blob(spec.digest_of(package.config), len(package.config), package.config)
            done = 0
            for path, digest, size in package.layers.values():
                await repository.push_blob(digest, size, path, lambda part, before=done: task.update(before + part))  # type: ignore[misc]
                done += size
            if package.signature is not None:  # first, so that nobody finds the snapshot without it
                await repository.push_blob(spec.digest_of(signing.EMPTY), len(signing.EMPTY), signing.EMPTY)
                await repository.push_manifest(package.signature, signing.tag(package.digest))
            await repository.push_manifest(package.manifest)

    @contextlib.asynccontextmanager
    async def _arriving(
        self, place: Place, trust: signing.Trust | None, progress: ProgressCallback | None
    ) -> AsyncIterator[tuple[Arrival, Fetch]]:
        """A snapshot whose documents have been read, and what brings those of its layers here that are needed."""
        transports = {each: vmm.transports().names for each, vmm in self._engine.vmms.items()}
        if place.kind != "registry":
            files = await asyncio.to_thread(_open, place)
            yield await asyncio.to_thread(taking.read, files, place.wanted, transports, trust), _nothing
            return
        from bandsox.images import artifacts

        locks = Locks(self._layout.locks / "snapshots")
        async with locks.hold(REGISTRY), artifacts.opened(place.name, self._registries()) as repository:
            data = await repository.manifest()
            if trust is not None:
                signature = await repository.tagged(signing.tag(spec.digest_of(data)))
                trust.check(spec.digest_of(data), [signature] if signature is not None else [])
            manifest = documents.decode_manifest(data)
            config = await repository.document(manifest.config, spec.MAX_CONFIG)
            blobs = BlobStore(self._layout, locks, self._layout.downloads / "snapshots")
            parcel = documents.decode_parcel(config, transports)

            async def fetch(layers: Sequence[spec.Descriptor]) -> None:
                for layer in layers:
                    title = (layer.annotations or {}).get(documents.TITLE, "")
                    await repository.fetch(layer, blobs, Task(progress, layer.digest, f"fetching {title}", layer.size))

            yield Arrival(FilesOfStore(blobs), manifest, parcel, spec.digest_of(data)), fetch
            await asyncio.to_thread(shutil.rmtree, blobs.directory)

    def _registries(self) -> Registries:
        return Registries(self._layout.root / "registries.toml")

    # ── helpers ─────────────────────────────────────────────────────────────────────────────────

    @contextlib.asynccontextmanager
    async def _whole(self, snapshot: Snapshot) -> AsyncIterator[None]:
        """While this lasts a snapshot's files are there as they were saved."""
        await asyncio.to_thread(self._snapshots.shelf.check_whole, snapshot)
        async with self._snapshots.shelf.in_use(snapshot):
            await asyncio.to_thread(self._snapshots.shelf.verify, snapshot, list(snapshot.files))
            yield

    def _contents(self, snapshot: Snapshot, base: Snapshot | None, *, image: bool) -> Sequence[Content]:
        """What is to be sent of a snapshot, artefacts first."""
        from bandsox.engine.snapshots.fitness import check_artefacts

        check_artefacts(self._layout, snapshot)
        paths = {"kernel": snapshot.kernel, "initramfs": snapshot.initramfs, "rootfs": snapshot.rootfs}
        contents = [Content(name, self._layout.root / paths[name], sent=image or name != "rootfs") for name in ARTEFACTS]
        bases = _comparable(snapshot, base) if base is not None else {}
        return contents + [
            Content(name, self._path(snapshot, name), self._path(base, name) if base is not None and name in bases else None)
            for name in sorted(snapshot.files)
        ]

    def _path(self, snapshot: Snapshot, name: str) -> Path:
        return self._snapshots.shelf.path(snapshot) / name


def _comparable(snapshot: Snapshot, base: Snapshot) -> dict[str, StoredFile]:
    """The files of `base` that those of `snapshot` can be told by the differences from."""
    return {
        name: base.files[name]
        for name in (MEMORY, DISK)
        if name in snapshot.files and name in base.files and base.files[name].size == snapshot.files[name].size
    }


def _told(arrival: Arrival) -> Sequence[str]:
    """The files that an arriving snapshot is told by what differs from its base's."""
    return [*arrival.parcel.base.files] if arrival.parcel.base is not None else []


async def _nothing(_: Sequence[spec.Descriptor]) -> None:
    """All layers are here."""


class FilesOfStore:
    """The blobs of a store as the files of a layout."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs

    def read(self, name: str, limit: int) -> bytes:
        """A small blob's content."""
        return self._blobs.read(_digest(name), limit)

    def chunks(self, name: str) -> Iterator[bytes]:
        """A blob's content."""
        return file_chunks(self._blobs.path(_digest(name)))


def _digest(name: str) -> str:
    return name.removeprefix("blobs/").replace("/", ":")


def _open(place: Place) -> Files:
    """The files of a layout, in a directory or in an archive. Blocks for as long as the archive takes to be read."""
    if place.kind == "layout":
        if not (place.path / "index.json").is_file():
            raise SnapshotNotFound(f"{place.path} is not a directory with an OCI image layout")
        return FilesOfDirectory(place.path)
    if not place.path.is_file():
        raise SnapshotNotFound(f"there is no file {place.path}")
    return Archive(place.path)


def _write(package: Package, place: Place | None, target: str | BinaryIO, stop: threading.Event, task: Task) -> None:
    if place is None:
        assert not isinstance(target, str)
        sending.write_archive(package, target, stop, task.update)
        return
    try:
        if place.kind == "layout":
            sending.write_layout(package, place.path, stop, task.update)
            return
        with storage_errors(place.path.parent), sending.whole_file(place.path) as file:
            sending.write_archive(package, file, stop, task.update)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError, FileExistsError) as error:
        raise InvalidRequest(f"{place.path} cannot be written", cause=error.strerror) from error
