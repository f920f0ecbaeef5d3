"""A Firecracker in the network namespace of its machine, with and without root: it opens the TAP device there, and so does a copy of it.

The guest is a few bytes long, so what is seen is the device's other end: whether somebody holds it.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from tests.users import CHECKOUT, ordinary_user, script

_SCENARIO = """
    import asyncio, json, os, subprocess, sys
    from pathlib import Path
    from bandsox.engine import ownership
    from bandsox.models import Confinement, Isolation, RateLimits
    from bandsox.engine.rooms import network_programs
    from bandsox.network.networks import Networks
    from bandsox.vmm.base import Accelerator, LaunchSpec, NetworkDevice, Origin
    from bandsox.vmm.confinement import Confiner, entrance
    from bandsox.vmm.firecracker import Firecracker, configuration
    from bandsox.vmm.firecracker.client import Client
    from tests.vmm.firecracker.guests import program

    place = Path(os.environ["PLACE"])
    os.environ["BANDSOX_FIRECRACKER"] = str(place / "firecracker")
    (place / "initramfs").write_bytes(bytes(512))
    kernel = program(place / "guest", b"hello", "halt")
    confiner = Confiner(place / "programs", place)
    networks = Networks(place / "leases", network_programs, place / "cni")
    firecracker = Firecracker(place / "nothing", confiner)
    confinement = Confinement.NONE if os.environ["CONFINEMENT"] == "none" else confiner.offer().confinement

    def links(namespace):
        words = [*entrance(namespace.descriptor, namespace.users), "ip", "-j", "link"]
        done = subprocess.run(words, capture_output=True, check=True)
        return {link["ifname"]: link for link in json.loads(done.stdout)}

    async def machine(name, origin=None, save=None):
        directory, sockets = place / name, place / f"{name}-run"
        directory.mkdir(), sockets.mkdir(mode=0o700)
        owner = confiner.user(name, confinement)
        config, namespace = networks.make(directory, owner=owner)
        device = NetworkDevice(config.guest_mac, config.tap_name, namespace.tap, namespace.descriptor, namespace.users, owner)
        accelerator = Accelerator("kvm", Isolation.HARDWARE, "")
        spec = LaunchSpec(name, directory, sockets, 1, 64, kernel, place / "initramfs", (), "", accelerator, confinement, "vsock",
                          network=device, network_limits=RateLimits(bandwidth=1_000_000, operations=1000), origin=origin)
        process = await firecracker.start(spec)
        namespace.bind(process)
        await namespace.completed()
        found = links(namespace)
        with Client(sockets / configuration.API_SOCKET) as client:
            (seen,) = client.get("/vm/config", dict)["network-interfaces"]
        inside = os.fstat(namespace.descriptor).st_ino == os.stat(f"/proc/{process.pid}/ns/net").st_ino
        status = Path(f"/proc/{process.pid}/status").read_text().splitlines()
        namespace.close()
        if save is not None:
            save.mkdir()
            await firecracker.pause(sockets)
            shape = await firecracker.save(spec, save)
            await firecracker.resume(sockets)
            await firecracker.settle(save, shape)
            for file in save.iterdir():
                file.chmod(0o444)
            save = Origin(save, shape)
        held = "LOWER_UP" in found["tap0"]["flags"]
        result = {"held": held, "inside": inside, "seen": seen, "mac": config.guest_mac, "links": sorted(found),
                  "capabilities": [line.split()[1] for line in status if line.startswith("Cap")]}
        return process, result, save

    async def main():
        source, first, origin = await machine("source", save=place / "snapshot")
        copies = [await machine(f"copy{number}", origin) for number in range(2)]
        processes = [source, *(copy[0] for copy in copies)]
        apart = len({os.stat(f"/proc/{process.pid}/ns/net").st_ino for process in processes})
        keepers = [keeper for name, keeper in ownership.processes_in(place) if keeper not in processes]
        for process in processes:
            await ownership.end(process)
        for keeper in keepers:
            await keeper.wait()
        print(json.dumps({"source": first, "copies": [copy[1] for copy in copies], "apart": apart, "confinement": confinement.name}))

    asyncio.run(main())
"""


def _with_kvm(place: Path) -> list[str]:
    """Words before a command line that let everybody open /dev/kvm in the command's own view of the file system."""
    node = place / "kvm"
    os.mknod(node, 0o666 | stat.S_IFCHR, Path("/dev/kvm").stat().st_rdev)
    node.chmod(0o666)
    return ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /dev/kvm && exec "$@"', str(node)]


@pytest.fixture(scope="module", params=["root confined", "root none", "user confined", "user none"])
def seen(request: pytest.FixtureRequest, binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What was seen of a machine and of two copies of it."""
    user, confinement = request.param.split()
    account = ordinary_user()
    place = tmp_path_factory.mktemp("place")
    if user == "user":
        place = Path(account.pw_dir) / f"firecracker-{os.getpid()}"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(mode=0o700)
    shutil.copy(binary, place)
    environment = {"PLACE": str(place), "CONFINEMENT": confinement}
    if user == "user":
        os.chown(place, account.pw_uid, account.pw_gid)
        done = script(_SCENARIO, within=_with_kvm(place), **environment)
    else:
        command = [sys.executable, "-c", textwrap.dedent(_SCENARIO)]
        done = subprocess.run(
            command, env={**os.environ, "PYTHONPATH": str(CHECKOUT), **environment}, capture_output=True, text=True, check=False
        )
    shutil.rmtree(place)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_it_holds_the_tap_device_of_its_machine(seen: Any) -> None:
    for machine in (seen["source"], *seen["copies"]):
        assert machine["held"]
        assert machine["inside"]
        assert "uplink" in machine["links"]
    assert seen["apart"] == 3


def test_the_device_is_as_it_was_asked_for(seen: Any) -> None:
    card = seen["source"]["seen"]
    assert (card["host_dev_name"], card["guest_mac"].lower()) == ("tap0", seen["source"]["mac"])
    for limiter in (card["rx_rate_limiter"], card["tx_rate_limiter"]):
        assert (limiter["bandwidth"]["size"], limiter["ops"]["size"]) == (1_000_000, 1000)


def test_a_confined_one_has_no_power_over_its_namespace(seen: Any) -> None:
    if seen["confinement"] == "NONE":
        pytest.skip("without confinement it has what its user has")
    for machine in (seen["source"], *seen["copies"]):
        assert set(machine["capabilities"]) == {"0" * 16}
