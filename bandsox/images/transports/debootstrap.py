"""``debootstrap:``: a root file system made of Debian packages by mmdebstrap, streamed into the blob store.

It runs as root, or as an ordinary user in a user namespace of its own. Which mirror it takes is mmdebstrap's own choice
for the suite; nothing here names one.
"""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress

import anyio
from anyio.abc import Process

from bandsox.errors import ImageError, MissingTool
from bandsox.images import spec
from bandsox.images.reference import Reference
from bandsox.images.transports import Context, Fetched, store_layers
from bandsox.models import ImageConfig
from bandsox.workers import Task, in_thread

_CHUNK = 1 << 20
_MAX_REASON = 300
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_CONFIG = ImageConfig(env={"PATH": _PATH}, cmd=("/bin/sh",))


async def fetch(reference: Reference, context: Context) -> Fetched:
    """Make the root file system and store it as the single layer of an image.

    Raises
    ------
    MissingTool: mmdebstrap, or what an ordinary user needs beside it, is not installed.
    ImageError: mmdebstrap failed, such as for an unknown suite or package, or no network.
    StorageFull: there is no room for it.
    """
    task = Task(context.progress, str(reference), f"building Debian {reference.name} from packages")
    read_end, write_end = os.pipe()
    with tempfile.TemporaryFile() as complaints, os.fdopen(read_end, "rb", buffering=0) as output:
        try:
            process = await anyio.open_process(
                command(reference), stdin=subprocess.DEVNULL, stdout=write_end, stderr=complaints, start_new_session=True
            )
        finally:
            os.close(write_end)
        try:
            layer = await in_thread(lambda _: _store(output, context, task), on_stop=lambda: _end(process))
            status = await process.wait()
        finally:
            _end(process)
            with anyio.CancelScope(shield=True):
                await process.aclose()
        if status != 0:
            complaints.seek(0)
            raise _failure(reference, complaints.read()[-4000:].decode(errors="replace"))
    task.finish()
    return store_layers(context, (layer,), _CONFIG)


def command(reference: Reference) -> list[str]:
    """The mmdebstrap command for a reference, which writes a tar archive to its standard output.

    Raises
    ------
    MissingTool: a program it needs is not installed.
    """
    program = shutil.which("mmdebstrap")
    if program is None:
        raise MissingTool("mmdebstrap is not installed", remedy="apt-get install mmdebstrap")
    root = os.geteuid() == 0
    if not root and shutil.which("newuidmap") is None:
        raise MissingTool("newuidmap is not installed, which mmdebstrap needs without root", remedy="apt-get install uidmap")
    options = dict(reference.options)
    arguments = [program, "--quiet", "--format=tar", f"--mode={'root' if root else 'unshare'}"]
    arguments.append(f"--variant={options.get('variant', ('minbase',))[0]}")
    if include := options.get("include"):
        arguments.append(f"--include={','.join(include)}")
    if components := options.get("components"):
        arguments.append(f"--components={','.join(components)}")
    return [*arguments, reference.name, "-"]


def _store(output: io.FileIO, context: Context, task: Task) -> spec.Layer:
    def chunks() -> Iterator[bytes]:
        done = 0
        while chunk := output.read(_CHUNK):
            done += len(chunk)
            task.update(done)
            yield chunk

    return context.blobs.add_layer(chunks(), context.limits)


def _end(process: Process) -> None:
    """End mmdebstrap and what it started, which is a session of its own; it removes its directory on TERM."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)


def _failure(reference: Reference, complaints: str) -> ImageError:
    lines = [line for line in complaints.splitlines() if line.startswith(("E:", "W:", "error:"))] or complaints.splitlines()
    return ImageError(
        f"mmdebstrap could not build {reference}",
        cause="; ".join(line.strip()[:_MAX_REASON] for line in lines[:4]) or "it gave no reason",
        remedy="check the names of the suite and the packages, and that the package mirror can be reached",
    )
