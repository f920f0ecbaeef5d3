"""Killed processes: what a machine's network is made of is gone with the machine, whoever is killed, and the machine goes on without."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.network.conftest import Runner
from tests.network.lab import INTERNET4

_REACH = f"""
import socket, time
deadline = time.monotonic() + 250
while True:
    try:
        socket.create_connection(("{INTERNET4}", 80), 60).close()
        break
    except OSError:
        assert time.monotonic() < deadline
print("reached")
"""

_TOOLS = """
    import asyncio, contextlib, json, os, signal, socket, sys
    from pathlib import Path
    from bandsox import BandSox
    from bandsox.engine import ownership
    from bandsox.process import ProcessId
    from tests.network.bare import table

    def interfaces():
        return sorted(name for _, name in socket.if_nameindex())

    def arguments(process):
        return Path(f"/proc/{process.pid}/cmdline").read_text().split("\\0")

    def keepers(bandsox, vm_id):
        owned = [process for owner, process in ownership.processes_in(bandsox.metadata_dir) if owner == vm_id]
        return [process for process in owned if "bandsox-network" in arguments(process)[0]]

    def children(parent):
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and (process := ProcessId.of(int(entry.name))) is not None:
                with contextlib.suppress(OSError):  # it has ended
                    if int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1]) == parent.pid:
                        found.append(process)
        return found

    def kill(process):
        process.signal(signal.SIGKILL)
        asyncio.run(process.wait())

    def ended(processes):
        async def wait():
            await asyncio.wait_for(asyncio.gather(*(process.wait() for process in processes)), 120)
        asyncio.run(wait())
        return True

    def reach(vm):
        return vm.run(["python3", "-c", os.environ["REACH"]], timeout=300).text
"""

_HOST = f"""
    {_TOOLS}
    with BandSox() as bandsox:
        bandsox.pull_image("debootstrap:bookworm?include=python3", "missing")
        before, seen = interfaces(), {{}}
        with bandsox.create_vm(mem_mib=256, enable_networking=True) as vm:
            [keeper] = keepers(bandsox, vm.vm_id)
            pastas = children(keeper)
            seen["pastas"] = [Path(arguments(pasta)[0]).name for pasta in pastas]
            if pastas:
                kill(pastas[0])
                seen["after pasta"] = reach(vm)
                seen["another"] = len(children(keeper)) == 1 and children(keeper) != pastas
            pastas = children(keeper)
            ip = vm.get_guest_ip()
            kill(keeper)
            seen["pasta ends with the keeper"] = ended(pastas)
            seen["goes on"] = vm.run("echo on").text
            vm.stop()
            seen["rules"] = table()
            vm.start()
            seen["same address"] = vm.get_guest_ip() == ip
            seen["after a new start"] = reach(vm)

            [keeper] = keepers(bandsox, vm.vm_id)
            helpers = [keeper, *children(keeper)]
            kill(vm.process)
            seen["all end with the VMM"] = ended(helpers)
            seen["interfaces"] = interfaces() == before
            seen["status"] = vm.status().value
        print(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def seen(on_host: Runner) -> Any:
    done = on_host(_HOST, REACH=_REACH)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_pasta_that_is_killed_is_followed_by_another(seen: Any) -> None:
    if not seen["pastas"]:
        pytest.skip("root's uplink is a pair of devices, which nobody can kill")
    assert seen["pastas"] == ["pasta"] or seen["pastas"] == ["pasta.avx2"]
    assert seen["after pasta"] == "reached\n"
    assert seen["another"]


def test_a_machine_outlives_its_keeper_and_gets_another_at_its_next_start(seen: Any) -> None:
    assert seen["pasta ends with the keeper"]
    assert seen["goes on"] == "on\n"
    assert seen["rules"] is None
    assert seen["same address"]
    assert seen["after a new start"] == "reached\n"


def test_nothing_is_left_of_a_vmm_that_is_killed(seen: Any) -> None:
    assert seen["all end with the VMM"]
    assert seen["interfaces"]
    assert seen["status"] == "dead"
