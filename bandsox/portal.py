"""The synchronous face: each blocking method runs the asynchronous one of the same name.

One event loop in a thread of its own serves the whole process. `sync` turns an asynchronous method into a blocking one with
the same parameters, result and documentation, so that no operation is written twice:

    class MicroVM:
        exec_command = sync(AsyncMicroVM.exec_command)

Callbacks given to a blocking call run in the thread that waits for it, one at a time, and the guest waits for them; so a
callback may itself call blocking methods.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import inspect
import os
import queue
import threading
import types
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, overload

Result = TypeVar("Result")
Converted = TypeVar("Converted")
Item = TypeVar("Item")
Parameters = ParamSpec("Parameters")

_Call = tuple[Callable[..., Any], tuple[Any, ...], "asyncio.Future[Any] | None"]
"""What to call, with what, and where its result is waited for."""


class _Portal:
    """The event loop's thread, started at the first use; a forked child starts its own."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = 0

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        with self._guard:
            if self._loop is None or self._pid != os.getpid():
                self._loop, self._pid = asyncio.new_event_loop(), os.getpid()
                threading.Thread(target=self._loop.run_forever, name="bandsox", daemon=True).start()
            return self._loop

    def run(self, operation: Coroutine[Any, Any, Result], calls: queue.SimpleQueue[_Call | None] | None = None) -> Result:
        """Run `operation` to its end; what is put into `calls` meanwhile is called here, in this thread."""
        future = asyncio.run_coroutine_threadsafe(operation, self.loop)
        try:
            if calls is not None:
                future.add_done_callback(lambda _: calls.put(None))
                while (call := calls.get()) is not None:
                    self.answer(call)
            return future.result()
        except BaseException:
            # Interrupted while waiting: the operation is cancelled, and has cleaned up before this goes on.
            if not future.done():
                future.cancel()
                concurrent.futures.wait([future], timeout=30)
            raise

    def answer(self, call: _Call) -> None:
        """Make a call here, and hand its result to the event loop."""
        function, arguments, answer = call
        if answer is None:
            function(*arguments)
            return
        try:
            value = function(*arguments)
        except BaseException as error:
            self.loop.call_soon_threadsafe(_settle, answer, None, error)
            if not isinstance(error, Exception):
                raise
        else:
            self.loop.call_soon_threadsafe(_settle, answer, value, None)


portal = _Portal()


def _settle(answer: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
    if answer.done():
        return
    if error is None:
        answer.set_result(value)
    else:
        answer.set_exception(error)


def _through(calls: queue.SimpleQueue[_Call | None], function: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    """An asynchronous stand-in for `function`, which runs where `calls` is served."""

    async def stand_in(*arguments: Any) -> Any:
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        calls.put((function, arguments, answer))
        return await answer

    return stand_in


def _reporting(calls: queue.SimpleQueue[_Call | None], function: Callable[..., Any]) -> Callable[..., None]:
    """A stand-in for a progress callback: it may be called in any thread, and nobody waits for it."""

    def stand_in(*arguments: Any) -> None:
        calls.put((function, arguments, None))

    return stand_in


class sync(Generic[Parameters, Result]):  # noqa: N801 — reads as the decorator it is
    """A blocking method made of the asynchronous method `operation` of the object in ``self._async``.

    With `background`, callbacks may be called after the method has returned, and get a thread of their own.
    """

    def __init__(
        self,
        operation: Callable[Concatenate[Any, Parameters], Coroutine[Any, Any, Result]],
        *,
        background: bool = False,
    ) -> None:
        self._operation: Callable[..., Coroutine[Any, Any, Any]] = operation
        self._convert: Callable[[Any, Any], Any] | None = None
        self._background = background

    def then(self, convert: Callable[[Any, Any], Converted]) -> sync[Parameters, Converted]:
        """The same method with its result passed through ``convert(self, result)``."""
        converted: sync[Parameters, Converted] = sync(self._operation, background=self._background)
        converted._convert = convert
        return converted

    @overload
    def __get__(self, instance: None, owner: type) -> Callable[Concatenate[Any, Parameters], Result]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> Callable[Parameters, Result]: ...
    def __get__(self, instance: Any, owner: type) -> Callable[..., Result]:
        @functools.wraps(self._operation)
        def blocking(instance: Any, *arguments: Any, **options: Any) -> Result:
            run = _run_with_thread if self._background else _run
            result = run(getattr(instance._async, self._operation.__name__), arguments, options)
            converted: Result = result if self._convert is None else self._convert(instance, result)
            return converted

        return blocking if instance is None else types.MethodType(blocking, instance)


def _run(operation: Callable[..., Coroutine[Any, Any, Any]], arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Run `operation` with its callbacks, if it was given any, called in this thread."""
    if not any(map(callable, arguments)) and not any(map(callable, options.values())):
        return portal.run(operation(*arguments, **options))
    calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
    return portal.run(operation(**_all_through(calls, operation, arguments, options)), calls)


def _run_with_thread(operation: Callable[..., Coroutine[Any, Any, Any]], arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Run `operation`; its callbacks are called one after another in a thread that ends when nobody holds them any more."""
    calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
    given = _all_through(calls, operation, arguments, options)
    stand_ins = [value for value in given.values() if callable(value)]
    if stand_ins:
        threading.Thread(target=_serve, args=(calls,), name="bandsox callbacks", daemon=True).start()
        held = len(stand_ins)

        def let_go() -> None:
            nonlocal held
            held -= 1
            if held == 0:
                calls.put(None)

        for stand_in in stand_ins:
            weakref.finalize(stand_in, let_go)
    return portal.run(operation(**given))


def _serve(calls: queue.SimpleQueue[_Call | None]) -> None:
    while (call := calls.get()) is not None:
        portal.answer(call)


def _all_through(
    calls: queue.SimpleQueue[_Call | None], operation: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]
) -> dict[str, Any]:
    """The arguments by name, with stand-ins for the callbacks among them."""
    given = inspect.signature(operation).bind(*arguments, **options).arguments
    for name, value in given.items():
        if callable(value):
            given[name] = _reporting(calls, value) if name == "progress" else _through(calls, value)
    return given


def sync_iterator(
    operation: Callable[Concatenate[Any, Parameters], AsyncIterator[Item]],
) -> Callable[Concatenate[Any, Parameters], Iterator[Item]]:
    """A blocking iterator made of the asynchronous iterator that `operation` of the object in ``self._async`` returns."""

    @functools.wraps(operation)
    def blocking(instance: Any, /, *arguments: Parameters.args, **options: Parameters.kwargs) -> Iterator[Item]:
        return _iterate(getattr(instance._async, operation.__name__)(*arguments, **options))

    return blocking


def _iterate(source: AsyncIterator[Item]) -> Iterator[Item]:
    """The items of an asynchronous iterator, one blocking step at a time; it is closed when the caller stops early."""

    async def step() -> tuple[bool, Item | None]:
        try:
            return True, await source.__anext__()
        except StopAsyncIteration:
            return False, None

    async def close() -> None:
        if (aclose := getattr(source, "aclose", None)) is not None:
            await aclose()

    try:
        while True:
            more, item = portal.run(step())
            if not more:
                return
            yield item  # type: ignore[misc]
    finally:
        portal.run(close())
