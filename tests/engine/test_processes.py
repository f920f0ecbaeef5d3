"""Processes named beyond doubt."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

from bandsox.engine import ownership
from bandsox.process import ProcessId


def test_a_pid_that_somebody_else_has_now_is_not_the_process() -> None:
    this = ProcessId.current()
    assert this.is_alive()
    earlier = ProcessId(this.pid, this.start - 1)
    assert not earlier.is_alive()
    assert not earlier.signal(signal.SIGKILL)


def test_a_zombie_is_not_alive() -> None:
    child = subprocess.Popen(["true"])
    identity = ProcessId.of(child.pid)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert identity is not None
    assert not identity.is_alive()
    child.wait()


def test_waiting_ends_with_the_process_and_reaps_it() -> None:
    child = subprocess.Popen(["sleep", "1000"])
    identity = ProcessId.of(child.pid)
    assert identity is not None
    asyncio.run(ownership.end(identity))
    child.returncode = 0
    assert not Path(f"/proc/{child.pid}").exists()


def test_processes_are_found_by_the_directory_they_work_in(tmp_path: Path) -> None:
    owned = tmp_path / "machine"
    owned.mkdir()
    with subprocess.Popen(["sleep", "1000"], cwd=owned) as inside, subprocess.Popen(["sleep", "1000"], cwd=tmp_path) as outside:
        found = [(name, process.pid) for name, process in ownership.processes_in(tmp_path)]
        inside.kill()
        outside.kill()
    assert found == [("machine", inside.pid)]


_THREADS = "import threading, time; [threading.Thread(target=time.sleep, args=(1000,)).start() for _ in range(50)]; print('up', flush=True)"


def test_no_zombie_stays_of_a_process_with_many_threads() -> None:
    for _ in range(10):
        child = subprocess.Popen([sys.executable, "-c", _THREADS], stdout=subprocess.PIPE)
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"
        identity = ProcessId.of(child.pid)
        assert identity is not None
        asyncio.run(ownership.end(identity))
        child.returncode = 0
        assert not Path(f"/proc/{child.pid}").exists()
