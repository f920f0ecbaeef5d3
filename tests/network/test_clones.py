"""Twenty clones of a machine at once: each has addresses of its own, at which its host reaches it and no other."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.network.conftest import runner
from tests.network.lab import Lab

COUNT = 20

_SERVE = """
import socket
listener = socket.create_server(("::", 8000), family=socket.AF_INET6, dualstack_ipv6=True, backlog=64)
print("ready", flush=True)
while True:
    connection, _ = listener.accept()
    with connection, open("/etc/hostname") as name:
        connection.sendall(name.read().strip().encode())
"""

_HOST = f"""
    import json, os, socket
    from bandsox import BandSox
    from tests.network.watching import Printed

    def who(address):
        with socket.create_connection((address, 8000), 60) as connection, connection.makefile() as file:
            return file.read()

    with BandSox() as bandsox:
        bandsox.pull_image("debootstrap:bookworm?include=python3", "missing")
        with bandsox.create_vm(mem_mib=128, name="source-of-many", enable_networking=True) as vm:
            printed = Printed()
            vm.start_session(["python3", "-c", os.environ["SERVE"]], on_stdout=printed.put)
            printed.lines(1)
            clones = vm.fork({COUNT}, "one-of-many")
            try:
                machines = [vm, *clones]
                of6 = [machine.info()["network_config"]["guest_ipv6"] for machine in machines]
                found = [[machine.name, machine.get_guest_ip(), who(machine.get_guest_ip()), who(v6)] for machine, v6 in zip(machines, of6)]
            finally:
                for clone in clones:
                    clone.delete()
    print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(world: Lab, storage: Any) -> list[list[str]]:
    done = runner(world, "root", storage)(_HOST, SERVE=_SERVE)
    assert done.returncode == 0, done.stderr
    seen: list[list[str]] = json.loads(done.stdout)
    return seen


def test_all_clones_are_reached_at_their_own_addresses(found: list[list[str]]) -> None:
    assert len(found) == COUNT + 1
    assert len({address for _, address, _, _ in found}) == COUNT + 1
    for name, address, over4, over6 in found:
        assert (over4, over6) == (name, name), address
