"""From a launch specification to a machine whose agent answers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import anyio

from bandsox.engine import ownership
from bandsox.engine.diagnosis import boot_failure
from bandsox.errors import BandSoxError, MachineStopped, OutcomeUnknown, Timeout
from bandsox.guest import Doorbell, GuestClient, PortLink, VsockLink, forget_frames
from bandsox.process import ProcessId
from bandsox.vmm.base import VMM, Endpoint, LaunchSpec

Answer = TypeVar("Answer")


def guest_client(endpoint: Endpoint, token: bytes, revive: Callable[[], Awaitable[None]] | None = None) -> GuestClient:
    """A client of the agent behind `endpoint`; `revive` starts what listens there again."""
    if endpoint.transport == "virtio-serial":
        return GuestClient(PortLink(endpoint.path, endpoint.ports, endpoint.more), token)
    return GuestClient(VsockLink(endpoint.path, revive=revive), token)


@dataclass(frozen=True, slots=True)
class Booting:
    """A machine that has begun to boot. `doorbell` is rung by its agent, where the transport does not keep early requests."""

    process: ProcessId
    doorbell: Doorbell | None


@contextlib.asynccontextmanager
async def started(vmm: VMM, spec: LaunchSpec) -> AsyncIterator[Booting]:
    """A machine that is killed again if the block raises."""
    endpoint = vmm.endpoint(spec.sockets, spec.transport)
    with contextlib.ExitStack() as stack:
        rings = endpoint.transport == "vsock" and spec.origin is None
        doorbell = stack.enter_context(Doorbell(endpoint.path)) if rings else None
        if spec.origin is not None and endpoint.transport == "virtio-serial":
            forget_frames(endpoint.path, spec.origin.shape.ports)
        process = await _start(vmm, spec)
        try:
            yield Booting(process, doorbell)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await ownership.end(process)
            raise


async def _start(vmm: VMM, spec: LaunchSpec) -> ProcessId:
    """Start a machine. Who stops waiting for that leaves no process: it is awaited all the same, and ended."""
    starting = asyncio.ensure_future(vmm.start(spec))
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        with anyio.CancelScope(shield=True), contextlib.suppress(BandSoxError):
            await ownership.end(await starting)
        raise


async def first_answer(
    vmm: VMM, spec: LaunchSpec, booting: Booting, ask: Callable[[GuestClient], Awaitable[Answer]], token: bytes, deadline_s: float
) -> Answer:
    """Ask the agent of a machine that is booting, and return its first answer.

    Raises
    ------
    BootFailed: the VMM ended, or there was no answer within `deadline_s` seconds, or one that cannot be; it says where the boot
        stopped.
    """
    client = guest_client(vmm.endpoint(spec.sockets, spec.transport), token)
    asking = asyncio.ensure_future(_ask_when_there(booting.doorbell, lambda: ask(client)))
    ending = asyncio.ensure_future(ownership.wait(booting.process))
    try:
        await asyncio.wait({asking, ending}, timeout=deadline_s, return_when=asyncio.FIRST_COMPLETED)
        summary = f"the machine did not come up within {deadline_s:.0f} s"
        noticed = "its agent has not answered: it hangs, or this host is too busy for it"
        if asking.done():
            try:
                return asking.result()
            except (MachineStopped, OutcomeUnknown, Timeout):
                await asyncio.wait({ending}, timeout=1.0)  # its VMM may be about to end
            except BandSoxError as error:
                summary, noticed = "the machine came up with an agent that cannot be used", error.message
        if ending.done():
            summary, noticed = "the machine stopped while it came up", "the guest ended it, by power-off or reset, without saying why"
        raise boot_failure(summary, noticed, lambda: vmm.console(spec.directory), vmm.errors(spec.directory))
    finally:
        await _cancelled(asking)
        await _cancelled(ending)


async def _ask_when_there(doorbell: Doorbell | None, ask: Callable[[], Awaitable[Answer]]) -> Answer:
    if doorbell is not None:
        await doorbell.rung()
    return await ask()


async def _cancelled(task: asyncio.Future[Answer]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, BandSoxError):
        await task
