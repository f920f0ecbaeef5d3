"""``bandsox doctor``: what this host can do."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click

from bandsox.cli.command import Command
from bandsox.cli.operation import operation
from bandsox.cli.output import paint, print_json, print_table, visible

if TYPE_CHECKING:
    from bandsox.cli.runtime import Call


@click.command(cls=Command, examples=(("bandsox doctor", "the first thing to run when something does not work"),))
@click.option("--again", is_flag=True, help="Try every accelerator again, also those that are known to work or to fail.")
@operation
async def doctor(call: Call, again: bool) -> int:
    """Say what this host can do, and how to mend what is missing.

    It boots a small VM to see what the host's accelerators are worth, unless that is known already; what failed is believed for a day.
    The exit status is 1 when something that every VM needs is missing.
    """
    findings = await call.bandsox.doctor(again)
    call.progress.clear()
    missing = any(finding.state == "missing" for finding in findings)
    if call.state.json:
        print_json({"ok": not missing, "findings": [dataclasses.asdict(finding) for finding in findings]})
        return int(missing)
    shown = [finding for finding in findings if finding.state == "missing" or not call.state.quiet]
    if shown:
        print_table(("SUBJECT", "STATE", "FINDING"), [(each.subject, each.state, each.text) for each in shown], call.state)
    remedies = [each for each in shown if each.remedy]
    if remedies:
        click.echo("\nTo mend it:")
    for each in remedies:
        click.echo(f"  {paint(visible(each.remedy or ''), 'cyan', call.state)}    # {visible(each.subject)}")
    return int(missing)
