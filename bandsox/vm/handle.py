"""A handle on one machine: what it is, and its life.

A handle holds no connection between calls; each call opens one of its own, so calls run side by side and any process may hold a handle
on any machine.
"""

from __future__ import annotations

import codecs
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

from bandsox.errors import Conflict, HostError, Timeout, VMNotFound
from bandsox.models import MOST_DIFFERENCES, VMStatus
from bandsox.process import ProcessId
from bandsox.vm.commands import GuestCommands
from bandsox.vm.files import GuestFiles
from bandsox.vm.info import vm_info
from bandsox.vm.network import GuestNetwork
from bandsox.vm.ports import GuestPorts
from bandsox.vm.sessions import GuestSessions

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self, Unpack

    from bandsox.engine import Engine
    from bandsox.guest import GuestClient
    from bandsox.models import (
        Balloon,
        Checkpoint,
        Deadlines,
        FileDifference,
        GuestInfo,
        Metrics,
        ProgressCallback,
        RestoreReceipt,
        VMRecord,
    )


class AsyncMicroVM(GuestCommands, GuestSessions, GuestFiles, GuestPorts, GuestNetwork):
    """A handle on one machine. Made by `AsyncBandSox.create_vm` and `get_vm`."""

    def __init__(self, engine: Engine, record: VMRecord) -> None:
        self._engine = engine
        self._record = record

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Delete it, unless it has been deleted already."""
        with contextlib.suppress(VMNotFound):
            await self.delete()

    def refresh(self, record: VMRecord) -> None:
        """Take over what is newly known of the machine."""
        self._record = record

    def __repr__(self) -> str:
        record = self._record
        return f"<{type(self).__name__} {record.id} {record.spec.name!r} {record.status.value} on {record.vmm}/{record.accelerator}>"

    # ── what it is ──────────────────────────────────────────────────────────────────────────────

    @property
    def vm_id(self) -> str:
        """Its id, which never changes."""
        return self._record.id

    @property
    def name(self) -> str:
        """Its name, as this handle last saw it."""
        return self._record.spec.name

    @property
    def process(self) -> ProcessId | None:
        """Its VMM's process; None when it has none."""
        record = self._record
        return None if record.pid is None or record.pid_start is None else ProcessId(record.pid, record.pid_start)

    @property
    def receipt(self) -> RestoreReceipt | None:
        """What was done to make it a machine of its own, if it goes on from a snapshot; None once it has booted."""
        return self._record.receipt

    @property
    def guest(self) -> GuestClient:
        """The client of its agent, for what this class has no method for."""
        return self._engine.client(self._record)

    async def running(self) -> GuestClient:
        """The client of its agent, as `guest`, if it runs now.

        Raises
        ------
        Conflict: it is paused or stopped. VMNotFound: it was deleted.
        """
        return await self._live()

    async def info(self) -> dict[str, Any]:
        """What is known of it now; see docs/api.md for the keys."""
        self._record = await self._engine.get(self.vm_id)
        info = vm_info(self._record)
        if (cut := await self._policing.cut(self._record)) is not None:
            info["network_reason"] = cut
        return info

    async def status(self) -> VMStatus:
        """Whether it is running, paused, saved, stopped or dead, now."""
        self._record = await self._engine.get(self.vm_id)
        return self._record.status

    # ── life ────────────────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        """Start it again after a stop, with its disk as it was left."""
        self._record = await self._engine.start(self.vm_id)

    async def stop(self, timeout: float = 10.0) -> None:
        """Power it off cleanly; kill it if that takes longer than `timeout` seconds."""
        self._record = await self._engine.stop(self.vm_id, timeout)

    async def pause(self) -> None:
        """Stop its CPUs; its memory stays."""
        self._record = await self._engine.pause(self.vm_id)

    async def resume(self) -> None:
        """Let it go on after a pause, or from its memory on the disk."""
        self._record = await self._engine.resume(self.vm_id)

    async def hibernate(self, progress: ProgressCallback | None = None) -> None:
        """Write its memory to the disk and end its VMM: it takes no memory and no CPU, and `resume` lets it go on where it was.

        With ``auto_resume`` the next operation does. It keeps its id, network and ports; connections end, and time passes.

        Raises
        ------
        Conflict: it does not run. StorageFull, Unsupported: it cannot be saved; it goes on.
        """
        from bandsox.engine.hibernation import hibernate

        self._record = await hibernate(self._engine, self.vm_id, progress)

    async def set_deadlines(self, **deadlines: Unpack[Deadlines]) -> None:
        """Change how long it may run, now and at later starts; what is not given stays as it is.

        Parameters
        ----------
        ttl: how many seconds from now on; None: any. idle_timeout, on_expiry, auto_resume: as for `create_vm`; None: no idle time ends it.

        Raises
        ------
        InvalidRequest: one of them is out of bounds.
        """
        from bandsox.engine import deadlines as engine_deadlines

        self._record = await engine_deadlines.change(self._engine, self.vm_id, deadlines)

    async def delete(self) -> None:
        """Kill it and remove everything it owns."""
        await self.disconnect()
        await self._engine.delete(self.vm_id)

    async def keep(self) -> None:
        """Let it live on after this process, though it was made ``ephemeral``."""
        self._engine.keep(self.vm_id)

    async def wait_for_agent(self, timeout: float = 30) -> bool:
        """Whether its agent answers within `timeout` seconds."""
        try:
            await (await self._live()).ping(timeout=timeout)
        except Timeout:
            return False
        return True

    async def snapshot(
        self, snapshot_name: str | None = None, metadata: Mapping[str, Any] | None = None, progress: ProgressCallback | None = None
    ) -> str:
        """Save it, running or paused, and return the snapshot's name; see `AsyncBandSox.snapshot_vm`."""
        return (await self._engine.snapshots.take(self.vm_id, snapshot_name, metadata, progress)).name

    async def fork(
        self,
        count: int = 1,
        name: str | None = None,
        *,
        env_vars: Mapping[str, str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        progress: ProgressCallback | None = None,
    ) -> list[AsyncMicroVM]:
        """Make clones of it, running or paused, and let it go on. They share its memory until they write to it. All of them run, or
        there is none.

        Parameters
        ----------
        name: the clone's name; of several, the beginning of their names, followed by ``-1``, ``-2``, ….
        env_vars: variables over its own. metadata: in place of its own.

        Raises
        ------
        Conflict: it does not run, or a name is taken. StorageFull: there is no room.
        """
        records = await self._engine.snapshots.fork(self.vm_id, count, name, env_vars=env_vars, metadata=metadata, progress=progress)
        return [type(self)(self._engine, record) for record in records]

    # ── devices that only some have ─────────────────────────────────────────────────────────────

    async def balloon(self) -> Balloon:
        """How large its balloon is, and what the guest says of the rest of its memory.

        Raises
        ------
        Conflict: it does not run, or was made without a balloon. VMMError: the guest has no driver for it.
        """
        from bandsox.engine import devices

        return await devices.balloon(self._engine, self.vm_id)

    async def set_balloon(self, mib: int) -> None:
        """Have its balloon take `mib` MiB of its memory from it, little by little, now and at later starts; errors as `balloon`."""
        from bandsox.engine import devices

        await devices.set_balloon(self._engine, self.vm_id, mib)

    async def set_mmds(self, data: Mapping[str, Any]) -> None:
        """Have its metadata service say `data`, now and at later starts.

        Raises
        ------
        Conflict: it does not run, or was made without ``mmds``. InvalidRequest: it is no JSON object of at most 50 KiB.
        """
        from bandsox.engine import devices

        await devices.set_mmds(self._engine, self.vm_id, data)

    # ── its timeline ────────────────────────────────────────────────────────────────────────────

    async def checkpoint(self, label: str | None = None, progress: ProgressCallback | None = None) -> Checkpoint:
        """Keep this instant of it, running or paused, as a place to go back to; it goes on.

        Parameters
        ----------
        label: unique among its checkpoints; by default a number.

        Raises
        ------
        Conflict: it does not run, or has a checkpoint with this label. StorageFull: there is no room.
        """
        return await self._engine.timeline.checkpoint(self.vm_id, label, progress)

    async def checkpoints(self) -> list[Checkpoint]:
        """Its checkpoints, oldest first. Each is a snapshot as well, which other machines can be restored from by its id."""
        return list(await self._engine.timeline.all(self.vm_id))

    async def remove_checkpoint(self, label: str) -> None:
        """Delete one of its checkpoints; the others stay as they are.

        Raises
        ------
        FileNotFoundError: there is none with this label.
        """
        await self._engine.timeline.remove(self.vm_id, label)

    async def rewind(self, label: str, progress: ProgressCallback | None = None) -> None:
        """Go back to a checkpoint, whatever it does now: its memory, programs and disk are those of then.

        It keeps its id, name, metadata, variables, ports and place in its network; what has changed since in memory and on disk is lost.
        All checkpoints stay, later ones too. As with every restore its clock is set, its random numbers are others than those
        after the checkpoint were, and connections of then are closed.

        Raises
        ------
        FileNotFoundError: there is none with this label.
        CorruptSnapshot, Unsupported, RequirementNotMet, StorageFull: it cannot go back; it goes on as it was.
        BootFailed: going on from it failed; it is stopped, with the disk of then.
        """
        self._record = await self._engine.timeline.rewind(self.vm_id, label, progress)

    async def diff(
        self, before: str, after: str | None = None, *, limit: int = MOST_DIFFERENCES, progress: ProgressCallback | None = None
    ) -> list[FileDifference]:
        """The files that differ between two of its checkpoints, or between one and now, in the order of their paths.

        A file differs where its content, type, mode or owner does. It is the disks that are compared, in another machine that is thrown
        away, so the guest is not asked; what it has in /tmp, /run or another file system in its memory is not on its disk.

        Parameters
        ----------
        before, after: labels of checkpoints; None: as it is now, running or not.

        Raises
        ------
        FileNotFoundError: there is no such checkpoint.
        Unsupported: it has no disk (``disk_size_mib=0``). LimitExceeded: more than `limit` files differ.
        """
        from bandsox.engine.comparison import difference

        return await difference(self._engine, self.vm_id, before, after, limit, progress)

    # ── the whole machine ───────────────────────────────────────────────────────────────────────

    async def metrics(self, processes: bool = False) -> Metrics:
        """The guest's load, memory and disk, and its processes when asked for."""
        return await (await self._live()).metrics(processes=processes)

    async def guest_info(self) -> GuestInfo:
        """What the agent says of itself and its kernel."""
        return await (await self._live()).info()

    async def console(self) -> str:
        """What it has printed on its console since it was started."""
        self._record = await self._engine.get(self.vm_id)
        return self._engine.console(self._record).decode(errors="replace").replace("\r\n", "\n")

    async def connect_to_console(self) -> None:
        """See to it that the machine answers. Earlier versions had to be connected before anything else; calls now need no preparation."""
        await (await self._live()).ping()

    async def follow_console(self) -> AsyncIterator[str]:
        """What it has printed on its console, and what it prints from now on, as it comes, until it stops."""
        self._record = await self._engine.get(self.vm_id)
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        async with contextlib.aclosing(self._engine.follow_console(self._record)) as pieces:
            async for piece in pieces:
                yield decoder.decode(piece).replace("\r\n", "\n")

    async def get_guest_ip(self) -> str | None:
        """Its address; None when it has no network."""
        self._record = await self._engine.get(self.vm_id)
        return None if self._record.network is None else self._record.network.reached_at

    async def _live(self) -> GuestClient:
        """The client of the agent of a machine that runs.

        Raises
        ------
        Conflict: it is stopped, or paused or saved and not to be woken (`auto_resume`).
        """
        self._record = await self._engine.get(self.vm_id)
        if self._record.status in {VMStatus.PAUSED, VMStatus.SAVED} and self._record.spec.auto_resume:
            self._record = await self._engine.resume(self.vm_id)
        if self._record.status is VMStatus.RUNNING:
            if self._record.spec.publish:
                with contextlib.suppress(Conflict, HostError):  # `ports` tells of it; what is asked here does not depend on it
                    await self._engine.published.mend(self.vm_id)
            return self.guest
        resume = "resume it first"
        remedies = {VMStatus.PAUSED: resume, VMStatus.SAVED: resume, VMStatus.STOPPED: "start it first", VMStatus.DEAD: "start it again"}
        raise Conflict(f"VM {self.name} is {self._record.status.value}", remedy=remedies.get(self._record.status))
