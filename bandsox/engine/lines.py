"""The ways to a machine: its agent, and its console."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

from bandsox.engine import ownership
from bandsox.engine.rooms import Rooms
from bandsox.errors import BandSoxError
from bandsox.models import VMRecord, VMStatus
from bandsox.process import ProcessId

if TYPE_CHECKING:
    from bandsox.guest import GuestClient


class Lines(Rooms):
    """The methods that reach machines, whatever they are used for."""

    def direct_client(self, record: VMRecord) -> GuestClient:
        """A client of a machine's agent whose operations are no use of the machine."""
        from bandsox.engine import boot

        vmm, sockets = self.vmms[record.vmm], self.layout.sockets(record.id)
        revive = functools.partial(vmm.revive, sockets, self.layout.vm(record.id)) if record.transport == "console" else None
        return boot.guest_client(vmm.endpoint(sockets, record.transport), bytes.fromhex(record.token), revive)

    def console(self, record: VMRecord) -> bytes:
        """What a machine has printed on its console since it was started, at most the first 256 KiB."""
        return self.vmms[record.vmm].console(self.layout.vm(record.id))

    async def follow_console(self, record: VMRecord) -> AsyncGenerator[bytes, None]:
        """What a machine has printed on its console, and what it prints from now on until it stops."""
        directory = self.layout.vm(record.id)
        process = ownership.process_of(record, self.layout.vms)
        if process is None:
            yield self.console(record)
            return
        from bandsox.vmm import console
        from bandsox.vmm.follow import follow

        async with contextlib.aclosing(follow(directory / console.NAME, lambda: self.console(record), process)) as pieces:
            async for piece in pieces:
                yield piece

    async def power_off(self, record: VMRecord, process: ProcessId, deadline_s: float) -> None:
        """Power a machine off cleanly; kill it when that has taken longer than `deadline_s` seconds."""
        import anyio

        with anyio.move_on_after(deadline_s):
            if record.status is VMStatus.PAUSED:
                await self.vmms[record.vmm].resume(self.layout.sockets(record.id))
            with contextlib.suppress(BandSoxError):
                await self.direct_client(record).shutdown()
            await ownership.wait(process)
        await ownership.end(process)
