"""Machines whose time is over: what was asked for is done, by whoever is there, and by the housekeeper where nobody is."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bandsox import BandSox, MicroVM
from bandsox.engine import Engine, deadlines
from bandsox.engine.housekeeper import LOCK, USED
from bandsox.errors import Conflict, InvalidRequest
from bandsox.locks import Locks
from bandsox.process import ProcessId
from bandsox.store import Database, VMs
from bandsox.vmm.inotify import ATTRIB, MODIFY, Watch

LONG = 1_000.0
"""An idle timeout that does not end by itself within a test, in seconds."""


def wait_for(bandsox: BandSox, vm: MicroVM, status: str) -> None:
    """Until the registry, which is looked at whenever it is written to, says so."""
    assert vm.process is not None
    deadline = time.monotonic() + 120
    with vm.process.handle() as pidfd:
        assert pidfd is not None
        while True:
            with Watch({bandsox.storage_dir / "bandsox.db-wal": MODIFY | ATTRIB}) as watch:
                if vm.info()["status"] == status:
                    return
                assert watch.wait(deadline, pidfd), f"it is not {status}"


def age(bandsox: BandSox, vm: MicroVM, seconds: float = LONG) -> None:
    """Let a machine have been used for the last time so long ago."""
    then = time.time() - seconds
    os.utime(bandsox.storage_dir / "vms" / vm.vm_id / USED, (then, then))


def expire(bandsox: BandSox, vm: MicroVM) -> bool:
    """Do what the housekeeper would at the end of a machine's time."""

    async def attempt() -> bool:
        engine = Engine(bandsox.storage_dir)
        try:
            return await deadlines.expire(engine, vm.vm_id)
        finally:
            engine.close()

    return asyncio.run(attempt())


def end_session(bandsox: BandSox, vm: MicroVM, session: str) -> None:
    """Kill a session, and wait until the agent knows."""

    async def end() -> None:
        engine = Engine(bandsox.storage_dir)
        guest = engine.client(await engine.get(vm.vm_id))
        async with await guest.attach_session(session) as attached:
            await guest.signal_session(session, 9)
            await attached.wait()
        engine.close()

    asyncio.run(end())


def _arguments(process: Path) -> list[str]:
    """What a process was started with. One in the middle of execve(2) has nothing for a moment; a kernel's thread never has."""
    while not (line := (process / "cmdline").read_bytes()) and (process / "exe").exists():
        os.sched_yield()
    return line.decode().split("\0")


def housekeepers(bandsox: BandSox) -> list[ProcessId]:
    """The housekeepers of a storage directory."""
    wanted = ["bandsox.engine.housekeeper", os.fspath(bandsox.storage_dir)]
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = _arguments(entry)
        except OSError:
            continue
        if entry.name.isdigit() and words[2:4] == wanted and (process := ProcessId.of(int(entry.name))) is not None:
            found.append(process)
    return found


def test_the_housekeeper_is_small() -> None:
    check = "import sys, bandsox.engine.housekeeper; sys.exit(' '.join({'asyncio', 'msgspec', 'bandsox.engine.engine'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, check=False)
    assert done.stderr.strip() == b""


def test_a_deadline_is_kept_when_nobody_is_there(bandsox: BandSox) -> None:
    """The machine's maker ends; this process watches the VMM alone."""
    make = (
        "import sys; from bandsox import BandSox; vm = BandSox(sys.argv[1]).create_vm(ttl=1, disk_size_mib=0); "
        "print(vm.vm_id, vm.process.pid, vm.process.start)"
    )
    done = subprocess.run([sys.executable, "-c", make, bandsox.storage_dir], capture_output=True, check=True, text=True)
    vm_id, pid, start = done.stdout.split()
    asyncio.run(asyncio.wait_for(ProcessId(int(pid), int(start)).wait(), 120))
    with Locks(bandsox.storage_dir / "locks" / LOCK).hold_blocking():  # the housekeeper has ended, since nothing else is due
        assert not (bandsox.storage_dir / "vms" / vm_id).exists()


def test_an_idle_machine_is_paused_and_wakes(bandsox: BandSox) -> None:
    with bandsox.create_vm(idle_timeout=1, on_expiry="pause", auto_resume=True, disk_size_mib=0) as vm:
        for _ in range(2):
            wait_for(bandsox, vm, "paused")
            assert vm.run(["echo", "awake"]).stdout == b"awake\n"
        # Longer than its idle time, and in use all the while: a machine that is paused does not end its commands.
        assert vm.run(["sleep", "3"], timeout=60).exit_code == 0


def test_what_counts_as_use(bandsox: BandSox) -> None:
    with bandsox.create_vm(idle_timeout=LONG, on_expiry="pause", disk_size_mib=0) as vm:
        assert not expire(bandsox, vm)

        session, _ = vm.start_session("sleep 1000")
        age(bandsox, vm)
        assert not expire(bandsox, vm)
        assert time.time() - (bandsox.storage_dir / "vms" / vm.vm_id / USED).stat().st_mtime < LONG / 2  # its time begins anew
        end_session(bandsox, vm, session)

        vm.run(["true"])
        assert not expire(bandsox, vm)

        with Locks(bandsox.storage_dir / "vms" / vm.vm_id / USED).try_hold():  # somebody ends it at this moment
            age(bandsox, vm)
            assert not expire(bandsox, vm)

        age(bandsox, vm)
        assert expire(bandsox, vm)
        assert vm.info()["status"] == "paused"
        with pytest.raises(Conflict):
            vm.run(["true"])
        assert not expire(bandsox, vm)  # it is not idle but paused
        vm.resume()
        assert vm.run(["true"]).exit_code == 0


def test_a_machine_is_stopped_when_its_time_is_over_and_gets_as_much_again(bandsox: BandSox) -> None:
    vm = bandsox.create_vm(ttl=LONG, on_expiry="stop", disk_size_mib=0)
    try:
        database = Database(bandsox.storage_dir / "bandsox.db")
        VMs(database).update(vm.vm_id, expires_at=time.time() - 1)
        database.close()
        assert vm.info()["status"] == "stopped"
        assert vm.info()["expires_at"] is None
        vm.start()
        assert vm.info()["expires_at"] > time.time() + LONG / 2
    finally:
        vm.delete()


def test_a_killed_housekeeper_is_replaced_by_whoever_looks(bandsox: BandSox) -> None:
    with bandsox.create_vm(idle_timeout=LONG, on_expiry="pause", disk_size_mib=0) as vm:
        (keeper,) = housekeepers(bandsox)
        keeper.signal(signal.SIGKILL)
        asyncio.run(keeper.wait())
        with BandSox(bandsox.storage_dir) as another:
            another.list_vms()
        (successor,) = housekeepers(bandsox)
        assert successor != keeper
        assert vm.info()["status"] == "running"
    asyncio.run(asyncio.wait_for(successor.wait(), 60))  # nothing is left to do


@pytest.mark.parametrize("options", [{"idle_timeout": 0}, {"idle_timeout": float("nan")}, {"ttl": 1e300}, {"on_expiry": "explode"}])
def test_times_and_fates_that_cannot_be(bandsox: BandSox, options: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest):
        bandsox.create_vm(**options)  # type: ignore[arg-type]
