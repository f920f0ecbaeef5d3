"""A process of the guest that this host is connected to: its output, its input, and how it ended.

Nothing runs in the background: whoever waits for something — output, room for input, the end — reads the connection, one
at a time, and puts what is for others where they find it. So output that nobody reads stays with the guest, and a
program that writes more than the buffers on the way hold has to wait, as with a pipe.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Literal

from bandsox.errors import BandSoxError, CommandTimeout, Conflict, Timeout
from bandsox.guest import frames
from bandsox.guest.answers import AttachedEvent, ExitAnswer, StartedEvent, decode
from bandsox.guest.connection import DEFAULT_TIMEOUT, Connection
from bandsox.guest.frames import FrameType
from bandsox.guest.messages import EndOfData, ResizeControl, SignalControl, encode_message
from bandsox.models import ExecResult

Stream = Literal["stdout", "stderr"]

GRACE = 10.0
"""How much longer than a command's timeout, in seconds, the guest may take to kill it and say so."""

_HELD_BACK = 1 << 20  # bytes of output kept while somebody waits for room for input
_STDIN_CHUNK = 64 << 10
_MAX_CREDIT = 1 << 32


class Execution:
    """A running process. Iterate over it for its output, as ``(stream, bytes)`` in the order of arrival.

    It is a context manager: leaving the block closes the connection, which kills a command that still runs and leaves a
    session running. A connection whose process has ended is given back at once.

    `pid` is the guest's. `offsets` are the positions in the session's output after what was iterated so far, with which
    a later attach goes on.
    """

    def __init__(self, connection: Connection, started: type[StartedEvent] | type[AttachedEvent]) -> None:
        self.pid = 0
        self.offsets: dict[Stream, int] = {"stdout": 0, "stderr": 0}
        self._connection = connection
        self._started = started
        self._timeout: float | None = None
        self._output: deque[tuple[Stream, bytes]] = deque()
        self._held = 0
        self._credit = 0
        self._input_closed = False
        self._exit: ExitAnswer | None = None
        self._failure: BandSoxError | None = None
        self._reading = False
        self._closed = False
        self._news: asyncio.Event | None = None  # while somebody waits for another task's reading

    async def begin(self, timeout: float | None) -> None:
        """Wait until the process runs. `timeout`: the command's own, in seconds, which counts from now on.

        Raises
        ------
        ExecFailed, CommandNotFound, SessionNotFound; as `Connection.begin`.
        """
        event = await self._connection.event(self._started)
        self.pid = event.pid
        if isinstance(event, AttachedEvent):
            self.offsets = {"stdout": event.stdout, "stderr": event.stderr}
        self._timeout = timeout
        self._connection.deadline = None if timeout is None else asyncio.get_running_loop().time() + timeout + GRACE
        self._connection.patience = None  # a command may be silent for as long as it likes
        self._connection.late_error = self._too_late
        self._dispatch()

    async def __aenter__(self) -> Execution:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Give the connection back."""
        if self._closed:
            return
        self._closed = True
        try:
            await self._connection.settle()
        finally:
            self._connection.close()

    # ── output ──

    def __aiter__(self) -> Execution:
        return self

    async def __anext__(self) -> tuple[Stream, bytes]:
        await self._until(lambda: bool(self._output) or self._exit is not None)
        if not self._output:
            await self.aclose()
            raise StopAsyncIteration
        stream, data = self._output.popleft()
        self._held -= len(data)
        self.offsets[stream] += len(data)
        self._tell()
        return stream, data

    async def wait(self) -> ExecResult:
        """How the process ended. Output that was not read by then is dropped.

        Raises
        ------
        CommandTimeout: it ran longer than its timeout and was killed with all it had started.
        MachineStopped, OutcomeUnknown, ProtocolError: the connection failed.
        """
        async for _ in self:
            pass
        result = self.result
        assert result is not None
        if result.timed_out:
            raise self.timeout_error()
        return result

    @property
    def result(self) -> ExecResult | None:
        """How the process ended, without its output; None while it runs or its output was not read to the end."""
        answer = self._exit
        if answer is None:
            return None
        return ExecResult(answer.exit_code, b"", b"", answer.signal, answer.timed_out, answer.cpu_ms, answer.max_rss)

    def timeout_error(self, **detail: str) -> CommandTimeout:
        """The error that says that the command ran too long."""
        limit = "its timeout" if self._timeout is None else f"{self._timeout:g} s"
        return CommandTimeout(f"the command ran longer than {limit} and was killed", detail={"timeout": self._timeout, **detail})

    def _too_late(self) -> BandSoxError:
        error = self.timeout_error()
        error.cause = "the guest did not report it, so its connection was closed"
        return error

    # ── input and control ──

    async def write(self, data: bytes | memoryview) -> None:
        """Send input, as fast as the program takes it. What an ended program did not read is dropped.

        Raises
        ------
        Timeout: the guest takes nothing at all any more. Else as `wait`.
        """
        view = memoryview(data)
        while view:
            await self._until(lambda: self._credit > 0 or self._exit is not None, holding_back=True)
            if self._exit is not None:
                return
            part = view[: min(self._credit, _STDIN_CHUNK)]
            view = view[len(part) :]
            self._credit -= len(part)
            await self._send(frames.encode(FrameType.DATA, bytes(part)))

    async def close_stdin(self) -> None:
        """End the input; the program reads end-of-file."""
        if not self._input_closed and self._exit is None:
            self._input_closed = True
            await self._send(frames.encode(FrameType.END, encode_message(EndOfData())))

    async def signal(self, number: int) -> None:
        """Send the process a signal."""
        await self._control(SignalControl(number))

    async def resize(self, cols: int, rows: int) -> None:
        """Tell the process's terminal its size in characters."""
        await self._control(ResizeControl(cols, rows))

    async def _control(self, message: SignalControl | ResizeControl) -> None:
        if self._exit is None:
            await self._send(frames.encode(FrameType.CONTROL, encode_message(message)))

    async def _send(self, frame: bytes) -> None:
        if self._closed:
            raise Conflict("this execution's connection was closed")
        try:
            await self._connection.send(frame, deadline=asyncio.get_running_loop().time() + DEFAULT_TIMEOUT)
        except CommandTimeout:
            raise Timeout("the guest takes no more frames", cause="its agent hangs") from None

    # ── reading the connection ──

    async def _until(self, ready: Callable[[], bool], *, holding_back: bool = False) -> None:
        """Read the connection, or let another task read it, until `ready`.

        `holding_back`: leave it unread while much output waits for its reader.
        """
        while not ready():
            if self._failure is not None:
                raise self._failure
            if self._closed:
                raise Conflict("this execution's connection was closed")
            if self._reading or (holding_back and self._held >= _HELD_BACK):
                self._news = self._news or asyncio.Event()
                await self._news.wait()
                continue
            self._reading = True
            try:
                await self._connection.receive_more()
                self._dispatch()
            except BandSoxError as error:
                self._failure = error
                raise
            finally:
                self._reading = False
                self._tell()

    def _tell(self) -> None:
        """Wake those who wait for another task's reading."""
        if self._news is not None:
            self._news.set()
            self._news = None

    def _dispatch(self) -> None:
        while self._connection.has_frame:
            kind, payload = self._connection.take_frame()
            if kind == FrameType.WINDOW:  # may come even after the end, for input that the program never saw
                self._credit = min(self._credit + frames.window(payload), _MAX_CREDIT)
            elif self._exit is not None:
                raise self._connection.unexpected(kind)
            elif kind == FrameType.OUTPUT:
                self._hold("stdout", bytes(payload))
            elif kind == FrameType.STDERR:
                self._hold("stderr", bytes(payload))
            elif kind == FrameType.RESULT:
                self._exit = decode(payload, ExitAnswer)
            else:
                raise self._connection.unexpected(kind)

    def _hold(self, stream: Stream, data: bytes) -> None:
        if data:
            self._output.append((stream, data))
            self._held += len(data)
