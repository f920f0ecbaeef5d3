"""How much may be under way in a WebSocket, in either direction.

Browsers have no way to leave a WebSocket unread, nor to be told when what they have sent has gone. So either end says how many bytes it
takes before it says that it takes more (`bandsox.wire`); what is beyond that stays where it was made, and the program there has to wait.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable

from bandsox import wire
from bandsox.errors import InvalidRequest


class Window:
    """How many bytes a client takes before it has said that it takes more.

    Parameters
    ----------
    size: how many it takes at first, and has unread at most. None: it is read no faster than it reads its connection.
    """

    def __init__(self, size: int | None) -> None:
        if size is not None and not 1 <= size <= wire.LARGEST_WINDOW:
            raise InvalidRequest(f"a window is between 1 and {wire.LARGEST_WINDOW} bytes")
        self._size = size
        self._left = size or 0
        self._news = asyncio.Event()

    @property
    def is_kept(self) -> bool:
        """Whether the client knows of windows."""
        return self._size is not None

    def widen(self, size: int) -> None:
        """The client has taken so many bytes.

        Raises
        ------
        InvalidRequest: it was not sent so many.
        """
        if self._size is None or self._left + size > self._size:
            raise InvalidRequest("a window message is for bytes that were sent")
        self._left += size
        self._news.set()

    async def pieces(self, data: bytes) -> AsyncIterator[bytes]:
        """`data`, in pieces that may be sent."""
        if self._size is None:
            yield data
            return
        while data:
            while not self._left:
                self._news.clear()
                await self._news.wait()
            piece, data = data[: self._left], data[self._left :]
            self._left -= len(piece)
            yield piece


class Input:
    """What a client has sent, on its way to whoever reads it."""

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._closed = False
        self._news = asyncio.Event()
        self._taken = asyncio.Event()

    def add(self, data: bytes) -> None:
        """Take what came.

        Raises
        ------
        InvalidRequest: more is under way than the client may send.
        """
        self._pieces.append(data)
        self._size += len(data)
        if self._size > 4 * wire.WINDOW:
            raise InvalidRequest(f"more than {4 * wire.WINDOW} bytes of input are under way", remedy="wait for window messages")
        self._news.set()

    @property
    def closed(self) -> bool:
        """Whether there is no more to come."""
        return self._closed

    def close(self) -> None:
        """There is no more to come."""
        self._closed = True
        self._news.set()

    async def taken(self) -> None:
        """Wait until all of it was handed on."""
        while self._pieces or self._size:
            self._taken.clear()
            await self._taken.wait()

    async def hand_on(
        self, write: Callable[[bytes], Awaitable[None]], end: Callable[[], Awaitable[None]], tell: Callable[[int], Awaitable[None]]
    ) -> None:
        """Hand it on until its end, and tell of each piece how long it was."""
        while True:
            while self._pieces:
                data = self._pieces.popleft()
                await write(data)
                self._size -= len(data)
                self._taken.set()
                await tell(len(data))
            if self._closed:
                await end()
                return
            self._news.clear()
            await self._news.wait()
