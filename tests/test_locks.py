"""Locks between processes and between the tasks of one."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bandsox.errors import Timeout
from bandsox.locks import Locks

pytestmark = pytest.mark.anyio

_HOLDER = """
import sys
from pathlib import Path
from bandsox.locks import Locks
with Locks(Path(sys.argv[1])).hold_blocking(sys.argv[2]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "locks"


def holder(file: Path, name: str = "x") -> subprocess.Popen[bytes]:
    """A process that holds a lock until its input ends."""
    process = subprocess.Popen([sys.executable, "-c", _HOLDER, str(file), name], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


async def test_a_killed_holders_lock_is_free(file: Path) -> None:
    with holder(file) as other:
        asyncio.get_running_loop().call_later(0.1, other.kill)
        async with Locks(file).hold("x"):
            other.wait()


async def test_names_do_not_hinder_each_other(file: Path) -> None:
    with holder(file, "x") as other:
        async with Locks(file).hold("y"), Locks(file).hold():
            pass
        with Locks(file).try_hold("x") as held:
            assert not held
        other.kill()


async def test_waiting_ends_at_the_deadline_and_holds_nothing(file: Path) -> None:
    with holder(file) as other:
        with pytest.raises(Timeout, match="the thing"):
            async with Locks(file).hold("x", deadline_s=0.1, what="the thing"):
                pytest.fail("the lock was given twice")
        other.kill()
    async with Locks(file).hold("x", deadline_s=60):  # the thread that was left waiting gives back what it gets
        pass


async def test_a_cancelled_waiter_lets_others_through(file: Path) -> None:
    locks = Locks(file)

    async def hold() -> None:
        async with locks.hold("x"):
            pass

    async with locks.hold("x"):
        waiting = asyncio.ensure_future(hold())
        await asyncio.wait([waiting], timeout=0.1)
        waiting.cancel()
        await asyncio.wait([waiting])
    await asyncio.wait_for(hold(), 60)


async def test_a_loop_that_ends_while_a_task_waits_leaves_no_lock_behind(file: Path) -> None:
    def wait_in_vain() -> None:
        async def wait() -> None:
            async with Locks(file).hold("x", deadline_s=0.05):
                pass

        with pytest.raises(Timeout):
            asyncio.run(wait())

    async with Locks(file).hold("x"):
        thread = threading.Thread(target=wait_in_vain)
        thread.start()
        await asyncio.to_thread(thread.join)
    await asyncio.wait_for(asyncio.to_thread(_take, file), 60)


def _take(file: Path) -> None:
    with Locks(file).hold_blocking("x"):
        pass


async def test_a_shared_lock_has_several_holders_and_no_lone_one(file: Path) -> None:
    locks = Locks(file)
    async with locks.hold("x", shared=True), locks.hold("x", shared=True):
        with locks.try_hold("x") as held:
            assert not held
    with locks.try_hold("x") as held:
        assert held


async def test_a_lock_moves_with_its_file(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    with Locks(tmp_path / "work/lock").try_hold() as held:
        assert held
        (tmp_path / "work").rename(tmp_path / "place")
        with Locks(tmp_path / "place/lock").try_hold() as again:
            assert not again
