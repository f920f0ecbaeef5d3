"""The networks of a storage directory's machines."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from secrets import randbelow

from bandsox.errors import HostError
from bandsox.locks import Locks
from bandsox.models import NetworkConfig, Policy, SecretUse
from bandsox.network import keeper, vault
from bandsox.network.keeper import AddressesTaken, Namespace, Programs
from bandsox.network.plan import MACHINES, Plan
from bandsox.network.resolvers import host_resolvers

_TAP = "tap0"
_TRIES = 64


class Networks:
    """Gives machines their networks.

    Parameters
    ----------
    leases: the file with the claims to addresses.
    programs: finds the keeper's program and the filter's, once they are needed.
    """

    def __init__(self, leases: Path, programs: Callable[[], Programs]) -> None:
        self._leases = Locks(leases)
        self._programs = programs

    def make(
        self,
        directory: Path,
        *,
        dns: Sequence[str] = (),
        policy: Policy | None = None,
        uses: Mapping[str, SecretUse] | None = None,
        before: NetworkConfig | None = None,
        owner: int | None = None,
    ) -> tuple[NetworkConfig, Namespace]:
        """Make the network of the machine with this directory. Blocks for some 50 ms.

        Parameters
        ----------
        dns: its name servers; none: the host's.
        policy: where it may go, as for `keeper.make`.
        uses: its secrets, whose values are kept in its directory (`bandsox.network.vault`).
        before: what it had before, whose addresses it gets again if nobody has them now.
        owner: as for `keeper.make`.

        Raises
        ------
        MissingTool, HostError: this host cannot give one.
        """
        programs = self._programs()
        secrets = vault.opened(directory, uses or {}, programs.filter)
        for number, lease in self._free(Plan.of(before.guest_ip).number if before is not None else None):
            try:
                config = _config(Plan(number), tuple(dns) or host_resolvers())
                namespace = keeper.make(programs, directory, config, lease, policy, owner, secrets)
            except AddressesTaken:
                continue
            finally:
                os.close(lease)
            return dataclasses.replace(config, mtu=namespace.reply.mtu, ipv6=namespace.reply.ipv6), namespace
        raise HostError("no addresses are left for another VM", remedy="delete VMs that are not needed")

    def _free(self, preferred: int | None) -> Iterator[tuple[int, int]]:
        """Numbers that no machine of this storage directory has, each with the lease of it."""
        for attempt in range(_TRIES):
            number = preferred if attempt == 0 and preferred is not None else 1 + randbelow(MACHINES - 1)
            lease = self._leases.try_take(str(number))
            if lease is not None:
                yield number, lease


def _config(plan: Plan, dns: tuple[str, ...]) -> NetworkConfig:
    return NetworkConfig(
        uplink="veth" if os.geteuid() == 0 else "pasta",
        host_ip=plan.host_ip,
        guest_ip=plan.guest_ip,
        host_ipv6=plan.host_ipv6,
        guest_ipv6=plan.guest_ipv6,
        host_mac=plan.host_mac,
        guest_mac=plan.guest_mac,
        tap_name=_TAP,
        dns=dns,
    )
