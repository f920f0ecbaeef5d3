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

_CLEANED_UP_S = 30.0
"""How long an operation that is cancelled may take to clean up after itself."""

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
        under_way = _UnderWay(self.loop, operation, calls)
        try:
            if calls is not None:
                while (call := calls.get()) is not None:
                    self.answer(call)
            under_way.wait()
        except BaseException:
            # Interrupted while waiting: the operation is cancelled, and has cleaned up before this goes on.
            under_way.cancel()
            raise
        return under_way.result()

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


class _UnderWay(Generic[Result]):
    """An operation on the event loop, for the thread that waits for it.

    What asyncio has for that (`asyncio.run_coroutine_threadsafe`) makes a second future with a condition, and takes twice as long.

    Parameters
    ----------
    calls: gets None when the operation has ended.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, operation: Coroutine[Any, Any, Result], calls: queue.SimpleQueue[_Call | None] | None
    ) -> None:
        self._loop, self._operation, self._calls = loop, operation, calls
        self._task: asyncio.Task[Result] | None = None
        self._going_on = threading.Lock()
        self._going_on.acquire()  # until it has ended
        loop.call_soon_threadsafe(self._begin)

    def wait(self) -> None:
        """Return when it has ended. Once."""
        self._going_on.acquire()

    def cancel(self) -> None:
        """Have it end, if it has not, and return when it has; or after a while."""
        if self._task is None or not self._task.done():
            self._loop.call_soon_threadsafe(self._cancel)
            self._going_on.acquire(timeout=_CLEANED_UP_S)

    def result(self) -> Result:
        """What it has returned, or raises, having ended."""
        assert self._task is not None
        return self._task.result()

    # ── in the event loop's thread ──

    def _begin(self) -> None:
        self._task = self._loop.create_task(self._operation)
        self._task.add_done_callback(self._end)

    def _cancel(self) -> None:
        assert self._task is not None  # it was begun before: callbacks keep their order
        self._task.cancel()

    def _end(self, task: asyncio.Task[Result]) -> None:
        if not task.cancelled():
            task.exception()  # it was looked at, even if nobody waits any more
        self._going_on.release()
        if self._calls is not None:
            self._calls.put(None)


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
        return self._blocking if instance is None else types.MethodType(self._blocking, instance)

    @functools.cached_property
    def _blocking(self) -> Callable[..., Result]:
        name, run = self._operation.__name__, _run_with_thread if self._background else _run

        @functools.wraps(self._operation)
        def blocking(instance: Any, *arguments: Any, **options: Any) -> Result:
            result = run(getattr(instance._async, name), arguments, options)
            converted: Result = result if self._convert is None else self._convert(instance, result)
            return converted

        return blocking


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
