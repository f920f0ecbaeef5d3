"""From a launch specification to a machine whose agent answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

import anyio

from bandsox.engine import ownership
from bandsox.engine.diagnosis import boot_failure
from bandsox.errors import BandSoxError, MachineStopped, OutcomeUnknown, Timeout
from bandsox.guest import GuestClient, PortLink
from bandsox.process import ProcessId
from bandsox.vmm.base import VMM, Endpoint, LaunchSpec

Answer = TypeVar("Answer")


def guest_client(endpoint: Endpoint, token: bytes) -> GuestClient:
    """A client of the agent behind `endpoint`."""
    return GuestClient(PortLink(endpoint.directory, endpoint.ports), token)


@contextlib.asynccontextmanager
async def started(vmm: VMM, spec: LaunchSpec) -> AsyncIterator[ProcessId]:
    """A machine that is killed again if the block raises."""
    process = await vmm.start(spec)
    try:
        yield process
    except BaseException:
        with anyio.CancelScope(shield=True):
            await ownership.end(process)
        raise


async def first_answer(
    vmm: VMM, spec: LaunchSpec, process: ProcessId, ask: Callable[[GuestClient], Awaitable[Answer]], token: bytes, deadline_s: float
) -> Answer:
    """Ask the agent of a machine that is booting, and return its first answer.

    Raises
    ------
    BootFailed: the VMM ended, or there was no answer within `deadline_s` seconds, or one that cannot be; it says where the boot
        stopped.
    """
    client = guest_client(vmm.endpoint(spec.sockets), token)
    asking = asyncio.ensure_future(ask(client))
    ending = asyncio.ensure_future(process.wait())
    try:
        await asyncio.wait({asking, ending}, timeout=deadline_s, return_when=asyncio.FIRST_COMPLETED)
        summary, noticed = f"the machine did not come up within {deadline_s:.0f} s", None
        if asking.done():
            try:
                return asking.result()
            except (MachineStopped, OutcomeUnknown, Timeout):
                await asyncio.wait({ending}, timeout=1.0)  # its VMM may be about to end
            except BandSoxError as error:
                summary, noticed = "the machine came up with an agent that cannot be used", error.message
        if ending.done():
            summary = "the machine stopped while it came up"
        raise boot_failure(summary, lambda: vmm.console(spec.directory), vmm.errors(spec.directory), noticed)
    finally:
        await _cancelled(asking)
        await _cancelled(ending)


async def _cancelled(task: asyncio.Future[Answer]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, BandSoxError):
        await task
