"""Running a program in a machine with this process's streams or terminal, as `run` and `exec` do."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from bandsox.cli.output import print_json
from bandsox.cli.streams import Input, Output, converse
from bandsox.cli.terminal import interact, terminal_type, window_size

if TYPE_CHECKING:
    from bandsox.cli.runtime import Call
    from bandsox.guest import Execution
    from bandsox.models import ExecResult
    from bandsox.vm import AsyncMicroVM


@dataclass(frozen=True, slots=True)
class Program:
    """A command line in a guest, and what it is connected to."""

    argv: Sequence[str]
    env: Mapping[str, str]
    interactive: bool
    tty: bool
    workdir: str | None
    user: str | None
    timeout: float | None


def check_streams(call: Call, *, interactive: bool, tty: bool) -> None:
    """Refuse what cannot work before anything is started.

    Raises
    ------
    click.UsageError: there is no terminal here, or its output cannot be JSON.
    """
    if tty and call.state.json:
        raise click.UsageError("--json and --tty exclude each other")
    if tty and interactive and not sys.stdin.isatty():
        raise click.UsageError("-t needs a terminal as standard input; use -i alone")


async def run_program(call: Call, vm: AsyncMicroVM, program: Program) -> int:
    """Run it to its end, with its input and output, and return its exit status."""
    if call.state.json:
        return await _run_for_programs(vm, program)
    call.progress.clear()
    tty = window_size() if program.tty else None
    env = {**({"TERM": terminal_type()} if program.tty else {}), **program.env}
    options: dict[str, Any] = {"timeout": program.timeout, "env": env, "cwd": program.workdir, "user": program.user, "tty": tty}
    async with vm.execute(program.argv, stdin=program.interactive, **options) as execution:
        return (await _attended(call, execution, program)).exit_code


async def _attended(call: Call, execution: Execution, program: Program) -> ExecResult:
    signals = _SignalQueue(execution)
    with call.signals.forwarded(signals.put):
        sender = asyncio.ensure_future(signals.send())
        try:
            if program.tty and program.interactive:
                return await interact(execution)
            return await converse(execution, Output(), Input() if program.interactive else None)
        finally:
            sender.cancel()
            await asyncio.wait({sender})


class _SignalQueue:
    """Signals on their way from a handler, which cannot wait, to the program."""

    def __init__(self, execution: Execution) -> None:
        self._execution = execution
        self._numbers: asyncio.Queue[int] = asyncio.Queue()

    def put(self, number: int) -> None:
        self._numbers.put_nowait(number)

    async def send(self) -> None:
        while True:
            await self._execution.signal(await self._numbers.get())


async def _run_for_programs(vm: AsyncMicroVM, program: Program) -> int:
    source = Input()
    stdin = b"".join([data async for data in source]) if program.interactive else None
    result = await vm.run(program.argv, timeout=program.timeout, env=program.env, cwd=program.workdir, user=program.user, stdin=stdin)
    print_json(
        {
            "exit_code": result.exit_code,
            "signal": result.signal,
            **_text("stdout", result.stdout),
            **_text("stderr", result.stderr),
            "cpu_ms": result.cpu_ms,
            "max_rss": result.max_rss,
        }
    )
    return result.exit_code


def _text(name: str, data: bytes) -> dict[str, str | None]:
    """Output as text under its name, or, where it is not UTF-8, as base64 under ``<name>_base64``."""
    with contextlib.suppress(UnicodeDecodeError):
        return {name: data.decode(), f"{name}_base64": None}
    return {name: None, f"{name}_base64": base64.b64encode(data).decode()}
