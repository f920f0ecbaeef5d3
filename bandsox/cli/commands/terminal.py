"""``bandsox terminal``: a terminal in a machine, which one can leave and return to."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from bandsox.cli.command import ProgramCommand
from bandsox.cli.detaching import parse_detach_keys
from bandsox.cli.operation import operation
from bandsox.cli.output import age, notice, print_json, print_table, visible
from bandsox.cli.parameters import detach_keys_option, vm_argument
from bandsox.cli.visit import visit, way_back

if TYPE_CHECKING:
    from bandsox.cli.runtime import Call
    from bandsox.models import SessionInfo
    from bandsox.vm import AsyncMicroVM

_SHELL = "command -v bash >/dev/null 2>&1 && exec bash; exec sh"


@click.command(
    cls=ProgramCommand,
    examples=(
        ("bandsox terminal dev", "a shell; leave it with exit, or detach with Ctrl-P Ctrl-Q"),
        ("bandsox terminal dev -- top", "another program"),
        ("bandsox terminal --list dev", "the terminals that are open"),
        ("bandsox terminal --session 3f2a9c… dev", "return to one of them"),
    ),
)
@vm_argument()
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.option("--session", metavar="ID", help="Return to a terminal that was detached; the beginning of its id is enough.")
@click.option("--list", "listing", is_flag=True, help="List the terminals of the VM.")
@detach_keys_option
@click.option("-w", "--workdir", metavar="DIR", help="The working directory in the guest; the image's when absent.")
@click.option("-u", "--user", metavar="USER", help="NAME, UID, NAME:GROUP or UID:GID in the guest; the image's when absent.")
@operation
async def terminal(
    call: Call,
    vm: str,
    command: tuple[str, ...],
    session: str | None,
    listing: bool,
    detach_keys: str,
    workdir: str | None,
    user: str | None,
) -> int:
    """Open a terminal in a VM, or return to one.

    Without COMMAND it runs a shell. It belongs to the VM: when you detach, or the connection breaks, it goes on, and
    `bandsox terminal --session` returns to it.
    """
    from bandsox.cli.terminal import terminal_type, window_size

    keys = parse_detach_keys(detach_keys)
    if not listing and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise click.UsageError("a terminal needs a terminal here too; use `bandsox exec -i`")
    if call.state.json and not listing:
        raise click.UsageError("--json goes with --list only")
    if session is not None and command:
        raise click.UsageError("--session returns to a program that runs, and takes no COMMAND")
    machine = await call.vm(vm)
    if listing:
        _print_sessions(call, [found for found in await machine.list_sessions() if found.tty])
        return 0
    if session is None:
        cols, rows = window_size()
        session = await machine.start_pty_session(
            list(command) or _SHELL, cols, rows, env={"TERM": terminal_type()}, cwd=workdir, user=user
        )
    else:
        session = await _full_id(machine, session)
    result = await visit(machine, session, keys)
    if result is None:
        notice(f"\ndetached; return with: {way_back(machine, session)}", call.state)
        return 0
    return result.exit_code


async def _full_id(machine: AsyncMicroVM, beginning: str) -> str:
    """The id of the one session that begins like this, or else what was given, for the guest to refuse."""
    ids = [found.id for found in await machine.list_sessions()]
    matching = [session for session in ids if session.startswith(beginning)]
    return matching[0] if len(matching) == 1 and beginning not in ids else beginning


def _print_sessions(call: Call, sessions: list[SessionInfo]) -> None:
    lines = [[argument.decode(errors="replace") for argument in session.argv] for session in sessions]
    if call.state.json:
        keys = ("id", "pid", "started", "running", "exit_code", "attached")
        print_json([{**{key: getattr(session, key) for key in keys}, "argv": line} for session, line in zip(sessions, lines, strict=True)])
        return
    if call.state.quiet:
        for session in sessions:
            click.echo(visible(session.id))
        return
    rows = [
        (
            session.id,
            "running" if session.running else f"ended ({session.exit_code})",
            age(session.started),
            str(session.attached),
            " ".join(line),
        )
        for session, line in zip(sessions, lines, strict=True)
    ]
    print_table(("ID", "STATE", "STARTED", "ATTACHED", "COMMAND"), rows, call.state, right=("ATTACHED",))
