"""The images of one storage directory: from a reference to a read-only root file system, and their upkeep.

Several processes may do everything here at once. Three locks keep them apart:

- ``images``: shared by whoever adds blobs or root file systems, held alone by whoever removes unused ones;
- ``use``: shared by whoever is about to record a machine that uses an image, held alone while images are removed;
- one for each reference, blob and root file system that is being made, so that the work is done once.

Files come first and the database's rows last, in one transaction: killed anywhere, a process leaves files that nothing
names, which the next pull of the same image uses and `Images.prune` removes.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, Literal

from bandsox.images import convert, spec
from bandsox.images.blobs import BlobStore, fsync_directory
from bandsox.images.catalogue import Catalogue, familiar, local_name, not_found
from bandsox.images.flatten import FORMAT, LayerFile
from bandsox.images.limits import Limits
from bandsox.images.reference import Reference, Transport, parse_reference
from bandsox.images.registries import Registries
from bandsox.images.removal import Removed, Remover
from bandsox.images.transports import Context, Fetched, fingerprint, store_image
from bandsox.locks import Locks
from bandsox.models import HistoryEntry, Image, ImageConfig, ProgressCallback
from bandsox.settings import Layout
from bandsox.store import Database, ImageTable
from bandsox.workers import Task, in_thread, storage_errors

PullPolicy = Literal["missing", "always", "never"]


class Images:
    """The images of one storage directory.

    Parameters
    ----------
    layout: the storage directory; database: its registry.
    limits: how large an image may be; by default 64 GiB unpacked, or ``BANDSOX_MAX_IMAGE_MIB``.
    platform: the platform to take of images that have several; by default the host's.
    """

    def __init__(self, layout: Layout, database: Database, *, limits: Limits | None = None, platform: spec.Platform | None = None) -> None:
        self._layout = layout
        self._rootfs = layout.images / "rootfs"
        self._rootfs.mkdir(mode=0o700, exist_ok=True)
        self._table = ImageTable(database, self._rootfs)
        self._locks = Locks(layout.locks / "images")
        self._blobs = BlobStore(layout, self._locks)
        self._catalogue = Catalogue(self._table, self._blobs)
        self._remover = Remover(self._table, self._blobs, self._rootfs, self._locks)
        self._limits = limits or Limits.configured()
        self._platform = platform or spec.host_platform()

    # ── finding ─────────────────────────────────────────────────────────────────────────────────

    async def resolve(self, reference: str | Reference, pull: PullPolicy = "missing", progress: ProgressCallback | None = None) -> Image:
        """The image that a name, id, unique beginning of an id, or reference of any transport means, ready to run.

        What is here wins over the registry; a file or directory is read again when it has changed.

        Parameters
        ----------
        pull: ``missing``: fetch what is not here; ``always``: fetch in any case, but for an id; ``never``: only what is here.

        Raises
        ------
        InvalidReference: it cannot be read, or is the beginning of several ids.
        ImageNotFound: neither this storage directory nor the place it names has it.
        ImageError, HostError: it could not be fetched or converted; see `bandsox.errors`.
        """
        parsed, found = self._catalogue.find(reference)
        if found is not None and (parsed is None or pull == "never" or (pull == "missing" and self._catalogue.is_current(parsed, found))):
            return await self._with_rootfs(found, progress)
        if parsed is None or pull == "never":
            raise not_found(str(reference))
        return await self._pull(parsed, progress, refresh=pull == "always")

    async def pull(self, reference: str | Reference, progress: ProgressCallback | None = None) -> Image:
        """Fetch an image from where its reference says, even when it is here.

        Raises
        ------
        As `resolve`.
        """
        parsed = reference if isinstance(reference, Reference) else parse_reference(reference)
        return await self._pull(parsed, progress, refresh=True)

    async def list(self) -> Sequence[Image]:
        """All images, newest first."""
        return self._catalogue.list()

    async def inspect(self, reference: str | Reference) -> Image:
        """An image that is here.

        Raises
        ------
        ImageNotFound: it is not.
        InvalidReference: as for `resolve`.
        """
        return familiar(self._catalogue.here(reference))

    def layers(self, image: Image) -> tuple[spec.Layer, ...]:
        """The layers of an image, lowest first, as `commit` takes them.

        Raises
        ------
        CorruptImage: its manifest or configuration is gone from the storage directory.
        """
        return self._catalogue.layers(image)

    def history(self, reference: str | Reference) -> tuple[HistoryEntry, ...]:
        """How an image that is here was made, the last step first.

        Raises
        ------
        ImageNotFound, InvalidReference: as for `inspect`.
        CorruptImage: as for `layers`.
        """
        image = self._catalogue.here(reference)
        return spec.history(self._catalogue.documents(image)[1], self.layers(image))

    # ── carrying to other hosts ─────────────────────────────────────────────────────────────────

    async def save(self, references: Sequence[str | Reference], out: BinaryIO, progress: ProgressCallback | None = None) -> None:
        """Write images that are here to a binary stream, as `load`, Docker, Podman and skopeo read them.

        An image keeps all its names, first the one it is asked for by: Podman and skopeo may see that one alone.

        Raises
        ------
        ImageNotFound, InvalidReference: as for `inspect`.
        DigestMismatch, CorruptImage: what is stored was damaged.
        """
        from bandsox.images import archives

        async with self.adding():
            packages: dict[str, archives.Package] = {}
            for reference in references:
                image, (asked, _) = self._catalogue.here(reference), self._catalogue.find(reference)
                ordered = replace(image, references=tuple(sorted(image.references, key=lambda name: name != str(asked))))
                packages.setdefault(image.id, archives.Package.of(ordered, self.layers(image), self._blobs))
            task = Task(progress, "save", "saving", archives.total_size([*packages.values()]))
            await in_thread(lambda stop: archives.save([*packages.values()], self._blobs, out, task, stop))
        task.finish()

    async def load(self, path: Path, progress: ProgressCallback | None = None) -> Sequence[Image]:
        """Make the images of an archive of `save`, `docker save` or `podman save` images here, with the names it gives them.

        Raises
        ------
        ImageNotFound: there is no such file.
        CorruptImage, DigestMismatch, StorageFull: as they say.
        """
        from bandsox.images import archives

        async with self.adding():
            loaded = await archives.load(path, self._context(progress))
            return [await self._complete(one.fetched, "load", tuple(map(str, one.names)), progress) for one in loaded]

    # ── naming and adding ───────────────────────────────────────────────────────────────────────

    async def tag(self, reference: str | Reference, name: str) -> Image:
        """Give an image one more name, taking it from the image that had it.

        Raises
        ------
        ImageNotFound: there is no such image here.
        InvalidReference: `name` is not one an image can have.
        """
        image = self._catalogue.here(reference)
        self._table.name(str(local_name(name)), image.id)
        return familiar(self._catalogue.here(image.id))

    async def import_(
        self,
        source: str | os.PathLike[str] | BinaryIO,
        name: str,
        *,
        config: ImageConfig | None = None,
        progress: ProgressCallback | None = None,
    ) -> Image:
        """Make an image of a root file system's tar archive, given as a file or a binary stream, under a name.

        Parameters
        ----------
        config: how machines of the image run commands; empty by default.

        Raises
        ------
        ImageNotFound: there is no such file.
        InvalidReference: `name` is not one an image can have.
        CorruptImage, StorageFull: as they say.
        """
        from bandsox.images.transports import rootfs

        reference = local_name(name)
        async with self.adding():
            context = self._context(progress)
            if isinstance(source, (str, os.PathLike)):
                fetched = await rootfs.fetch_file(Path(source).absolute(), context, config)
                origin = f"rootfs:{Path(source).absolute()}"
            else:
                fetched = await rootfs.fetch_stream(source, context, config)
                origin = "import"
            return await self._complete(fetched, origin, (str(reference),), progress)

    async def add_layer(self, source: BinaryIO | Iterator[bytes]) -> spec.Layer:
        """Store a layer from a tar stream, for `commit`; call it inside `adding`.

        Raises
        ------
        CorruptImage: it cannot be decompressed. StorageFull: there is no room for it.
        """
        chunks = source if isinstance(source, Iterator) else iter(lambda: source.read(1 << 20), b"")
        return await in_thread(lambda stop: self._blobs.add_layer(chunks, self._limits, stop))

    async def commit(
        self,
        layers: Sequence[spec.Layer],
        config: ImageConfig,
        *,
        base: Image | None = None,
        history: Sequence[spec.HistoryEntry] = (),
        references: Iterable[str] = (),
        source: str = "build",
        progress: ProgressCallback | None = None,
    ) -> Image:
        """Make an image of the layers of `base` with `layers` on top; call it inside `adding`.

        Parameters
        ----------
        history: the steps that made `layers`.

        Raises
        ------
        InvalidReference: one of `references` is not a name an image can have.
        CorruptImage, StorageFull: as they say.
        """
        names = tuple(str(local_name(name)) for name in references)
        every = (*(self.layers(base) if base else ()), *layers)
        fetched = store_image(self._blobs, self.configuration(layers, config, base=base, history=history), every)
        return await self._complete(fetched, source, names, progress)

    def configuration(
        self, layers: Sequence[spec.Layer], config: ImageConfig, *, base: Image | None = None, history: Sequence[spec.HistoryEntry] = ()
    ) -> bytes:
        """The configuration of the image that `commit` would make; its digest is that image's id. Of `layers` only ``diff_id`` matters."""
        below = self._catalogue.documents(base)[1] if base else None
        every = (*(self.layers(base) if base else ()), *layers)
        steps = [*(spec.past(below) if below else ()), *history]
        return spec.encode_config(config, every, architecture=base.architecture if base else self._platform.architecture, history=steps)

    async def map_rootfs(self, layers: Sequence[spec.Layer], progress: ProgressCallback | None = None) -> Path:
        """The root file system that `layers` amount to, made where it is missing; call it inside `adding`."""
        return await self._ensure_rootfs(layers, progress)

    @asynccontextmanager
    async def adding(self) -> AsyncIterator[None]:
        """While this lasts nothing unused is removed: layers and root file systems may wait for their image."""
        async with self._locks.hold("images", shared=True):
            yield

    @asynccontextmanager
    async def use(self, image: Image) -> AsyncIterator[None]:
        """While this lasts the image is not removed: time to record the machine that uses it.

        Raises
        ------
        ImageNotFound: it has been removed already.
        """
        async with self._locks.hold("use", shared=True):
            if self._table.get(image.id) is None or not image.rootfs.exists():
                raise not_found(image.id)
            yield

    # ── removing ────────────────────────────────────────────────────────────────────────────────

    async def remove(self, reference: str | Reference, *, force: bool = False) -> Removed:
        """Remove a name of an image, and the image with its last name; by id, the image with all its names.

        Parameters
        ----------
        force: remove it although machines were made of it, or several names have it; the root file system of a
            machine stays in any case.

        Raises
        ------
        ImageNotFound: there is no such image here.
        Conflict: it is in use, or an id was given and several names have it.
        """
        return await self._remover.remove(reference, force=force)

    async def prune(self, *, unused: bool = False) -> Removed:
        """Remove images without a name, unfinished downloads, and files that nothing needs.

        Waits for pulls that are under way.

        Parameters
        ----------
        unused: remove named images as well that no machine was made of.
        """
        return await self._remover.prune(unused=unused)

    # ── fetching and converting ─────────────────────────────────────────────────────────────────

    def _context(self, progress: ProgressCallback | None) -> Context:
        return Context(self._blobs, self._platform, self._limits, progress)

    async def _pull(self, reference: Reference, progress: ProgressCallback | None, *, refresh: bool) -> Image:
        async with self.adding(), self._locks.hold(f"reference {reference}"):
            if not refresh:
                found = self._table.find(str(reference))
                if found is not None and self._catalogue.is_current(reference, found):
                    return familiar(replace(found, rootfs=await self._ensure_rootfs(self.layers(found), progress)))
            state = fingerprint(reference)
            fetched = await self._fetch(reference, self._context(progress))
            return await self._complete(fetched, str(reference), (str(reference),), progress, state)

    async def _fetch(self, reference: Reference, context: Context) -> Fetched:
        if reference.transport is Transport.REGISTRY:
            from bandsox.images import registry

            return await registry.fetch(reference, context, Registries(self._layout.root / "registries.toml"))
        from bandsox.images.transports import debootstrap, docker, layout, rootfs

        if reference.transport is Transport.DEBOOTSTRAP:
            return await debootstrap.fetch(reference, context)
        if reference.transport is Transport.ROOTFS:
            return await rootfs.fetch_file(reference.path, context)
        if reference.transport is Transport.DOCKER_ARCHIVE:
            return await docker.fetch_archive(reference, context)
        if reference.transport is Transport.DOCKER_DAEMON:
            return await docker.fetch_daemon(reference, context)
        return await layout.fetch(reference, context)

    async def _complete(
        self,
        fetched: Fetched,
        source: str,
        references: tuple[str, ...],
        progress: ProgressCallback | None,
        state: str | None = None,
    ) -> Image:
        """Convert and record an image whose blobs are stored."""
        runtime = spec.runtime_config(fetched.config)
        layers = spec.layers(fetched.manifest, fetched.config)
        path = await self._ensure_rootfs(layers, progress, require_end=fetched.require_end)
        image = Image(
            id=fetched.config_digest,
            references=references,
            manifest_digest=fetched.manifest_digest,
            rootfs_digest=_rootfs_digest(layers),
            rootfs=path,
            size=path.stat().st_blocks * 512,
            architecture=fetched.config.architecture or self._platform.architecture,
            created_at=time.time(),
            config=runtime,
            source=source,
        )
        self._table.save(image, fetched.blobs, state)
        return familiar(self._catalogue.here(image.id))

    async def _with_rootfs(self, image: Image, progress: ProgressCallback | None) -> Image:
        """An image whose root file system exists, made again from its layers if somebody removed it."""
        if not image.rootfs.is_file():
            async with self.adding():
                await self._ensure_rootfs(self.layers(image), progress)
        return familiar(image)

    async def _ensure_rootfs(self, layers: Sequence[spec.Layer], progress: ProgressCallback | None, *, require_end: bool = False) -> Path:
        """The root file system of `layers`, converted now unless it has been, by one process at a time."""
        digest = _rootfs_digest(layers).removeprefix("sha256:")
        path = self._rootfs / f"{digest}.squashfs"
        async with self._locks.hold(f"rootfs {digest}"):
            if path.is_file():
                return path
            task = Task(progress, f"rootfs {digest}", "converting to squashfs", sum(layer.size for layer in layers))
            files = [
                LayerFile(self._blobs.path(layer.digest), layer.diff_id.removeprefix("sha256:"), f"layer {layer.digest[7:19]}", require_end)
                for layer in layers
            ]
            with storage_errors(self._rootfs), self._blobs.temporary_file() as (descriptor, temporary):
                await convert.run(files, descriptor, self._limits, task)
                os.fchmod(descriptor, 0o400)
                temporary.rename(path)
                fsync_directory(self._rootfs)
            task.finish()
        return path


def _rootfs_digest(layers: Sequence[spec.Layer]) -> str:
    """The name of a root file system: what it is made of, and by which version of the conversion."""
    text = "\n".join([FORMAT, *(layer.diff_id for layer in layers)])
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()
