"""The build cache: which layer an instruction led to, the layers themselves, and the contents of cache mounts.

    <storage>/build-cache/keys/<key>          JSON: the layer that the instruction with this key made, or none
                          layers/<digest>.tar a layer, uncompressed, so that later instructions read single files out of it
                          mounts/<id>.tar     what a `RUN --mount=type=cache` left
                          lock                shared by builds, held alone while the cache is pruned

Every file is written elsewhere, flushed, and renamed, so a name always leads to something whole; nothing is changed
afterwards. Builds therefore share the cache without waiting for each other, except where two are about to carry out one
instruction: the second then waits and finds its layer.
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bandsox.decoding import ready
from bandsox.dockerfile.layers import BuiltLayer
from bandsox.locks import Locks
from bandsox.settings import Layout, write_atomically

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class _Entry(msgspec.Struct, frozen=True):
    diff_id: str | None
    size: int = 0


@dataclass(frozen=True, slots=True)
class Pruned:
    """What a pruning removed: how many layers and cache mounts, and the bytes freed."""

    layers: int
    mounts: int
    freed: int


@dataclass(frozen=True, slots=True)
class Hit:
    """What the cache knows of an instruction; ``layer`` is None where it changed nothing."""

    layer: BuiltLayer | None


def make_key(*parts: object) -> str:
    """A key of everything an instruction's layer depends on."""
    return hashlib.sha256(msgspec.json.encode(parts, order="sorted")).hexdigest()


class BuildCache:
    """The cache of one storage directory."""

    def __init__(self, layout: Layout) -> None:
        self._root = layout.root / "build-cache"
        self._keys, self._layers, self._mounts = self._root / "keys", self._root / "layers", self._root / "mounts"
        for directory in (self._root, self._keys, self._layers, self._mounts):
            directory.mkdir(mode=0o700, exist_ok=True)
        self._temporary = layout.temporary
        self._locks = Locks(self._root / "lock")

    # ── builds ──────────────────────────────────────────────────────────────────────────────────

    @asynccontextmanager
    async def building(self) -> AsyncIterator[None]:
        """While this lasts nothing is pruned."""
        async with self._locks.hold("prune", shared=True):
            yield

    @asynccontextmanager
    async def working(self, key: str) -> AsyncIterator[None]:
        """Hold an instruction's key alone, so that its work is done once."""
        async with self._locks.hold(f"key {key}"):
            yield

    def find(self, key: str) -> Hit | None:
        """The layer that an instruction made before; None where it was not carried out, or its layer is gone."""
        try:
            entry = msgspec.json.decode((self._keys / key).read_bytes(), type=ready(_Entry))
        except (FileNotFoundError, msgspec.DecodeError):
            return None
        if entry.diff_id is None:
            return Hit(None)
        path = self._layers / f"{entry.diff_id[7:]}.tar"
        if not _DIGEST.fullmatch(entry.diff_id) or not path.is_file() or path.stat().st_size != entry.size:
            return None
        os.utime(path)
        return Hit(BuiltLayer(entry.diff_id, path, entry.size))

    def work_file(self) -> Path:
        """A path for a file under way, on the cache's file system; whoever made it removes it."""
        return self._temporary / f"build-{os.urandom(8).hex()}"

    def store(self, key: str | None, layer: BuiltLayer | None) -> BuiltLayer | None:
        """Take in a finished layer, which lies at a `work_file`, as what the instruction `key` makes (None: of no instruction)."""
        if layer is not None:
            path = self._layers / f"{layer.diff_id[7:]}.tar"
            layer.path.chmod(0o400)
            layer.path.rename(path)
            layer = BuiltLayer(layer.diff_id, path, layer.size)
        if key is not None:
            entry = _Entry(layer.diff_id, layer.size) if layer is not None else _Entry(None)
            write_atomically(self._keys / key, msgspec.json.encode(entry))
        return layer

    # ── cache mounts ────────────────────────────────────────────────────────────────────────────

    @asynccontextmanager
    async def mount(self, name: str) -> AsyncIterator[Path]:
        """The archive of a cache mount, which may not exist yet; no other build uses it meanwhile."""
        identifier = hashlib.sha256(name.encode()).hexdigest()
        async with self._locks.hold(f"mount {identifier}"):
            yield self._mounts / f"{identifier}.tar"

    # ── upkeep ──────────────────────────────────────────────────────────────────────────────────

    async def prune(self, unused_for_s: float = 0.0) -> Pruned:
        """Remove what no build has used for so many seconds; waits for builds that are under way.

        Images made by earlier builds do not need the cache and stay as they are.
        """
        before = time.time() - unused_for_s
        async with self._locks.hold("prune"):
            layers, freed_layers = _remove_older(self._layers, before)
            mounts, freed_mounts = _remove_older(self._mounts, before)
            left = {path.name.removesuffix(".tar") for path in self._layers.iterdir()}
            for key in self._keys.iterdir():
                entry = _read_entry(key)
                if entry is None or (entry.diff_id[7:] not in left if entry.diff_id else key.stat().st_mtime < before):
                    key.unlink()
        return Pruned(layers, mounts, freed_layers + freed_mounts)


def _read_entry(path: Path) -> _Entry | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=ready(_Entry))
    except msgspec.DecodeError:
        return None


def _remove_older(directory: Path, before: float) -> tuple[int, int]:
    count = freed = 0
    for path in directory.iterdir():
        status = path.stat()
        if status.st_mtime <= before:
            path.unlink()
            count, freed = count + 1, freed + status.st_blocks * 512
    return count, freed
