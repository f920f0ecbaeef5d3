"""Which images a storage directory has: what a text means there, and what is known of an image that is there.

Names are kept in full (``docker.io/library/python:3-alpine``) and shown as people write them (``python:3-alpine``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bandsox.errors import ImageNotFound, InvalidReference
from bandsox.images import spec
from bandsox.images.blobs import BlobStore
from bandsox.images.reference import Reference, Transport, parse_reference
from bandsox.images.transports import fingerprint
from bandsox.models import Image
from bandsox.store import ImageTable

_MIN_PREFIX = 4
_HEX = frozenset("0123456789abcdef")


class Catalogue:
    """The images that `table` records, whose documents are in `blobs`."""

    def __init__(self, table: ImageTable, blobs: BlobStore) -> None:
        self._table = table
        self._blobs = blobs

    def list(self) -> Sequence[Image]:
        """All images, newest first."""
        return [familiar(image) for image in self._table.list()]

    def find(self, reference: str | Reference) -> tuple[Reference | None, Image | None]:
        """What a text means and the image it means here: an id in full, then a name, then the beginning of an id.

        Raises
        ------
        InvalidReference: it cannot be read, or is the beginning of several ids.
        """
        if isinstance(reference, Reference):
            return reference, self._table.find(str(reference))
        digits = reference.removeprefix("sha256:")
        is_hex = len(digits) >= _MIN_PREFIX and _HEX.issuperset(digits)
        if is_hex and len(digits) == 64:
            return None, self._table.get(f"sha256:{digits}")
        parsed = None if is_hex and digits != reference else parse_reference(reference)
        if parsed is not None and (named := self._table.find(str(parsed))) is not None:
            return parsed, named
        matches = self._table.starting_with(digits) if is_hex else []
        if len(matches) > 1:
            raise InvalidReference(f"{reference!r} is the beginning of several images' ids", remedy="give more of it")
        return parsed, matches[0] if matches else None

    def here(self, reference: str | Reference) -> Image:
        """An image that is here, with its names in full.

        Raises
        ------
        ImageNotFound: it is not. InvalidReference: as for `find`.
        """
        found = self.find(reference)[1]
        if found is None:
            raise not_found(str(reference))
        return found

    def is_current(self, reference: Reference | None, image: Image) -> bool:
        """Whether a local source still is what the image was made from."""
        if reference is None or str(reference) not in image.references:
            return True
        return self._table.fingerprint(str(reference)) in (None, fingerprint(reference))

    def documents(self, image: Image) -> tuple[spec.Manifest, spec.ConfigFile]:
        """An image's manifest and configuration.

        Raises
        ------
        CorruptImage: one is gone from the storage directory.
        """
        manifest = spec.decode(self._blobs.read(image.manifest_digest, spec.MAX_MANIFEST), spec.Manifest, "the stored manifest")
        return manifest, spec.decode_config(self._blobs.read(image.id, spec.MAX_CONFIG), manifest)

    def layers(self, image: Image) -> tuple[spec.Layer, ...]:
        """An image's layers, lowest first; errors as `documents`."""
        return spec.layers(*self.documents(image))


def local_name(name: str) -> Reference:
    """A name to give an image: a repository's with a tag, or a ``debootstrap:`` one, which then needs no building.

    Raises
    ------
    InvalidReference: an image can have no such name.
    """
    reference = parse_reference(name)
    if reference.transport not in (Transport.REGISTRY, Transport.DEBOOTSTRAP) or reference.digest:
        raise InvalidReference(f"{name!r} cannot be the name of an image", remedy="use a name such as myapp or myapp:1.0")
    return reference


def familiar_name(reference: str) -> str:
    """A name as people write it."""
    return parse_reference(reference).familiar


def familiar(image: Image) -> Image:
    """An image with its references as people write them."""
    return replace(image, references=tuple(familiar_name(reference) for reference in image.references))


def not_found(reference: str) -> ImageNotFound:
    """The error that says so."""
    return ImageNotFound(f"there is no image {reference} here", remedy=f"bandsox image pull {reference}")
