"""The networks of a storage directory's machines."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from secrets import randbelow
from typing import Literal

from bandsox.errors import HostError
from bandsox.locks import Locks
from bandsox.models import NetworkConfig, Policy, SecretUse
from bandsox.network import keeper, vault
from bandsox.network.cni import Places
from bandsox.network.cni import configuration as cni_of
from bandsox.network.cni import detach as cni_detach
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
    programs: finds the keeper's program and the others, once they are needed.
    attachments: the directory that says what machines hold of CNI networks.
    plugins: the directory of the CNI plugins that were installed here, where some are; they come before the host's.
    """

    def __init__(self, leases: Path, programs: Callable[[], Programs], attachments: Path, plugins: Path | None = None) -> None:
        self._leases = Locks(leases)
        self._programs = programs
        self._attachments = attachments
        self._cni = Places.of(plugins)

    def make(
        self,
        directory: Path,
        *,
        dns: Sequence[str] = (),
        policy: Policy | None = None,
        uses: Mapping[str, SecretUse] | None = None,
        cni: str | None = None,
        before: NetworkConfig | None = None,
        owner: int | None = None,
    ) -> tuple[NetworkConfig, Namespace]:
        """Begin to make the network of the machine with this directory, as `keeper.make` does: nothing gets through before it is complete.

        Parameters
        ----------
        dns: its name servers; none: those of its CNI network, or else the host's.
        policy: where it may go, as for `keeper.make`.
        uses: its secrets, whose values are kept in its directory (`bandsox.network.vault`).
        cni: the CNI network that it is to be attached to.
        before: what it had before, whose addresses it gets again if nobody has them now.
        owner: as for `keeper.make`.

        Raises
        ------
        MissingTool, HostError: this host cannot give one.
        """
        programs = self._programs()
        attaching = cni_of(programs.cni, self._cni, self._attachments / directory.name, cni, dns=not dns) if cni is not None else None
        secrets = vault.opened(directory, uses or {}, programs.filter)
        uplink: Literal["veth", "pasta", "cni"] = "cni" if cni is not None else "veth" if os.geteuid() == 0 else "pasta"
        for number, lease in self._free(Plan.of(before.guest_ip).number if before is not None else None):
            try:
                config = _config(Plan(number), tuple(dns) or host_resolvers(), uplink)
                namespace = keeper.make(programs, directory, config, lease, policy, owner, secrets, attaching)
            except AddressesTaken:
                continue
            finally:
                os.close(lease)
            reply = namespace.reply
            config = dataclasses.replace(config, mtu=reply.mtu, ipv6=reply.ipv6, addresses=reply.addresses, dns=reply.resolvers)
            return dataclasses.replace(config, search=reply.search, resolver_options=reply.options), namespace
        raise HostError("no addresses are left for another VM", remedy="delete VMs that are not needed")

    def detach(self, vm_id: str) -> None:
        """Give back what a machine that does not run holds of a CNI network: its keeper was killed. Blocks.

        Raises
        ------
        HostError: the plugins cannot; it can be tried again.
        """
        attachment = self._attachments / vm_id
        if attachment.exists():
            cni_detach(self._programs().cni, self._cni, attachment)

    def sweep(self, *directories: Path) -> None:
        """Remove from the host what was left of root's networks by keepers that were killed; as `keeper.sweep`.

        Parameters
        ----------
        directories: of machines that do not run, of whose networks something may be left.
        """
        if os.geteuid() == 0:
            keeper.sweep(self._programs().keeper, [directory.name for directory in directories])

    def attached(self) -> list[str]:
        """The ids of the machines that hold something of a CNI network."""
        return sorted(entry.name for entry in self._attachments.iterdir()) if self._attachments.is_dir() else []

    def _free(self, preferred: int | None) -> Iterator[tuple[int, int]]:
        """Numbers that no machine of this storage directory has, each with the lease of it."""
        for attempt in range(_TRIES):
            number = preferred if attempt == 0 and preferred is not None else 1 + randbelow(MACHINES - 1)
            lease = self._leases.try_take(str(number))
            if lease is not None:
                yield number, lease


def _config(plan: Plan, dns: tuple[str, ...], uplink: Literal["veth", "pasta", "cni"]) -> NetworkConfig:
    return NetworkConfig(
        uplink=uplink,
        host_ip=plan.host_ip,
        guest_ip=plan.guest_ip,
        host_ipv6=plan.host_ipv6,
        guest_ipv6=plan.guest_ipv6,
        host_mac=plan.host_mac,
        guest_mac=plan.guest_mac,
        tap_name=_TAP,
        dns=dns,
    )
