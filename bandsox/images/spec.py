"""The JSON documents of images, typed and bounded: what is read here is trusted nowhere else again.

Sources: OCI image-spec (``manifest.md``, ``image-index.md``, ``config.md``, ``descriptor.md``) and Docker's "Image
Manifest Version 2, Schema 2"; the two differ in media types alone.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from bandsox import models
from bandsox.decoding import ready
from bandsox.errors import CorruptImage, DigestMismatch, ImageNotFound, Unsupported
from bandsox.models import ImageConfig

MAX_MANIFEST = 4 * 1024 * 1024
MAX_CONFIG = 8 * 1024 * 1024
MAX_LAYERS = 512
MAX_HISTORY = 4096

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
_SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1"

INDEX_TYPES = (OCI_INDEX, DOCKER_INDEX)
MANIFEST_TYPES = (OCI_MANIFEST, DOCKER_MANIFEST)
_CONFIG_TYPES = (OCI_CONFIG, DOCKER_CONFIG, "application/octet-stream", "")

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")

Digest = Annotated[str, Meta(pattern=r"^sha256:[0-9a-f]{64}$")]
Short = Annotated[str, Meta(max_length=4096)]
Text = Annotated[str, Meta(max_length=128 * 1024)]
Size = Annotated[int, Meta(ge=0, le=1 << 43)]
Strings = Annotated[list[Text], Meta(max_length=4096)]


class Platform(msgspec.Struct, frozen=True):
    """What a manifest of an index is for."""

    architecture: Short = ""
    os: Short = ""
    variant: Short = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


class Descriptor(msgspec.Struct, frozen=True, rename="camel"):
    """What a document says of another: its type, digest and size in bytes."""

    digest: Digest
    size: Size
    media_type: Short = ""
    platform: Platform | None = None
    annotations: dict[Short, Text] | None = None
    artifact_type: Short | None = None


class Index(msgspec.Struct, frozen=True, rename="camel"):
    """A list of manifests, one a platform."""

    manifests: Annotated[list[Descriptor], Meta(max_length=4096)]
    media_type: Short = ""


class Manifest(msgspec.Struct, frozen=True, rename="camel"):
    """An image: its configuration and its layers, lowest first."""

    config: Descriptor
    layers: Annotated[list[Descriptor], Meta(max_length=MAX_LAYERS)]
    media_type: Short = ""


class ContainerConfig(msgspec.Struct, frozen=True, rename="pascal"):
    """How a container of the image is run."""

    user: Short | None = None
    exposed_ports: dict[Short, Any] | None = None
    env: Strings | None = None
    entrypoint: Strings | None = None
    cmd: Strings | None = None
    volumes: dict[Short, Any] | None = None
    working_dir: Short | None = None
    labels: dict[Text, Text] | None = None
    stop_signal: Short | None = None
    shell: Strings | None = None
    on_build: Strings | None = None
    healthcheck: dict[Short, Any] | None = None


class RootFS(msgspec.Struct, frozen=True):
    """The digests of the layers' contents, lowest first."""

    diff_ids: Annotated[list[Digest], Meta(max_length=MAX_LAYERS)]
    type: Short = "layers"


class HistoryEntry(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a layer came about, or what an instruction changed that made none."""

    created: Short | None = None
    created_by: Text | None = None
    comment: Text | None = None
    empty_layer: bool = False


class ConfigFile(msgspec.Struct, frozen=True):
    """An image's configuration."""

    rootfs: RootFS
    architecture: Short = ""
    os: Short = "linux"
    variant: Short = ""
    created: Short | None = None
    config: ContainerConfig | None = None
    history: Annotated[list[HistoryEntry], Meta(max_length=MAX_HISTORY)] | None = None


class _Kind(msgspec.Struct, frozen=True, rename="camel"):
    """As much of any document as tells which it is."""

    schema_version: int = 2
    media_type: Short = ""
    manifests: msgspec.Raw = msgspec.Raw()
    layers: msgspec.Raw = msgspec.Raw()


T = TypeVar("T")


def digest_of(data: bytes) -> str:
    """``sha256:…`` of `data`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def is_digest(text: str) -> bool:
    """Whether `text` is a sha256 digest in full."""
    return _DIGEST.fullmatch(text) is not None


def verify(data: bytes, digest: str, what: str) -> bytes:
    """`data`, when it has the digest it is named by.

    Raises
    ------
    DigestMismatch: it has another.
    """
    verify_digest(digest_of(data), digest, what)
    return data


def verify_digest(actual: str, digest: str, what: str) -> None:
    """Check the digest that something has.

    Raises
    ------
    DigestMismatch: it should have another.
    """
    if actual != digest:
        raise DigestMismatch(f"{what} does not have the digest it is named by", cause=f"expected {digest}, got {actual}")


def decode(data: bytes, document: type[T], what: str) -> T:
    """Read a JSON document.

    Raises
    ------
    CorruptImage: it is not JSON, or breaks the specification.
    """
    try:
        return msgspec.json.decode(data, type=ready(document))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CorruptImage(f"{what} cannot be read", cause=str(error)) from error


def decode_manifest(data: bytes, media_type: str = "") -> Manifest | Index:
    """Read what is either an image manifest or an index of them.

    Raises
    ------
    CorruptImage: it is neither.
    Unsupported: it is a manifest of schema 1, which registries stopped serving in 2024.
    """
    kind = decode(data, _Kind, "the manifest")
    declared = kind.media_type or media_type
    if declared.startswith(_SCHEMA_1) or kind.schema_version == 1:
        raise Unsupported(
            "the image has a manifest of schema version 1",
            cause="it was pushed by a Docker older than 1.10",
            remedy="push it again with a present tool",
        )
    if declared in INDEX_TYPES or (declared not in MANIFEST_TYPES and kind.manifests):
        return decode(data, Index, "the image index")
    manifest = decode(data, Manifest, "the manifest")
    if manifest.config.media_type not in _CONFIG_TYPES:
        raise CorruptImage(f"this is not an image but another artifact, of the type {manifest.config.media_type}")
    if manifest.config.size > MAX_CONFIG:
        raise CorruptImage(f"the image's configuration is {manifest.config.size} bytes long; at most {MAX_CONFIG} are accepted")
    return manifest


def decode_config(data: bytes, manifest: Manifest) -> ConfigFile:
    """Read an image's configuration.

    Raises
    ------
    CorruptImage: it cannot be read, or does not have one content digest for each layer.
    """
    config = decode(data, ConfigFile, "the image's configuration")
    if len(config.rootfs.diff_ids) != len(manifest.layers):
        raise CorruptImage(f"the image's configuration names {len(config.rootfs.diff_ids)} layers and its manifest {len(manifest.layers)}")
    if config.os not in ("", "linux"):
        raise Unsupported(f"the image is for {config.os}; only Linux images run here")
    return config


def runtime_config(config: ConfigFile) -> ImageConfig:
    """What a machine honours of a configuration.

    Raises
    ------
    CorruptImage: a value no process can have, such as a NUL in the environment.
    """
    source = config.config or ContainerConfig()
    env = dict(_variable(item) for item in source.env or ())
    lists = [source.entrypoint, source.cmd, source.shell]
    if any("\0" in item for items in lists for item in items or ()) or "\0" in (source.working_dir or "") + (source.user or ""):
        raise CorruptImage("the image's configuration has a NUL in a command, directory or user name")
    workdir = source.working_dir or "/"
    return ImageConfig(
        env=env,
        workdir=workdir if workdir.startswith("/") else f"/{workdir}",
        user=source.user or "",
        entrypoint=tuple(source.entrypoint or ()),
        cmd=tuple(source.cmd or ()),
        exposed_ports=tuple(source.exposed_ports or ()),
        volumes=tuple(source.volumes or ()),
        labels=source.labels or {},
        stop_signal=source.stop_signal or "",
        shell=tuple(source.shell or ()),
        on_build=tuple(source.on_build or ()),
        healthcheck=source.healthcheck or {},
    )


def history(config: ConfigFile, layers: tuple[Layer, ...]) -> tuple[models.HistoryEntry, ...]:
    """The steps in which an image was made, the last first. Layers that no step accounts for are steps without a word."""
    left = list(layers)
    steps = []
    for entry in config.history or ():
        layer = left.pop(0) if left and not entry.empty_layer else None
        steps.append(_step(entry, layer))
    steps.extend(_step(HistoryEntry(), layer) for layer in left)
    return tuple(reversed(steps))


def past(config: ConfigFile) -> list[HistoryEntry]:
    """The steps in which an image was made, the first one first: what its configuration says if that accounts for every layer, and
    no more, else a step without a word for each."""
    steps, count = config.history or [], len(config.rootfs.diff_ids)
    return steps if sum(not step.empty_layer for step in steps) == count else [HistoryEntry()] * count


def _step(entry: HistoryEntry, layer: Layer | None) -> models.HistoryEntry:
    said = (entry.created or "", entry.created_by or "", entry.comment or "")
    return models.HistoryEntry(*said, size=layer.size if layer else 0, layer=layer.digest if layer else None)


def _variable(item: str) -> tuple[str, str]:
    name, _, value = item.partition("=")
    if not name or "\0" in item:
        raise CorruptImage(f"the image's environment has an entry that is no variable: {item[:80]!r}")
    return name, value


# ── platforms ───────────────────────────────────────────────────────────────────────────────────

_ARCHITECTURES = {
    "x86_64": Platform("amd64", "linux"),
    "aarch64": Platform("arm64", "linux", "v8"),
    "armv7l": Platform("arm", "linux", "v7"),
    "armv6l": Platform("arm", "linux", "v6"),
    "i686": Platform("386", "linux"),
    "riscv64": Platform("riscv64", "linux"),
    "ppc64le": Platform("ppc64le", "linux"),
    "s390x": Platform("s390x", "linux"),
}


def host_platform() -> Platform:
    """This host's platform, in Go's terms as images use them."""
    machine = os.uname().machine
    return _ARCHITECTURES.get(machine, Platform(machine, "linux"))


def select(index: Index, wanted: Platform) -> Descriptor:
    """The manifest of an index that suits a platform best: the same variant, else none, else the highest lower one.

    Raises
    ------
    ImageNotFound: it has none.
    """
    best: tuple[int, Descriptor] | None = None
    for descriptor in index.manifests:
        rank = _rank(descriptor.platform or Platform(), wanted)
        if rank is not None and (best is None or rank > best[0]):
            best = (rank, descriptor)
    if best is None:
        offered = sorted({str(item.platform) for item in index.manifests if item.platform and item.platform.os not in ("", "unknown")})
        raise ImageNotFound(
            f"the image has no build for {wanted}",
            cause=f"it has builds for {', '.join(offered)}" if offered else "its index names no platform",
        )
    return best[1]


def _rank(offered: Platform, wanted: Platform) -> int | None:
    """How well `offered` suits, higher being better; None where it does not."""
    if offered.os not in ("", wanted.os) or offered.architecture not in ("", wanted.architecture):
        return None
    if offered.variant == wanted.variant:
        return 1000
    if not offered.variant:
        return 900 if offered.architecture else 0
    offered_level, wanted_level = _level(offered.variant), _level(wanted.variant or "v1")
    return offered_level if 0 < offered_level <= wanted_level else None


def _level(variant: str) -> int:
    digits = variant.removeprefix("v")
    return int(digits) if digits.isdigit() and len(digits) < 3 else 0


# ── images made here ────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer in the blob store: the blob's digest, size in bytes and media type, and the digest of its content."""

    digest: str
    size: int
    media_type: str
    diff_id: str


def layers(manifest: Manifest, config: ConfigFile) -> tuple[Layer, ...]:
    """The layers of an image, lowest first."""
    pairs = zip(manifest.layers, config.rootfs.diff_ids, strict=True)
    return tuple(Layer(layer.digest, layer.size, layer.media_type, diff_id) for layer, diff_id in pairs)


def encode_config(
    config: ImageConfig,
    layers: tuple[Layer, ...],
    *,
    architecture: str,
    created: datetime | None = None,
    history: Sequence[HistoryEntry] = (),
) -> bytes:
    """An OCI configuration for an image made here; without `created` it depends on the contents, and on how they were made, alone.

    Parameters
    ----------
    history: the steps that made the layers, the first one first; left out when it does not account for each layer, or is longer than
        `MAX_HISTORY`.
    """
    container: dict[str, Any] = {
        "User": config.user,
        "ExposedPorts": {port: {} for port in config.exposed_ports},
        "Env": [f"{name}={value}" for name, value in config.env.items()],
        "Entrypoint": list(config.entrypoint),
        "Cmd": list(config.cmd),
        "Volumes": {volume: {} for volume in config.volumes},
        "WorkingDir": config.workdir,
        "Labels": dict(config.labels),
        "StopSignal": config.stop_signal,
        "Shell": list(config.shell),
        "OnBuild": list(config.on_build),
        "Healthcheck": dict(config.healthcheck),
    }
    document: dict[str, Any] = {
        "architecture": architecture,
        "os": "linux",
        "config": {key: value for key, value in container.items() if value},
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
    }
    if 0 < len(history) <= MAX_HISTORY and sum(not step.empty_layer for step in history) == len(layers):
        document["history"] = history
    if created is not None:
        document["created"] = created.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    return msgspec.json.encode(document, order="sorted")


def encode_manifest(config: bytes, layers: tuple[Layer, ...]) -> bytes:
    """An OCI manifest for an image made here."""
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": digest_of(config), "size": len(config)},
        "layers": [{"mediaType": layer.media_type, "digest": layer.digest, "size": layer.size} for layer in layers],
    }
    return msgspec.json.encode(document)
