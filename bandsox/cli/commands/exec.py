"""``bandsox exec``: a command in a machine that runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bandsox.cli.command import ProgramCommand
from bandsox.cli.detaching import parse_detach_keys
from bandsox.cli.operation import operation
from bandsox.cli.output import notice
from bandsox.cli.parameters import program_options, variables, vm_argument

if TYPE_CHECKING:
    from bandsox.cli.runtime import Call


@click.command(
    "exec",
    cls=ProgramCommand,
    examples=(
        ("bandsox exec dev -- ls -l /", "a command with its arguments, without a shell"),
        ("bandsox exec dev -- sh -c 'echo $HOME | wc -c'", "a shell, where one is wanted"),
        ("bandsox exec -it dev python3", "on a terminal"),
        ("tar c . | bandsox exec -i dev -- tar x -C /srv", "bytes through standard input"),
    ),
)
@vm_argument()
@click.argument("command", nargs=-1, type=click.UNPROCESSED, required=True)
@program_options
@click.option("-e", "--env", multiple=True, metavar="NAME[=VALUE]", help="Set a variable; without a value, as it is here.")
@click.option(
    "--env-file",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Set the variables of a file of NAME=VALUE lines.",
)
@operation
async def execute(call: Call, /, vm: str, command: tuple[str, ...], **values: Any) -> int:
    """Run a command in a running VM.

    VM is a name, an id, or the beginning of an id. The command gets its arguments as they are; no shell looks at them. The exit
    status is the command's, 128 + N where signal N ended it, 124 after a timeout, 126 or 127 where it could not be started.
    With -it, Ctrl-P Ctrl-Q leaves it running, and `bandsox terminal --session` returns to it.
    """
    from bandsox.cli.program import Program, check_streams, run_program
    from bandsox.cli.visit import way_back

    check_streams(call, interactive=values["interactive"], tty=values["tty"])
    program = Program(
        command,
        variables(values["env"], values["env_file"]),
        values["interactive"],
        values["tty"],
        values["workdir"],
        values["user"],
        values["timeout"],
        parse_detach_keys(values["detach_keys"]),
    )
    machine = await call.vm(vm)
    ended = await run_program(call, machine, program)
    if isinstance(ended, int):
        return ended
    notice(f"\ndetached; return with: {way_back(machine, ended.session)}", call.state)
    return 0
