"""Images, as the store knows them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """The part of an OCI image configuration that a machine honours (OCI image-spec, ``config.md``)."""

    env: Mapping[str, str] = field(default_factory=dict)
    workdir: str = "/"
    user: str = ""
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    exposed_ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    stop_signal: str = ""
    shell: tuple[str, ...] = ()
    on_build: tuple[str, ...] = ()
    healthcheck: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Image:
    """An image in this storage directory, ready to run.

    ``id`` is the digest of its configuration (``sha256:…``), as in Docker. ``rootfs`` is the flattened,
    read-only squashfs, named by the digest ``rootfs_digest`` of the layers it was made of.
    """

    id: str
    references: tuple[str, ...]
    manifest_digest: str
    rootfs_digest: str
    rootfs: Path
    size: int
    architecture: str
    created_at: float
    config: ImageConfig
    source: str


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """A step in which an image was made (OCI image-spec, ``config.md``, ``history``).

    ``created`` is when, in RFC 3339; ``size`` is the stored, mostly compressed, layer's in bytes, 0 for a step that made none.
    """

    created: str = ""
    created_by: str = ""
    comment: str = ""
    size: int = 0
    layer: str | None = None
