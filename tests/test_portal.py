"""The thread behind the blocking faces: what an operation does there comes out here, and whoever is interrupted leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from bandsox.portal import portal, sync, sync_iterator


class Asynchronous:
    """Operations of no use."""

    async def add(self, first: int, second: int = 1) -> int:
        """Add."""
        await asyncio.sleep(0)
        return first + second

    async def fail(self) -> None:
        raise ZeroDivisionError("as it was to")

    async def tell(self, on_text: Callable[[str], object]) -> object:
        return await on_text("something")  # type: ignore[misc] # a stand-in

    async def count(self, most: int) -> AsyncIterator[int]:
        for number in range(most):
            yield number


class Blocking:
    """The same, blocking."""

    def __init__(self) -> None:
        self._async = Asynchronous()

    add = sync(Asynchronous.add)
    shown = sync(Asynchronous.add).then(lambda _, total: f"{total}!")
    fail = sync(Asynchronous.fail)
    tell = sync(Asynchronous.tell)
    count = sync_iterator(Asynchronous.count)


class Interrupted(Exception):
    """Somebody pressed a key."""


@contextlib.contextmanager
def interrupted_after(seconds: float) -> Iterator[None]:
    """Raise `Interrupted` in the block, as Ctrl-C would raise KeyboardInterrupt."""

    def interrupt(*_: object) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_result_comes_out() -> None:
    assert Blocking().add(1, second=2) == 3
    assert Blocking().shown(1) == "2!"
    assert list(Blocking().count(3)) == [0, 1, 2]


def test_a_failure_comes_out_with_where_it_was_raised() -> None:
    with pytest.raises(ZeroDivisionError, match="as it was to") as raised:
        Blocking().fail()
    assert raised.traceback[-1].name == "fail"


def test_a_callback_runs_in_the_thread_that_waits_and_may_block_itself() -> None:
    seen: list[tuple[int, str, int]] = []

    def told(text: str) -> int:
        seen.append((threading.get_ident(), text, Blocking().add(1)))
        return 7

    assert Blocking().tell(told) == 7
    assert seen == [(threading.get_ident(), "something", 2)]


def test_what_a_callback_raises_comes_out() -> None:
    def told(_: str) -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        Blocking().tell(told)


def test_many_threads_wait_at_once() -> None:
    found: list[int] = []
    threads = [threading.Thread(target=lambda number=number: found.append(Blocking().add(number))) for number in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == list(range(1, 51))


def test_who_is_interrupted_goes_on_when_the_operation_has_cleaned_up() -> None:
    cleaned_up: list[bool] = []

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.05)
            cleaned_up.append(True)

    with interrupted_after(0.1), pytest.raises(Interrupted):
        portal.run(endless())
    assert cleaned_up == [True]


def test_a_failure_while_it_cleans_up_does_not_hide_the_interruption() -> None:
    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ZeroDivisionError

    with interrupted_after(0.1), pytest.raises(Interrupted):
        portal.run(endless())


def test_a_forked_child_has_a_loop_of_its_own() -> None:
    assert Blocking().add(1) == 2
    child = os.fork()
    if child == 0:
        os._exit(Blocking().add(40, 2))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42
