"""Removing images, and the files that no image and no machine needs.

The locks are those of `bandsox.images.manager`: nothing is removed while somebody adds, or is about to use an image.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bandsox.errors import Conflict
from bandsox.images.blobs import BlobStore
from bandsox.images.catalogue import Catalogue, familiar_name
from bandsox.images.reference import Reference
from bandsox.locks import Locks
from bandsox.store import ImageTable


@dataclass(frozen=True, slots=True)
class Removed:
    """What a removal did: references that name nothing any more, ids of images that are gone, bytes freed."""

    untagged: tuple[str, ...] = ()
    deleted: tuple[str, ...] = ()
    freed: int = 0


class Remover:
    """Removes images of `table`, with their blobs and root file systems."""

    def __init__(self, table: ImageTable, blobs: BlobStore, rootfs: Path, locks: Locks) -> None:
        self._table = table
        self._blobs = blobs
        self._rootfs = rootfs
        self._locks = locks
        self._catalogue = Catalogue(table, blobs)

    async def remove(self, reference: str | Reference, *, force: bool) -> Removed:
        """See `Images.remove`."""
        async with self._locks.hold("use"):
            image = self._catalogue.here(reference)
            parsed, _ = self._catalogue.find(reference)
            by_name = parsed is not None and str(parsed) in image.references
            if by_name and len(image.references) > 1:
                self._table.remove_name(str(parsed))
                return Removed(untagged=(familiar_name(str(parsed)),))
            if not by_name and len(image.references) > 1 and not force:
                names = ", ".join(familiar_name(name) for name in image.references)
                raise Conflict(f"several names have the image {image.id[7:19]}: {names}", remedy="remove them by name, or use force")
            users = self._table.users(image)
            if users and not force:
                raise Conflict(
                    f"the image {familiar_name(str(reference))} is in use by {', '.join(users[:5])}",
                    remedy=f"delete {'it' if len(users) == 1 else 'them'} first, or use force",
                )
            self._table.remove(image.id)
            with self._locks.try_hold("images") as alone:
                freed = self._remove_unused(partials=False) if alone else 0
        return Removed(tuple(familiar_name(name) for name in image.references), (image.id,), freed)

    async def prune(self, *, unused: bool) -> Removed:
        """See `Images.prune`."""
        async with self._locks.hold("images"), self._locks.hold("use"):
            doomed = [image for image in self._table.list() if (unused or not image.references) and not self._table.users(image)]
            for image in doomed:
                self._table.remove(image.id)
            freed = self._remove_unused(partials=True)
        untagged = tuple(familiar_name(name) for image in doomed for name in image.references)
        return Removed(untagged, tuple(image.id for image in doomed), freed)

    def _remove_unused(self, *, partials: bool) -> int:
        """Remove the files that no row names; the locks ``images`` and ``use`` are held alone."""
        freed = self._blobs.remove_rubbish(partials=partials)
        blobs = self._table.live_blobs()
        unused = [self._blobs.path(digest) for digest in self._blobs.list() if digest not in blobs]
        rootfs = self._table.live_rootfs()
        unused += [path for path in self._rootfs.iterdir() if path not in rootfs]
        for path in unused:
            freed += path.stat().st_blocks * 512
            path.unlink()
        return freed
