"""Snapshots, what they are for, and the journal of what happened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from bandsox.models.images import ImageConfig
from bandsox.models.machines import Isolation, Transport, VMSpec
from bandsox.models.networks import NetworkConfig


@dataclass(frozen=True, slots=True)
class Shape:
    """What a VMM has to be given for a machine to fit its saved state: bytes of memory, and ports to the agent where there are such.

    At the ports ``at_boundary`` the agent stood at a frame boundary, so that the next client can begin there at once.
    """

    ram_bytes: int
    ports: int = 0
    at_boundary: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class HostCPU:
    """The host's CPU, as far as a guest that ran on it depends on it. ``flags`` are those of ``/proc/cpuinfo``."""

    architecture: str
    vendor: str
    model: str
    flags: tuple[str, ...]
    tsc_khz: int | None


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file of a snapshot: its size in bytes, and the digest of its content (`bandsox.engine.sparse.digest`)."""

    size: int
    digest: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A machine's memory, devices and disk at one instant: the manifest of a snapshot.

    ``spec`` is the machine's own; ``rootfs``, ``kernel`` and ``initramfs`` are relative to the storage directory and hold the digests of
    what they name. ``frozen``: none of its programs ran while it was saved. ``parent`` is the snapshot that the machine itself was
    restored from. ``name`` and ``metadata`` are labels that can change; all else is as it was taken.
    """

    id: str
    name: str
    created_at: float
    source_vm_id: str
    spec: VMSpec
    image_id: str
    image_config: ImageConfig
    rootfs: str
    kernel: str
    initramfs: str
    vmm: str
    vmm_version: str
    accelerator: str
    isolation: Isolation
    transport: Transport
    shape: Shape
    cpu: HostCPU
    files: Mapping[str, StoredFile]
    token: str
    frozen: bool
    network: NetworkConfig | None = None
    parent: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    schema: int = 1


Purpose = Literal["checkpoint", "memory", "template"]
"""What a snapshot is for that was not taken for itself: a place in a machine's timeline, the memory of a machine that is saved, a
template."""


@dataclass(frozen=True, slots=True)
class Belonging:
    """What a snapshot belongs to. ``owner`` is the machine's id, or the template's key."""

    purpose: Purpose
    owner: str
    label: str


@dataclass(frozen=True, slots=True)
class Retention:
    """Which snapshots a storage directory keeps. None: whatever their age, or number.

    ``max_age`` is in seconds; ``max_count`` is how many the newest of each machine are; those whose name fits a pattern of ``protected``
    (``release-*``, as `fnmatch` has it) stay, and are not counted.
    """

    max_age: float | None = None
    max_count: int | None = None
    protected: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A place in a machine's timeline that it can go back to.

    ``snapshot`` is the id of the snapshot that it is; ``after`` that of the one from which the machine had gone on when it was taken.
    """

    label: str
    created_at: float
    snapshot: str
    after: str | None = None


TEMPLATE_PREFIX = "template:"
"""What stands before a template's id where an image could be meant."""


@dataclass(frozen=True, slots=True)
class Template:
    """A machine that was set up once, to start others from. ``size`` is what it takes on this host's disk, in bytes.

    ``image`` is the reference that it was made of, ``image_id`` what that named then; ``setup`` the commands that were run. ``used_at`` is
    when a machine was last made of it, in seconds since the epoch.
    """

    id: str
    snapshot: str
    image: str
    image_id: str
    vcpu: int
    mem_mib: int
    disk_size_mib: int
    setup: tuple[str, ...]
    created_at: float
    used_at: float
    size: int
