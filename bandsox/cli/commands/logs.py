"""``bandsox logs``: a machine's console."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from bandsox.cli.command import Command
from bandsox.cli.operation import operation
from bandsox.cli.output import print_json, visible
from bandsox.cli.parameters import vm_argument

if TYPE_CHECKING:
    from bandsox.cli.runtime import Call


@click.command(
    cls=Command,
    examples=(
        ("bandsox logs dev", "what the kernel and the agent have printed"),
        ("bandsox logs -n 20 dev", "the last 20 lines of it"),
    ),
)
@vm_argument()
@click.option("-n", "--tail", type=click.IntRange(min=0), metavar="LINES", help="Only the last lines.")
@click.option("--raw", is_flag=True, help="Every byte as it is, control sequences for the terminal included.")
@operation
async def logs(call: Call, vm: str, tail: int | None, raw: bool) -> None:
    """Show what a VM has printed on its console.

    That is what its kernel and its agent print from the start of the VM on, at most the first 256 KiB, and not the output of its commands.
    Control characters are shown as \\x1b and the like.
    """
    if raw and call.state.json:
        raise click.UsageError("--raw and --json exclude each other")
    console = call.engine.console(await call.engine.get(vm))
    if tail is not None:
        console = b"".join(console.splitlines(keepends=True)[-tail:] if tail else [])
    if raw:
        sys.stdout.buffer.write(console)
        sys.stdout.buffer.flush()
        return
    text = console.decode(errors="replace").replace("\r\n", "\n")
    if call.state.json:
        print_json({"console": text})
        return
    for line in text.split("\n")[: -1 if text.endswith("\n") or not text else None]:
        click.echo("\t".join(visible(part) for part in line.rstrip("\r").split("\t")))
