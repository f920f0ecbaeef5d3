"""A machine's network: its place in it, where it may go, where it went, and its ports on this host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """A machine's place in its network.

    ``host_…`` is the end of the namespace, the guest's gateway. ``ipv6``: the host reaches the world over IPv6 too, so the guest has a way
    there. ``dns``: its name servers. ``mtu`` is in bytes. Of a CNI network are ``addresses``, at which others reach the guest,
    ``search``, the domains in which its names are looked for, and ``resolver_options`` (resolv.conf(5)).
    """

    uplink: Literal["veth", "pasta", "cni"]
    host_ip: str
    guest_ip: str
    host_mac: str
    guest_mac: str
    tap_name: str
    host_ipv6: str
    guest_ipv6: str
    dns: tuple[str, ...] = ()
    mtu: int = 1500
    ipv6: bool = False
    addresses: tuple[str, ...] = ()
    search: tuple[str, ...] = ()
    resolver_options: tuple[str, ...] = ()

    @property
    def reached_at(self) -> str:
        """The address at which others on its host reach it."""
        return self.addresses[0].partition("/")[0] if self.addresses else self.guest_ip


@dataclass(frozen=True, slots=True)
class Policy:
    """Where a machine may go: what `allow` has and `deny` has not. `bandsox.network.policy` says what rules look like.

    Without rules it is everything but what is not the Internet's. ``learn``: look for the names of all connections, so that the log tells
    which rules would have allowed just what the machine did. ``upload_mbit`` and ``download_mbit`` are limits in 10^6 bits a second,
    headers included; ``connections`` is how many may be open at a time (those that the filter carries, and the others, each). None: no
    limit.
    """

    allow: Sequence[str] = ("internet",)
    deny: Sequence[str] = ()
    learn: bool = False
    upload_mbit: float | None = None
    download_mbit: float | None = None
    connections: int | None = None

    def __post_init__(self) -> None:
        for rules in ("allow", "deny"):
            if not isinstance(given := getattr(self, rules), str):  # one string is refused where rules are read
                object.__setattr__(self, rules, tuple(given))


@dataclass(frozen=True, slots=True)
class NetworkEvent:
    """A line of a machine's network log: a connection was ``opened``, ``closed``, or one, or the question for a name, was ``refused``.

    ``time`` is in seconds since the epoch, ``id`` the connection's; ``protocol`` is ``dns`` for a name; ``sent`` and ``received`` are the
    machine's bytes, known when it is closed.
    """

    id: int
    time: float
    event: Literal["opened", "closed", "refused"]
    protocol: str
    name: str = ""
    address: str = ""
    port: int = 0
    sent: int = 0
    received: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Connection:
    """What a machine connected to, or tried to. ``name`` is that which the connection said it was for, or which the address was given for.

    ``time`` and ``ended`` are in seconds since the epoch, ``sent`` and ``received`` in bytes, known when it has ended. ``reason`` says
    why it was refused.
    """

    time: float
    protocol: str
    name: str
    address: str
    port: int
    verdict: Literal["allowed", "refused"]
    reason: str = ""
    sent: int = 0
    received: int = 0
    ended: float | None = None


@dataclass(frozen=True, slots=True)
class NetworkStats:
    """How much a machine has used its network since its filter was started.

    ``sent`` and ``received`` are bytes of packets, headers included. ``open`` and ``opened`` are connections; ``refused`` counts names that
    were not answered for too.
    """

    sent: int
    received: int
    open: int
    opened: int
    refused: int


@dataclass(frozen=True, slots=True)
class PublishedPort:
    """A TCP port of this host that leads to one of a guest. ``host`` is an IP address of this host; ``host_port`` 0 takes a free one."""

    guest_port: int
    host_port: int = 0
    host: str = "127.0.0.1"

    @property
    def url(self) -> str:
        """Where a browser on this host finds it."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 — all of its addresses, one of which is that
        return f"http://[{host}]:{self.host_port}" if ":" in host else f"http://{host}:{self.host_port}"

    @property
    def address(self) -> str:
        """The host's side as text, such as ``127.0.0.1:8080``."""
        return f"[{self.host}]:{self.host_port}" if ":" in self.host else f"{self.host}:{self.host_port}"


@dataclass(frozen=True, slots=True)
class PortState:
    """A published port as it is now: whether anybody listens, and how many connections are open, came, and were refused by the guest."""

    port: PublishedPort
    listening: bool
    open: int = 0
    accepted: int = 0
    refused: int = 0
