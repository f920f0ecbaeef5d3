"""``bandsox cleanup``: what was left behind."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click

from bandsox.cli.command import Command
from bandsox.cli.operation import operation
from bandsox.cli.output import print_json

if TYPE_CHECKING:
    from bandsox.cli.runtime import Call


@click.command(cls=Command, examples=(("bandsox cleanup", "safe at any time, also while other commands run"),))
@operation
async def cleanup(call: Call) -> None:
    """Remove what processes that were killed have left behind.

    That is half-made VMs, those of `bandsox run` and of builds, VMs whose --ttl is over, hypervisors without a record, sockets and work
    files. Other VMs stay, whether they run or not; `bandsox vm delete` removes those, `bandsox image prune` images.
    """
    removed = await call.bandsox.cleanup()
    if call.state.json:
        print_json(dataclasses.asdict(removed))
    elif not call.state.quiet:
        for vm_id in removed.machines:
            click.echo(f"removed the VM {vm_id}")
        counts = (
            (len(removed.machines), "VM", "VMs"),
            (removed.processes, "process", "processes"),
            (removed.files, "directory", "directories"),
        )
        found = [f"{count} {one if count == 1 else many}" for count, one, many in counts if count]
        click.echo(f"removed: {', '.join(found)}" if found else "there was nothing to remove")
