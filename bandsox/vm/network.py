"""The network of a machine: the part of `AsyncMicroVM` that says where it may go, and tells where it went."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

from bandsox.models import Connection, NetworkEvent, NetworkStats, Policy

if TYPE_CHECKING:
    from bandsox.engine import Engine
    from bandsox.engine.policing import Policing
    from bandsox.models import VMRecord


class GuestNetwork:
    """The methods on the network."""

    _engine: Engine
    _record: VMRecord

    @functools.cached_property
    def _policing(self) -> Policing:
        from bandsox.engine.policing import Policing

        engine = self._engine
        return Policing(engine.layout, get=engine.get, lock=engine.locked, update=engine.update)

    async def set_network_policy(self, policy: Policy | str | Mapping[str, Any]) -> None:
        """Say where it may go from now on. Connections that are open and not allowed any more end; the policy holds for its later starts.

        Parameters
        ----------
        policy: a `Policy`, or the name of a preset: ``internet``, ``none``, ``registry-only``, ``learn``.

        Raises
        ------
        InvalidRequest: it cannot be read.
        HostError: the filter of its network has ended; it has no network until it is started again.
        """
        from bandsox.network.policy import policy_of

        wanted = policy_of(policy)
        if wanted is not None:
            self._record = await self._policing.set(self._record.id, wanted)

    async def network_policy(self) -> Policy | None:
        """Where it may go; None: the Internet, and nothing is written down."""
        self._record = await self._engine.get(self._record.id)
        return self._record.spec.policy

    async def set_secret(self, name: str, value: str | None) -> None:
        """Give one of its secrets another value: at once where it runs, and for its later starts. Its programs notice nothing.

        Parameters
        ----------
        value: None withdraws it: requests go out with the placeholder, until there is a value again.

        Raises
        ------
        Conflict: it has no such secret; they are given when it is created.
        InvalidRequest: a header cannot have this value.
        HostError: the filter of its network has ended; the value holds from its next start.
        """
        self._record = await self._policing.set_secret(self._record.id, name, value)

    async def secrets(self) -> dict[str, bool]:
        """The names of its secrets, and whether each has a value; one that was restored from a snapshot has none until `set_secret`."""
        return await self._policing.secrets(self._record.id)

    async def network_stats(self) -> NetworkStats:
        """How much it has used its network since its start.

        Raises
        ------
        Conflict: it has no policy, or does not run.
        """
        return await self._policing.stats(self._record.id)

    async def network_log(self) -> list[Connection]:
        """What it has connected to, and tried to, the oldest first; the newest 2 MiB of it at least are kept.

        Raises
        ------
        Conflict: it has no policy.
        """
        return await self._policing.log(self._record.id)

    async def learned_policy(self) -> Policy:
        """The policy that allows just what it has connected to, as far as the log is kept; most exact under the preset ``learn``, which
        looks for the names in all connections.

        Raises
        ------
        Conflict: it has no policy.
        """
        return await self._policing.learned(self._record.id)

    async def follow_network_log(self) -> AsyncGenerator[NetworkEvent, None]:
        """What it connects to from now on, as it happens, until its network ends; for the rest as `network_log`."""
        async with self.following_network_log() as events:
            async for event in events:
                yield event

    @contextlib.asynccontextmanager
    async def following_network_log(self) -> AsyncIterator[AsyncIterator[NetworkEvent]]:
        """As `follow_network_log`: what it connects to from the beginning of the block on."""
        async with self._policing.following(self._record.id) as events:
            yield events
