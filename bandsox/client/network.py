"""The network of a server's machine: where it may go, and where it went."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import Any

import msgspec

from bandsox.client.access import RemoteAccess
from bandsox.models import Connection as NetworkConnection
from bandsox.models import NetworkEvent, NetworkStats, Policy
from bandsox.network.policy import policy_of


class _Answer(msgspec.Struct):
    """A server's word on a policy."""

    policy: Policy | None


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
        yield msgspec.convert({name: value for name, value in line.items() if name != "type"}, NetworkEvent)
