"""The machine in which a stage's RUN instructions are carried out, and what each of them changed.

One machine serves the RUNs of a stage that follow each other, with COPY and ADD between them unpacked in it as well; each RUN
still becomes a layer of its own (`bandsox.dockerfile.difference`). A machine that a RUN did not leave as it found it — processes that
go on, mounts, an archive of its writable layer that has become long to read — ends with that RUN, and the next one
gets a fresh machine, made of all layers so far. So every RUN sees exactly the files that the layers before it amount to.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import anyio

from bandsox.dockerfile.cache import BuildCache
from bandsox.dockerfile.difference import Excluded, UpperState, read_state, write_difference
from bandsox.dockerfile.layers import BuiltLayer
from bandsox.dockerfile.tarwrite import LayerWriter
from bandsox.engine import Engine
from bandsox.errors import GuestError
from bandsox.guest import GuestClient
from bandsox.models import Image, ProgressCallback, VMRecord, VMSpec
from bandsox.workers import in_thread, storage_errors

_LONG_ARCHIVE = 256 << 20
_ARCHIVE_OVERHEAD = 64 << 20
_KILL_ALL = "kill -9 -1"


DEFAULT_VCPU = 2
DEFAULT_MEM_MIB = 1024
DEFAULT_DISK_MIB = 16384


@dataclass(frozen=True, slots=True)
class MachineSize:
    """What a build's machines get; memory and disk in MiB. `disk_mib` bounds what a stage may write."""

    vcpu: int = DEFAULT_VCPU
    mem_mib: int = DEFAULT_MEM_MIB
    disk_mib: int = DEFAULT_DISK_MIB


class BuildMachine:
    """A running machine of a build. Made by `started`; call `begin` when it has all files it should have."""

    def __init__(self, engine: Engine, cache: BuildCache, record: VMRecord) -> None:
        self._engine = engine
        self._cache = cache
        self.record = record
        self.reusable = True
        self._state = UpperState()
        self._mounts = b""

    @property
    def networked(self) -> bool:
        """Whether it was asked for with a network."""
        return self.record.spec.enable_networking is not False

    @property
    def guest(self) -> GuestClient:
        """The client of its agent."""
        return self._engine.client(self.record)

    @property
    def most_bytes(self) -> int:
        """How long an archive of its files can be: a guest that sends more is not taken at its word."""
        return (2 * self.record.spec.disk_size_mib << 20) + _ARCHIVE_OVERHEAD

    async def begin(self) -> None:
        """Learn what it looks like before anything has run."""
        self._mounts = await self.guest.read_bytes("/proc/self/mounts")
        self._state = await self._capture()

    async def apply(self, layer: BuiltLayer) -> None:
        """Unpack a layer made on the host."""
        await self.guest.upload_tar(layer.path, "/", whiteouts=True)
        await asyncio.to_thread(self._state.add_layer, layer.path)

    async def difference(self, excluded: Excluded) -> BuiltLayer | None:
        """What has changed since the last call, as a layer at a `BuildCache.work_file`; None for nothing."""
        await self._settle()
        before = self._state
        archive = self._cache.work_file()
        target = self._cache.work_file()
        try:
            size = await self.guest.download_layer(archive, max_bytes=self.most_bytes)
            after = await asyncio.to_thread(read_state, archive, excluded)

            def write() -> BuiltLayer | None:
                with storage_errors(target.parent), LayerWriter(target) as writer:
                    write_difference(before, after, archive, excluded, writer)
                    if writer.entries:
                        return BuiltLayer(writer.close(), target, writer.size)
                target.unlink()
                return None

            layer = await in_thread(lambda _: write())
        finally:
            archive.unlink(missing_ok=True)
        self._state = after
        self.reusable = self.reusable and size < _LONG_ARCHIVE and not excluded.trees
        return layer

    async def _capture(self) -> UpperState:
        archive = self._cache.work_file()
        try:
            await self.guest.download_layer(archive, max_bytes=self.most_bytes)
            return await asyncio.to_thread(read_state, archive)
        finally:
            archive.unlink(missing_ok=True)

    async def _settle(self) -> None:
        """End what the command left running, and see whether the machine can serve another."""
        if await self._left_running():
            self.reusable = False
            with contextlib.suppress(GuestError):
                await self.guest.run(shell=_KILL_ALL, user="0:0", cwd="/")
        elif await self.guest.read_bytes("/proc/self/mounts") != self._mounts:
            self.reusable = False

    async def _left_running(self) -> bool:
        """Whether a process runs that is neither the agent nor the kernel's (those have no arguments)."""
        metrics = await self.guest.metrics(processes=True)
        return any(process.pid != 1 and process.argv and process.state != "Z" for process in metrics.processes)


@contextlib.asynccontextmanager
async def started(
    engine: Engine, cache: BuildCache, image: Image, size: MachineSize, progress: ProgressCallback | None, *, networked: bool
) -> AsyncIterator[BuildMachine]:
    """A machine of `image`, which is gone when the block is left, however that happens.

    Parameters
    ----------
    networked: it has a network, if this host can give one.

    Raises
    ------
    BootFailed and what else `Engine.create` raises.
    """
    spec = VMSpec(
        image=image.id,
        name=engine.new_name(),
        vcpu=size.vcpu,
        mem_mib=size.mem_mib,
        disk_size_mib=size.disk_mib,
        enable_networking=None if networked else False,
    )
    record = await engine.create(spec, ephemeral=True, progress=progress)
    try:
        yield BuildMachine(engine, cache, record)
    finally:
        with anyio.CancelScope(shield=True):
            await engine.delete(record.id)
