"""The Go programs that are built with the package and travel in it."""

from __future__ import annotations

from pathlib import Path

from bandsox.errors import HostError

_PLACE = Path(__file__).parent.parent / "agent" / "bin"


def built_program(name: str, what: str, machine: str) -> Path:
    """The program `name`, which an error calls `what`, for `machine` (as ``uname -m`` says).

    Raises
    ------
    HostError: this installation was made without it.
    """
    path = _PLACE / f"{name}-{machine}"
    if not path.is_file():
        raise HostError(
            f"{what} for {machine} is missing from this installation",
            cause=f"{path} does not exist",
            remedy="in a source checkout run `make agent`; otherwise install the bandsox package again",
        )
    return path
