"""Running a program in a machine with this process's streams or terminal, as `run` and `exec` do."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from bandsox.cli.output import print_json
from bandsox.cli.streams import Input, Output, background, converse
from bandsox.cli.terminal import terminal_type, window_size
from bandsox.cli.visit import visit
from bandsox.errors import BandSoxError

if TYPE_CHECKING:
    from bandsox.cli.runtime import Call
    from bandsox.guest import Execution
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
    detach_keys: bytes


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


@dataclass(frozen=True, slots=True)
class Detached:
    """A program that goes on, because its terminal was left with the detach keys."""

    session: str


async def run_program(call: Call, vm: AsyncMicroVM, program: Program) -> int | Detached:
    """Run it to its end, with its input and output, and return its exit status; or until its terminal is left."""
    if call.state.json:
        return await _run_for_programs(vm, program)
    call.progress.clear()
    tty = window_size() if program.tty else None
    env = {**({"TERM": terminal_type()} if program.tty else {}), **program.env}
    options: dict[str, Any] = {"timeout": program.timeout, "env": env, "cwd": program.workdir, "user": program.user}
    if tty is not None and program.interactive:
        return await _run_on_terminal(call, vm, await vm.start_pty_session(program.argv, *tty, **options), program.detach_keys)
    async with vm.execute(program.argv, stdin=program.interactive, tty=tty, **options) as execution, _signals_sent(call, execution):
        return (await converse(execution, Output(), Input() if program.interactive else None)).exit_code


async def _run_on_terminal(call: Call, vm: AsyncMicroVM, session: str, keys: bytes) -> int | Detached:
    try:
        result = await visit(vm, session, keys, lambda execution: _signals_sent(call, execution))
    except asyncio.CancelledError:
        with call.signals.protected(), contextlib.suppress(BandSoxError):
            await vm.kill_session(session)
        raise
    return Detached(session) if result is None else result.exit_code


@contextlib.asynccontextmanager
async def _signals_sent(call: Call, execution: Execution) -> AsyncIterator[None]:
    """For the time of the block signals go to the program."""
    signals = _SignalQueue(execution)
    with call.signals.forwarded(signals.put):
        async with background(signals.send()):
            yield


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
