"""The commands of a machine: the part of `AsyncMicroVM` that runs programs and waits for their end."""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from bandsox.errors import CommandTimeout, LimitExceeded
from bandsox.vm.access import GuestAccess

if TYPE_CHECKING:
    from bandsox.guest import CommandOptions, Execution, TextCallback
    from bandsox.models import ExecResult

Command: TypeAlias = str | Sequence[str]
"""A string runs in the image's ``/bin/sh -c``; a sequence is executed as it is, without a shell."""


_MAX_CAPTURED = 64 << 20  # characters


class GuestCommands(GuestAccess):
    """The methods that run a program to its end."""

    async def run(
        self,
        command: Command,
        *,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        stdin: bytes | None = None,
    ) -> ExecResult:
        """Run a command and return its exit code and output, byte for byte.

        Parameters
        ----------
        timeout: seconds after which it is killed with all it started; None: never.
        env: variables over the machine's own.
        cwd, user: by default the image's; a user is a name, a uid, ``name:group`` or ``uid:gid``.
        stdin: what it reads; by default nothing.

        Raises
        ------
        CommandNotFound, ExecFailed: it could not be started.
        CommandTimeout: it was killed.
        """
        guest = await self._live()
        return await guest.run(**program(command, timeout=timeout, env=env, cwd=cwd, user=user), stdin=stdin)

    @contextlib.asynccontextmanager
    async def execute(
        self,
        command: Command,
        *,
        timeout: float | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
        stdin: bool = False,
        tty: tuple[int, int] | None = None,
    ) -> AsyncIterator[Execution]:
        """A command while it runs: an iterator of its output that takes input and signals. Leaving the block kills it.

        Parameters
        ----------
        stdin: whether it reads what `Execution.write_stdin` sends, until `Execution.close_stdin`.
        tty: columns and rows of a terminal to run it on.
        """
        guest = await self._live()
        options = program(command, timeout=timeout, env=env, cwd=cwd, user=user, tty=tty)
        async with await guest.execute(**options, stdin=stdin) as execution:
            yield execution

    async def exec_command(
        self,
        command: Command,
        on_stdout: TextCallback | None = None,
        on_stderr: TextCallback | None = None,
        timeout: float | None = 30,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        user: str | None = None,
    ) -> int:
        """Run a command, hand its output to callbacks as it comes, and return its exit code.

        The callbacks get text; a character is never split between two calls, and what is not UTF-8 appears as U+FFFD.

        Raises
        ------
        CommandTimeout: it ran longer than `timeout` seconds and was killed with all it had started (a TimeoutError).
        """
        from bandsox.vm.callbacks import deliver

        async with self.execute(command, timeout=timeout, env=env, cwd=cwd, user=user) as execution:
            return (await deliver(execution, on_stdout, on_stderr)).exit_code

    async def exec_python(
        self,
        code: str,
        cwd: str = "/tmp",  # noqa: S108 — the guest's
        packages: Sequence[str] | None = None,
        on_stdout: TextCallback | None = None,
        on_stderr: TextCallback | None = None,
        timeout: float | None = 60,
        cleanup_venv: bool = True,
    ) -> int:
        """Run Python code in a fresh interpreter of the image, and return its exit code.

        Parameters
        ----------
        packages: what to install first, into a virtual environment made for this call; needs a network unless they are files of the guest.
        cleanup_venv: whether to remove that environment afterwards.

        Raises
        ------
        PythonNotFound: the image has no ``python3`` or ``python``.
        CommandTimeout: it ran longer than `timeout` seconds.
        """
        from bandsox.vm import python

        async def execute(command: list[str]) -> int:
            return await self.exec_command(command, on_stdout, on_stderr, timeout, cwd=cwd)

        guest = await self._live()
        return await python.run(guest, code, execute, packages=packages or (), cleanup_venv=cleanup_venv, timeout=timeout)

    async def exec_python_capture(
        self,
        code: str,
        cwd: str = "/tmp",  # noqa: S108 — the guest's
        packages: Sequence[str] | None = None,
        timeout: float | None = 60,
        cleanup_venv: bool = True,
    ) -> dict[str, Any]:
        """Run Python code as `exec_python` does, and return ``{exit_code, stdout, stderr, output, success, error}``.

        ``output`` is stdout and stderr in the order in which they came; ``error`` is None when the exit code is 0.
        A timeout is a result too: ``exit_code`` is 124 then.

        Raises
        ------
        LimitExceeded: it printed more than 64 Mi characters and was killed.
        """
        captured = _Captured()
        error: str | None = None
        try:
            exit_code = await self.exec_python(
                code,
                cwd,
                packages,
                functools.partial(captured.take, captured.stdout),
                functools.partial(captured.take, captured.stderr),
                timeout,
                cleanup_venv,
            )
        except CommandTimeout as expired:
            exit_code, error = expired.exit_status, expired.message
        stderr = captured.stderr.getvalue()
        if exit_code != 0 and error is None:
            error = stderr.strip() or f"exit code {exit_code}"
        return {
            "exit_code": exit_code,
            "stdout": captured.stdout.getvalue(),
            "stderr": stderr,
            "output": captured.both.getvalue(),
            "success": exit_code == 0,
            "error": error,
        }

    async def stream(
        self, command: Command, *, timeout: float | None = None, env: Mapping[str, str] | None = None
    ) -> AsyncIterator[tuple[str, bytes]]:
        """Run a command and yield its output as it comes: ``("stdout" | "stderr", bytes)``. Stopping early kills it."""
        async with self.execute(command, timeout=timeout, env=env) as execution:
            async for piece in execution:
                yield piece


class _Captured:
    """Text of two streams, each by itself and both as they came, of bounded size."""

    def __init__(self) -> None:
        self.stdout, self.stderr, self.both = io.StringIO(), io.StringIO(), io.StringIO()

    def take(self, stream: io.StringIO, text: str) -> None:
        """Append `text` to `stream`."""
        stream.write(text)
        self.both.write(text)
        if self.both.tell() > _MAX_CAPTURED:
            raise LimitExceeded(
                f"the code printed more than {_MAX_CAPTURED} characters and was killed",
                remedy="take its output by callbacks (exec_python), or let it write to a file",
            )


def program(
    command: Command,
    *,
    env: Mapping[str, str] | None,
    cwd: str | None,
    user: str | None,
    timeout: float | None = None,
    tty: tuple[int, int] | None = None,
) -> CommandOptions:
    """A command as the guest's client takes it; what is None is left to the machine's defaults."""
    options: CommandOptions = {"shell": command} if isinstance(command, str) else {"argv": command}
    options.update({"env": env or {}, "cwd": cwd, "user": user, "timeout": timeout, "tty": tty})
    return options
