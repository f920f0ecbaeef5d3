"""``bandsox logs``: a machine's console."""

from __future__ import annotations

import codecs
import contextlib
import json
import sys
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING

import click

from bandsox.cli.command import Command
from bandsox.cli.operation import operation
from bandsox.cli.output import print_json, visible
from bandsox.cli.parameters import vm_argument

if TYPE_CHECKING:
    from bandsox.cli.runtime import Call
    from bandsox.vm import AsyncMicroVM


@click.command(
    cls=Command,
    examples=(
        ("bandsox logs dev", "what the kernel and the agent have printed"),
        ("bandsox logs -n 20 dev", "the last 20 lines of it"),
        ("bandsox logs -f dev", "and what they print from now on"),
    ),
)
@vm_argument()
@click.option("-n", "--tail", type=click.IntRange(min=0), metavar="LINES", help="Only the last lines.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what is printed from now on, until the VM stops.")
@click.option("--raw", is_flag=True, help="Every byte as it is, control sequences for the terminal included.")
@operation
async def logs(call: Call, vm: str, tail: int | None, follow: bool, raw: bool) -> None:
    """Show what a VM has printed on its console.

    That is what its kernel and its agent print from the start of the VM on, at most the first 256 KiB, and not the output of its commands.
    Control characters are shown as \\x1b and the like. With --json and --follow each line is an object of its own.
    """
    if raw and call.state.json:
        raise click.UsageError("--raw and --json exclude each other")
    machine = await call.vm(vm)
    if call.state.json and not follow:
        print_json({"console": _last((await machine.console()).encode(), tail).decode()})
        return
    lines = _Lines(json_lines=call.state.json)
    first = True
    async with contextlib.aclosing(_pieces(call, machine, follow)) as pieces:
        async for piece in pieces:
            shown = _last(piece, tail) if first else piece
            first = False
            if raw:
                sys.stdout.buffer.write(shown)
                sys.stdout.buffer.flush()
            else:
                lines.feed(shown)
    if not raw:
        lines.finish()


async def _pieces(call: Call, machine: AsyncMicroVM, follow: bool) -> AsyncGenerator[bytes, None]:
    """The console's bytes; of a server's machine they are text."""
    if call.remote:
        texts = machine.follow_console() if follow else _only(await machine.console())
        async for text in texts:
            yield text.encode()
        return
    record = await call.engine.get(machine.vm_id)
    if not follow:
        yield call.engine.console(record)
        return
    async with contextlib.aclosing(call.engine.follow_console(record)) as pieces:
        async for piece in pieces:
            yield piece


async def _only(text: str) -> AsyncGenerator[str, None]:
    yield text


def _last(console: bytes, tail: int | None) -> bytes:
    """The last `tail` lines; all where that is None."""
    if tail is None:
        return console
    return b"".join(console.splitlines(keepends=True)[-tail:] if tail else [])


class _Lines:
    """Prints whole lines of what comes in pieces."""

    def __init__(self, *, json_lines: bool) -> None:
        self._json = json_lines
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._begun = ""

    def feed(self, piece: bytes, *, final: bool = False) -> None:
        *whole, self._begun = (self._begun + self._decoder.decode(piece, final)).split("\n")
        for line in whole:
            self._print(line.rstrip("\r"))

    def finish(self) -> None:
        self.feed(b"", final=True)
        if self._begun:
            self._print(self._begun.rstrip("\r"))

    def _print(self, line: str) -> None:
        click.echo(json.dumps({"line": line}) if self._json else "\t".join(visible(part) for part in line.split("\t")))
