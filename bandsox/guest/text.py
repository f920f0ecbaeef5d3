"""Output as text: bytes arrive in pieces that end anywhere, characters do not."""

from __future__ import annotations

import codecs
import inspect
from collections.abc import Awaitable, Callable

TextCallback = Callable[[str], Awaitable[None] | None]


class TextDecoder:
    """Decodes a stream of UTF-8 for a callback that wants text; without a callback it drops the stream.

    A character is never split between two calls; what is not UTF-8 becomes U+FFFD. A callback may be a coroutine
    function. Call `finish` at the end of the stream.
    """

    def __init__(self, callback: TextCallback | None) -> None:
        self._callback = callback
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    async def feed(self, data: bytes) -> None:
        """The stream's next bytes."""
        if self._callback is not None:
            await self._emit(self._callback, self._decoder.decode(data))

    async def finish(self) -> None:
        """The stream has ended; a character that was begun becomes U+FFFD."""
        if self._callback is not None:
            await self._emit(self._callback, self._decoder.decode(b"", final=True))

    async def _emit(self, callback: TextCallback, text: str) -> None:
        if text and inspect.isawaitable(answer := callback(text)):
            await answer
