"""``bandsox template``: machines that were set up once, to start others from."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import click

from bandsox.cli.command import CommandGroup
from bandsox.cli.completion import complete_template
from bandsox.cli.faults import report
from bandsox.cli.operation import operation
from bandsox.cli.output import age, notice, print_json, print_table, size
from bandsox.cli.parameters import default_of, image_argument, mebibytes, seconds, variables
from bandsox.errors import BandSoxError
from bandsox.models import TEMPLATE_PREFIX, Template

if TYPE_CHECKING:
    from bandsox.cli.runtime import Call

_EXAMPLES = (
    ("bandsox template make python:3-alpine --run 'pip install requests'", "set one up, or find the one that is; prints its id"),
    ("bandsox run template:ID -- python3 -c 'import requests'", "a VM that goes on from it"),
    ("bandsox template prune --unused-for 7d", "remove what nobody uses"),
)


@click.group(cls=CommandGroup, examples=_EXAMPLES, aliases={"ls": "list", "rm": "remove"})
def template() -> None:
    """Make, list and remove templates: VMs that were set up once, to start others from."""


@template.command(
    examples=(
        ("bandsox template make python:3-alpine --run 'pip install requests' --mem 256", "with a command"),
        ("bandsox template make alpine --file ./app.conf:/etc/app.conf --run 'apk add nginx'", "with a file of this host"),
    )
)
@image_argument()
@click.option("--run", "commands", multiple=True, metavar="COMMAND", help="Run this in the image's shell; one after the other.")
@click.option("--file", "files", multiple=True, metavar="HERE:THERE", help="Put a file of this host into it, before the commands run.")
@click.option("-e", "--env", "env", multiple=True, metavar="NAME[=VALUE]", help="Set a variable; without a value, as it is here.")
@click.option("--vcpu", type=int, default=default_of("vcpu"), show_default=True, metavar="N", help="Number of CPUs.")
@click.option("--mem", type=mebibytes, default=default_of("mem_mib"), show_default=True, metavar="MiB", help="Memory; 2G is 2048.")
@click.option(
    "--disk-size", type=mebibytes, default=default_of("disk_size_mib"), show_default=True, metavar="MiB", help="Room for writing."
)
@click.option("--network/--no-network", default=None, help="Give it, and what is made of it, a network.")
@click.option("--vmm", metavar="NAME", help="The hypervisor: qemu or firecracker.")
@click.option("--timeout", type=seconds, metavar="SECONDS", help="How long each command may take.")
@operation
async def make(call: Call, /, image: str, commands: tuple[str, ...], files: tuple[str, ...], **values: Any) -> None:
    """Set a VM up and keep it as a template, if there is none of the same image and set-up; print its id."""
    made = await call.bandsox.template(
        image,
        commands,
        files=dict(_placed(file) for file in files),
        env_vars=variables(values["env"]),
        vcpu=values["vcpu"],
        mem_mib=values["mem"],
        disk_size_mib=values["disk_size"],
        enable_networking=values["network"],
        vmm=values["vmm"],
        timeout=values["timeout"],
        progress=call.progress,
    )
    call.progress.clear()
    if call.state.json:
        print_json(dataclasses.asdict(made))
        return
    click.echo(made.id)
    notice(f"try: bandsox run {TEMPLATE_PREFIX}{made.id}", call.state)


def _placed(file: str) -> tuple[str, str]:
    here, _, there = file.rpartition(":")
    if not here or not there.startswith("/"):
        raise click.BadParameter(f"{file!r} is not HERE:THERE, with an absolute path there", param_hint="--file")
    return there, here


@template.command("list")
@operation
async def list_(call: Call) -> None:
    """List templates, the oldest first."""
    found = await call.bandsox.list_templates()
    if call.state.json:
        print_json([dataclasses.asdict(each) for each in found])
        return
    if call.state.quiet:
        for each in found:
            click.echo(each.id)
        return
    columns = ("ID", "IMAGE", "CPUS", "MEMORY", "SIZE", "CREATED", "USED", "SET-UP")
    print_table(columns, map(_row, found), call.state, right=("CPUS", "MEMORY", "SIZE"))


def _row(each: Template) -> tuple[str, ...]:
    setup = "; ".join(each.setup)
    facts = (each.id, each.image, str(each.vcpu), f"{each.mem_mib} MiB", size(each.size), age(each.created_at), age(each.used_at))
    return (*facts, setup if len(setup) <= 60 else f"{setup[:59]}…")


@template.command()
@click.argument("templates", nargs=-1, required=True, metavar="TEMPLATE...", shell_complete=complete_template)
@operation
async def remove(call: Call, templates: tuple[str, ...]) -> int:
    """Delete templates; VMs that were made of them go on."""
    failures: list[int] = []
    done = []
    for name in templates:
        try:
            found = await call.bandsox.get_template(name)
            await call.bandsox.remove_template(found.id)
        except BandSoxError as error:
            failures.append(report(error, call.state))
        else:
            done.append(found)
    _tell_removed(call, done)
    return failures[0] if failures else 0


@template.command()
@click.option(
    "--unused-for", type=seconds, default=0.0, metavar="SECONDS", help="Only those of which no VM was made for so long; 90s, 5m, 7d."
)
@operation
async def prune(call: Call, unused_for: float) -> None:
    """Delete all templates, or those that nobody uses."""
    _tell_removed(call, await call.bandsox.prune_templates(unused_for))


def _tell_removed(call: Call, removed: list[Template]) -> None:
    if call.state.json:
        print_json([{"id": each.id, "deleted": True} for each in removed])
    elif not call.state.quiet:
        for each in removed:
            click.echo(each.id)
