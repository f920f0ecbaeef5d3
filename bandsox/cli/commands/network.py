"""``bandsox network``: where machines may go, and where they went."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shlex
from typing import TYPE_CHECKING, Any

import click

from bandsox.cli.command import CommandGroup
from bandsox.cli.operation import operation
from bandsox.cli.output import moment_text, print_facts, print_json, print_table, size, visible
from bandsox.cli.parameters import policy_options, vm_argument, wanted_policy
from bandsox.cli.secret import value_from

if TYPE_CHECKING:
    from bandsox.cli.runtime import Call
    from bandsox.models import Connection, NetworkEvent


@click.group(
    cls=CommandGroup,
    examples=(
        ("bandsox network policy dev --allow api.example.com", "this name, and nothing else"),
        ("bandsox network log dev", "where it went, and what was refused"),
    ),
)
def network() -> None:
    """Say where VMs may go in their network, and see where they went."""


@network.command(
    examples=(
        ("bandsox network policy dev", "show it"),
        ("bandsox network policy dev --policy registry-only --allow api.example.com", "a preset, and a name"),
        ("bandsox network policy dev --allow internet --deny '*.example.org' --deny 203.0.113.0/24:25", "everything but"),
    )
)
@vm_argument("name", metavar="VM")
@policy_options
@operation
async def policy(call: Call, /, name: str, **values: Any) -> None:
    """Show or change where a VM may go.

    A change holds at once, for connections that are open too, and for every later start. A rule is `internet`, an address, a network or a
    name, with :PORTS and /PROTOCOL where it is not for all: `api.example.com`, `*.example.org:443`, `10.1.0.0/16:5432/tcp`.
    """
    machine = await call.vm(name)
    wanted = wanted_policy(values)
    if wanted is not None:
        await machine.set_network_policy(wanted)
    present = await machine.network_policy()
    if call.state.json:
        print_json(None if present is None else dataclasses.asdict(present))
    elif present is None:
        click.echo("no policy: it may go wherever the Internet is, and nothing is written down")
    elif wanted is None:
        print_facts(dataclasses.asdict(present), call.state)


@network.command(examples=(("bandsox network log dev", "what it did"), ("bandsox network log -f dev", "and what it does from now on")))
@vm_argument("name", metavar="VM")
@click.option("-f", "--follow", is_flag=True, help="Only what comes from now on, as it comes, until the VM stops.")
@click.option("--refused", is_flag=True, help="Only what was refused.")
@operation
async def log(call: Call, name: str, follow: bool, refused: bool) -> None:
    """Show what a VM has connected to, and tried to.

    SENT and RECEIVED are known once a connection has ended. With --follow each line is an event: opened, closed or refused; with --json
    an object.
    """
    machine = await call.vm(name)
    if follow:
        async with contextlib.aclosing(machine.follow_network_log()) as events:
            async for event in events:
                if not refused or event.event == "refused":
                    click.echo(json.dumps(dataclasses.asdict(event)) if call.state.json else _line(event))
        return
    found = [entry for entry in await machine.network_log() if not refused or entry.verdict == "refused"]
    if call.state.json:
        print_json([dataclasses.asdict(entry) for entry in found])
        return
    columns = ("TIME", "VERDICT", "PROTOCOL", "NAME", "ADDRESS", "PORT", "SENT", "RECEIVED", "REASON")
    print_table(columns, map(_row, found), call.state, right=("PORT", "SENT", "RECEIVED"))


@network.command(examples=(("bandsox network policy dev $(bandsox network learned dev)", "from now on, only where it has been"),))
@vm_argument("name", metavar="VM")
@operation
async def learned(call: Call, name: str) -> None:
    """Print the policy that allows just where a VM has been, as options.

    It is most exact for a VM that ran with --policy learn, which looks for the names in all connections.
    """
    found = await (await call.vm(name)).learned_policy()
    if call.state.json:
        print_json(dataclasses.asdict(found))
        return
    click.echo(" ".join(f"--allow {shlex.quote(rule)}" for rule in found.allow) or "--policy none")


@network.command()
@vm_argument("name", metavar="VM")
@operation
async def stats(call: Call, name: str) -> None:
    """Show how much a VM has used its network since its start."""
    found = dataclasses.asdict(await (await call.vm(name)).network_stats())
    if call.state.json:
        print_json(found)
        return
    print_facts({**found, "sent": size(found["sent"]), "received": size(found["received"])}, call.state)


@network.command(
    examples=(
        ("bandsox network secret dev", "the names of its secrets, and whether each has a value"),
        ("bandsox network secret dev OPENAI_API_KEY=NEW_KEY", "the value of this command's variable NEW_KEY from now on"),
        ("bandsox network secret dev OPENAI_API_KEY=./key", "of a file: its path has a slash"),
        ("bandsox network secret dev OPENAI_API_KEY --withdraw", "requests go out with the placeholder from now on"),
    )
)
@vm_argument("name", metavar="VM")
@click.argument("setting", required=False, metavar="NAME[=FROM]")
@click.option("--withdraw", is_flag=True, help="Take its value away.")
@operation
async def secret(call: Call, name: str, setting: str | None, withdraw: bool) -> None:
    """Show a VM's secrets, or give one another value.

    Values come from variables of this command or from files, and are never shown. A change holds at once, and for every later start.
    """
    machine = await call.vm(name)
    if setting is not None:
        variable, _, source = setting.partition("=")
        await machine.set_secret(variable, None if withdraw else value_from(source or variable))
    elif withdraw:
        raise click.UsageError("which secret is to be withdrawn?")
    known = await machine.secrets()
    if call.state.json:
        print_json(known)
    else:
        hosts = (await machine.info())["secrets"]
        rows = [(key, ", ".join(hosts[key]), "yes" if has_value else "no") for key, has_value in known.items()]
        print_table(("NAME", "HOSTS", "HAS A VALUE"), rows, call.state)


def _row(entry: Connection) -> tuple[str, ...]:
    counted = (size(entry.sent), size(entry.received)) if entry.ended is not None else ("", "")
    return (
        moment_text(entry.time) or "",
        entry.verdict,
        entry.protocol,
        entry.name,
        entry.address,
        str(entry.port or ""),
        *counted,
        entry.reason,
    )


def _line(event: NetworkEvent) -> str:
    place = f"{event.address} {event.port or ''}".strip()
    counted = f"sent {size(event.sent)}, received {size(event.received)}" if event.event == "closed" else event.reason
    return visible(" ".join(filter(None, (moment_text(event.time), event.event, event.protocol, event.name, place, counted))))
