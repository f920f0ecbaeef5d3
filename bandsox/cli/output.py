"""Results on stdout: JSON, tables, and facts; text of any origin without harm to a terminal.

Names, console lines and errors may come from a guest or a stranger's image. Whatever is printed as text goes through
`visible`, which leaves no control character that a terminal would obey.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
import time
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import click

from bandsox.cli.command import Invocation

_STATUS_COLORS = {
    "running": "green",
    "paused": "yellow",
    "saved": "yellow",
    "creating": "cyan",
    "dead": "red",
    "ok": "green",
    "note": "yellow",
    "missing": "red",
}

_GAP = "  "
_LEAST_ROOM = 30
"""How many characters the last column needs at least for its text to be broken into lines."""


def visible(text: str | bytes) -> str:
    """`text` on one line with every character that is not printable as a Python escape, such as ``\\x1b``."""
    if isinstance(text, bytes):
        text = os.fsdecode(text)
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)


def colored(state: Invocation, *, err: bool = False) -> bool:
    """Whether stdout, or stderr, takes colours."""
    stream = sys.stderr if err else sys.stdout
    return state.color and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb" and stream.isatty()


def paint(text: str, color: str, state: Invocation, *, err: bool = False) -> str:
    """`text` in a colour where there are colours."""
    return click.style(text, fg=color) if colored(state, err=err) else text


def notice(text: str, state: Invocation) -> None:
    """Tell people something that is no result: on stderr, and not at all for programs."""
    if not state.quiet and not state.json:
        click.echo(visible(text), err=True)


def print_json(value: Any) -> None:
    """`value` on stdout as JSON in ASCII; names that are not Unicode come as surrogate escapes."""
    click.echo(json.dumps(value, indent=2 if sys.stdout.isatty() else None, default=str))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], state: Invocation, *, right: Sequence[str] = ()) -> None:
    """Rows under column titles, as wide as they need to be. On a terminal a long last column goes on below itself.

    Parameters
    ----------
    right: the columns of numbers, which end at the same place.
    """
    cells = [[visible(cell) for cell in row] for row in rows]
    widths = [max(map(_width, column)) for column in zip(columns, *cells, strict=True)]
    at_right = [column in right for column in columns]
    room = shutil.get_terminal_size().columns - sum(width + len(_GAP) for width in widths[:-1]) if sys.stdout.isatty() else 0

    def print_row(row: Sequence[str], paint_cell: Callable[[str], str]) -> None:
        *others, last = row
        first, *more = textwrap.wrap(last, room) or [""] if room >= _LEAST_ROOM else [last]
        padded = []
        for cell, width, flushed in zip((*others, first), widths, at_right, strict=True):
            space = " " * (width - _width(cell))
            padded.append(space + paint_cell(cell) if flushed else paint_cell(cell) + space)
        click.echo(_GAP.join(padded).rstrip())
        for line in more:
            click.echo(" " * sum(width + len(_GAP) for width in widths[:-1]) + line)

    print_row(columns, lambda title: click.style(title, bold=True) if colored(state) else title)
    for row in cells:
        print_row(row, lambda cell: paint(cell, _STATUS_COLORS[cell], state) if cell in _STATUS_COLORS else cell)


def _width(text: str) -> int:
    """How many columns of a terminal a text takes: wide characters take two, and those that combine with another none."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def print_facts(facts: Mapping[str, Any], state: Invocation, indent: int = 0) -> None:
    """Names and values, one a line; nested ones further right."""
    width = max((len(name) for name in facts), default=0)
    for name, value in facts.items():
        title = " " * indent + paint(f"{name}:", "cyan", state)
        if isinstance(value, Mapping) and value:
            click.echo(title)
            print_facts({visible(str(key)): inner for key, inner in value.items()}, state, indent + 2)
        else:
            click.echo(f"{title}{'':{width - len(name) + 1}}{visible(_plain(value))}")


def _plain(value: Any) -> str:
    if value is None or value in ((), [], {}, ""):
        return "-"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return str(value)


def size(count: float) -> str:
    """A number of bytes for people, such as ``1.5 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}".replace(".0 ", " ")
        count /= 1024
    return f"{count:.1f} TiB"


def duration(seconds: float) -> str:
    """A time span for people, in its largest whole unit."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def age(moment: float) -> str:
    """How long ago a moment (seconds since the epoch) was."""
    return f"{duration(time.time() - moment)} ago"


def moment_text(moment: float | None) -> str | None:
    """A moment (seconds since the epoch) in ISO 8601, local time."""
    return None if moment is None else time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(moment))
