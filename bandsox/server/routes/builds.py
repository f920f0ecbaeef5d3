"""Machines of Dockerfiles. What COPY and ADD take files from comes as an archive, and is unpacked into a directory of its own meanwhile."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import msgspec
from fastapi import APIRouter, Request, Response
from pydantic import ValidationError

from bandsox.engine import identity
from bandsox.errors import Forbidden, InvalidRequest, ProtocolError
from bandsox.models import ProgressCallback
from bandsox.server import forms, recovery, shapes
from bandsox.server.auth.callers import Scope
from bandsox.server.guard import GuardedRoute, demands
from bandsox.server.once import Attempt, TheOnce
from bandsox.server.routes.machines import made, options_for
from bandsox.server.service import TheCaller, TheService
from bandsox.workers import storage_errors

router = APIRouter(prefix="/api/vms", tags=["VMs"], route_class=GuardedRoute)

_MAX_ENTRIES, _MAX_BYTES = 200_000, 8 << 30
_JSON = ("env_vars", "metadata", "mcp", "build_args", "publish", "dns", "mmds", "secrets")


@router.post("/from-dockerfile", response_model=shapes.CreatedVM, openapi_extra={"requestBody": forms.BUILD_BODY})
@demands(Scope.EXEC, body=None)
async def create_vm_from_dockerfile(service: TheService, caller: TheCaller, once: TheOnce, request: Request) -> Response:
    """Build the image of a Dockerfile, and make a VM of it. Fields that are no text are JSON. Its RUNs run in VMs of their own.

    Only administrators may give the image a name with `tag`, or begin with images that are named by files of the server's host.
    """
    from bandsox.dockerfile import image_from_dockerfile

    async with contextlib.AsyncExitStack() as stack:
        directory = await stack.enter_async_context(_directory(service.engine.layout.temporary))
        wanted, content = await _received(request, directory / "context")
        if wanted.tag is not None and not caller.may(Scope.ADMIN):
            raise Forbidden(f"{caller.name} may not name images", cause="a name holds for everybody", remedy="leave the tag out")
        options_for(service, caller, wanted)  # before anything is built for what is refused then
        (directory / "Dockerfile").write_text(wanted.dockerfile)

        async def work(progress: ProgressCallback) -> dict[str, Any]:
            image = await image_from_dockerfile(
                service.engine,
                directory / "Dockerfile",
                wanted.tag,
                context=directory / "context",
                build_args=wanted.build_args,
                no_cache=wanted.force_rebuild,
                registry_only=not caller.may(Scope.ADMIN),
                progress=progress,
            )
            return await made(service, caller, image.id, wanted.model_copy(update={"force_rebuild": False}), progress)

        attempt = Attempt(work, [identity.new_id()], lambda plan: recovery.machine(service, plan, "created"))
        asked = wanted.model_copy(update={"metadata": {"context": content, "metadata": wanted.metadata}})
        return await once.answer(request, caller, asked, attempt, stack)
    raise AssertionError


@contextlib.asynccontextmanager
async def _directory(parent: Path) -> AsyncIterator[Path]:
    """A directory that is removed at the end."""
    directory = parent / f"build-{secrets.token_hex(8)}"
    directory.mkdir(mode=0o700)
    try:
        yield directory
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(lambda: shutil.rmtree(directory, ignore_errors=True))


async def _received(request: Request, context: Path) -> tuple[shapes.NewVMFromDockerfile, str]:
    """What is wanted, with the files of its context unpacked into `context`, and the digest of their archive."""
    context.mkdir()
    digest = hashlib.sha256()
    async with forms.streaming(request, "context", required=False) as form:
        if form.file_began:
            await anyio.to_thread.run_sync(_unpack, form.pieces(), context, digest.update)
    fields: dict[str, Any] = dict(form.fields)
    try:
        fields |= {name: msgspec.json.decode(fields[name]) for name in _JSON if name in fields}
        if fields.get("network", "").startswith("{"):  # else it is a preset's name
            fields["network"] = msgspec.json.decode(fields["network"])
        return shapes.NewVMFromDockerfile.model_validate(fields), digest.hexdigest()
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"one of {', '.join(_JSON)} is not JSON", cause=str(error)) from error
    except ValidationError as error:
        problem = error.errors()[0]
        raise InvalidRequest(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}") from error


def _unpack(pieces: AsyncIterator[bytes], context: Path, note: Callable[[bytes], object]) -> None:
    from bandsox.guest.untar import extract

    async def step() -> bytes:
        return await anext(pieces, b"")

    def arrived() -> Iterator[bytes]:
        while piece := anyio.from_thread.run(step):
            note(piece)
            yield piece

    following = arrived()
    try:
        with storage_errors(context):
            extract(following, context, None, max_entries=_MAX_ENTRIES, max_bytes=_MAX_BYTES)
            for _ in following:  # what pads the archive, and the rest of the form
                pass
    except ProtocolError as error:
        raise InvalidRequest("the context is no archive that can be unpacked", cause=error.message) from error
