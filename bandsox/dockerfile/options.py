"""What the caller of a build chooses, and how the build tells what it does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bandsox.dockerfile.machine import MachineSize
from bandsox.models import Progress, ProgressCallback

_MAX_LINE = 4096


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """The choices of one build; see `bandsox.dockerfile.build_image`."""

    build_args: Mapping[str, str] = field(default_factory=dict)
    target: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, bytes] = field(default_factory=dict)
    no_cache: bool = False
    pull: bool = False
    registry_only: bool = False
    size: MachineSize = field(default_factory=MachineSize)


class Reporter:
    """Reports steps and output to a progress callback.

    A step is a `Progress` whose ``task`` is ``step <n>``; a line that a command prints is one whose task is ``output``.
    """

    def __init__(self, callback: ProgressCallback | None) -> None:
        self.callback = callback
        self._step = 0
        self._partial = b""

    def begin(self, label: str) -> int:
        """A step begins; return its number."""
        self._step += 1
        self._send(f"step {self._step}", label, finished=False)
        return self._step

    def end(self, step: int, label: str) -> None:
        """The step with this number has ended."""
        self._send(f"step {step}", label, finished=True)

    def output(self, data: bytes) -> None:
        """Something was printed; whole lines are passed on."""
        *lines, self._partial = (self._partial + data).split(b"\n")
        if len(self._partial) > _MAX_LINE:
            lines, self._partial = [*lines, self._partial], b""
        for line in lines:
            self._send("output", line.rstrip(b"\r").decode("utf-8", "replace"), finished=False)

    def end_output(self) -> None:
        """Nothing more is printed."""
        if self._partial:
            self.output(b"\n")

    def _send(self, task: str, label: str, *, finished: bool) -> None:
        if self.callback is not None:
            self.callback(Progress(task, label, self._step, None, "steps", finished))
