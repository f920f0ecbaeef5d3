"""Where a server listens, and under which names it may be called."""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass
from pathlib import Path

from bandsox.errors import InvalidRequest

_ORIGIN = re.compile(r"https?://[a-z0-9.\[\]:-]+")


@dataclass(frozen=True, slots=True)
class Configuration:
    """How a server is to be run.

    `allowed_hosts` are names, beside addresses and those of this host, under which it may be called; `allowed_origins` are the origins
    (``https://example.org``), beside its own, whose pages may call it. `insecure` allows to listen for other hosts without
    authentication. `grace_s` is how long requests that run may take after it was told to stop, `head_s` how long the head of a request may
    take to arrive. `reserve_mib` is how much of the storage directory's file system new machines and snapshots leave free; None: a
    twentieth, at most 1 GiB. `proxy_port` is where ports of guests are reached (`bandsox.server.proxy`); with `proxy_domain` each under a
    name of its own below that. `client_connections` is how many connections one client has at most; 0: any number.
    `transfers` is how many snapshots are exported, imported and compressed at a time.
    `webhook_networks` are networks, besides the Internet, that webhooks may be in. `traces`: see `bandsox.server.tracing`.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    insecure: bool = False
    allowed_hosts: frozenset[str] = frozenset()
    allowed_origins: frozenset[str] = frozenset()
    tls_cert: Path | None = None
    tls_key: Path | None = None
    grace_s: float = 10.0
    head_s: float = 20.0
    reserve_mib: int | None = None
    proxy_port: int | None = None
    proxy_domain: str | None = None
    client_connections: int = 512
    transfers: int = 4
    traces: bool = False
    webhook_networks: frozenset[ipaddress.IPv4Network | ipaddress.IPv6Network] = frozenset()

    @property
    def tls(self) -> bool:
        """Whether it speaks TLS."""
        return self.tls_cert is not None

    def check(self, *, authenticated: bool) -> None:
        """Refuse what cannot work, or would give everything to everybody.

        Parameters
        ----------
        authenticated: whether callers have to say who they are.

        Raises
        ------
        InvalidRequest: as said.
        """
        if self.proxy_domain is not None and self.proxy_port is None:
            raise InvalidRequest("a domain of the proxy was given, and no port", remedy="give --proxy-port")
        for origin in self.allowed_origins:
            if _ORIGIN.fullmatch(origin) is None:
                raise InvalidRequest(f"{origin!r} is no origin", remedy="give it as https://example.org, with the port where it has one")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise InvalidRequest("a certificate and its key belong together", remedy="give both --tls-cert and --tls-key")
        if not authenticated and not self.insecure and not is_loopback(self.host):
            raise InvalidRequest(
                f"whoever reaches {self.host} could do everything with this host's VMs",
                cause="authentication is off",
                remedy="run `bandsox auth init` first, listen on 127.0.0.1, or insist with --insecure",
            )

    def is_known_host(self, name: str) -> bool:
        """Whether a request may name this server so. An address is safe: what an attacker makes lead here (DNS rebinding) is a name."""
        name = name.lower().rstrip(".")
        if self.host.lower() == name or name in self.allowed_hosts or name in _own_names():
            return True
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True


def is_loopback(host: str) -> bool:
    """Whether `host`, an address or a name, can be reached from this machine only.

    Raises
    ------
    InvalidRequest: there is no such host.
    """
    try:
        found = socket.getaddrinfo(host or None, 0, flags=socket.AI_PASSIVE, type=socket.SOCK_STREAM)
    except OSError as error:
        raise InvalidRequest(f"cannot listen on {host!r}", cause=str(error), remedy="give an address of this host") from error
    return all(ipaddress.ip_address(str(address[4][0]).partition("%")[0]).is_loopback for address in found)


def is_loopback_address(host: str) -> bool:
    """Whether `host` is an address, and no other host can reach it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _own_names() -> frozenset[str]:
    return frozenset({"localhost", socket.gethostname().lower()})
