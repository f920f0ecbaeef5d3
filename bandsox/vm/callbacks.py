"""A running command's output, handed to callbacks that may be plain or asynchronous functions."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from typing import TypeVar

from bandsox.guest import Execution, TextCallback, TextDecoder
from bandsox.models import ExecResult

Value = TypeVar("Value")
Callback = Callable[[Value], Awaitable[None] | None]


async def call(callback: Callback[Value] | None, value: Value) -> None:
    """Call `callback`, if there is one, and wait for what it returns if that can be waited for."""
    if callback is not None and inspect.isawaitable(answer := callback(value)):
        await answer


async def deliver(execution: Execution, on_stdout: TextCallback | None, on_stderr: TextCallback | None) -> ExecResult:
    """Hand on the output of `execution` as text until it ends; the command waits for the callbacks.

    A character is never split between two calls; what is not UTF-8 appears as U+FFFD.
    """
    decoders = {"stdout": TextDecoder(on_stdout), "stderr": TextDecoder(on_stderr)}
    async for stream, data in execution:
        await decoders[stream].feed(data)
    for decoder in decoders.values():
        await decoder.finish()
    return await execution.wait()
