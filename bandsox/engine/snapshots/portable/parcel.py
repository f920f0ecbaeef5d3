"""What travels of a snapshot: its documents, and what is believed of those that come from elsewhere.

A snapshot travels as an OCI artifact (image-spec 1.1, ``manifest.md``, "Guidelines for Artifact Usage"): a manifest whose
configuration is the snapshot's own manifest, and whose layers are its files and the artefacts that it needs, each a stream
(`bandsox.engine.snapshots.extents`) with the file's name as its title.

Whoever made it may have made it to do harm. So only values that a guest may choose anyway are taken as they are. Paths are not taken
at all, a VM's confinement is chosen here, its ports are not published, its addresses are made of one number in bounds, and
sizes have to be what the machine's shape says.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import Meta

from bandsox.engine import identity
from bandsox.errors import BandSoxError, CorruptSnapshot, Unsupported
from bandsox.images import spec
from bandsox.models import Isolation, NetworkConfig, Snapshot, StoredFile
from bandsox.network.plan import MACHINES, Plan
from bandsox.network.policy import from_elsewhere
from bandsox.store.records import decode, encode

ARTIFACT = "application/vnd.bandsox.snapshot.v1"
CONFIG = "application/vnd.bandsox.snapshot.config.v1+json"
LAYER = "application/vnd.bandsox.snapshot.file.v1+zstd"
TITLE = "org.opencontainers.image.title"

MEMORY, STATE, DISK = "memory", "state", "disk.img"
ARTEFACTS = ("kernel", "initramfs", "rootfs")

SCHEMA = 1
_STATE_LIMIT = 128 << 20
_BOOT_FILE_LIMIT = 1 << 30
_MEMORY_EXTRA_MIB = 1024
"""What a guest's memory may have beyond what was asked for: room for the ports of virtio-serial."""
_MOST_PORTS = 31

_ID = re.compile(r"[0-9a-f]{16}")
_TOKEN = re.compile(r"[0-9a-f]{64}")
_CONTENT = re.compile(r"xxh3:[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Base:
    """A snapshot that the receiver has to have: memory and disk are streams of what differs from its files."""

    id: str
    files: Mapping[str, StoredFile]


@dataclass(frozen=True, slots=True)
class Parcel:
    """The configuration of the artifact. ``artefacts`` are of the whole files, with their sha256 digests."""

    snapshot: Snapshot
    artefacts: Mapping[str, StoredFile]
    base: Base | None = None
    schema: int = SCHEMA


class Manifest(msgspec.Struct, frozen=True, rename="camel"):
    """The manifest of the artifact."""

    config: spec.Descriptor
    layers: Annotated[list[spec.Descriptor], Meta(max_length=16)]
    schema_version: int = 2
    media_type: spec.Short = spec.OCI_MANIFEST
    artifact_type: spec.Short = ""

    def layer(self, title: str) -> spec.Descriptor | None:
        """The layer with this title."""
        return next((layer for layer in self.layers if (layer.annotations or {}).get(TITLE) == title), None)


def encode_manifest(config: bytes, layers: Mapping[str, tuple[str, int]]) -> bytes:
    """The manifest of a configuration and of layers, given with their digests and sizes by title."""
    descriptors = [spec.Descriptor(digest, size, LAYER, annotations={TITLE: title}) for title, (digest, size) in layers.items()]
    described = spec.Descriptor(spec.digest_of(config), len(config), CONFIG)
    return encode_document(Manifest(described, descriptors, artifact_type=ARTIFACT))


def encode_document(document: object) -> bytes:
    """A document of the OCI's as JSON, without the fields that say nothing."""
    return msgspec.json.encode(_plain(document))


def _plain(document: object) -> object:
    built = msgspec.to_builtins(document)
    if isinstance(built, dict):
        return {key: _plain(value) for key, value in built.items() if value is not None}
    return [_plain(each) for each in built] if isinstance(built, list) else built


def decode_manifest(data: bytes) -> Manifest:
    """Read a manifest.

    Raises
    ------
    CorruptImage: it is none. CorruptSnapshot: it is another thing's.
    """
    manifest = spec.decode(data, Manifest, "the manifest")
    if manifest.config.media_type != CONFIG or manifest.config.size > spec.MAX_CONFIG:
        raise CorruptSnapshot("this is not a snapshot", cause=f"its configuration has the type {manifest.config.media_type!r}")
    return manifest


def encode_parcel(parcel: Parcel) -> bytes:
    """The artifact's configuration."""
    return encode(parcel).encode()


def decode_parcel(data: bytes, vmms: Mapping[str, Collection[str]]) -> Parcel:
    """Read an artifact's configuration, and check all that is in it.

    Parameters
    ----------
    vmms: the transports of each hypervisor that is known here.

    Raises
    ------
    CorruptSnapshot: something in it cannot be, or is not accepted from elsewhere.
    Unsupported: it is of a later version, or of a hypervisor that is not known here.
    """
    try:
        parcel = decode(Parcel, data.decode())
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise CorruptSnapshot("the snapshot's configuration cannot be read", cause=str(error)) from error
    if parcel.schema != SCHEMA or parcel.snapshot.schema != SCHEMA:
        raise Unsupported("the snapshot was exported by a later BandSox", remedy="upgrade this installation")
    for name in ARTEFACTS:
        _require(name in parcel.artefacts and spec.is_digest(parcel.artefacts[name].digest), f"its {name} is not described")
        _require(parcel.artefacts[name].size >= 0, f"its {name} has no size")
    for name in ("kernel", "initramfs"):
        _require(parcel.artefacts[name].size <= _BOOT_FILE_LIMIT, f"its {name} is too large")
    if parcel.base is not None:
        _require(_ID.fullmatch(parcel.base.id) is not None, "its base has no id")
    return dataclasses.replace(parcel, snapshot=_checked(parcel.snapshot, vmms))


def _checked(snapshot: Snapshot, vmms: Mapping[str, Collection[str]]) -> Snapshot:
    """A snapshot of elsewhere with what may be taken from there."""
    for what, value in {"id": snapshot.id, "machine": snapshot.source_vm_id}.items():
        _require(_ID.fullmatch(value) is not None, f"its {what} has no id")
    _require(_TOKEN.fullmatch(snapshot.token) is not None, "its token is none")
    _require(math.isfinite(snapshot.created_at), "it was taken at no time")
    if snapshot.vmm not in vmms:
        raise Unsupported(f"the snapshot is one of {snapshot.vmm[:32]!r}, which is not known here")
    _require(snapshot.transport in vmms[snapshot.vmm], "its agent cannot be reached")
    _require(snapshot.accelerator in {"kvm", "tcg"}, "its accelerator is unknown")
    try:
        identity.check_name(snapshot.name)
        identity.check_metadata(snapshot.metadata)
        spec_here = dataclasses.replace(
            snapshot.spec,
            kernel_path=None,
            confinement="auto",
            publish=(),
            ttl=None,
            idle_timeout=None,
            on_expiry="delete",
            auto_resume=False,
            policy=from_elsewhere(snapshot.spec.policy),
            secrets={},
            cni=None,
            dns=identity.check_dns(snapshot.spec.dns),
        )
        identity.check_spec(spec_here)
    except BandSoxError as error:
        raise CorruptSnapshot("the snapshot cannot be of a VM", cause=error.message) from error
    _check_files(snapshot)
    return dataclasses.replace(
        snapshot,
        spec=spec_here,
        isolation=Isolation.HARDWARE if snapshot.accelerator == "kvm" else Isolation.EMULATED,
        network=_network(snapshot.network),
        parent=snapshot.parent if snapshot.parent is not None and _ID.fullmatch(snapshot.parent) else None,
        files={name: snapshot.files[name] for name in sorted(snapshot.files)},
    )


def _check_files(snapshot: Snapshot) -> None:
    files, shape, machine = snapshot.files, snapshot.shape, snapshot.spec
    expected = {MEMORY, STATE, DISK} if machine.disk_size_mib else {MEMORY, STATE}
    _require(set(files) == expected, "it has other files than a snapshot has")
    _require(all(_CONTENT.fullmatch(file.digest) for file in files.values()), "its files have no digests")
    _require(0 < shape.ram_bytes <= (machine.mem_mib + _MEMORY_EXTRA_MIB) << 20 and shape.ram_bytes % 4096 == 0, "its memory cannot be")
    _require(0 <= shape.ports <= _MOST_PORTS, "it has too many ports")
    _require(len(shape.at_boundary) <= shape.ports, "more of its ports stand at a boundary than it has")
    _require(files[MEMORY].size == shape.ram_bytes, "its memory has another size than its machine's")
    _require(0 < files[STATE].size <= _STATE_LIMIT, "its state cannot be")
    if machine.disk_size_mib:
        _require(files[DISK].size == machine.disk_size_mib << 20, "its disk has another size than its machine's")


def _network(network: NetworkConfig | None) -> NetworkConfig | None:
    """A network with addresses of this host's plan, of which a machine may get the same."""
    if network is None:
        return None
    try:
        plan = Plan.of(network.guest_ip)
    except ValueError as error:
        raise CorruptSnapshot("the snapshot cannot be taken in", cause="its network has no address") from error
    _require(1 <= plan.number < MACHINES and plan.guest_ip == network.guest_ip, "its network has an address that no machine's has")
    return NetworkConfig(
        uplink=network.uplink,
        host_ip=plan.host_ip,
        guest_ip=plan.guest_ip,
        host_mac=plan.host_mac,
        guest_mac=plan.guest_mac,
        tap_name="tap0",
        host_ipv6=plan.host_ipv6,
        guest_ipv6=plan.guest_ipv6,
    )


def _require(holds: bool, cause: str) -> None:
    if not holds:
        raise CorruptSnapshot("the snapshot cannot be taken in", cause=cause)
