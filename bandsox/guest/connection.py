"""One operation on one connection: the handshake, the frames, the deadline, and what a failure means.

HELLO and the first request go out in one write, so that a short operation costs one round trip. Everything after that is a
matter of the operation: `Connection` sends frames, reads frames and says at the end in what state the channel is left.

What a broken connection or a passed deadline means depends on how far the request got: not sent, or without effects,
is `MachineStopped` or `Timeout`, and it is safe to try again; sent, and with effects, is `OutcomeUnknown`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

import anyio
import anyio.to_thread

from bandsox.errors import BandSoxError, InvalidRequest, MachineStopped, OutcomeUnknown, ProtocolError, Timeout
from bandsox.guest import frames
from bandsox.guest.answers import AnswerT, ErrorAnswer, decode
from bandsox.guest.blocking import STALL_TIMEOUT, BlockingStream, PeerGone, Stalled
from bandsox.guest.faults import error_from_guest
from bandsox.guest.frames import Decoder, Frame, FrameType, WelcomeScanner
from bandsox.guest.link import Channel, HandedOver, Link
from bandsox.guest.messages import Ping, Request
from bandsox.guest.waiting import DeadlinePassed, wait_for_io

DEFAULT_TIMEOUT = 30.0
"""How long a short operation may take, in seconds, where the caller does not say."""

OVERTIME = 8 << 20
"""How many bytes that are there already may still be read after the deadline."""

_RECEIVE_SIZE = 64 << 10
_READS_PER_TURN = 16
_SETTLE_TIMEOUT = 1.0

T = TypeVar("T")


class _Refused(Exception):
    """The connection closed without a byte on a transport where that means that it never reached the guest."""


class Connection:
    """A channel for the time of one operation. Made by `Connector.operation`."""

    def __init__(self, channel: Channel, request: Request, deadline: float | None) -> None:
        self.request = request
        self.deadline = deadline
        self.patience: float | None = STALL_TIMEOUT  # how long one frame may take where there is no deadline, or the guest is `steady`
        self.steady = False  # whether the guest has no reason to pause between frames
        self.late_error: Callable[[], BandSoxError] = self._late
        self._channel = channel
        self._sock = channel.sock
        self._loop = asyncio.get_running_loop()
        self._decoder = Decoder(streamed=frozenset()) if request.records else Decoder()
        self._frame_limit: float | None = None  # until when the frame that is waited for must be there
        self._inbox: deque[Frame] = deque()
        self._outgoing: deque[memoryview] = deque()
        self._flushing = asyncio.Lock()
        self._unsent_request = 1  # bytes that are to be sent until the request is out
        self._reads = 0
        self._overtime = 0
        self._ended = False
        self._in_flight = False  # whether the guest may have frames before it that it does not need to read

    # ── the handshake ──

    async def begin(self, token: bytes, following: bytes = b"") -> None:
        """Send HELLO, the request and `following` (whole frames) at once, and wait for WELCOME.

        Raises
        ------
        As every method here: MachineStopped, OutcomeUnknown, Timeout, ProtocolError.
        """
        request = self.request.encoded()
        if len(request) > frames.MAX_PAYLOAD:
            raise InvalidRequest(f"the request is {len(request)} bytes long; at most {frames.MAX_PAYLOAD} are possible")
        nonce = os.urandom(frames.NONCE_SIZE)
        head = self._channel.preamble + frames.hello(nonce, token) + frames.encode(FrameType.REQUEST, request)
        self._unsent_request = len(head)
        self._in_flight = bool(following)
        self._outgoing.append(memoryview(head + following))
        scanner = WelcomeScanner(nonce)
        self._send_now()
        rest: bytes | None = None
        while rest is None:
            data = await self._receive()
            if not data:
                if self._channel.may_refuse and not scanner.seen:
                    raise _Refused
                raise self._gone()
            rest = scanner.feed(data)
        self._inbox.extend(self._decoder.feed(rest))

    # ── sending ──

    async def send(self, *buffers: bytes | memoryview, deadline: float | None = None) -> None:
        """Send whole frames. A cancelled call leaves the rest to the next one, so that no frame is ever cut.

        Parameters
        ----------
        deadline: until when, instead of the operation's own.
        """
        self._in_flight = True
        self._outgoing.extend(memoryview(buffer) for buffer in buffers if buffer)
        await self._flush(deadline)

    async def _flush(self, deadline: float | None = None) -> None:
        async with self._flushing:
            while self._send_now():
                try:
                    await wait_for_io(self._sock, write=True, deadline=deadline or self._limit())
                except DeadlinePassed:
                    raise self.late_error() from None

    def _send_now(self) -> bool:
        """Send what the socket takes without waiting; whether something is left."""
        while self._outgoing:
            buffer = self._outgoing[0]
            try:
                sent = self._sock.send(buffer)
            except BlockingIOError:
                return True
            except (ConnectionError, TimeoutError):
                # What the guest has said before it closed is still to be read, and explains it.
                self._outgoing.clear()
                return False
            self._unsent_request -= sent
            if sent < len(buffer):
                self._outgoing[0] = buffer[sent:]
            else:
                self._outgoing.popleft()
        return False

    # ── receiving ──

    async def next_frame(self) -> Frame:
        """The next frame, or piece of a streamed one. RESULT ends the operation.

        Raises
        ------
        As `begin`, and the guest's ERROR as the exception it means.
        """
        if not self._inbox:
            self._frame_limit = None if self.patience is None else self._loop.time() + self.patience
            while not self._inbox:
                await self.receive_more()
            self._frame_limit = None
        return self.take_frame()

    async def receive_more(self) -> None:
        """Read once and put what it completes into the inbox, for `take_frame`."""
        data = await self._receive()
        if not data:
            raise self._gone()
        self._inbox.extend(self._decoder.feed(data))

    @property
    def has_frame(self) -> bool:
        """Whether `take_frame` has something to take."""
        return bool(self._inbox)

    def take_frame(self) -> Frame:
        """The first frame of the inbox; errors as `next_frame`."""
        kind, payload = self._inbox.popleft()
        if kind == FrameType.WELCOME:
            raise ProtocolError("the guest sent WELCOME in the middle of an operation")
        if kind == FrameType.RESULT:
            self._ended = True
            self._in_flight = self._in_flight and not self.request.consumes_data
        elif kind == FrameType.ERROR:
            self._ended = True
            raise error_from_guest(decode(payload, ErrorAnswer), self.request)
        return kind, payload

    async def result(self, answer: type[AnswerT]) -> AnswerT:
        """The RESULT, which must come next."""
        kind, payload = await self.next_frame()
        if kind != FrameType.RESULT:
            raise self.unexpected(kind)
        return decode(payload, answer)

    async def event(self, answer: type[AnswerT]) -> AnswerT:
        """The EVENT, which must come next."""
        kind, payload = await self.next_frame()
        if kind != FrameType.EVENT:
            raise self.unexpected(kind)
        return decode(payload, answer)

    def unexpected(self, kind: int) -> ProtocolError:
        """The error for a frame that is not allowed at this point."""
        return ProtocolError(f"the guest sent {FrameType(kind).name} in answer to {self.request.op} where it is not allowed")

    def poll(self) -> None:
        """Raise what the guest has already answered with, where it may answer nothing but an ERROR yet; never waits."""
        data = None if self._inbox else self._receive_now()
        if data is not None:
            if not data:
                raise self._gone()
            self._inbox.extend(self._decoder.feed(data))
        if self._inbox:
            kind, _ = self.take_frame()
            raise self.unexpected(kind)

    async def _receive(self) -> bytes:
        """The next bytes; empty when the connection was closed."""
        self._reads += 1
        if self._reads % _READS_PER_TURN == 0:
            await asyncio.sleep(0)  # let others run, and a cancellation through, however fast the guest sends
        while (data := self._receive_now()) is None:
            await self._wait()
        return data

    def _receive_now(self) -> bytes | None:
        """The bytes that are there: None where there are none, empty when the connection was closed."""
        try:
            data = self._sock.recv(_RECEIVE_SIZE)
        except BlockingIOError:
            return None
        except ConnectionError:
            return b""
        if self.deadline is not None and self._loop.time() > self.deadline:
            self._overtime += len(data)
            if self._overtime > OVERTIME:
                raise self.late_error()
        return data

    async def _wait(self) -> None:
        """Until there is something to read; what is left to be sent goes out meanwhile, unless another task sees to it."""
        try:
            if self._outgoing and not self._flushing.locked():
                async with self._flushing:
                    await wait_for_io(self._sock, read=True, write=True, deadline=self._limit())
                    self._send_now()
            else:
                await wait_for_io(self._sock, read=True, deadline=self._limit())
        except DeadlinePassed:
            raise self.late_error() from None

    def _limit(self) -> float | None:
        """Until when one wait may last."""
        if self.patience is None or (self.deadline is not None and not self.steady):
            return self.deadline
        limit = self._frame_limit or self._loop.time() + self.patience
        return limit if self.deadline is None else min(limit, self.deadline)

    # ── bulk data ──

    async def in_thread(self, work: Callable[[BlockingStream], T], moved: Callable[[int], None] | None = None) -> T:
        """Run `work` in a worker thread on the blocking socket. Cancelling ends it by closing the connection.

        Parameters
        ----------
        moved: called in that thread with the number of bytes moved so far.
        """
        await self._flush()
        stream = BlockingStream(self._sock, self._decoder, self._inbox, self.request, remaining=self._remaining(), moved=moved)
        task = asyncio.ensure_future(anyio.to_thread.run_sync(work, stream, limiter=anyio.CapacityLimiter(1)))
        try:
            value = await asyncio.shield(task)
        except asyncio.CancelledError:
            stream.abort()
            await finish(task)
            raise
        except PeerGone as error:
            raise self._gone() from error
        except Stalled:
            raise self.late_error() from None
        finally:
            self._ended = stream.ended
            self._in_flight = not (stream.succeeded and self.request.consumes_data) and stream.sent
        return value

    def _remaining(self) -> float | None:
        return None if self.deadline is None else max(0.0, self.deadline - self._loop.time())

    # ── the end ──

    async def settle(self) -> None:
        """See to it that the guest stands at a frame boundary, where the channel is handed on to another user.

        Frames that were under way when the operation ended are still before the guest. It ignores them, and its answer to
        a ping shows that it has.
        """
        if not (self._ended and self._in_flight and self._channel.handed_on) or self._outgoing or self._inbox:
            return
        self.deadline = self._loop.time() + _SETTLE_TIMEOUT
        self._ended = False
        with contextlib.suppress(BandSoxError):
            self._sock.setblocking(False)
            await self.send(frames.encode(FrameType.REQUEST, Ping().encoded()))
            while (kind := (await self.next_frame())[0]) == FrameType.WINDOW:
                pass  # it was under way for the input that the operation did not need
            self._ended = kind == FrameType.RESULT
            self._in_flight = False

    def interrupt(self) -> None:
        """Have a task that waits for the guest find the connection closed."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Release the channel."""
        boundary = self._decoder.at_boundary and not self._inbox and not self._outgoing
        self._channel.release(clean=self._ended and boundary and not self._in_flight)

    def hand_over(self) -> HandedOver:
        """Give the connection, which must stand at a frame boundary on both sides, to another process; it is closed here.

        Raises
        ------
        ProtocolError: the guest has sent more than it may.
        """
        if self._inbox or self._outgoing or not self._decoder.at_boundary:
            raise ProtocolError(f"the guest sent something after it had begun {self.request.op}")
        return self._channel.hand_over()

    # ── what a failure means ──

    def _gone(self) -> BandSoxError:
        """The error for a connection that was closed by the other side."""
        if self._unsent_request > 0:
            return MachineStopped(f"the connection was lost before {self.request.op} was sent", cause="the machine has stopped")
        if self.request.effects:
            return OutcomeUnknown(
                f"the connection was lost after {self.request.op} was sent", cause="the machine has probably stopped in the middle of it"
            )
        return MachineStopped(f"the connection was lost before {self.request.op} was answered", cause="the machine has stopped")

    def _late(self) -> BandSoxError:
        """The error for a deadline that passed."""
        if self._unsent_request > 0 or not self.request.effects:
            return Timeout(f"the guest did not answer {self.request.op} in time")
        return OutcomeUnknown(f"the guest did not answer {self.request.op} in time, and may still carry it out")


async def finish(task: asyncio.Future[T]) -> None:
    """Wait for `task` to end, whatever it ends with, even if this is cancelled meanwhile."""
    cancelled = False
    with anyio.CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError:
                cancelled = True
    if not task.cancelled():
        task.exception()  # it has been looked at
    if cancelled:
        raise asyncio.CancelledError


class Connector:
    """Opens connections to one guest and runs operations on them.

    Parameters
    ----------
    link: the way to the guest.
    token: the 32 bytes the guest was set up with; any before it was.
    """

    def __init__(self, link: Link, token: bytes) -> None:
        if len(token) != frames.TOKEN_SIZE:
            raise InvalidRequest(f"a guest's token has {frames.TOKEN_SIZE} bytes, not {len(token)}")
        self.link = link
        self.token = token

    @contextlib.asynccontextmanager
    async def operation(self, request: Request, *, timeout: float | None, following: bytes = b"") -> AsyncIterator[Connection]:
        """A connection as `open` gives it, for the time of the block."""
        connection = await self.open(request, timeout=timeout, following=following)
        try:
            try:
                yield connection
            except BandSoxError:
                await connection.settle()
                raise
            await connection.settle()
        finally:
            connection.close()

    async def open(self, request: Request, *, timeout: float | None, following: bytes = b"") -> Connection:
        """A connection on which `request` was sent and WELCOME received. The caller closes it.

        Parameters
        ----------
        timeout: seconds for the whole operation, waiting for a connection included; None: no limit after WELCOME.
        following: whole frames to send right after the request.

        Raises
        ------
        MachineStopped, OutcomeUnknown, Timeout, ProtocolError; InvalidRequest: the request is too long.
        """
        deadline = asyncio.get_running_loop().time() + (DEFAULT_TIMEOUT if timeout is None else timeout)
        try:
            connection = await self._begin(request, deadline, following)
        except _Refused:  # as the first connection after a restore is
            try:
                connection = await self._begin(request, deadline, following)
            except _Refused:
                raise MachineStopped("the guest refuses connections", cause="its agent is not running") from None
        if timeout is None:
            connection.deadline = None
        return connection

    async def _begin(self, request: Request, deadline: float, following: bytes) -> Connection:
        connection = Connection(await self.link.open(request.lane, deadline), request, deadline)
        try:
            await connection.begin(self.token, following)
        except BaseException:
            connection.close()
            raise
        return connection

    async def call(
        self, request: Request, answer: type[AnswerT], *, timeout: float | None = DEFAULT_TIMEOUT, following: bytes = b""
    ) -> AnswerT:
        """Send `request` and return its RESULT, where nothing else comes between."""
        async with self.operation(request, timeout=timeout, following=following) as connection:
            return await connection.result(answer)


class Operations:
    """Base of the groups of operations that make up the client."""

    def __init__(self, connector: Connector) -> None:
        self._connector = connector
