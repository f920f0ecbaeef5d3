"""A running command's output, handed to callbacks that may be plain or asynchronous functions."""

from __future__ import annotations

import codecs
import inspect
from collections.abc import Awaitable, Callable
from typing import TypeVar

from bandsox.guest import Execution
from bandsox.models import ExecResult

Value = TypeVar("Value")
Callback = Callable[[Value], Awaitable[None] | None]
TextCallback = Callable[[str], Awaitable[None] | None]


async def call(callback: Callback[Value] | None, value: Value) -> None:
    """Call `callback`, if there is one, and wait for what it returns if that can be waited for."""
    if callback is not None and inspect.isawaitable(answer := callback(value)):
        await answer


async def deliver(execution: Execution, on_stdout: TextCallback | None, on_stderr: TextCallback | None) -> ExecResult:
    """Hand on the output of `execution` as text until it ends; the command waits for the callbacks.

    A character is never split between two calls; what is not UTF-8 appears as U+FFFD.
    """
    sinks = {"stdout": _Text(on_stdout), "stderr": _Text(on_stderr)}
    async for stream, data in execution:
        await sinks[stream].feed(data)
    for sink in sinks.values():
        await sink.feed(b"", final=True)
    return await execution.wait()


class _Text:
    def __init__(self, callback: TextCallback | None) -> None:
        self._callback = callback
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    async def feed(self, data: bytes, final: bool = False) -> None:
        if self._callback is not None and (text := self._decoder.decode(data, final)):
            await call(self._callback, text)
