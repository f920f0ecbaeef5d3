"""From a launch specification to a machine whose agent answers."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import anyio

from bandsox.engine import ownership
from bandsox.engine.diagnosis import boot_failure
from bandsox.errors import BandSoxError, MachineStopped, OutcomeUnknown, Timeout, VMMError
from bandsox.guest import Doorbell, GuestClient, HostVsockDoorbell, HostVsockLink, PortLink, UnixDoorbell, VsockLink, recall_frames
from bandsox.process import ProcessId
from bandsox.tracing import traced
from bandsox.vmm.base import VMM, Endpoint, LaunchSpec
from bandsox.workers import is_full, storage_full

Answer = TypeVar("Answer")


def guest_client(endpoint: Endpoint, token: bytes, revive: Callable[[], Awaitable[None]] | None = None) -> GuestClient:
    """A client of the agent behind `endpoint`; `revive` starts what listens there again."""
    if endpoint.transport == "virtio-serial":
        return GuestClient(PortLink(endpoint.path, endpoint.ports, endpoint.more), token)
    if endpoint.cid is not None:
        return GuestClient(HostVsockLink(endpoint.cid), token)
    return GuestClient(VsockLink(endpoint.path, revive=revive), token)


def _doorbell(endpoint: Endpoint) -> Doorbell | None:
    if endpoint.transport != "vsock":
        return None
    return UnixDoorbell(endpoint.path) if endpoint.cid is None else HostVsockDoorbell(endpoint.cid)


@dataclass(frozen=True, slots=True)
class Booting:
    """A machine that has begun to boot. `doorbell` is rung by its agent, where the transport does not keep early requests."""

    process: ProcessId
    doorbell: Doorbell | None


@contextlib.asynccontextmanager
async def started(vmm: VMM, spec: LaunchSpec) -> AsyncIterator[Booting]:
    """A machine that is killed again if the block raises."""
    with contextlib.ExitStack() as stack:
        endpoint = vmm.endpoint(spec.sockets, spec.transport)
        doorbell = _doorbell(endpoint) if spec.origin is None else None
        if doorbell is not None:
            stack.enter_context(doorbell)
            spec = dataclasses.replace(spec, boot_args=f"{spec.boot_args} {doorbell.boot_args}".strip())
        if spec.origin is not None and endpoint.transport == "virtio-serial":
            recall_frames(endpoint.path, spec.origin.shape.ports, spec.origin.shape.at_boundary)
        process = await _start(vmm, spec)
        try:
            yield Booting(process, doorbell)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await ownership.end(process)
            raise


@traced("vmm")
async def _start(vmm: VMM, spec: LaunchSpec) -> ProcessId:
    """Start a machine. Who stops waiting for that leaves no process: it is awaited all the same, and ended.

    Raises
    ------
    VMMError: the VMM refused to start, or to go on. StorageFull: it did, and there is no room left for what it needs.
    """
    starting = asyncio.ensure_future(vmm.start(spec))
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        with anyio.CancelScope(shield=True), contextlib.suppress(BandSoxError):
            await ownership.end(await starting)
        raise
    except VMMError as error:
        if is_full(spec.directory):  # on tmpfs even to read a hole of a snapshot's memory takes room
            raise storage_full(spec.directory) from error
        raise


@traced("agent")
async def first_answer(
    vmm: VMM, spec: LaunchSpec, booting: Booting, ask: Callable[[GuestClient], Awaitable[Answer]], token: bytes, deadline_s: float
) -> Answer:
    """Ask the agent of a machine that is booting, and return its first answer; with `token`, unless its doorbell knows of a better one.

    Raises
    ------
    BootFailed: the VMM ended, or there was no answer within `deadline_s` seconds, or one that cannot be; it says where the boot
        stopped.
    StorageFull: the VMM ended, and there is no room left for what it writes.
    """
    endpoint = vmm.endpoint(spec.sockets, spec.transport)
    asking = asyncio.ensure_future(_ask_when_there(booting.doorbell, lambda given: ask(guest_client(endpoint, given or token))))
    ending = asyncio.ensure_future(ownership.wait(booting.process))
    try:
        await asyncio.wait({asking, ending}, timeout=deadline_s, return_when=asyncio.FIRST_COMPLETED)
        summary = f"the machine did not come up within {deadline_s:.0f} s"
        noticed = "its agent has not answered: it hangs, or this host is too busy for it"
        if asking.done():
            try:
                return asking.result()
            except (MachineStopped, OutcomeUnknown, Timeout) as error:
                await asyncio.wait({ending}, timeout=1.0)  # its VMM may be about to end
                if not isinstance(error, Timeout):
                    summary, noticed = "the machine's agent was not there", f"{error.message}: {error.cause}"
            except BandSoxError as error:
                summary, noticed = "the machine came up with an agent that cannot be used", error.message
        if ending.done():
            if is_full(spec.directory):
                raise storage_full(spec.directory)
            summary, noticed = "the machine stopped while it came up", "the guest ended it, by power-off or reset, without saying why"
        raise boot_failure(
            summary, noticed, lambda: vmm.console(spec.directory), vmm.errors(spec.directory), resumed=spec.origin is not None
        )
    finally:
        await _cancelled(asking)
        await _cancelled(ending)


async def _ask_when_there(doorbell: Doorbell | None, ask: Callable[[bytes | None], Awaitable[Answer]]) -> Answer:
    return await ask(await doorbell.rung() if doorbell is not None else None)


async def _cancelled(task: asyncio.Future[Answer]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, BandSoxError):
        await task
