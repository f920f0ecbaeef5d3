"""Devices that only Firecracker has, of machines of the real one, whose guests have no drivers for them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bandsox.engine.rooms import network_programs
from bandsox.errors import MachineStopped, VMMError
from bandsox.models import Balloon, RateLimits
from bandsox.network.networks import Networks
from bandsox.vmm.base import LaunchSpec, NetworkDevice
from bandsox.vmm.confinement import Confiner
from bandsox.vmm.firecracker import Firecracker, configuration
from bandsox.vmm.firecracker.client import Client
from bandsox.vmm.firecracker.devices import FirecrackerDevices
from tests.vmm.firecracker.conftest import MakeSpec
from tests.vmm.firecracker.test_saving import saved
from tests.vmm.firecracker.test_vmm import started

pytestmark = pytest.mark.anyio

DEVICES = FirecrackerDevices()


def ask(machine: LaunchSpec, path: str) -> dict[str, Any]:
    with Client(machine.sockets / configuration.API_SOCKET) as client:
        return client.get(path, dict[str, Any])


@pytest.fixture
def networked(spec: MakeSpec, confiner: Confiner, tmp_path: Path) -> Iterator[MakeSpec]:
    """Makes specifications of machines with a network."""
    if os.geteuid() != 0:
        pytest.skip("the tests' networks are made by root")
    networks = Networks(tmp_path / "leases", network_programs, tmp_path / "cni")
    namespaces = []

    def make(**changes: object) -> LaunchSpec:
        machine = spec(**changes)
        owner = confiner.user(machine.vm_id, machine.confinement)
        config, namespace = networks.make(machine.directory, owner=owner)
        namespaces.append(namespace)
        namespace.complete()
        device = NetworkDevice(config.guest_mac, config.tap_name, namespace.tap, namespace.descriptor, namespace.users, owner)
        return replace(machine, network=device)

    yield make
    for namespace in namespaces:
        namespace.close()


async def test_a_balloon_is_as_it_was_asked_for(firecracker: Firecracker, spec: MakeSpec, tmp_path: Path) -> None:
    machine = spec(balloon_mib=16)
    async with started(firecracker, machine):
        assert ask(machine, "/balloon") == {"amount_mib": 16, "deflate_on_oom": True, "stats_polling_interval_s": 1}
        assert await DEVICES.balloon(machine.sockets) == Balloon(target_mib=16, actual_mib=0)
        with pytest.raises(VMMError, match="not activated"):  # by a driver of the guest's
            await DEVICES.set_balloon(machine.sockets, 8)
        origin = await saved(firecracker, machine, tmp_path / "snapshot")
    copy = spec(balloon_mib=16, origin=origin)
    async with started(firecracker, copy):
        assert ask(copy, "/balloon")["amount_mib"] == 16


async def test_a_machine_has_no_balloon_that_was_not_asked_for(firecracker: Firecracker, spec: MakeSpec) -> None:
    machine = spec()
    async with started(firecracker, machine):
        with pytest.raises(VMMError, match="/balloon"):
            await DEVICES.balloon(machine.sockets)
    with pytest.raises(MachineStopped):
        await DEVICES.balloon(machine.sockets)


async def test_a_metadata_service_says_what_it_is_told_to(firecracker: Firecracker, networked: MakeSpec, tmp_path: Path) -> None:
    machine = networked(mmds={"role": "web"})
    async with started(firecracker, machine):
        assert ask(machine, "/vm/config")["mmds-config"] == {
            "version": "V2",
            "network_interfaces": ["eth0"],
            "ipv4_address": "169.254.169.254",
        }
        assert ask(machine, "/mmds") == {"role": "web"}
        await DEVICES.set_mmds(machine.sockets, {"list": [1, {"deep": "grün"}]})
        assert ask(machine, "/mmds") == {"list": [1, {"deep": "grün"}]}
        origin = await saved(firecracker, machine, tmp_path / "snapshot")
    copy = networked(mmds={"role": "copy"}, origin=origin)
    async with started(firecracker, copy):
        assert ask(copy, "/mmds") == {"role": "copy"}
        assert ask(copy, "/vm/config")["mmds-config"]["version"] == "V2"


async def test_there_is_no_metadata_service_that_was_not_asked_for(firecracker: Firecracker, networked: MakeSpec) -> None:
    machine = networked(network_limits=RateLimits(bandwidth=10_000_000))
    async with started(firecracker, machine):
        seen = ask(machine, "/vm/config")
        assert seen["mmds-config"] is None
        (card,) = seen["network-interfaces"]
        assert card["rx_rate_limiter"]["bandwidth"]["size"] == card["tx_rate_limiter"]["bandwidth"]["size"] == 10_000_000
        assert card["rx_rate_limiter"]["ops"] is None


async def test_as_much_metadata_as_is_let_pass_is_taken(firecracker: Firecracker, networked: MakeSpec) -> None:
    from bandsox.engine.identity import check_mmds

    most = check_mmds({"key": "x" * (51_200 - len('{"key":""}'))})
    machine = networked(mmds=most)
    async with started(firecracker, machine):
        assert ask(machine, "/mmds") == most
