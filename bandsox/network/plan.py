"""Addresses: each machine of a host has its own, made of one number.

IPv4: 198.19.0.0/16, of the range for benchmarks (RFC 2544), which is neither routed in the Internet nor used in local networks, so nothing
that a machine may want to reach is hidden by it. IPv6: unique local addresses (RFC 4193). A machine has a network of each, of 4 and of 2^64
addresses: the second is the namespace's, the third the guest's. The first such network is that of the links between the host and
the namespaces.

On the guest's link the namespace is ``fe80::1``, and the guest ``fe80::2``: it has these before it is told any other, in a warm boot. The
last 24 bits of both its IPv6 addresses are the same, and so is the multicast group that comes with them (RFC 4291, 2.7.1), which it joins
once.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address

POOL4 = IPv4Network("198.19.0.0/16")
POOL6 = IPv6Network("fd62:616e:6473::/48")
BITS4, BITS6 = 2, 64
"""Of an address, within a machine's network."""

GATEWAY6 = "fe80::1"
"""The namespace's on every machine's link."""

MACHINES = POOL4.num_addresses >> BITS4
"""Networks there are, the first of which is not a machine's."""

_HOST, _GUEST = 1, 2


@dataclass(frozen=True, slots=True)
class Plan:
    """The addresses of machine number `number`, from 1 to `MACHINES` - 1."""

    number: int

    @property
    def host_ip(self) -> str:
        """The namespace's on the TAP device: the guest's gateway."""
        return str(POOL4[(self.number << BITS4) + _HOST])

    @property
    def guest_ip(self) -> str:
        """The guest's."""
        return str(POOL4[(self.number << BITS4) + _GUEST])

    @property
    def host_ipv6(self) -> str:
        """As `host_ip`."""
        return str(POOL6[(self.number << BITS6) + _HOST])

    @property
    def guest_ipv6(self) -> str:
        """As `guest_ip`."""
        return str(POOL6[(self.number << BITS6) + _GUEST])

    @property
    def host_mac(self) -> str:
        """The TAP device's: locally administered, with the IPv4 address in it."""
        return _mac(0x02, self.host_ip)

    @property
    def guest_mac(self) -> str:
        """As `host_mac`."""
        return _mac(0x06, self.guest_ip)

    @classmethod
    def of(cls, guest_ip: str) -> Plan:
        """The plan in which a guest has this address."""
        return cls((int(ip_address(guest_ip)) - int(POOL4[0])) >> BITS4)


def link_addresses() -> tuple[list[str], list[str]]:
    """What the host's end of a veth pair has, and the namespace's end: the same for all."""
    host = [f"{POOL4[_HOST]}/{POOL4.max_prefixlen}", f"{POOL6[_HOST]}/{POOL6.max_prefixlen}"]
    inner = [f"{POOL4[_GUEST]}/{POOL4.max_prefixlen}", f"{POOL6[_GUEST]}/{POOL6.max_prefixlen}"]
    return host, inner


def with_length(address: str) -> str:
    """An address of a machine's network with the length of its prefix."""
    ip = ip_address(address)
    return f"{ip}/{ip.max_prefixlen - (BITS4 if ip.version == 4 else BITS6)}"


def _mac(first: int, ip: str) -> str:
    return ":".join(f"{byte:02x}" for byte in (first, 0, *ip_address(ip).packed))
