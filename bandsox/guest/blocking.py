"""A connection's bulk data, moved by a worker thread on the blocking socket.

Large buffers that are allocated once, no copy between socket and file beside the one through the buffer, and the
checksum of what passes. A stalled guest ends it (`STALL_TIMEOUT`); so does `BlockingStream.abort`, from any thread.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator

import xxhash

from bandsox.errors import ProtocolError
from bandsox.guest import frames
from bandsox.guest.answers import AnswerT, ErrorAnswer, decode
from bandsox.guest.faults import error_from_guest
from bandsox.guest.frames import Decoder, Frame, FrameType
from bandsox.guest.link import set_socket_timeouts
from bandsox.guest.messages import EndOfData, Request, encode_message

STALL_TIMEOUT = 60.0
"""How long, in seconds, the guest may neither send nor take a byte of bulk data, or take to send one frame of another kind."""

CHUNK = 512 << 10
"""How many bytes are moved at once."""

_HEADER_SIZE = 5


class PeerGone(Exception):
    """The other side closed the connection."""


class Stalled(Exception):
    """The deadline passed, or the guest did nothing for `STALL_TIMEOUT`."""


class _Answered(Exception):
    """The guest has answered before it had all data, or has closed the connection."""


class Checksum:
    """Size and xxh64 of the data that passed."""

    def __init__(self) -> None:
        self.size = 0
        self._hash = xxhash.xxh64()

    def add(self, data: memoryview | bytes) -> None:
        """Count `data`."""
        self.size += len(data)
        self._hash.update(data)

    def end(self, *, close: bool = False) -> bytes:
        """The payload of the END frame."""
        return encode_message(EndOfData(size=self.size, xxh64=self._hash.intdigest(), close=close))

    def verify(self, payload: bytes | memoryview) -> None:
        """Compare with the guest's END.

        Raises
        ------
        ProtocolError: they disagree.
        """
        end = decode(payload, EndOfData)
        if end.size is not None and end.size != self.size:
            raise ProtocolError(f"the guest announced {end.size} bytes of data and sent {self.size}")
        if end.xxh64 is not None and end.xxh64 != self._hash.intdigest():
            raise ProtocolError("the data does not have the checksum the guest announced")


class BlockingStream:
    """The connection of one operation, seen from a worker thread.

    `ended` tells that the operation ended and nothing came after its answer, `succeeded` that the answer was RESULT, `sent`
    that anything was sent. `moved` is called in the worker thread with the number of bytes moved so far.
    """

    def __init__(
        self,
        sock: socket.socket,
        decoder: Decoder,
        inbox: deque[Frame],
        request: Request,
        *,
        remaining: float | None,
        moved: Callable[[int], None] | None,
    ) -> None:
        self.ended = self.succeeded = self.sent = False
        self.checksum = Checksum()
        self._sock = sock
        self._decoder = decoder
        self._inbox = inbox
        self._request = request
        self._deadline = None if remaining is None else time.monotonic() + remaining
        self._moved = moved
        self._result = b""
        self._chunk: Iterator[Frame] = iter(())
        sock.setblocking(True)
        set_socket_timeouts(sock, STALL_TIMEOUT if remaining is None else min(STALL_TIMEOUT, max(0.001, remaining)))

    def abort(self) -> None:
        """End the work at once, from another thread."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    # ── to the guest ──

    def deliver(self, produce: Callable[[DataWriter], object], answer: type[AnswerT]) -> AnswerT:
        """Send the data `produce` writes, then END, and return the RESULT.

        Raises
        ------
        PeerGone, Stalled; ProtocolError and the guest's errors; whatever `produce` raises.
        """
        self.sent = True
        complete = False
        with contextlib.suppress(_Answered):
            writer = DataWriter(self)
            produce(writer)
            writer.flush()
            self.send(frames.encode(FrameType.END, self.checksum.end()))
            complete = True
        for _ in self._pieces():
            raise ProtocolError(f"the guest sent data in answer to {self._request.op}")
        if not complete:
            raise ProtocolError(f"the guest reported success of {self._request.op} before it had all data")
        return decode(self._result, answer)

    def send(self, buffer: bytes | memoryview) -> None:
        """Send whole frames, unless the guest has answered already."""
        self._check_deadline()
        try:
            if self._inbox or self._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
                raise _Answered
        except BlockingIOError:
            pass  # nothing was said yet
        try:
            self._sock.sendall(buffer)
        except BlockingIOError:
            raise Stalled from None
        except ConnectionError:
            raise _Answered from None  # what the guest has said before it closed is still to be read
        self._report()

    # ── from the guest ──

    def pieces(self) -> Iterator[memoryview | bytes]:
        """The data the guest sends, verified at the end; each piece is valid until the next is asked for.

        Raises
        ------
        PeerGone, Stalled; ProtocolError and the guest's errors.
        """
        complete = False
        for kind, payload in self._pieces():
            if kind == FrameType.OUTPUT and not complete:
                self.checksum.add(payload)
                yield payload
            elif kind == FrameType.OUTPUT_END and not complete:
                self.checksum.verify(payload)
                complete = True
            else:
                raise ProtocolError(f"the guest sent {FrameType(kind).name} in the middle of the data of {self._request.op}")
        if not complete:
            raise ProtocolError(f"the guest reported success of {self._request.op} without an end of its data")

    def result(self, answer: type[AnswerT]) -> AnswerT:
        """The RESULT, after `pieces` came to its end."""
        return decode(self._result, answer)

    def _pieces(self) -> Iterator[Frame]:
        """The frames before RESULT, which is kept."""
        for kind, payload in self._frames():
            if kind not in {FrameType.RESULT, FrameType.ERROR}:
                yield kind, payload
                continue
            self._result = bytes(payload)
            self._report()
            self.ended = not self._has_more()
            if kind == FrameType.ERROR:
                raise error_from_guest(decode(self._result, ErrorAnswer), self._request)
            self.succeeded = True
            return
        raise PeerGone

    def _has_more(self) -> bool:
        """Whether anything stands after the operation's answer, where nothing may."""
        return bool(self._inbox) or any(True for _ in self._chunk) or not self._decoder.at_boundary

    def _frames(self) -> Iterator[Frame]:
        while self._inbox:
            yield self._inbox.popleft()
        buffer = memoryview(bytearray(CHUNK))
        progress = time.monotonic()
        while True:
            self._check_deadline()
            try:
                count = self._sock.recv_into(buffer)
            except BlockingIOError:
                raise Stalled from None
            except ConnectionError:
                return
            if not count:
                return
            self._chunk = self._decoder.feed(buffer[:count])
            for frame in self._chunk:
                yield frame
                progress = time.monotonic()
            if time.monotonic() > progress + STALL_TIMEOUT:
                raise Stalled  # an answer that comes byte by byte is none
            self._report()

    def _check_deadline(self) -> None:
        if self._deadline is not None and time.monotonic() > self._deadline:
            raise Stalled

    def _report(self) -> None:
        if self._moved is not None:
            self._moved(self.checksum.size)


class DataWriter:
    """Cuts what is written into DATA frames, for producers of small pieces and of large ones."""

    def __init__(self, stream: BlockingStream) -> None:
        self._stream = stream
        self._buffer = memoryview(bytearray(_HEADER_SIZE + CHUNK))
        self._used = 0

    def write(self, data: bytes | memoryview) -> None:
        """Append `data`."""
        view = memoryview(data)
        while view:
            part = view[: CHUNK - self._used]
            start = _HEADER_SIZE + self._used
            self._buffer[start : start + len(part)] = part
            self._used += len(part)
            view = view[len(part) :]
            if self._used == CHUNK:
                self.flush()

    def fill(self, read_into: Callable[[memoryview], int], size: int | None = None) -> int:
        """Append what `read_into` puts into the buffers it is given, until its end (0) or `size` bytes; the number of bytes."""
        done = 0
        while size is None or done < size:
            start = _HEADER_SIZE + self._used
            room = CHUNK - self._used
            count = read_into(self._buffer[start : start + (room if size is None else min(room, size - done))])
            if not count:
                break
            done += count
            self._used += count
            if self._used == CHUNK:
                self.flush()
        return done

    def flush(self) -> None:
        """Send what has gathered."""
        if not self._used:
            return
        self._buffer[:_HEADER_SIZE] = frames.header(FrameType.DATA, self._used)
        end = _HEADER_SIZE + self._used
        self._stream.checksum.add(self._buffer[_HEADER_SIZE:end])
        self._used = 0
        self._stream.send(self._buffer[:end])
