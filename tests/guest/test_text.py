"""Output as text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandsox.guest import TextDecoder
from tests.guest.test_frames import cut, places

pytestmark = pytest.mark.anyio


def decode(pieces: list[bytes]) -> list[str]:
    heard: list[str] = []

    async def listen() -> None:
        decoder = TextDecoder(heard.append)
        for piece in pieces:
            await decoder.feed(piece)
        await decoder.finish()

    coroutine = listen()
    with pytest.raises(StopIteration):
        coroutine.send(None)  # nothing in it waits
    return heard


@given(st.text(), places)
def test_characters_are_never_split(text: str, places: list[int]) -> None:
    assert "".join(decode(cut(text.encode(), places))) == text


@given(st.binary(), places)
def test_what_is_not_utf8_is_replaced_wherever_it_is_cut(data: bytes, places: list[int]) -> None:
    assert "".join(decode(cut(data, places))) == data.decode(errors="replace")


def test_a_character_that_was_begun_is_replaced_at_the_end() -> None:
    assert decode(["€".encode()[:2]]) == ["\N{REPLACEMENT CHARACTER}"]


def test_the_callback_is_not_called_with_nothing() -> None:
    assert decode(["€".encode()[:1], "€".encode()[1:2], "€".encode()[2:], b""]) == ["€"]


async def test_a_callback_may_be_a_coroutine_function_or_absent() -> None:
    heard: list[str] = []

    async def listen(text: str) -> None:
        heard.append(text)

    decoder = TextDecoder(listen)
    await decoder.feed(b"x")
    await decoder.finish()
    await TextDecoder(None).feed(b"x")
    assert heard == ["x"]
