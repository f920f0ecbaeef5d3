"""Files of a machine. Contents of any size are streams in both directions; nothing is kept here of them."""

from __future__ import annotations

import base64
import binascii
import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Annotated, Any

import anyio.to_thread
import msgspec
from fastapi import APIRouter, Query, Request, Response
from pydantic import ValidationError

from bandsox.errors import Conflict, InvalidRequest, RequestTooLarge
from bandsox.guest import GuestClient
from bandsox.models import FileChange, FileStat
from bandsox.server import forms, shapes
from bandsox.server.auth.callers import Scope
from bandsox.server.guard import GuardedRoute, demands
from bandsox.server.replies import RangeError, json_reply, parse_range, reply, streamed
from bandsox.server.service import TheCaller, TheService
from bandsox.server.streams import Line, described, stream

router = APIRouter(prefix="/api/vms/{vm}", tags=["Files"], route_class=GuardedRoute)

MAX_CONTENT = 256 << 20
"""How many bytes of content `write-file` takes; `PUT file` takes any number."""

_MAX_CONTENT_REQUEST = MAX_CONTENT * 4 // 3 + (1 << 20)
_OCTETS = {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}
_TAR = {"content": {"application/x-tar": {"schema": {"type": "string", "format": "binary"}}}}

Path = Annotated[str, Query(min_length=1, examples=["/srv/hello.txt"], description="an absolute path of the guest")]


# ── whole contents, small ──


@router.get("/read-file", response_model=shapes.FileContent)
@demands(Scope.READ)
async def read_file(
    service: TheService,
    caller: TheCaller,
    vm: str,
    path: Path,
    offset: Annotated[int, Query(ge=0, description="how many lines to leave out")] = 0,
    limit: Annotated[int, Query(ge=0, description="how many lines; 0: all")] = 0,
    show_line_numbers: bool = False,
    show_header: bool = True,
    show_footer: bool = True,
) -> Response:
    """A text file, or some lines of it. What is not UTF-8 appears as U+FFFD."""
    machine = await service.machine(caller, vm)
    content = await machine.get_file_contents(path, offset, limit, show_line_numbers, show_header, show_footer)
    return json_reply({"path": path, "content": content})


@router.post("/write-file", response_model=shapes.Written, openapi_extra={"requestBody": forms.json_body(shapes.NewContent)})
@demands(Scope.EXEC, body=_MAX_CONTENT_REQUEST)
async def write_file(service: TheService, caller: TheCaller, request: Request, vm: str) -> Response:
    """Write a file, which appears whole or not at all, or append to one."""
    return await _write(service, caller, request, vm, append=False)


@router.post("/append-file", response_model=shapes.Written, openapi_extra={"requestBody": forms.json_body(shapes.NewContent)})
@demands(Scope.EXEC, body=_MAX_CONTENT_REQUEST)
async def append_file(service: TheService, caller: TheCaller, request: Request, vm: str) -> Response:
    """Append to a file."""
    return await _write(service, caller, request, vm, append=True)


async def _write(service: TheService, caller: TheCaller, request: Request, vm: str, *, append: bool) -> Response:
    guest = await service.guest(caller, vm)
    body = await request.body()
    path, content, appended = await anyio.to_thread.run_sync(_content, body)
    size = await guest.write_bytes(path, content, append=append or appended)
    return json_reply({"status": "appended" if append or appended else "written", "path": path, "size": size})


def _content(body: bytes) -> tuple[str, bytes, bool]:
    """Path, bytes and whether to append, of a request's body. It runs in a thread: there may be much of it."""
    given = _object(body)
    content = given.get("content")
    try:
        wanted = shapes.NewContent.model_validate({**given, "content": "" if isinstance(content, str) else content})
        assert isinstance(content, str)
        data = base64.b64decode(content, validate=True) if wanted.encoding == "base64" else content.encode()
    except ValidationError as error:
        problem = error.errors()[0]
        raise InvalidRequest(f"body.{'.'.join(map(str, problem['loc']))}: {problem['msg']}") from error
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest("the content is not what its encoding says", cause=str(error)) from error
    if len(data) > MAX_CONTENT:
        raise RequestTooLarge(f"the content has more than {MAX_CONTENT} bytes", remedy="use PUT /api/vms/{id}/file, which takes any size")
    return wanted.path, data, wanted.append


def _object(body: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest("the body is not a JSON object", cause=str(error)) from error


# ── streams ──


@router.get(
    "/download",
    responses={200: _OCTETS, 206: _OCTETS, 416: {"model": shapes.Failure}},
    response_class=Response,
    openapi_extra=forms.headers({"Range": "the part that is wanted: `bytes=FIRST-LAST`", "If-Range": "of which file: its `ETag`"}),
)
@demands(Scope.READ)
async def download(service: TheService, caller: TheCaller, request: Request, vm: str, path: Path) -> Response:
    """A file's bytes, as a stream of any size. `Range` and `If-Range` let a download that broke off go on."""
    guest = await service.guest(caller, vm)
    found = await guest.stat(path)
    tag = _tag(found)
    name = os.path.basename(path)  # noqa: PTH119 — the guest's
    headers = {"Accept-Ranges": "bytes", "ETag": tag, "Content-Disposition": forms.attachment(name)}
    wanted = request.headers.get("range") if request.headers.get("if-range", tag) == tag else None
    try:
        part = parse_range(wanted, found.size) if found.type == "file" and found.size else None
    except RangeError:
        return Response(status_code=416, headers={"Content-Range": f"bytes */{found.size}"})
    if part is None:
        return await streamed(guest.read_stream(path), headers=headers)
    start, length = part
    headers |= {"Content-Range": f"bytes {start}-{start + length - 1}/{found.size}", "Content-Length": str(length)}
    return await streamed(guest.read_stream(path, offset=start, length=length), status=206, headers=headers)


def _tag(found: FileStat) -> str:
    return f'"{found.ino:x}-{found.size:x}-{int(found.mtime * 1e6):x}"'


@router.put("/file", response_model=shapes.Written, openapi_extra={"requestBody": {"required": True, **_OCTETS}})
@demands(Scope.EXEC, body=None)
async def put_file(
    service: TheService,
    caller: TheCaller,
    request: Request,
    vm: str,
    path: Path,
    append: bool = False,
    mode: Annotated[str | None, Query(pattern="^[0-7]{1,4}$", description="permission bits in octal")] = None,
    at: Annotated[
        int | None, Query(ge=0, description="append only if the file has this size, to go on with an upload that broke off")
    ] = None,
) -> Response:
    """Write the request's body, of any size, to a file, which appears whole or not at all; or append it to one."""
    guest = await service.guest(caller, vm)
    if at is not None:
        size = (await guest.stat(path)).size
        if size != at:
            raise Conflict(f"the file has {size} bytes, not {at}", remedy="go on from there", detail={"size": size})
    bits = None if mode is None else int(mode, 8)
    size = await guest.write_stream(path, request.stream(), mode=bits, append=append or at is not None)
    return json_reply({"status": "written", "path": path, "size": size})


@router.post("/upload", response_model=shapes.Written, openapi_extra={"requestBody": forms.UPLOAD_BODY})
@demands(Scope.EXEC, body=None)
async def upload(service: TheService, caller: TheCaller, request: Request, vm: str) -> Response:
    """Write the `file` of a form to `remote_path`, which must come before it. It passes through while it arrives."""
    guest = await service.guest(caller, vm)
    async with forms.streaming(request, "file") as form:
        path = form.fields.get("remote_path")
        if not path:
            raise InvalidRequest("the form has no remote_path before its file", remedy="send remote_path first")
        size = await guest.write_stream(path, form.pieces())
    return json_reply({"status": "uploaded", "path": path, "size": size})


@router.get("/tree", responses={200: _TAR}, response_class=Response)
@demands(Scope.READ)
async def get_tree(service: TheService, caller: TheCaller, vm: str, path: Path, base: str = "tree") -> Response:
    """A directory with all below it, as a stream of a tar archive (pax) whose top is called `base`."""
    guest = await service.guest(caller, vm)
    return await streamed(guest.tar_stream(path, base=base), media_type="application/x-tar")


@router.put("/tree", response_model=shapes.Tree, openapi_extra={"requestBody": {"required": True, **_TAR}})
@demands(Scope.EXEC, body=None)
async def put_tree(service: TheService, caller: TheCaller, request: Request, vm: str, path: Path) -> Response:
    """Unpack a tar archive into a directory, which is made when absent."""
    guest = await service.guest(caller, vm)
    return reply(request, await guest.upload_tar(request.stream(), path))


@router.get("/watch", responses=described("a line for each change, without end"), response_class=Response)
@demands(Scope.READ)
async def watch(service: TheService, caller: TheCaller, request: Request, vm: str, path: Path, recursive: bool = False) -> Response:
    """What changes at and below a path, as it happens: `{"type", "path", "to"}`. The first line is `{"type": "watching"}`.

    `type` is `created`, `modified`, `removed`, `moved`, `attributes`, or `overflow`: something was missed.
    """
    return await stream(request, _changes(await service.guest(caller, vm), path, recursive))


@contextlib.asynccontextmanager
async def _changes(guest: GuestClient, path: str, recursive: bool) -> AsyncIterator[AsyncIterator[Line]]:
    async def lines(changes: AsyncIterator[FileChange]) -> AsyncGenerator[Line, None]:
        yield {"type": "watching"}
        async for change in changes:
            yield {"type": change.type, "path": change.path, "to": change.to}

    async with guest.watch(path, recursive=recursive) as changes, contextlib.aclosing(lines(changes)) as pieces:
        yield pieces


# ── what files are, and where ──


@router.get("/files", response_model=shapes.Listing)
@demands(Scope.READ)
async def list_files(service: TheService, caller: TheCaller, vm: str, path: Path = "/") -> Response:
    """The entries of a directory, by name."""
    entries = await (await service.machine(caller, vm)).scan_dir(path)
    files = [
        {
            "name": (name := entry.name.decode(errors="replace")),
            "path": f"{path.rstrip('/')}/{name}",
            "size": entry.stat.size,
            "is_dir": entry.stat.type == "directory",
            "is_file": entry.stat.type == "file",
            "mtime": entry.stat.mtime,
            "mode": oct(entry.stat.mode),
            "type": entry.stat.type,
        }
        for entry in sorted(entries, key=lambda entry: entry.name)
    ]
    return json_reply({"path": path, "files": files})


@router.get("/entries", include_in_schema=False)
@demands(Scope.READ)
async def entries(service: TheService, caller: TheCaller, request: Request, vm: str, path: Path) -> Response:
    """The entries of a directory with everything that is known of them, for the client of this package."""
    return reply(request, await (await service.machine(caller, vm)).scan_dir(path))


@router.get("/file-info", response_model=shapes.FileInfo)
@demands(Scope.READ)
async def file_info(service: TheService, caller: TheCaller, vm: str, path: Path) -> Response:
    """A file's size, mode and time of modification."""
    return json_reply({"path": path, "info": await (await service.machine(caller, vm)).get_file_info(path)})


@router.get("/stat")
@demands(Scope.READ)
async def stat(service: TheService, caller: TheCaller, request: Request, vm: str, path: Path, follow: bool = True) -> Response:
    """Everything that is known of a file; with `follow` of the one a symbolic link leads to."""
    return reply(request, await (await service.machine(caller, vm)).stat(path, follow))


@router.post("/directories", response_model=shapes.Status)
@demands(Scope.EXEC)
async def make_directory(service: TheService, caller: TheCaller, vm: str, body: shapes.NewDirectory) -> Response:
    """Make a directory."""
    await (await service.machine(caller, vm)).make_dir(body.path, body.parents)
    return json_reply({"status": "made"})


@router.delete("/files", response_model=shapes.Status)
@demands(Scope.EXEC)
async def remove(service: TheService, caller: TheCaller, vm: str, path: Path, recursive: bool = False) -> Response:
    """Remove a file or an empty directory; with `recursive` a whole tree."""
    await (await service.machine(caller, vm)).remove(path, recursive)
    return json_reply({"status": "removed"})


@router.post("/files/rename", response_model=shapes.Status)
@demands(Scope.EXEC)
async def rename(service: TheService, caller: TheCaller, vm: str, body: shapes.Move) -> Response:
    """Give a file another name, replacing what has it."""
    await (await service.machine(caller, vm)).rename(body.path, body.to)
    return json_reply({"status": "renamed"})


@router.put("/files/mode", response_model=shapes.Status)
@demands(Scope.EXEC)
async def change_mode(service: TheService, caller: TheCaller, vm: str, body: shapes.NewMode) -> Response:
    """Set a file's permission bits."""
    await (await service.machine(caller, vm)).chmod(body.path, body.mode, body.recursive)
    return json_reply({"status": "changed"})
