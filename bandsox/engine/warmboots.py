"""Warm boots: machines that were saved while their agent waited to be told whose they are, for others of their shape to go on from.

Up to there a boot is the same for every machine of a shape: kernel, agent, hypervisor, memory, processors and devices. Nothing of an
image, a disk or a user has been seen yet; the driver of the disks is loaded afterwards (``docs/protocol.md``, "Booting"). So the first
machine of a shape is saved in the middle of its boot and then boots on, and all later ones begin there, with the memory shared between
them until they write to it. What must not be the same in two machines, each is given before anything else: random numbers and
the time, then name, hardware address and token.

It is a cache. A warm boot that is missing, in use where it would be replaced, or not what was saved, costs a machine no more than
booting from its kernel's first instruction.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from bandsox.engine.snapshots.workplace import async_workplace
from bandsox.errors import BandSoxError, GuestError, MachineStopped, StorageFull, Unsupported, VMMError
from bandsox.guest import at_boundary
from bandsox.locks import DEADLINE_S, Locks
from bandsox.models import Shape
from bandsox.settings import Layout, sync, write_atomically
from bandsox.store.identity import Identity, identity
from bandsox.store.records import decode, encode
from bandsox.vmm.base import VMM, LaunchSpec, Origin

if TYPE_CHECKING:
    from bandsox.guest import GuestClient

MOST = 8
"""How many are kept: those that were used last. Each takes some 60 MiB."""

MOST_MIB = 8192
"""The largest memory that is saved: all of it is looked through once, a second for every few GiB."""

LEAST_FREE = 2 << 30
"""Bytes that stay free where one is kept."""

_MANIFEST = "manifest.json"
_CONSOLE = "console"
_MAKING = "making-"


@dataclass(frozen=True, slots=True)
class WarmBoot:
    """A machine that waits. ``token`` is what its agent takes."""

    origin: Origin
    token: bytes


@dataclass(frozen=True, slots=True)
class _Manifest:
    """What is known of the files beside it: which they are, not what is in them."""

    shape: Shape
    token: str
    files: dict[str, Identity]


class WarmBoots:
    """The warm boots of one storage directory."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._locks = Locks(layout.locks / "boots")

    @contextlib.asynccontextmanager
    async def in_use(self, key: str) -> AsyncIterator[WarmBoot | None]:
        """The warm boot `key`, if there is one, which is not removed within the block."""
        async with self._locks.hold(key, shared=True, deadline_s=DEADLINE_S, what="a warm boot"):
            yield await asyncio.to_thread(self._read, key)

    @contextlib.asynccontextmanager
    async def being_made(self, key: str, vmm: VMM, spec: LaunchSpec, client: GuestClient) -> AsyncIterator[None]:
        """Save a machine that waits, unless somebody else does so; within the block it goes on. Once that has succeeded the warm boot
        `key` takes its place.

        Raises
        ------
        MachineStopped: the machine ended. VMMError: it does not go on.
        """
        async with contextlib.AsyncExitStack() as stack:
            saved = None
            if stack.enter_context(self._locks.try_hold(_MAKING + key)) and await asyncio.to_thread(self._has_room, spec):
                saved = await self._save(vmm, spec, client, stack)
            if saved is None:
                yield
                return
            placing = asyncio.ensure_future(self._place(key, vmm, *saved, client.token))
            try:
                yield
            finally:
                with anyio.CancelScope(shield=True), contextlib.suppress(BandSoxError, OSError):
                    await placing

    def remove(self, key: str) -> None:
        """Remove the warm boot `key` unless somebody uses it. Blocks."""
        with self._locks.try_hold(key) as nobody_uses_it:
            if nobody_uses_it:
                shutil.rmtree(self._layout.boots / key, ignore_errors=True)

    # ── going on ────────────────────────────────────────────────────────────────────────────────

    def _read(self, key: str) -> WarmBoot | None:
        """What is kept as `key`, if it is what was saved. Blocks."""
        directory = self._layout.boots / key
        try:
            manifest = decode(_Manifest, (directory / _MANIFEST).read_text())
            if {name: identity(directory / name) for name in manifest.files} != manifest.files:
                return None
            os.utime(directory)
            return WarmBoot(Origin(directory, manifest.shape, (directory / _CONSOLE).read_bytes()), bytes.fromhex(manifest.token))
        except (OSError, ValueError):
            return None

    # ── making ──────────────────────────────────────────────────────────────────────────────────

    def _has_room(self, spec: LaunchSpec) -> bool:
        return spec.mem_mib <= MOST_MIB and shutil.disk_usage(self._layout.boots).free >= LEAST_FREE

    async def _save(self, vmm: VMM, spec: LaunchSpec, client: GuestClient, stack: contextlib.AsyncExitStack) -> tuple[Path, Shape] | None:
        """A directory with a machine that waits, which `stack` removes if it is still there; None where it cannot be saved."""
        try:
            await client.prepare()
            directory = await stack.enter_async_context(async_workplace(self._layout))
            await vmm.prepare(spec, directory)
            await vmm.pause(spec.sockets)
            try:
                shape = await vmm.save(spec, directory)
                boundary = at_boundary(spec.sockets, shape.ports)
                (directory / _CONSOLE).write_bytes(vmm.console(spec.directory))
            finally:
                with anyio.CancelScope(shield=True):
                    await vmm.resume(spec.sockets)
        except MachineStopped:
            raise
        except (Unsupported, GuestError, VMMError, StorageFull, OSError):
            return None  # the machine boots on, and nothing is kept; if it cannot go on, it will not answer
        return directory, Shape(shape.ram_bytes, shape.ports, boundary)

    async def _place(self, key: str, vmm: VMM, directory: Path, shape: Shape, token: bytes) -> None:
        await vmm.settle(directory, shape)
        await asyncio.to_thread(self._publish, key, directory, shape, token)

    def _publish(self, key: str, directory: Path, shape: Shape, token: bytes) -> None:
        """Give what was saved its place: its files are on the disk before its manifest is. Blocks."""
        files = sorted(directory.iterdir())
        for file in files:
            file.chmod(0o444)
            sync(file)
        manifest = _Manifest(shape, token.hex(), {file.name: identity(file) for file in files})
        write_atomically(directory / _MANIFEST, encode(manifest).encode())
        place = self._layout.boots / key
        with self._locks.hold_blocking(key):
            shutil.rmtree(place, ignore_errors=True)
            directory.rename(place)
        self._prune()

    def _prune(self) -> None:
        """Remove those that have not been used for longest, and that nobody uses now."""
        kept = sorted(self._layout.boots.iterdir(), key=_last_use, reverse=True)
        for directory in kept[MOST:]:
            self.remove(directory.name)


def _last_use(directory: Path) -> float:
    try:
        return directory.stat().st_mtime
    except FileNotFoundError:
        return 0.0
