"""Snapshots that travel: through the connection as one file, and, for administrators, to and from registries."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import anyio
import anyio.to_thread
from fastapi import APIRouter, Query, Request, Response

from bandsox.engine import identity
from bandsox.engine.snapshots.portable import REGISTRY, Portable, sending
from bandsox.engine.snapshots.portable.sending import Package
from bandsox.engine.snapshots.workplace import async_workplace
from bandsox.models import ProgressCallback, Snapshot
from bandsox.server import forms, shapes
from bandsox.server.auth.callers import Caller, Scope
from bandsox.server.guard import GuardedRoute, demands
from bandsox.server.once import Attempt, TheOnce
from bandsox.server.replies import streamed
from bandsox.server.service import Service, TheCaller, TheService
from bandsox.server.streams import with_progress

router = APIRouter(prefix="/api/snapshots", tags=["Snapshots"], route_class=GuardedRoute)

_TAR: dict[str, Any] = {"content": {"application/x-tar": {"schema": {"type": "string", "format": "binary"}}}}
_ARCHIVE: dict[int | str, dict[str, Any]] = {200: {**_TAR, "headers": {"X-Digest": {"schema": {"type": "string"}}}}}
_PIECE = 1 << 20
_LOOK = 64 << 20
"""After so many bytes it is looked again whether there is room for more."""


@router.post("/{snapshot}/compress", response_model=shapes.SnapshotInfo)
@demands(Scope.EXEC)
async def compress(service: TheService, caller: TheCaller, request: Request, snapshot: str) -> Response:
    """Keep a snapshot that is not needed for now in less room. It can be restored as before; the first time takes longer."""
    known = await service.snapshot(caller, snapshot)

    async def work(progress: ProgressCallback) -> dict[str, Any]:
        with service.transfers.one(caller):
            await service.check_room()
            await service.bandsox.compress_snapshot(known.id, progress)
        return await service.bandsox.get_snapshot_info(known.id)

    return await with_progress(request, work)


@router.get(
    "/{snapshot}/export", responses={200: {**_TAR, "headers": {"X-Digest": {"schema": {"type": "string"}}}}}, response_class=Response
)
@demands(Scope.EXEC)
async def export(
    service: TheService,
    caller: TheCaller,
    snapshot: str,
    base: Annotated[str | None, Query(min_length=1, description="a snapshot that the receiver has: without what it has too")] = None,
    image: Annotated[bool, Query(description="with the root file system of the VM's image")] = True,
) -> Response:
    """A snapshot with all that its VM needs, as one tar archive, to be imported elsewhere. It begins once it has been packed.

    It holds whatever was in the VM's memory. The header `X-Digest` names what is sent.
    """
    known = await service.snapshot(caller, snapshot)
    ground = None if base is None else (await service.snapshot(caller, base)).id
    size = (await service.bandsox.get_snapshot_info(known.id))["size"]
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(service.transfers.one(caller))
        await service.check_room(size)
        package = await stack.enter_async_context(Portable(service.engine).packed(known.id, base=ground, image=image))
        headers = {
            "X-Digest": package.digest,
            "Content-Length": str(sending.archive_size(package)),
            "Content-Disposition": forms.attachment(f"{known.name}.tar"),
        }
        return await streamed(_archive(package, stack.pop_all()), headers=headers, media_type="application/x-tar")
    raise AssertionError


@contextlib.asynccontextmanager
async def _archive(package: Package, held: contextlib.AsyncExitStack) -> AsyncIterator[AsyncIterator[bytes]]:
    """The pieces of a package's archive. No thread waits while the client reads."""

    async def pieces() -> AsyncGenerator[bytes, None]:
        with contextlib.closing(sending.archive(package)) as archive:
            while piece := await anyio.to_thread.run_sync(_joined, archive):
                yield piece

    async with held, contextlib.aclosing(pieces()) as found:
        yield found


def _joined(archive: Iterator[bytes]) -> bytes:
    """The next pieces that are worth a thread's while; empty at the end."""
    gathered = bytearray()
    for piece in archive:
        gathered += piece
        if len(gathered) >= _PIECE:
            break
    return bytes(gathered)


@router.post("/{snapshot}/push", response_model=shapes.PushedSnapshot)
@demands(Scope.ADMIN)
async def push(service: TheService, caller: TheCaller, request: Request, snapshot: str, body: shapes.PushSnapshot) -> Response:
    """Send a snapshot to a registry, with the server's credentials for that."""
    known = await service.snapshot(caller, snapshot)
    ground = None if body.base is None else (await service.snapshot(caller, body.base)).id

    async def work(progress: ProgressCallback) -> dict[str, Any]:
        portable = Portable(service.engine)
        with service.transfers.one(caller):
            digest = await portable.export(known.id, f"{REGISTRY}{body.reference}", base=ground, image=body.image, progress=progress)
        return {"digest": digest}

    return await with_progress(request, work)


@router.post("/pull", response_model=shapes.SnapshotInfo)
@demands(Scope.ADMIN)
async def pull(service: TheService, caller: TheCaller, request: Request, body: shapes.PullSnapshot) -> Response:
    """Take in a snapshot from a registry, with the server's credentials for that. For the rest as `import`."""

    async def work(progress: ProgressCallback) -> dict[str, Any]:
        with service.transfers.one(caller):
            return await _taken(service, caller, f"{REGISTRY}{body.reference}", body.name, progress)

    return await with_progress(request, work)


@router.post("/import", response_model=shapes.SnapshotInfo, openapi_extra={"requestBody": {"required": True, **_TAR}})
@demands(Scope.EXEC, body=None)
async def import_(
    service: TheService,
    caller: TheCaller,
    once: TheOnce,
    request: Request,
    name: Annotated[str | None, Query(min_length=1, max_length=128, description="another name than it had")] = None,
) -> Response:
    """Take in a snapshot that was exported elsewhere: the request's body, of any size. Taking in the same once more gives the same.

    Its programs go on here when it is restored: take one only from somebody whom you would let run a VM.
    """
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(service.transfers.one(caller))
        file, digest = await stack.enter_async_context(_received(service, request))

        async def work(progress: ProgressCallback) -> dict[str, Any]:
            return await _taken(service, caller, os.fspath(file), name, progress)

        attempt = Attempt(work, [identity.new_id()], _nothing)
        return await once.answer(request, caller, digest, attempt, stack)
    raise AssertionError


async def _taken(service: Service, caller: Caller, source: str, name: str | None, progress: ProgressCallback) -> dict[str, Any]:
    await service.check_room()
    admit = partial(service.admit, caller)
    snapshot: Snapshot = await Portable(service.engine).import_(source, name, admit=admit, progress=progress)
    return await service.bandsox.get_snapshot_info(snapshot.id)


async def _nothing(plan: Sequence[str]) -> None:
    """What was taken in before is found when it is taken in again: it has the id that it had elsewhere."""
    del plan


@contextlib.asynccontextmanager
async def _received(service: Service, request: Request) -> AsyncIterator[tuple[Path, bytes]]:
    """A file with the body of a request, for the time of the block, and its digest.

    Raises
    ------
    StorageFull: it would leave less room than there has to be.
    """
    digest = hashlib.sha256()
    async with async_workplace(service.engine.layout) as work:
        path = work / "arrived.tar"
        with path.open("xb") as file:
            done = 0

            def keep(piece: bytes) -> None:
                digest.update(piece)
                file.write(piece)

            async for piece in _pieces(request):
                if done % _LOOK < len(piece):
                    await service.check_room(_LOOK)
                await anyio.to_thread.run_sync(keep, piece)
                done += len(piece)
        yield path, digest.digest()


async def _pieces(request: Request) -> AsyncGenerator[bytes, None]:
    """The body of a request in pieces that are worth a thread's while."""
    gathered = bytearray()
    async for piece in request.stream():
        gathered += piece
        if len(gathered) >= _PIECE:
            yield bytes(gathered)
            gathered.clear()
    if gathered:
        yield bytes(gathered)
