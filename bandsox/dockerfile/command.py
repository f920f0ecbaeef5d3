"""Running the command of one RUN in a machine."""

from __future__ import annotations

import contextlib
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass

from bandsox.dockerfile.instructions import Command
from bandsox.dockerfile.machine import BuildMachine
from bandsox.dockerfile.options import Reporter
from bandsox.dockerfile.settings import command_words
from bandsox.dockerfile.source import Place
from bandsox.dockerfile.words import split_words
from bandsox.errors import BandSoxError, BuildFailed, ExecFailed, GuestError, MachineError, OutcomeUnknown, ProtocolError, Timeout
from bandsox.models import ImageConfig

_TAIL = 8192
_FULL_DISK = 1 << 20
_SCRIPTS = "/run/bandsox-build"


@dataclass(frozen=True, slots=True)
class RunCommand:
    """A command with everything it depends on. ``script`` is a here-document that is a program itself, to be put at ``argv[0]``."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    workdir: str
    user: str
    script: str | None = None


def run_command(command: Command, config: ImageConfig, environment: Mapping[str, str], escape: str) -> RunCommand:
    """What a RUN runs.

    A here-document that is the whole command is given to the shell as its text, or run as it is when it begins with ``#!``. In
    any other command the shell reads it itself.
    """
    workdir, user = config.workdir or "/", config.user
    if command.words is not None:
        return RunCommand(command.words, environment, workdir, user)
    if not command.heredocs:
        return RunCommand(command_words(command, config), environment, workdir, user)
    if len(command.heredocs) == 1 and len(split_words(command.text, escape)) == 1:
        script = command.heredocs[0].content
        if script.startswith("#!"):
            name = posixpath.basename(command.heredocs[0].name) or "script"
            return RunCommand((f"{_SCRIPTS}/{name}",), environment, workdir, user, script)
        return RunCommand(command_words(Command(None, script), config), environment, workdir, user)
    documents = "".join(f"\n{one.content}{one.name}" for one in command.heredocs)
    return RunCommand(command_words(Command(None, command.text + documents + "\n"), config), environment, workdir, user)


async def carry_out(run: RunCommand, machine: BuildMachine, secrets: Mapping[str, str], place: Place, reporter: Reporter) -> None:
    """Run it to its end; `secrets` are further variables.

    Raises
    ------
    BuildFailed: it could not be started, ended with another code than 0, or took the machine with it.
    """
    tail = bytearray()
    try:
        if run.script is not None:
            await machine.guest.make_directory(_SCRIPTS, parents=True)
            await machine.guest.write_bytes(run.argv[0], run.script.encode(), mode=0o755)
        environment = {**run.environment, **secrets}
        async with await machine.guest.execute(argv=run.argv, env=environment, cwd=run.workdir, user=run.user or None) as execution:
            async for _, data in execution:
                tail += data
                del tail[:-_TAIL]
                reporter.output(data)
            reporter.end_output()
            result = await execution.wait()
        if run.script is not None:
            await machine.guest.remove(_SCRIPTS, recursive=True)
    except (MachineError, OutcomeUnknown, ProtocolError, Timeout) as error:
        raise _machine_ended(machine, place, tail, error) from error
    except ExecFailed as error:
        raise place.failure(f"{run.argv[0]!r} cannot be started", cause=error.message, remedy=_start_remedy(run)) from error
    except GuestError as error:
        raise place.failure("the command cannot be started", cause=error.message) from error
    if result.exit_code != 0:
        raise await _failed(machine, place, tail, result.exit_code)


def _start_remedy(run: RunCommand) -> str | None:
    if run.argv[0] == "/bin/sh":
        return 'the image has no shell: write the command as ["program", "argument"], or build on another image'
    return None


async def _failed(machine: BuildMachine, place: Place, tail: bytearray, exit_code: int) -> BuildFailed:
    cause = remedy = None
    with contextlib.suppress(BandSoxError):
        metrics = await machine.guest.metrics()
        if metrics.disk_free < _FULL_DISK:
            cause, remedy = "the machine's disk is full", "give builds a larger one (disk_size_mib)"
        elif exit_code == 137:
            cause, remedy = "it was killed, probably for want of memory", "give builds more (mem_mib)"
    return place.failure(f"the command ended with the exit code {exit_code}", cause=cause, remedy=remedy, output=_text(tail))


def _machine_ended(machine: BuildMachine, place: Place, tail: bytearray, error: BandSoxError) -> BuildFailed:
    machine.reusable = False
    cause = f"it powered off, or broke: {error.message}"
    return place.failure("the machine ended while the command ran", cause=cause, remedy="do not power off in a RUN", output=_text(tail))


def _text(tail: bytearray) -> str:
    return bytes(tail).decode("utf-8", "replace")
