"""Many machines, one after another and at once, from one process and from several: nothing is left of them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bandsox import BandSox, MicroVM
from bandsox.network.keeper import interface_of
from bandsox.settings import Layout
from tests.engine.leaks import Traces

ROUNDS = int(os.environ.get("BANDSOX_TEST_ROUNDS", "3"))
"""`make soak` asks for 200."""


def test_nothing_is_left_of_many_machines(bandsox: BandSox) -> None:
    layout = Layout.open(bandsox.storage_dir)
    bandsox.create_vm().delete()
    before, made = Traces.of(layout), list[MicroVM]()
    for number in range(ROUNDS):
        with bandsox.create_vm() as machine:
            made.append(machine)
            assert machine.run(["echo", str(number)]).stdout == b"%d\n" % number
    assert Traces.of(layout).changes_since(before) == {}
    assert not {interface_of(machine.vm_id) for machine in made} & {name for _, name in socket.if_nameindex()}


def test_nothing_is_left_of_many_commands(vm: MicroVM) -> None:
    vm.exec_command("true")
    before = len(list(Path("/proc/self/fd").iterdir()))
    processes = vm.metrics().process_count
    for _ in range(200):
        assert vm.exec_command(["true"]) == 0
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert vm.metrics().process_count <= processes + 2
    groups = vm.run("find /sys/fs/cgroup -type d | wc -l")
    assert int(groups.stdout) < 20


def test_more_callers_than_connections_are_all_served(vm: MicroVM) -> None:
    with ThreadPoolExecutor(24) as threads:
        answers = list(threads.map(lambda number: vm.run(["echo", str(number)]).stdout, range(72)))
    assert answers == [b"%d\n" % number for number in range(72)]


def test_long_commands_leave_room_for_short_operations(vm: MicroVM) -> None:
    long = "echo started; echo >> /dev/shm/started; until test -e /dev/shm/enough; do sleep 0.1; done"
    with ThreadPoolExecutor(16) as threads:
        sleeping = [threads.submit(vm.run, long) for _ in range(10)]
        vm.run("until test $(wc -l < /dev/shm/started) = 10; do sleep 0.1; done", timeout=60)
        assert vm.stat("/").type == "directory"
        assert vm.metrics().uptime_ms > 0
        vm.write_bytes("/dev/shm/enough", b"")
        assert [task.result().stdout for task in sleeping] == [b"started\n"] * 10


_USER = """
    import sys
    from bandsox import BandSox
    with BandSox(sys.argv[1]) as bandsox:
        with bandsox.create_vm(name=f"machine of {sys.argv[2]}") as machine:
            for number in range(5):
                assert machine.run(["echo", sys.argv[2]]).text.strip() == sys.argv[2]
            shared = bandsox.get_vm(sys.argv[3])
            for number in range(20):
                assert shared.run(["echo", sys.argv[2]]).text.strip() == sys.argv[2]
"""


def test_several_processes_share_one_storage_directory(bandsox: BandSox, vm: MicroVM, storage: Path) -> None:
    script = [sys.executable, "-c", textwrap.dedent(_USER), str(storage)]
    users = [subprocess.Popen([*script, f"user {number}", vm.vm_id]) for number in range(3)]
    assert [user.wait() for user in users] == [0, 0, 0]
    assert not any(info["name"].startswith("machine of user") for info in bandsox.list_vms())
