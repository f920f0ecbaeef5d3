"""The network of a server's machine: where it may go, where it went, and what it uses there without having it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

import msgspec

from bandsox.client.access import RemoteAccess
from bandsox.client.addresses import segment
from bandsox.decoding import ready
from bandsox.models import Connection as NetworkConnection
from bandsox.models import NetworkEvent, NetworkStats, Policy, Secret
from bandsox.network.cni import PREFIX, network_of
from bandsox.network.policy import policy_of
from bandsox.network.vault import check_value, uses_of


class _Answer(msgspec.Struct):
    """A server's word on a policy."""

    policy: Policy | None


class _SecretInfo(msgspec.Struct):
    """What a server tells of a secret."""

    name: str
    has_value: bool


def attachment(network: Policy | str | None) -> dict[str, Any] | str | None:
    """What a new machine's network is to be, as a request has it: a policy, or a CNI network of the server's host. Raises as `demand`."""
    if isinstance(network, str) and network.startswith(PREFIX):
        return f"{PREFIX}{network_of(network.removeprefix(PREFIX))}"
    return demand(network)


def revealed(secrets: Mapping[str, Secret] | None) -> dict[str, Any]:
    """Secrets as a request has them, with their values; checked here too.

    Raises
    ------
    InvalidRequest: one of them cannot be kept as it is asked for. The message has no value.
    """
    uses_of(secrets)
    return {name: {**dataclasses.asdict(secret), "hosts": list(secret.hosts)} for name, secret in (secrets or {}).items()}


def demand(policy: Policy | str | Mapping[str, Any] | None) -> dict[str, Any] | str | None:
    """A policy as a request has it; checked here too, so that a mistake is named as the library names it.

    Raises
    ------
    InvalidRequest: there is no such preset, or a rule cannot be read.
    """
    if isinstance(policy, str):
        policy_of(policy)
        return policy
    wanted = policy_of(policy)
    return None if wanted is None else dataclasses.asdict(wanted)


class RemoteNetwork(RemoteAccess):
    """The methods on the network, as `bandsox.vm.network` has them."""

    async def set_network_policy(self, policy: Policy | str | Mapping[str, Any]) -> None:
        """Say where it may go from now on. What is not the Internet's takes a key of the scope ``admin``."""
        await self._server.call("PUT", f"{self._path}/network/policy", json={"policy": demand(policy)}, patient=True)

    async def network_policy(self) -> Policy | None:
        """Where it may go; None: the Internet, and nothing is written down."""
        return (await self._server.get(f"{self._path}/network/policy", _Answer)).policy

    async def learned_policy(self) -> Policy:
        """The policy that allows just what it has connected to."""
        found = (await self._server.get(f"{self._path}/network/learned", _Answer)).policy
        assert found is not None
        return found

    async def set_secret(self, name: str, value: str | None) -> None:
        """Give one of its secrets another value, at once where it runs; None withdraws it."""
        path = f"{self._path}/secrets/{segment(name)}"
        if value is None:
            await self._server.call("DELETE", path, patient=True)
        else:
            await self._server.call("PUT", path, json={"value": check_value(name, value)}, patient=True)

    async def secrets(self) -> dict[str, bool]:
        """The names of its secrets, and whether each has a value."""
        return {each.name: each.has_value for each in await self._server.get(f"{self._path}/secrets", list[_SecretInfo])}

    async def network_stats(self) -> NetworkStats:
        """How much it has used its network since its start."""
        return await self._server.get(f"{self._path}/network/stats", NetworkStats)

    async def network_log(self) -> list[NetworkConnection]:
        """What it has connected to, and tried to, the oldest first."""
        return await self._server.get(f"{self._path}/network/log", list[NetworkConnection])

    async def follow_network_log(self) -> AsyncGenerator[NetworkEvent, None]:
        """What it connects to from now on, as it happens, until its network ends."""
        async with self.following_network_log() as events:
            async for event in events:
                yield event

    @contextlib.asynccontextmanager
    async def following_network_log(self) -> AsyncIterator[AsyncIterator[NetworkEvent]]:
        """What it connects to from the beginning of the block on."""
        async with contextlib.aclosing(self._server.lines("GET", f"{self._path}/network/log/follow")) as lines:
            await anext(lines)  # that it has begun
            async with contextlib.aclosing(_events(lines)) as events:
                yield events


async def _events(lines: AsyncIterator[dict[str, Any]]) -> AsyncGenerator[NetworkEvent, None]:
    async for line in lines:
        yield msgspec.convert({name: value for name, value in line.items() if name != "type"}, ready(NetworkEvent))
