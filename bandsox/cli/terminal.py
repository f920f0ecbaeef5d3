"""This process's terminal, lent to a program in a guest: raw mode, the window's size, the keys that detach.

Whatever happens in between, the terminal is put back as it was: its settings, and the modes that the program switched on
through escape sequences and had no occasion to switch off, such as the alternate screen or the reporting of the mouse.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING

from bandsox.cli.detaching import DetachKeys
from bandsox.cli.streams import STDIN, STDOUT, Input, Output, background

if TYPE_CHECKING:
    from bandsox.guest import Execution
    from bandsox.models import ExecResult

DEFAULT_SIZE = (80, 24)

_COMMON_TYPES = re.compile(r"(xterm|screen|tmux|linux|vt100|vt220|rxvt)(-(16|256)color)?")
_PRIVATE_MODES = re.compile(rb"\x1b\[\?([0-9;]{1,64})([hl])")
_LONGEST_SEQUENCE = 70
_RESTORED_MODES = frozenset({1, 9, 47, 1000, 1001, 1002, 1003, 1004, 1005, 1006, 1007, 1015, 1016, 1047, 1049, 2004})
_CURSOR_VISIBLE = 25


class Detached(Exception):
    """The detach keys were typed."""


def window_size() -> tuple[int, int]:
    """Columns and rows of this process's terminal; 80 by 24 where it does not say."""
    for descriptor in (STDOUT, STDIN, 2):
        with contextlib.suppress(OSError):
            size = os.get_terminal_size(descriptor)
            if size.columns and size.lines:
                return size.columns, size.lines
    return DEFAULT_SIZE


def terminal_type() -> str:
    """The TERM of a program in a guest: as here where every image knows it, else the one most terminals understand."""
    here = os.environ.get("TERM", "")
    return here if _COMMON_TYPES.fullmatch(here) else "xterm-256color"


class _Modes:
    """The modes of the terminal that a program has changed (DEC private modes, as xterm's ctlseqs has them)."""

    def __init__(self) -> None:
        self._on: set[int] = set()
        self._cursor_hidden = False
        self._tail = b""

    def watch(self, output: bytes) -> None:
        text = self._tail + output
        end = 0
        for found in _PRIVATE_MODES.finditer(text):
            end = found.end()
            switched_on = found[2] == b"h"
            for mode in (int(number) for number in found[1].split(b";") if number):
                if mode == _CURSOR_VISIBLE:
                    self._cursor_hidden = not switched_on
                elif mode in _RESTORED_MODES:
                    (self._on.add if switched_on else self._on.discard)(mode)
        self._tail = text[max(end, len(text) - _LONGEST_SEQUENCE) :]

    def undo(self) -> bytes:
        undone = b"".join(b"\x1b[?%dl" % mode for mode in sorted(self._on))
        return undone + (b"\x1b[?25h" if self._cursor_hidden else b"")


class LocalTerminal:
    """This process's terminal in raw mode, for the time of a ``with`` block."""

    def __init__(self) -> None:
        self.modes = _Modes()
        self._settings = termios.tcgetattr(STDIN)

    def __enter__(self) -> LocalTerminal:
        sys.stdout.flush()
        tty.setraw(STDIN, termios.TCSADRAIN)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with contextlib.suppress(termios.error, OSError):  # the terminal itself has gone
            termios.tcsetattr(STDIN, termios.TCSADRAIN, self._settings)
            if undo := self.modes.undo():
                os.write(STDOUT, undo)


async def interact(execution: Execution, keys: bytes = b"") -> ExecResult:
    """Lend the terminal to a program until it ends.

    Raises
    ------
    Detached: the detach `keys` were typed.
    BandSoxError: the connection failed.
    """
    detached = asyncio.Event()
    with LocalTerminal() as terminal, _window_changes() as changes:
        async with background(_follow_window(execution, changes), _type(execution, DetachKeys(keys), detached)):
            shown = asyncio.ensure_future(_show(execution, terminal.modes))
            leaving = asyncio.ensure_future(detached.wait())
            try:
                await asyncio.wait({shown, leaving}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                leaving.cancel()
                if not shown.done():
                    shown.cancel()
                    await asyncio.wait({shown})
            if shown.cancelled():
                raise Detached
            return shown.result()


async def _show(execution: Execution, modes: _Modes) -> ExecResult:
    output = Output()
    async for _, data in execution:
        modes.watch(data)
        await output.write(STDOUT, data)
    return await execution.wait()


async def _type(execution: Execution, keys: DetachKeys, detached: asyncio.Event) -> None:
    async for data in Input():
        typed, found = keys.feed(data)
        if typed:
            await execution.write(typed)
        if found:
            break
    detached.set()  # the end of a terminal in raw mode is that it has gone; the signal for that may be ignored (nohup(1))


@contextlib.contextmanager
def _window_changes() -> Iterator[asyncio.Event]:
    loop = asyncio.get_running_loop()
    changed = asyncio.Event()
    loop.add_signal_handler(signal.SIGWINCH, changed.set)
    try:
        yield changed
    finally:
        loop.remove_signal_handler(signal.SIGWINCH)


async def _follow_window(execution: Execution, changed: asyncio.Event) -> None:
    while True:
        await changed.wait()
        changed.clear()
        await execution.resize(*window_size())
