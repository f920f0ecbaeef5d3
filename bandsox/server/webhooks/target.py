"""Where a webhook's requests may go: to the Internet. An address of this host, of a private network or of a cloud's metadata service would
let whoever may set a webhook reach what only this host can (server-side request forgery).

The name is looked up once for each attempt, and the connection goes to just the address that was looked at: a name that then leads
elsewhere (DNS rebinding) changes nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Collection
from urllib.parse import urlsplit

from bandsox.errors import Forbidden, ServerUnavailable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an address of IPv4


async def address_of(url: str, allowed: Collection[Network]) -> Address:
    """The address to which a request for `url` may go.

    Parameters
    ----------
    allowed: networks of which it may be besides.

    Raises
    ------
    ServerUnavailable: its name leads nowhere. Forbidden: it leads where it may not.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, parts.port or 443, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ServerUnavailable(f"{host!r} leads nowhere", cause=str(error)) from error
    addresses = [ipaddress.ip_address(str(each[4][0]).partition("%")[0]) for each in found]
    for address in addresses:
        if not is_permitted(address, allowed):
            raise Forbidden(
                f"{host!r} leads to {address}, where webhooks may not go",
                cause="it is this host, or in a network that is not public",
                remedy="an operator allows a network with `serve --webhook-network`",
            )
    return addresses[0]


def is_permitted(address: Address, allowed: Collection[Network]) -> bool:
    """Whether requests may go to an address."""
    meant = _unwrapped(address)
    if any(meant in network for network in allowed):
        return True
    return meant.is_global and not meant.is_multicast and not _is_own(meant)


def _unwrapped(address: Address) -> Address:
    """The address of IPv4 that one of IPv6 leads to, where it does."""
    if isinstance(address, ipaddress.IPv6Address):
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        return address.ipv4_mapped or address.sixtofour or address
    return address


def _is_own(address: Address) -> bool:
    """Whether it is an address of this host: of those alone a socket can be bound to (bind(2))."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True
