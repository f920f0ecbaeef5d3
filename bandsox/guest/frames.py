"""The frames of the guest protocol, as pure functions of bytes: no socket, no clock, no event loop.

The format is that of ``docs/protocol.md``, "Frames" and "Starting a connection". What the guest sends is
hostile: `Decoder` and `WelcomeScanner` accept any bytes in any pieces, raise nothing but `ProtocolError`, and
hold at most one structured frame (1 MiB). Bulk frames (``DATA``, ``STDERR``) are never assembled: their
payload is handed on in the pieces in which it arrives, without a copy.
"""

from __future__ import annotations

import enum
import re
import struct
from collections.abc import Iterator

from bandsox.errors import ProtocolError

MAX_PAYLOAD = 1 << 20
"""The longest payload of a frame, in bytes."""

MAX_DISCARD = 8 << 20
"""How many bytes may stand between two frames as padding or empty frames."""

MAX_STALE = 64 << 20
"""How many bytes may stand before a WELCOME. They were meant for an earlier client: a guest in full flow sends them until it has heard of
the new one, which a hypervisor on a busy host hands on only after 8 MiB and more."""

RESYNC = bytes(MAX_PAYLOAD + 5)
"""The padding that completes whatever frame an earlier client left unfinished."""

NONCE_SIZE = 16
TOKEN_SIZE = 32
BOOT_ID_SIZE = 16
VERSION = 1
INITIAL_WINDOW = 256 << 10
"""How many bytes of input the guest grants at the start of an operation that takes input for a program."""

_EMPTY_FRAME = 1 << 10  # bytes of padding that take as long to read as a frame without a payload
_MAGIC = b"BANDSOX1"
_HEADER = struct.Struct(">BI")
_HELLO = struct.Struct(f">8sH{NONCE_SIZE}s{TOKEN_SIZE}s")
_WELCOME = struct.Struct(f">8sH{NONCE_SIZE}s{BOOT_ID_SIZE}s")
_WELCOME_SIZE = _HEADER.size + _WELCOME.size
_WINDOW = struct.Struct(">I")
_ZEROS = re.compile(rb"\0*")


class FrameType(enum.IntEnum):
    """The type byte of a frame; those from 0x81 on are the guest's."""

    HELLO = 0x01
    REQUEST = 0x02
    DATA = 0x03
    END = 0x04
    CONTROL = 0x05
    WELCOME = 0x81
    RESULT = 0x82
    ERROR = 0x83
    OUTPUT = 0x84  # the document's second DATA: stdout, terminal output, file contents
    STDERR = 0x85
    OUTPUT_END = 0x86  # the document's second END
    EVENT = 0x87
    WINDOW = 0x88


_WELCOME_START = _HEADER.pack(FrameType.WELCOME, _WELCOME.size) + _MAGIC

FROM_GUEST = frozenset(kind for kind in FrameType if kind >= FrameType.WELCOME)
STREAMED = frozenset({FrameType.DATA, FrameType.OUTPUT, FrameType.STDERR})
"""The types whose payload the decoder hands on in pieces, where nothing else is asked of it."""

Frame = tuple[int, "memoryview | bytes"]
"""A frame's type with its payload, or with a piece of it where the type is one of `STREAMED`."""


def header(kind: FrameType, length: int) -> bytes:
    """The five bytes before a payload of `length` bytes."""
    return _HEADER.pack(kind, length)


def encode(kind: FrameType, payload: bytes = b"") -> bytes:
    """One whole frame. `payload` is at most `MAX_PAYLOAD` bytes, which the caller sees to."""
    return _HEADER.pack(kind, len(payload)) + payload


def hello(nonce: bytes, token: bytes) -> bytes:
    """The frame that starts a connection: 16 bytes of nonce, 32 bytes of token."""
    return encode(FrameType.HELLO, _HELLO.pack(_MAGIC, VERSION, nonce, token))


def welcome(nonce: bytes, boot_id: bytes) -> bytes:
    """The guest's answer to `hello`."""
    return encode(FrameType.WELCOME, _WELCOME.pack(_MAGIC, VERSION, nonce, boot_id))


def window(payload: bytes | memoryview) -> int:
    """The number of bytes that a WINDOW grants.

    Raises
    ------
    ProtocolError: it is not four bytes long.
    """
    if len(payload) != _WINDOW.size:
        raise ProtocolError("the guest sent a WINDOW that is not four bytes long")
    granted: int = _WINDOW.unpack(payload)[0]
    return granted


class WelcomeScanner:
    """Finds the WELCOME that carries `nonce` among the bytes that were meant for an earlier client."""

    def __init__(self, nonce: bytes) -> None:
        self._nonce = nonce
        self._tail = b""
        self.seen = 0
        self.boot_id: bytes | None = None

    def feed(self, data: bytes | memoryview) -> bytes | None:
        """Look at the next bytes: what follows the WELCOME once it was seen, None as long as it was not.

        Raises
        ------
        ProtocolError: more than `MAX_STALE` bytes and no WELCOME, or one of another protocol version.
        """
        self.seen += len(data)
        window = self._tail + bytes(data)
        start = window.find(_WELCOME_START)
        while 0 <= start <= len(window) - _WELCOME_SIZE:
            _, version, nonce, boot_id = _WELCOME.unpack_from(window, start + _HEADER.size)
            if nonce == self._nonce:
                if version != VERSION:
                    raise ProtocolError(f"the guest's agent speaks protocol version {version}, this host version {VERSION}")
                self.boot_id = boot_id
                return window[start + _WELCOME_SIZE :]
            # One for somebody else. It may have been cut off, so that the next begins within its length.
            start = window.find(_WELCOME_START, start + 1)
        self._tail = window[-(_WELCOME_SIZE - 1) :]
        if self.seen > MAX_STALE:
            raise ProtocolError(f"the guest sent {self.seen} bytes and no WELCOME among them")
        return None


class Decoder:
    """Turns bytes, in whatever pieces they arrive, into frames.

    `kinds` are the types the other side may send, `streamed` those of them that are handed on in pieces.
    After a `ProtocolError` the decoder is of no further use.
    """

    def __init__(self, kinds: frozenset[FrameType] = FROM_GUEST, streamed: frozenset[FrameType] = STREAMED) -> None:
        self._kinds = kinds
        self._streamed = streamed
        self._start = b""  # of a header that is not complete
        self._kind = 0
        self._left = 0  # bytes of the present payload that are still to come
        self._body = bytearray()
        self._padding = 0

    @property
    def at_boundary(self) -> bool:
        """Whether the bytes so far end where a frame may start."""
        return not self._left and not self._start

    def feed(self, data: bytes | memoryview) -> Iterator[Frame]:
        """The frames, or pieces of streamed frames, that `data` completes.

        The iterator must be exhausted before the next call. Pieces are views into `data`.

        Raises
        ------
        ProtocolError: an unknown type, a payload over `MAX_PAYLOAD`, or padding without end.
        """
        view = memoryview(data)
        position, end = 0, len(view)
        while position < end:
            if self._left:
                piece = view[position : position + self._left]
                position += len(piece)
                self._left -= len(piece)
                if self._kind in self._streamed:
                    yield self._kind, piece
                    continue
                self._body += piece
                if not self._left:
                    body = bytes(self._body)
                    self._body.clear()
                    yield self._kind, body
                continue
            position = self._read_header(view, position)
            if self._kind and not self._left and not self._start:
                kind, self._kind = self._kind, 0
                yield kind, b""

    def _read_header(self, view: memoryview, position: int) -> int:
        """Skip padding and take a header, or what there is of one; the position after it."""
        self._kind = 0
        if not self._start:
            after = self._skip_padding(view, position)
            if after == len(view):
                return after
            position = after
        if not self._start and len(view) - position >= _HEADER.size:
            kind, length = _HEADER.unpack_from(view, position)
            position += _HEADER.size
        else:
            piece = view[position : position + _HEADER.size - len(self._start)]
            self._start += bytes(piece)
            position += len(piece)
            self._check_kind(self._start[0])
            if len(self._start) < _HEADER.size:
                return position
            kind, length = _HEADER.unpack(self._start)
            self._start = b""
        self._check_kind(kind)
        if length > MAX_PAYLOAD:
            raise ProtocolError(f"the guest announced a frame of {length} bytes; at most {MAX_PAYLOAD} are allowed")
        self._kind, self._left = kind, length
        self._count_padding(0 if length else _EMPTY_FRAME)
        return position

    def _skip_padding(self, view: memoryview, position: int) -> int:
        if view[position]:
            return position
        zeros = _ZEROS.match(view, position)
        after = zeros.end() if zeros else position
        self._count_padding(after - position)
        return after

    def _count_padding(self, size: int) -> None:
        """Count `size` bytes without content; 0: some with content have come. Frames without a payload are padding, too."""
        self._padding = self._padding + size if size else 0
        if self._padding > MAX_DISCARD:
            raise ProtocolError(f"the guest sent more than {MAX_DISCARD} bytes of padding")

    def _check_kind(self, kind: int) -> None:
        if kind not in self._kinds:
            raise ProtocolError(f"the guest sent a frame of type 0x{kind:02x}, which it may not send")
