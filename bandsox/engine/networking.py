"""A machine's network for the time of its start, and afterwards the keeper's affair."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
from collections.abc import AsyncIterator, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio

from bandsox.errors import BandSoxError, HostError
from bandsox.models import NetworkConfig, VMRecord
from bandsox.network import filter as filtering
from bandsox.network.plan import GATEWAY6, with_length
from bandsox.tracing import traced
from bandsox.vmm.base import NetworkDevice

if TYPE_CHECKING:
    from bandsox.network.keeper import Namespace
    from bandsox.network.networks import Networks


class NoNetwork(Exception):
    """This host cannot give a network to a machine that need not have one.

    Parameters
    ----------
    reason: what its record is to say of it.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@contextlib.asynccontextmanager
async def attached(
    networks: Networks, directory: Path, record: VMRecord, owner: int | None, without: str | None = None
) -> AsyncIterator[tuple[VMRecord, Namespace | None]]:
    """The record with its network, and the namespace, to which the VMM is to be bound within the block.

    The VMM can be started in it; for the rest of it see `complete`.

    Parameters
    ----------
    owner: the user who opens the TAP device; None: the VMM inherits it.
    without: why it gets none; None: it gets one, unless it was asked for without.

    Raises
    ------
    HostError: it must have one, and this host cannot give it. NoNetwork: it need not.
    """
    if record.spec.enable_networking is False or without is not None:
        yield dataclasses.replace(record, network=None, network_reason=without or "it was asked for without"), None
        return
    with _refusing(record):
        config, namespace = await _make(networks, directory, record, owner)
    with contextlib.closing(namespace):
        yield dataclasses.replace(record, network=config, network_reason=_reason(config, record)), namespace


@traced("uplink")
async def complete(record: VMRecord, namespace: Namespace) -> None:
    """Return when packets of a machine that is being started get through. Before, none does.

    Raises
    ------
    HostError, NoNetwork: as `attached`.
    """
    with _refusing(record):
        await namespace.completed()


@contextlib.contextmanager
def _refusing(record: VMRecord) -> Iterator[None]:
    try:
        yield
    except HostError as error:
        if record.spec.enable_networking:
            raise
        raise NoNetwork(": ".join(filter(None, (error.message, error.cause)))) from error


def _reason(config: NetworkConfig, record: VMRecord) -> str:
    if config.uplink == "cni":
        return f"the CNI network {record.spec.cni}"
    return "a pair of devices with NAT, by root" if config.uplink == "veth" else "pasta, without root"


@traced("network")
async def _make(networks: Networks, directory: Path, record: VMRecord, owner: int | None) -> tuple[NetworkConfig, Namespace]:
    """Who stops waiting leaves no network: it is awaited all the same, and let go of."""
    spec = record.spec
    make = functools.partial(
        networks.make, directory, dns=spec.dns, policy=spec.policy, uses=spec.secrets, cni=spec.cni, before=record.network, owner=owner
    )
    making = asyncio.ensure_future(asyncio.to_thread(make))
    try:
        return await asyncio.shield(making)
    except asyncio.CancelledError:
        with anyio.CancelScope(shield=True), contextlib.suppress(BandSoxError):
            (await making)[1].close()
        raise


def left_on_host(record: VMRecord, directory: Path) -> bool:
    """Whether something of the network of a machine that does not run may be left on this host, as its keeper was killed."""
    return record.network is not None and record.network.uplink == "veth" and filtering.was_killed(directory)


def device(config: NetworkConfig | None, namespace: Namespace | None, owner: int | None) -> NetworkDevice | None:
    """What the VMM gets of it; `owner` as for `attached`."""
    if config is None or namespace is None:
        return None
    gateway = GATEWAY6 if config.ipv6 else None
    return NetworkDevice(
        config.guest_mac, config.tap_name, namespace.tap, namespace.descriptor, namespace.users, owner, config.mtu, gateway
    )


def guest_side(config: NetworkConfig) -> dict[str, Any]:
    """What the agent is told of it (``docs/protocol.md``, ``setup``)."""
    gateways = [config.host_ip, GATEWAY6] if config.ipv6 else [config.host_ip]
    return {
        "mac": bytes.fromhex(config.guest_mac.replace(":", "")),
        "mtu": config.mtu,
        "addresses": [with_length(config.guest_ip), with_length(config.guest_ipv6)],
        "gateways": gateways,
    }


def resolv_conf(config: NetworkConfig) -> bytes:
    """The guest's ``/etc/resolv.conf``."""
    usable = [address for address in config.dns if config.ipv6 or ip_address(address).version == 4]
    lines = [f"nameserver {address}" for address in usable]
    lines += [f"search {' '.join(config.search)}"] if config.search else []
    lines += [f"options {' '.join(config.resolver_options)}"] if config.resolver_options else []
    return "".join(f"{line}\n" for line in lines).encode()


def hosts(config: NetworkConfig | None, name: str) -> bytes:
    """The guest's ``/etc/hosts``, in which its own name has the address that others reach it at."""
    lines = ["127.0.0.1\tlocalhost", "::1\tlocalhost ip6-localhost ip6-loopback"]
    lines += [f"{config.guest_ip}\t{name}"] if config is not None else [f"127.0.1.1\t{name}"]
    return "".join(f"{line}\n" for line in lines).encode()
