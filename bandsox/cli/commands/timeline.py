"""``bandsox vm checkpoint``, ``checkpoints``, ``rewind`` and ``diff``: a VM's timeline."""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING

import click

from bandsox.cli.command import Command
from bandsox.cli.operation import operation
from bandsox.cli.output import age, paint, print_json, print_table, visible
from bandsox.cli.parameters import vm_argument
from bandsox.models import MOST_DIFFERENCES

if TYPE_CHECKING:
    from bandsox.cli.runtime import Call
    from bandsox.models import FileDifference

_MARKS = {"created": ("A", "green"), "modified": ("M", "yellow"), "removed": ("D", "red")}


@click.command(
    cls=Command,
    examples=(
        ("bandsox vm checkpoint dev before-upgrade", "and back: bandsox vm rewind dev before-upgrade"),
        ("bandsox vm checkpoint dev before-upgrade --remove", "delete it"),
    ),
)
@vm_argument("name", metavar="VM")
@click.argument("label", metavar="[LABEL]", required=False)
@click.option("--remove", is_flag=True, help="Delete the checkpoint LABEL.")
@operation
async def checkpoint(call: Call, name: str, label: str | None, remove: bool) -> None:
    """Keep this instant of a VM as a place to go back to, and print its label. The VM goes on."""
    machine = await call.vm(name)
    if remove:
        if label is None:
            raise click.UsageError("say which checkpoint: --remove LABEL")
        await machine.remove_checkpoint(label)
        return
    taken = await machine.checkpoint(label, progress=call.progress)
    call.progress.clear()
    if call.state.json:
        print_json(dataclasses.asdict(taken))
    else:
        click.echo(visible(taken.label))


@click.command(cls=Command, examples=(("bandsox vm checkpoints dev", "the places that it can go back to"),))
@vm_argument("name", metavar="VM")
@operation
async def checkpoints(call: Call, name: str) -> None:
    """List the checkpoints of a VM, the oldest first."""
    found = await (await call.vm(name)).checkpoints()
    if call.state.json:
        print_json([dataclasses.asdict(each) for each in found])
        return
    if call.state.quiet:
        for each in found:
            click.echo(visible(each.label))
        return
    labels = {each.snapshot: each.label for each in found}
    rows = ((each.label, labels.get(each.after or "", "-"), age(each.created_at), each.snapshot[:12]) for each in found)
    print_table(("LABEL", "AFTER", "CREATED", "SNAPSHOT"), rows, call.state)


@click.command(cls=Command, examples=(("bandsox vm rewind dev before-upgrade", "memory, programs and disk as they were then"),))
@vm_argument("name", metavar="VM")
@click.argument("label", metavar="LABEL")
@operation
async def rewind(call: Call, name: str, label: str) -> None:
    """Bring a VM back to a checkpoint. What has changed since then is lost; all checkpoints stay."""
    machine = await call.vm(name)
    await machine.rewind(label, progress=call.progress)
    call.progress.clear()
    if call.state.json:
        print_json(await machine.info())


@click.command(
    cls=Command,
    examples=(
        ("bandsox vm diff dev before-upgrade", "what has changed since then"),
        ("bandsox vm diff dev before-upgrade after-upgrade", "between two checkpoints"),
    ),
)
@vm_argument("name", metavar="VM")
@click.argument("before", metavar="LABEL")
@click.argument("after", metavar="[LABEL]", required=False)
@click.option("--limit", type=int, default=MOST_DIFFERENCES, show_default=True, metavar="N", help="The most files that may differ.")
@operation
async def diff(call: Call, name: str, before: str, after: str | None, limit: int) -> None:
    """List the files that changed between two checkpoints of a VM, or between one and now.

    A was created, M modified, D removed. It is the disks that are compared: what is in a file system in the VM's memory is not seen.
    """
    found = await (await call.vm(name)).diff(before, after, limit=limit, progress=call.progress)
    call.progress.clear()
    if call.state.json:
        print_json([{**dataclasses.asdict(each), "path": os.fsdecode(each.path)} for each in found])
        return
    for each in found:
        click.echo(_line(each, call))


def _line(difference: FileDifference, call: Call) -> str:
    mark, color = _MARKS[difference.change]
    slash = "/" if difference.type == "directory" else ""
    return f"{paint(mark, color, call.state)} {visible(difference.path)}{slash}"


COMMANDS = (checkpoint, checkpoints, rewind, diff)
