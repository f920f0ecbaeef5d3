"""``bandsox cp``: files and trees, between this host and a machine."""

from __future__ import annotations

import os
import posixpath
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bandsox.cli.command import Command
from bandsox.cli.completion import complete_vm_path
from bandsox.cli.operation import operation
from bandsox.cli.output import print_json
from bandsox.errors import GuestFileError, GuestFileNotFound, InvalidRequest

if TYPE_CHECKING:
    from bandsox.cli.runtime import Call
    from bandsox.models import FileStat
    from bandsox.vm import AsyncMicroVM


@dataclass(frozen=True, slots=True)
class _GuestPath:
    """A path in a machine. ``bare``: it ended in ``/.``, which means what the directory holds."""

    vm: str
    path: str
    directory: bool
    bare: bool

    @property
    def name(self) -> str:
        return posixpath.basename(self.path)


@click.command(
    "cp",
    cls=Command,
    examples=(
        ("bandsox cp ./model.bin dev:/srv/", "a file into a directory"),
        ("bandsox cp ./project dev:/srv/project", "a tree; into /srv/project/project where that exists already"),
        ("bandsox cp ./project/. dev:/srv/project", "what the directory holds"),
        ("bandsox cp dev:/var/log ./logs", "the other way"),
        ("pg_dump | bandsox cp - dev:/tmp/dump.sql", "standard input into a file"),
        ("bandsox cp dev:/etc/hostname -", "a file to standard output"),
        ("bandsox cp --tar dev:/srv - | tar t", "a tree as a tar archive; also `cp --tar - VM:/dir`"),
    ),
)
@click.argument("source", metavar="SOURCE", shell_complete=complete_vm_path)
@click.argument("destination", metavar="DESTINATION", shell_complete=complete_vm_path)
@click.option("--tar", "archive", is_flag=True, help="With - on one side: the stream is a tar archive of the directory on the other.")
@click.option("-a", "--append", is_flag=True, help="Append to the file in the VM.")
@operation
async def copy(call: Call, source: str, destination: str, archive: bool, append: bool) -> None:
    """Copy files between this host and a VM.

    One of SOURCE and DESTINATION is VM:PATH, the other a path of this host, or - for a standard stream. As with cp, what is copied
    into a directory that exists keeps its name. Write ./a:b for a file of this host with a colon in its name.
    """
    here, there = _guest_path(source), _guest_path(destination)
    if (here is None) == (there is None):
        remedy = "copy in two steps: bandsox cp A:/file - | bandsox cp - B:/file" if here else "write VM:PATH for the one in the VM"
        raise InvalidRequest("one of the two must be in a VM, and the other on this host", remedy=remedy)
    if archive and "-" not in {source, destination}:
        raise click.UsageError("--tar goes with - on one side")
    if append and (there is None or archive):
        raise click.UsageError("--append goes with a file in the VM as DESTINATION")
    if there is not None:
        await _into(call, await call.vm(there.vm), source, there, archive=archive, append=append)
    elif here is not None:
        await _out_of(call, await call.vm(here.vm), here, destination, archive=archive)
    call.progress.clear()
    if call.state.json and destination != "-":
        print_json({"source": source, "destination": destination})


def _guest_path(text: str) -> _GuestPath | None:
    """``VM:PATH``; None for a path of this host, which has no colon, or has a slash or a dot before it."""
    vm, colon, path = text.partition(":")
    if not colon or not vm or "/" in vm or vm.startswith("."):
        return None
    if not path:
        raise InvalidRequest(f"{text!r} names no path in the VM", remedy=f"write {text}/ for its root")
    clean = posixpath.normpath(f"/{path}").replace("//", "/")
    return _GuestPath(vm, clean, path.endswith("/"), path.endswith("/.") or path == ".")


async def _stat(vm: AsyncMicroVM, path: str) -> FileStat | None:
    try:
        return await vm.stat(path)
    except GuestFileNotFound:
        return None
    except GuestFileError as error:
        if error.guest_code == "not_a_directory":
            return None  # what follows says so about the whole path
        raise


# ── into the machine ──


async def _into(call: Call, vm: AsyncMicroVM, source: str, there: _GuestPath, *, archive: bool, append: bool) -> None:
    from bandsox.cli.streams import Input

    found = await _stat(vm, there.path)
    directory = found is not None and found.type == "directory"
    if source == "-":
        if archive:
            await vm.guest.upload_tar(Input(), there.path)
            return
        if directory or there.directory:
            raise InvalidRequest(f"{there.path} is a directory", remedy="name a file in it, or use --tar for an archive")
        await vm.guest.write_stream(there.path, Input(), append=append)
        return
    local = Path(source)
    bare = source.endswith("/.") or source in {".", ".."}
    target = there.path
    if (directory or (there.directory and not local.is_dir())) and not bare:
        target = posixpath.join(there.path, local.resolve().name if local.name in {"", ".."} else local.name)
    if not local.is_dir():
        await vm.upload_file(local, target, append=append, progress=call.progress)
    elif append:
        raise InvalidRequest(f"{source} is a directory", remedy="--append takes a file")
    elif found is not None and not directory:
        raise InvalidRequest(f"{there.path} is a file, and {source} a directory")
    else:
        await vm.upload_folder(local, target, progress=call.progress)


# ── out of it ──


async def _out_of(call: Call, vm: AsyncMicroVM, here: _GuestPath, destination: str, *, archive: bool) -> None:
    found = await vm.stat(here.path)
    if destination == "-":
        await _to_stdout(vm, here, found, archive=archive)
        return
    local = Path(destination)
    if local.is_dir() and not here.bare and here.name:
        local = local / here.name
    elif destination.endswith("/") and found.type != "directory":
        raise InvalidRequest(f"there is no directory {destination}", remedy=f"make it first: mkdir -p {destination}")
    if found.type == "directory":
        if local.exists() and not local.is_dir():
            raise InvalidRequest(f"{local} is a file, and {here.vm}:{here.path} a directory")
        await vm.download_folder(here.path, local, progress=call.progress)
    elif local.is_dir():
        raise InvalidRequest(f"{local} is a directory, and {here.vm}:{here.path} a file")
    else:
        await vm.download_file(here.path, local, timeout=None, progress=call.progress)


async def _to_stdout(vm: AsyncMicroVM, here: _GuestPath, found: FileStat, *, archive: bool) -> None:
    from bandsox.cli.streams import STDOUT, Output

    if found.type == "directory" and not archive:
        raise InvalidRequest(f"{here.path} is a directory", remedy="use --tar to get it as an archive")
    if archive and os.isatty(STDOUT):
        raise click.UsageError("the archive would go to the terminal; send it to a file or a pipe")
    sys.stdout.flush()
    output = Output()
    stream = vm.guest.tar_stream(here.path) if archive else vm.guest.read_stream(here.path)
    async with stream as pieces:
        async for piece in pieces:
            await output.write(STDOUT, piece)
