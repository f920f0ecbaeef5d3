"""Progress of long work on stderr: bars on a terminal, plain lines elsewhere, nothing for programs.

Reports may come from any thread. Steps are shown without Rich, whose import would delay the work that they are about; it is
loaded for the first bar.
"""

from __future__ import annotations

import sys
import threading
from types import TracebackType
from typing import TYPE_CHECKING

from bandsox.cli.command import Invocation
from bandsox.cli.output import visible
from bandsox.models import Progress

if TYPE_CHECKING:
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

_BRIEF = frozenset({"boot"})
"""Tasks that take a moment in every call: worth a passing line on a terminal, and no line in a log."""

_OUTPUT, _STEP = "output", "step "
"""Tasks of a build: a line that a command printed, and the instructions; both stay to be read."""

_PLAIN_STEP = 0.25
"""How much of a task, as a fraction, lies between two plain lines about it."""


class ProgressDisplay:
    """Shows what it is called with, until it is closed. What a terminal shows goes away again."""

    def __init__(self, state: Invocation) -> None:
        self._silent = state.quiet or state.json
        self._terminal = sys.stderr.isatty()
        self._guard = threading.Lock()
        self._bars: Bars | None = None
        self._rows: dict[str, TaskID] = {}
        self._said: dict[str, tuple[str, float]] = {}
        self._line = False

    def __call__(self, report: Progress) -> None:
        """Show a report."""
        if self._silent:
            return
        with self._guard:
            if report.task == _OUTPUT or (report.task.startswith(_STEP) and not report.finished):
                self._permanent(visible(report.label) if report.task != _OUTPUT else f"  {visible(report.label)}")
            elif report.task.startswith(_STEP):
                return
            elif not self._terminal:
                self._plain(report)
            elif self._bars is not None or report.unit == "bytes":
                self._bar(report)
            else:
                self._passing(report)

    def __enter__(self) -> ProgressDisplay:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.clear()

    def clear(self) -> None:
        """Take away what a terminal shows, before something else is written to it."""
        with self._guard:
            if self._bars is not None:
                self._bars.stop()
                self._bars = None
                self._rows.clear()
            self._erase()

    def _plain(self, report: Progress) -> None:
        if report.task in _BRIEF:
            return
        label, fraction = self._said.get(report.task, ("", 0.0))
        share = report.done / report.total if report.total else 0.0
        if report.finished and report.label == label and share in {0.0, fraction}:
            return
        if report.label != label or report.finished or share >= fraction + _PLAIN_STEP:
            amount = f" {share:.0%}" if share else ""
            self._said[report.task] = (report.label, share)
            print(f"{visible(report.label)}{amount}", file=sys.stderr, flush=True)  # noqa: T201 — this is the command line

    def _permanent(self, line: str) -> None:
        self._erase()
        if self._bars is not None:
            self._bars.console.print(line, markup=False, highlight=False)
        else:
            print(line, file=sys.stderr, flush=True)  # noqa: T201 — this is the command line

    def _passing(self, report: Progress) -> None:
        self._erase()
        if not report.finished:
            sys.stderr.write(f"{visible(report.label)} …")
            self._line = True
        sys.stderr.flush()

    def _erase(self) -> None:
        if self._line:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._line = False

    def _bar(self, report: Progress) -> None:
        if self._bars is None:
            self._erase()
            self._bars = _new_bars()
            self._bars.start()
        label = visible(report.label)
        if report.task not in self._rows:
            self._rows[report.task] = self._bars.add_task(label, total=report.total)
        row = self._rows[report.task]
        total = report.total if report.total is not None else (report.done or 1) if report.finished else None
        done = total if report.finished and total is not None else report.done
        self._bars.update(row, description=label, total=total, completed=done, visible=report.unit == "bytes" or not report.finished)


def _new_bars() -> Bars:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(compact=True),
        console=Console(stderr=True),
        transient=True,
    )
