"""Commands and sessions: a command ends with the connection it was started on, a session outlives it."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypedDict

from bandsox.errors import CommandTimeout, InvalidRequest, LimitExceeded
from bandsox.guest import frames
from bandsox.guest.answers import Answer, AttachedEvent, DetachedAnswer, InputAnswer, SessionsAnswer, StartedEvent, decode
from bandsox.guest.connection import DEFAULT_TIMEOUT, Operations, finish
from bandsox.guest.execution import Execution, Stream
from bandsox.guest.frames import FrameType
from bandsox.guest.messages import Attach, EndOfData, Exec, Forget, Input, ListSessions, Resize, Signal, Tty, encode_message
from bandsox.guest.paths import GuestText, encode_env, encode_path, encode_text
from bandsox.models import ExecResult, SessionInfo
from bandsox.tracing import environment, span, traced

if TYPE_CHECKING:
    from typing_extensions import Unpack

DEFAULT_MAX_OUTPUT = 64 << 20
"""How many bytes of output `ProcessOperations.run` collects where the caller does not say."""

_SESSION_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_TAIL = 4096


class CommandOptions(TypedDict, total=False):
    """What to run: `argv`, or `shell` for the image's ``/bin/sh -c``.

    `env` comes over the machine's environment, or with `clear_env` instead of it. `cwd` and `user` are by default the
    machine's; a user is a name, uid, ``name:group`` or ``uid:gid`` as in a Dockerfile. `tty` gives it a terminal of (columns, rows).
    After `timeout` seconds it is killed with all it has started; None: never.
    """

    argv: Sequence[GuestText]
    shell: GuestText
    env: Mapping[str, str] | None
    clear_env: bool
    cwd: GuestText | None
    user: str | None
    tty: tuple[int, int] | None
    timeout: float | None
    merge_stderr: bool


class ProcessOperations(Operations):
    """Commands and sessions.

    Every method raises MachineStopped, Timeout, OutcomeUnknown or ProtocolError where the connection fails; those that start
    something raise CommandNotFound or ExecFailed where it could not be started, and InvalidRequest where the options can never
    work.
    """

    # ── commands ──

    async def execute(self, *, stdin: bool = False, **options: Unpack[CommandOptions]) -> Execution:
        """Start a command and return it while it runs.

        Parameters
        ----------
        stdin: whether it reads what `Execution.write` sends; else ``/dev/null``.
        """
        return await self._start(options, stdin=stdin)

    @traced("exec")
    async def run(
        self,
        *,
        stdin: bytes | None = None,
        max_output: int = DEFAULT_MAX_OUTPUT,
        on_output: Callable[[Stream, bytes], object] | None = None,
        **options: Unpack[CommandOptions],
    ) -> ExecResult:
        """Run a command to its end.

        Parameters
        ----------
        stdin: its whole input; None: ``/dev/null``.
        max_output: how many bytes of output to collect, of both streams together.
        on_output: gets the output as it comes; then nothing is collected and `max_output` has no meaning.

        Raises
        ------
        CommandTimeout: it ran too long and was killed; ``detail`` has the tail of what it printed.
        LimitExceeded: it printed more than `max_output` and was killed.
        """
        collected: dict[Stream, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
        async with await self._start(options, stdin=stdin is not None, terse=True) as execution:
            try:
                with span("run"):
                    if stdin is None:
                        await _collect(execution, collected, max_output, on_output)
                    else:
                        async with _feeding(execution, stdin):
                            await _collect(execution, collected, max_output, on_output)
                    result = await execution.wait()
            except CommandTimeout as error:
                error.detail.update({stream: data[-_TAIL:].decode(errors="replace") for stream, data in collected.items()})
                raise
        output = {stream: bytes(data) for stream, data in collected.items()}
        return ExecResult(result.exit_code, output["stdout"], output["stderr"], result.signal, False, result.cpu_ms, result.max_rss)

    # ── sessions ──

    async def start_session(self, session: str, *, stdin: bool = True, **options: Unpack[CommandOptions]) -> int:
        """Start a command as a session, and return its process id in the guest.

        Parameters
        ----------
        session: its id, chosen by the caller: 1 to 64 of ``A–Z a–z 0–9 _ . -``.
        stdin: whether it reads what `send_input` sends; else ``/dev/null``.
        """
        if not _SESSION_ID.fullmatch(session):
            raise InvalidRequest(f"not an id of a session: {session!r}")
        answer = await self._connector.call(_exec_request(options, stdin=stdin, session=session), DetachedAnswer)
        return answer.pid

    async def attach_session(
        self,
        session: str,
        *,
        stdout: int | None = None,
        stderr: int | None = None,
        input: bool = True,  # noqa: A002 - the field's name
    ) -> Execution:
        """Follow a session; closing the `Execution` detaches, and the session runs on.

        Parameters
        ----------
        stdout, stderr: offsets to replay from; None: from the start of what the guest keeps. Where `Execution.offsets` then
            begins later, older output is gone.
        input: whether input will be sent on this connection.

        Raises
        ------
        SessionNotFound.
        """
        request = Attach(session=session, stdout=stdout, stderr=stderr, input=input)
        return await self._follow(Execution(await self._connector.open(request, timeout=DEFAULT_TIMEOUT), AttachedEvent), None)

    async def send_input(self, session: str, data: bytes, *, close: bool = False, timeout: float = DEFAULT_TIMEOUT) -> int:
        """Send input to a session without following it; the number of bytes its program's pipe or terminal took.

        Parameters
        ----------
        close: end its input afterwards.

        Raises
        ------
        SessionNotFound; OutcomeUnknown: it did not take all of it within `timeout` seconds.
        """
        view = memoryview(data)
        first, rest = view[: frames.INITIAL_WINDOW], view[frames.INITIAL_WINDOW :]
        end = frames.encode(FrameType.END, encode_message(EndOfData(close=close)))
        following = (frames.encode(FrameType.DATA, bytes(first)) if first else b"") + (b"" if rest else end)
        async with self._connector.operation(Input(session=session), timeout=timeout, following=following) as connection:
            credit = -len(first)
            while True:
                kind, payload = await connection.next_frame()
                if kind == FrameType.RESULT:
                    return decode(payload, InputAnswer).written
                if kind != FrameType.WINDOW:
                    raise connection.unexpected(kind)
                credit += frames.window(payload)
                part, rest = rest[: max(0, credit)], rest[max(0, credit) :]
                credit -= len(part)
                if part:
                    await connection.send(*_packets(part), b"" if rest else end)

    async def signal_session(self, session: str, signal: int, *, group: bool = True) -> None:
        """Send a session a signal; with `group` its process group, for KILL everything it has started.

        Raises
        ------
        SessionNotFound.
        """
        await self._connector.call(Signal(session=session, signal=signal, group=group), Answer)

    async def resize_session(self, session: str, cols: int, rows: int) -> None:
        """Tell a session's terminal its size in characters.

        Raises
        ------
        SessionNotFound; GuestError where it has no terminal.
        """
        await self._connector.call(Resize(session=session, cols=cols, rows=rows), Answer)

    async def list_sessions(self) -> list[SessionInfo]:
        """Every session the guest knows, oldest first, the ended ones it still keeps included."""
        answer = await self._connector.call(ListSessions(), SessionsAnswer)
        return [
            SessionInfo(
                id=session.session,
                pid=session.pid,
                argv=tuple(session.argv),
                tty=session.tty,
                started=session.started,
                running=session.running,
                exit_code=session.exit_code,
                attached=session.attached,
            )
            for session in sorted(answer.sessions, key=lambda each: each.started)
        ]

    async def forget_session(self, session: str) -> None:
        """Drop an ended session's record and output.

        Raises
        ------
        SessionNotFound; GuestError where it still runs.
        """
        await self._connector.call(Forget(session=session), Answer)

    async def _start(self, options: CommandOptions, *, stdin: bool, terse: bool = False) -> Execution:
        """Start a command; `terse`: that it has started may be told with its first output or its end, if those come soon."""
        request = _exec_request(options, stdin=stdin, terse=terse)
        with span("start"):
            execution = Execution(await self._connector.open(request, timeout=DEFAULT_TIMEOUT), StartedEvent)
            return await self._follow(execution, options.get("timeout"))

    async def _follow(self, execution: Execution, timeout: float | None) -> Execution:
        try:
            await execution.begin(timeout)
        except BaseException:
            await execution.aclose()
            raise
        return execution


def _exec_request(options: CommandOptions, *, stdin: bool, session: str | None = None, terse: bool = False) -> Exec:
    """The request for a command; with `session` as a detached one."""
    argv, shell = options.get("argv", ()), options.get("shell")
    if bool(argv) == (shell is not None):
        raise InvalidRequest("a command is either argv or shell")
    timeout = options.get("timeout")
    if timeout is not None and not 0 < timeout < 1e9:
        raise InvalidRequest(f"not a timeout: {timeout}")
    cwd, user, tty = options.get("cwd"), options.get("user"), options.get("tty")
    clear_env = options.get("clear_env", False)
    env = {**({} if clear_env else environment()), **(options.get("env") or {})}
    return Exec(
        argv=[encode_text(argument, "an argument") for argument in argv] or None,
        shell=None if shell is None else encode_text(shell, "the command"),
        env=encode_env(env) or None,
        clear_env=clear_env,
        cwd=None if cwd is None else encode_path(cwd),
        user=None if user is None else encode_text(user, "the user"),
        stdin=stdin,
        tty=None if tty is None else Tty(*tty),
        timeout_ms=None if timeout is None else max(1, round(timeout * 1000)),
        detached=session is not None,
        session=session,
        merge_stderr=options.get("merge_stderr", False),
        terse=terse,
    )


def _packets(data: memoryview) -> list[bytes]:
    return [
        frames.encode(FrameType.DATA, bytes(data[start : start + frames.MAX_PAYLOAD])) for start in range(0, len(data), frames.MAX_PAYLOAD)
    ]


async def _collect(
    execution: Execution,
    collected: dict[Stream, bytearray],
    max_output: int,
    on_output: Callable[[Stream, bytes], object] | None,
) -> None:
    total = 0
    async for stream, data in execution:
        if on_output is not None:
            on_output(stream, data)
            continue
        total += len(data)
        if total > max_output:
            raise LimitExceeded(
                f"the command printed more than {max_output} bytes and was killed",
                remedy="stream its output, redirect it to a file, or allow more",
            )
        collected[stream] += data


@contextlib.asynccontextmanager
async def _feeding(execution: Execution, data: bytes) -> AsyncIterator[None]:
    """Send `data` as the whole input, beside what the block does."""
    feeder = asyncio.ensure_future(_feed(execution, data))
    try:
        yield
    finally:
        feeder.cancel()
        await finish(feeder)


async def _feed(execution: Execution, data: bytes) -> None:
    await execution.write(data)
    await execution.close_stdin()
