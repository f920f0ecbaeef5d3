"""Where in a Dockerfile something stands, and how an error says so.

Code that reads text knows what is wrong but not where it stands: it raises a `Fault`. Code that knows the place catches it
with `Place.located` and raises the `InvalidDockerfile` that names file, line and text.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bandsox.errors import BuildFailed, InvalidDockerfile

_SHOWN = 160
_SHOWN_LINES = 25


class Fault(ValueError):
    """Something in the text cannot be read or done; `remedy` says what to write instead."""

    def __init__(self, message: str, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Place:
    """An instruction's place: the file as the user named it, its first line (from 1) and its text."""

    file: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"

    @property
    def title(self) -> str:
        """The instruction in one short line."""
        first = self.text.strip().split("\n", 1)[0]
        return first if len(first) <= _SHOWN else first[:_SHOWN] + "…"

    def error(self, message: str, *, cause: str | None = None, remedy: str | None = None) -> InvalidDockerfile:
        """The error that something is wrong here."""
        detail = {"file": self.file, "line": self.line, "text": self.text}
        return InvalidDockerfile(f"{self}: {message}\n  | {self.title}", cause=cause, remedy=remedy, detail=detail)

    def failure(self, message: str, *, cause: str | None = None, remedy: str | None = None, output: str = "") -> BuildFailed:
        """The error that carrying this out failed; `output` is the end of what it printed."""
        detail = {"file": self.file, "line": self.line, "text": self.text, "output": output}
        shown = "".join(f"\n  > {line}" for line in output.splitlines()[-_SHOWN_LINES:])
        return BuildFailed(f"{self}: {message}\n  | {self.title}{shown}", cause=cause, remedy=remedy, detail=detail)

    @contextmanager
    def located(self) -> Iterator[None]:
        """Give a `Fault` of the block this place.

        Raises
        ------
        InvalidDockerfile: the block raised a `Fault`.
        """
        try:
            yield
        except Fault as fault:
            raise self.error(fault.message, remedy=fault.remedy) from fault
