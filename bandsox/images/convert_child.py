"""The program that converts layers into a root file system: the child of `bandsox.images.convert`.

A JSON line on standard input is the request, JSON lines on standard output are reports and the outcome. It ends
when its standard input does, so it never outlives its parent.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
from pathlib import Path
from typing import NoReturn

import msgspec

from bandsox.decoding import ready
from bandsox.errors import BandSoxError
from bandsox.images.flatten import Job, LayerFile, flatten
from bandsox.images.limits import Limits

_SWITCH_INTERVAL_S = 0.0002
MAX_LINE = 1 << 20
_REPORT_EVERY = 4 << 20


class Layer(msgspec.Struct):
    """A layer to apply; see `bandsox.images.flatten.LayerFile`."""

    path: str
    diff_id: str
    name: str
    require_end: bool


class Request(msgspec.Struct):
    """What to convert, into which inherited file descriptor, and at what cost at most."""

    descriptor: int
    layers: list[Layer]
    unpacked: int
    files: int


class Report(msgspec.Struct, omit_defaults=True):
    """Either how many bytes are read, or the size of the finished image, or the error."""

    read: int | None = None
    size: int | None = None
    error: str | None = None
    message: str = ""
    cause: str | None = None
    remedy: str | None = None
    errno: int = 0


def _main() -> int:
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    gc.disable()  # the tree of all files only grows: to look through it for garbage costs, and finds none
    request = msgspec.json.decode(sys.stdin.buffer.readline(MAX_LINE), type=ready(Request))
    threading.Thread(target=_end_with_parent, daemon=True).start()
    reported = 0

    def report(read: int) -> None:
        nonlocal reported
        if read - reported >= _REPORT_EVERY:
            reported = read
            _say(Report(read=read))

    job = Job(Limits(request.unpacked, request.files), progress=report)
    layers = [LayerFile(Path(layer.path), layer.diff_id, layer.name, layer.require_end) for layer in request.layers]
    try:
        size = flatten(layers, request.descriptor, job)
        os.fsync(request.descriptor)
    except BandSoxError as error:
        _say(Report(error=error.code, message=error.message, cause=error.cause, remedy=error.remedy))
    except OSError as error:
        _say(Report(errno=error.errno or 5, message=error.strerror or str(error)))
    else:
        _say(Report(size=size))
    return 0


def _say(report: Report) -> None:
    os.write(1, msgspec.json.encode(report) + b"\n")


def _end_with_parent() -> NoReturn:
    while os.read(0, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(_main())
