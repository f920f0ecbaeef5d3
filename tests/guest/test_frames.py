"""The codec: what it gives for well-formed bytes, and that it survives all others."""

from __future__ import annotations

import contextlib
import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandsox.errors import ProtocolError
from bandsox.guest import frames
from bandsox.guest.frames import FROM_GUEST, MAX_DISCARD, MAX_PAYLOAD, STREAMED, Decoder, FrameType, WelcomeScanner

Decoded = list[tuple[int, bytes]]

VECTORS = Path(__file__).parents[1] / "vectors" / "protocol.json"


def decode(pieces: list[bytes], decoder: Decoder | None = None) -> Decoded:
    """The frames in `pieces`, the parts of streamed frames that follow each other put together."""
    decoder = decoder or Decoder()
    found: Decoded = []
    for piece in pieces:
        for kind, payload in decoder.feed(piece):
            if found and kind in STREAMED and found[-1][0] == kind:
                found[-1] = (kind, found[-1][1] + bytes(payload))
            else:
                found.append((kind, bytes(payload)))
    return found


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


some_frames = st.lists(st.tuples(st.sampled_from(sorted(FROM_GUEST)), st.binary(max_size=200), st.integers(0, 3)))
places = st.lists(st.integers(0, 1 << 16), max_size=20)


@given(some_frames, places)
def test_any_chunking_gives_the_same_frames(sent: list[tuple[FrameType, bytes, int]], places: list[int]) -> None:
    data = b"".join(bytes(padding) + frames.encode(kind, payload) for kind, payload, padding in sent)
    decoder = Decoder()
    assert decode(cut(data, places), decoder) == decode([data])
    assert decoder.at_boundary
    structured = [(kind, payload) for kind, payload, _ in sent if kind not in STREAMED]
    assert [frame for frame in decode([data]) if frame[0] not in STREAMED] == structured


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_any_bytes_give_frames_or_a_protocol_error(pieces: list[bytes]) -> None:
    with contextlib.suppress(ProtocolError):
        decode(pieces)


@given(st.binary(max_size=2000), places)
def test_the_chunking_of_garbage_makes_no_difference_either(data: bytes, places: list[int]) -> None:
    def outcome(pieces: list[bytes]) -> Decoded | None:
        try:
            return decode(pieces)
        except ProtocolError:
            return None

    assert outcome(cut(data, places)) == outcome([data])


def test_a_piece_of_a_streamed_frame_is_a_view_and_no_copy() -> None:
    data = frames.encode(FrameType.OUTPUT, b"x" * 1000)
    ((_, piece),) = Decoder().feed(data)
    assert isinstance(piece, memoryview) and piece.obj is data


def test_the_longest_frame_passes() -> None:
    assert decode([frames.encode(FrameType.RESULT, bytes(MAX_PAYLOAD))]) == [(FrameType.RESULT, bytes(MAX_PAYLOAD))]


def test_a_longer_frame_is_refused_at_its_header() -> None:
    with pytest.raises(ProtocolError, match="1048577 bytes"):
        decode([frames.header(FrameType.OUTPUT, MAX_PAYLOAD + 1)])


@pytest.mark.parametrize("kind", [0x01, 0x02, 0x03, 0x05, 0x7F, 0x80, 0x89, 0xFF])
def test_a_type_that_a_guest_may_not_send_is_refused_at_its_first_byte(kind: int) -> None:
    with pytest.raises(ProtocolError, match=f"0x{kind:02x}"):
        decode([bytes([kind])])


def test_padding_without_end_is_refused() -> None:
    decoder = Decoder()
    assert decode([bytes(MAX_DISCARD)], decoder) == []
    with pytest.raises(ProtocolError, match="padding"):
        decode([b"\0"], decoder)


def test_empty_frames_without_end_are_refused() -> None:
    decoder = Decoder()
    empty = frames.encode(FrameType.OUTPUT)
    decode([empty * (MAX_DISCARD >> 10)], decoder)
    decode([frames.encode(FrameType.OUTPUT, b"x")], decoder)  # something was said: counted anew
    decode([empty * (MAX_DISCARD >> 10)], decoder)
    with pytest.raises(ProtocolError, match="padding"):
        decode([empty], decoder)


def test_the_decoder_holds_one_structured_frame_and_nothing_of_a_streamed_one() -> None:
    decoder = Decoder()
    decode([frames.header(FrameType.OUTPUT, MAX_PAYLOAD), bytes(MAX_PAYLOAD - 1)], decoder)
    assert len(decoder._body) == 0
    decoder = Decoder()
    decode([frames.header(FrameType.RESULT, MAX_PAYLOAD), bytes(MAX_PAYLOAD - 1)], decoder)
    assert len(decoder._body) == MAX_PAYLOAD - 1
    assert not decoder.at_boundary


# ── WELCOME ─────────────────────────────────────────────────────────────────────────────────────

NONCE, BOOT_ID = bytes(range(16)), bytes(range(50, 66))
WELCOME = frames.welcome(NONCE, BOOT_ID)


@given(st.binary(max_size=500), st.binary(max_size=100), places)
def test_welcome_is_found_behind_any_bytes_in_any_pieces(before: bytes, after: bytes, places: list[int]) -> None:
    scanner = WelcomeScanner(NONCE)
    rest: list[bytes] = []
    for piece in cut(before + WELCOME + after, places):
        found = piece if scanner.boot_id is not None else scanner.feed(piece)
        if found is not None:
            rest.append(found)
    assert scanner.boot_id == BOOT_ID
    assert b"".join(rest) == after


def test_a_welcome_with_another_nonce_is_for_somebody_else() -> None:
    scanner = WelcomeScanner(NONCE)
    assert scanner.feed(frames.welcome(bytes(16), BOOT_ID)) is None
    assert scanner.feed(WELCOME) == b""


def test_an_echo_of_hello_is_no_welcome() -> None:
    scanner = WelcomeScanner(NONCE)
    assert scanner.feed(frames.hello(NONCE, bytes(32))) is None


def test_no_more_than_64_mib_are_discarded() -> None:
    scanner = WelcomeScanner(NONCE)
    for _ in range(64):
        assert scanner.feed(bytes(1 << 20)) is None
    with pytest.raises(ProtocolError, match="no WELCOME"):
        scanner.feed(b"x")
    assert len(scanner._tail) < len(WELCOME)


def test_another_protocol_version_is_named() -> None:
    other = WELCOME[:13] + b"\0\x02" + WELCOME[15:]
    with pytest.raises(ProtocolError, match="version 2"):
        WelcomeScanner(NONCE).feed(other)
