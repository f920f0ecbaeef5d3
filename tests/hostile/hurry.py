"""An event loop whose clock runs fast, so that deadlines of half a minute pass while a test waits a moment."""

from __future__ import annotations

import asyncio
import selectors


class HurriedLoop(asyncio.SelectorEventLoop):
    """Every deadline comes `speed` times sooner. Descriptors, processes and threads are as fast as they are."""

    def __init__(self, speed: float) -> None:
        super().__init__(_Selector(speed))
        self.speed = speed

    def time(self) -> float:
        return super().time() * self.speed


class _Selector(selectors.DefaultSelector):
    def __init__(self, speed: float) -> None:
        super().__init__()
        self._speed = speed

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return super().select(None if timeout is None else timeout / self._speed)
