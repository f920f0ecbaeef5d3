"""``bandsox run``: a machine for one command."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from bandsox.cli.command import ProgramCommand
from bandsox.cli.detaching import parse_detach_keys
from bandsox.cli.machines import create_machine, deleted_afterwards, find_config, program_of
from bandsox.cli.operation import operation
from bandsox.cli.output import notice
from bandsox.cli.parameters import MachineOptions, image_argument, machine_options, program_options

if TYPE_CHECKING:
    from bandsox.cli.runtime import Call


@click.command(
    cls=ProgramCommand,
    examples=(
        ("bandsox run python:3-alpine -- python3 -c 'print(6 * 7)'", "run a command"),
        ("bandsox run -it alpine", "look around in a shell"),
        ("bandsox run -i alpine sha256sum < file", "feed it a file"),
        ("bandsox run --mem 1G --timeout 5m -e CI=1 debian -- make test", "with more memory, a time limit and a variable"),
    ),
)
@image_argument()
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@program_options
@machine_options
@click.option("--entrypoint", metavar="PROGRAM", help="In the place of the image's ENTRYPOINT; a program or a JSON list.")
@click.option("--rm/--keep", "remove", default=True, show_default=True, help="Delete the VM when the command has ended, or keep it.")
@click.option("--timings", is_flag=True, help="Say on stderr how long each stage took.")
@operation
async def run(call: Call, /, image: str, command: tuple[str, ...], **values: Any) -> int:
    """Run a command in a new VM, and delete the VM afterwards.

    Without COMMAND the image's own runs. The exit status is the command's, and 128 + N where signal N ended it. The first Ctrl-C goes to
    the command, a second one ends it; the VM is deleted in any case, even when this command is killed.
    With -it, Ctrl-P Ctrl-Q leaves command and VM running.
    """
    from bandsox.cli.program import Program, check_streams, run_program
    from bandsox.cli.timings import Timings
    from bandsox.cli.visit import quoted, way_back

    options = MachineOptions.take(values)
    interactive, tty = values["interactive"], values["tty"]
    check_streams(call, interactive=interactive, tty=tty)
    timings = Timings(shown=values["timings"])
    with timings.stage("image"):
        config = await find_config(call, image, options.pull)
    argv = program_of(config, values["entrypoint"], command, interactive=interactive and tty)
    keys = parse_detach_keys(values["detach_keys"])
    vm = await create_machine(call, image, options, timings, ephemeral=values["remove"])
    program = Program(argv, {}, interactive, tty, values["workdir"], values["user"], values["timeout"], keys)
    async with deleted_afterwards(call, vm, keep=not values["remove"]) as fate:
        with timings.stage("command"):
            ended = await run_program(call, vm, program)
        if not isinstance(ended, int):
            await fate.keep()
    timings.total()
    if not isinstance(ended, int):
        notice(f"\ndetached; return with: {way_back(vm, ended.session)}", call.state)
        notice(f"VM {vm.name} goes on until `bandsox vm delete {quoted(vm)}`", call.state)
        return 0
    if fate.kept:
        notice(f"VM {vm.name} is still running; its id is {vm.vm_id}", call.state)
    return ended
