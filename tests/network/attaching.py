"""What `test_cni` does on the host of its lab."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from pathlib import Path
from typing import Any

from bandsox import BandSox, BandSoxError, MicroVM
from bandsox.engine import ownership
from bandsox.network.resolvers import host_resolvers
from tests.network.lab import FORBIDDEN, HOST4, INTERNET4
from tests.network.watching import Printed, kill
from tests.server.servers import serving

FORBIDDEN4 = [address for address in FORBIDDEN if ":" not in address]

_SERVE = """
import socket
listener = socket.create_server(("", 8000), backlog=64)
print("ready", flush=True)
while True:
    connection, _ = listener.accept()
    connection.sendall(b"from the guest")
    connection.close()
"""

_REACH = """
import errno, json, socket, sys
def reach(address, port):
    try:
        with socket.create_connection((address, port), 60) as connection:
            return connection.recv(5).decode()
    except OSError as error:
        return errno.errorcode.get(error.errno, repr(error))
print(json.dumps({address: reach(address, int(port)) for address, port in json.loads(sys.argv[1]).items()}))
"""


def outcome() -> dict[str, Any]:
    with BandSox() as bandsox:
        bandsox.pull_image("debootstrap:bookworm?include=python3", "missing")
        seen = {name: _failure(bandsox, name) for name in ("lacking", "nowhere", "wordy")}
        with (
            serving(Path(bandsox.storage_dir)) as server,
            BandSox(server.url) as remote,
            _machine(bandsox, "chain") as vm,
            _machine(remote, "pair") as other,
        ):
            seen["pair"] = {**_attached(other, {}), "on": server.url, "handle": repr(other)}
            seen["chain"] = {**_attached(vm, {"GATEWAY": "10.88.0.1", "NEIGHBOUR": other.get_guest_ip()}), "leases": _leases("chain")}
            seen["policy"] = _policed(vm, other)
            seen["clones"] = _clones(vm)
            vm.stop()
            left: dict[str, Any] = {"stopped": _leases("chain")}
            vm.start()
        left |= {"deleted": {**_leases("chain"), **_leases("pair")}, "attachments": _attachments(bandsox)}
        with _machine(bandsox, "full"):
            seen["full"] = _failure(bandsox, "full")
        return {**seen, "left": left, "killed": _killed(bandsox)}


def _machine(bandsox: BandSox, network: str) -> MicroVM:
    vm = bandsox.create_vm(mem_mib=256, network=f"cni:{network}")
    _serve(vm)
    return vm


def _serve(vm: MicroVM) -> None:
    vm.write_text("/root/serve.py", _SERVE)
    printed = Printed()
    vm.start_session(["python3", "/root/serve.py"], on_stdout=printed.put)
    printed.lines(1)


def _attached(vm: MicroVM, others: dict[str, str | None]) -> dict[str, Any]:
    named = {**{address: address for address in (INTERNET4, *FORBIDDEN4, HOST4)}, **others}
    found = _reach(vm, {str(address): 8000 if name == "NEIGHBOUR" else 80 for name, address in named.items()})
    ip = vm.get_guest_ip()
    assert ip is not None
    return {
        "id": vm.vm_id,
        "ip": ip,
        "mtu": vm.info()["network_config"]["mtu"],
        "dns": list(vm.info()["network_config"]["dns"]),
        "host's dns": list(host_resolvers()),
        "resolv.conf": vm.get_file_contents("/etc/resolv.conf"),
        "reach": {name: found[str(address)] for name, address in named.items()},
        "from the host": _from_host(ip),
    }


def _reach(vm: MicroVM, places: dict[str, int]) -> dict[str, str]:
    done = vm.run(["python3", "-c", _REACH, json.dumps(places)], timeout=120)
    assert done.exit_code == 0, done.stderr.decode()
    found: dict[str, str] = json.loads(done.text)
    return found


def _from_host(ip: str | None) -> str:
    assert ip is not None
    with socket.create_connection((ip, 8000), 60) as connection, connection.makefile("rb") as file:
        return file.read().decode()


def _policed(vm: MicroVM, other: MicroVM) -> dict[str, str]:
    """A policy that allows another machine of the host by the address that its network gives it, and no one else."""
    neighbour = str(other.get_guest_ip())
    vm.set_network_policy({"allow": [f"{neighbour}:8000"]})
    found = _reach(vm, {INTERNET4: 80, neighbour: 8000})
    vm.set_network_policy("internet")
    return {INTERNET4: found[INTERNET4], "NEIGHBOUR": found[neighbour]}


def _clones(vm: MicroVM) -> dict[str, str]:
    clones = vm.fork(2)
    try:
        return {str(machine.get_guest_ip()): _from_host(machine.get_guest_ip()) for machine in (vm, *clones)}
    finally:
        for clone in clones:
            clone.delete()


def _leases(network: str) -> dict[str, str]:
    """Who has which address, as host-local keeps it."""
    directory = Path(os.environ["LEASES"]) / network
    files = [file for file in directory.iterdir() if file.name[0].isdigit()] if directory.is_dir() else []
    return {file.name: file.read_text().split()[0] for file in files}


def _attachments(bandsox: BandSox) -> list[str]:
    place = bandsox.metadata_dir.parent / "cni"
    return sorted(entry.name for entry in place.iterdir()) if place.exists() else []


def _failure(bandsox: BandSox, network: str) -> dict[str, Any]:
    try:
        bandsox.create_vm(mem_mib=256, network=f"cni:{network}").delete()
    except BandSoxError as error:
        return {"cause": str(error.cause), "remedy": str(error.remedy), "leases": _leases(network)}
    return {"cause": "none"}


def _killed(bandsox: BandSox) -> dict[str, Any]:
    """Keeper and VMM killed together, twice."""
    vm = _machine(bandsox, "chain")
    _kill_all(bandsox, vm)
    before = len(_leases("chain"))
    vm.start()
    _serve(vm)
    again, then = _from_host(vm.get_guest_ip()), len(_leases("chain"))
    _kill_all(bandsox, vm)
    bandsox.cleanup()
    after = _leases("chain")
    attachments = _attachments(bandsox)
    vm.delete()
    return {"leases before": before, "started again": again, "leases then": then, "after cleanup": after, "attachments": attachments}


def _kill_all(bandsox: BandSox, vm: MicroVM) -> None:
    kill(vm, "bandsox-network")
    owned = [process for owner, process in ownership.processes_in(bandsox.metadata_dir) if owner == vm.vm_id]
    for process in owned:
        process.signal(signal.SIGKILL)

    async def wait() -> None:
        await asyncio.gather(*(process.wait() for process in owned))

    asyncio.run(asyncio.wait_for(wait(), 120))
