"""The conversion of layers into a root file system, in a process of its own.

It is a process because it parses what strangers made, holds the interpreter's lock a lot, and must end at once
when it is cancelled: killing it does that, and its memory goes with it. This is the parent's side;
`bandsox.images.convert_child` is the program.
"""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import anyio
import msgspec
from anyio.streams.buffered import BufferedByteReceiveStream

from bandsox.decoding import ready
from bandsox.errors import CorruptImage, DigestMismatch, HostError
from bandsox.images import convert_child
from bandsox.images.convert_child import Layer, Report, Request
from bandsox.images.flatten import LayerFile
from bandsox.images.limits import Limits
from bandsox.workers import Task

_RAISED = (CorruptImage, DigestMismatch)


async def run(layers: list[LayerFile], descriptor: int, limits: Limits, progress: Task | None = None) -> int:
    """Convert `layers` in a child process, into the empty file `descriptor`; return the image's size in bytes.

    Raises
    ------
    CorruptImage, DigestMismatch, OSError: as `flatten` does.
    HostError: the child died.
    """
    request = Request(
        descriptor,
        [Layer(os.fspath(layer.path), layer.diff_id, layer.name, layer.require_end) for layer in layers],
        limits.unpacked,
        limits.files,
    )
    package = os.fspath(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))}
    command = [sys.executable, "-m", convert_child.__name__]
    async with await anyio.open_process(
        command,
        stderr=subprocess.PIPE,
        pass_fds=[descriptor],
        env=environment,
        cwd=package,  # `-m` puts the working directory on the module path, and the caller's may be anybody's
    ) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        try:
            with suppress(anyio.BrokenResourceError):  # it died at once: its complaint says why
                await process.stdin.send(msgspec.json.encode(request) + b"\n")
            outcome = await _outcome(BufferedByteReceiveStream(process.stdout), progress)
            if outcome is not None:
                return _result(outcome)
            complaint = b"".join([chunk async for chunk in process.stderr])[-2000:].decode(errors="replace")
            await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
    raise HostError(
        "the conversion of the image ended unexpectedly",
        cause=complaint.strip() or f"its process ended with the status {process.returncode}; out of memory?",
    )


async def _outcome(lines: BufferedByteReceiveStream, progress: Task | None) -> Report | None:
    while True:
        try:
            line = await lines.receive_until(b"\n", convert_child.MAX_LINE)
        except (anyio.IncompleteRead, anyio.EndOfStream, anyio.BrokenResourceError):
            return None
        report = msgspec.json.decode(line, type=ready(Report))
        if report.read is None:
            return report
        if progress is not None:
            progress.update(report.read)


def _result(outcome: Report) -> int:
    if outcome.size is not None:
        return outcome.size
    if outcome.errno:
        raise OSError(outcome.errno, outcome.message)
    for error in _RAISED:
        if error.code == outcome.error:
            raise error(outcome.message, cause=outcome.cause, remedy=outcome.remedy)
    raise HostError(outcome.message, cause=outcome.cause, remedy=outcome.remedy)
