"""How far long work is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Progress:
    """One report of a piece of long work.

    ``task`` identifies the piece (a layer's digest, a stage name) among those that go on at once;
    ``done`` and ``total`` are in ``unit``; ``total`` is None while it is unknown.
    """

    task: str
    label: str
    done: int = 0
    total: int | None = None
    unit: Literal["bytes", "steps"] = "steps"
    finished: bool = False


ProgressCallback = Callable[[Progress], None]


def report(progress: ProgressCallback | None, task: str, label: str, *, finished: bool = False) -> None:
    """Tell whoever wants to know how far a piece of long work has come."""
    if progress is not None:
        progress(Progress(task, label, finished=finished))
