"""Locks between processes."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from bandsox.engine import locks
from bandsox.errors import Timeout

_HOLDER = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()"


def hold(path: Path) -> subprocess.Popen[bytes]:
    holder = subprocess.Popen([sys.executable, "-c", _HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"held\n"
    return holder


def test_a_killed_holders_lock_is_free(tmp_path: Path) -> None:
    async def wait() -> None:
        with hold(tmp_path / "lock") as holder:
            asyncio.get_running_loop().call_later(0.1, holder.kill)
            async with locks.exclusive(tmp_path / "lock", "it"):
                pass

    asyncio.run(wait())


def test_waiting_ends_at_the_deadline_and_holds_nothing(tmp_path: Path) -> None:
    async def wait() -> None:
        async with locks.exclusive(tmp_path / "lock", "the thing", deadline_s=0.1):
            pytest.fail("the lock was given twice")

    with hold(tmp_path / "lock") as holder:
        with pytest.raises(Timeout, match="the thing"):
            asyncio.run(wait())
        holder.kill()

    async def take() -> None:
        async with locks.exclusive(tmp_path / "lock", "the thing", deadline_s=60):
            pass

    asyncio.run(take())  # the thread that was left waiting gives back what it gets
