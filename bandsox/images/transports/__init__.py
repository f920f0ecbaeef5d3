"""Where images come from: one module a transport, each filling the blob store.

Whatever its origin, an image ends as an OCI or Docker manifest, a configuration and layers in the blob store; what comes
without a manifest (archives of `docker save`, plain root file systems) gets one made for it. All that a transport
returns is `Fetched`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from bandsox.images import spec
from bandsox.images.blobs import BlobStore
from bandsox.images.limits import Limits
from bandsox.images.reference import Reference, Transport
from bandsox.models import ImageConfig, ProgressCallback


@dataclass(frozen=True, slots=True)
class Context:
    """What a transport works with: the blob store, the platform wanted, the limits, and whom to tell of progress."""

    blobs: BlobStore
    platform: spec.Platform
    limits: Limits
    progress: ProgressCallback | None


@dataclass(frozen=True, slots=True)
class Fetched:
    """An image whose blobs are all in the store.

    ``require_end``: its layers are archives that nobody vouched for, see `bandsox.images.flatten.LayerFile`.
    """

    manifest_digest: str
    manifest: spec.Manifest
    config: spec.ConfigFile
    require_end: bool = False

    @property
    def config_digest(self) -> str:
        """The image's id."""
        return self.manifest.config.digest

    @property
    def blobs(self) -> tuple[str, ...]:
        """Every blob the image consists of."""
        layers = [layer.digest for layer in self.manifest.layers]
        return tuple(dict.fromkeys([self.manifest_digest, self.config_digest, *layers]))


def store_image(blobs: BlobStore, config: bytes, layers: tuple[spec.Layer, ...]) -> Fetched:
    """Complete an image whose layers are stored: keep its configuration and a manifest made for it.

    Raises
    ------
    CorruptImage: the configuration cannot be read.
    """
    manifest_bytes = spec.encode_manifest(config, layers)
    manifest = spec.decode(manifest_bytes, spec.Manifest, "the manifest")
    decoded = spec.decode_config(config, manifest)
    blobs.put(config)
    return Fetched(blobs.put(manifest_bytes), manifest, decoded)


def store_layers(context: Context, layers: tuple[spec.Layer, ...], config: ImageConfig | None = None) -> Fetched:
    """An image of `layers` with a configuration made here, which depends on the contents alone."""
    document = spec.encode_config(config or ImageConfig(), layers, architecture=context.platform.architecture)
    return store_image(context.blobs, document, layers)


def fingerprint(reference: Reference) -> str | None:
    """The present state of a local source, or None where it has none that could be compared."""
    try:
        if reference.transport in (Transport.OCI, Transport.DIRECTORY):
            name = "index.json" if reference.transport is Transport.OCI else "manifest.json"
            return hashlib.sha256((reference.path / name).read_bytes()).hexdigest()
        if reference.transport in (Transport.OCI_ARCHIVE, Transport.DOCKER_ARCHIVE, Transport.ROOTFS):
            status = reference.path.stat()
            return f"{status.st_dev}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}"
    except OSError:
        return None
    return None
