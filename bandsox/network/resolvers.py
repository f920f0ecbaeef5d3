"""The name servers that this host asks."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

_FILES = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
"""The second names those behind systemd-resolved, which itself listens on the host's loopback only (systemd-resolved.service(8))."""

_MOST = 3
"""More are not looked at (resolv.conf(5), MAXNS)."""


def host_resolvers() -> tuple[str, ...]:
    """The addresses of the name servers that a machine can reach as well as the host."""
    for path in _FILES:
        found = [address for address in _named_in(path) if not _is_local(address)]
        if found:
            return tuple(found[:_MOST])
    return ()


def _named_in(path: Path) -> list[str]:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return []
    return [words[1] for words in map(str.split, lines) if len(words) > 1 and words[0] == "nameserver"]


def _is_local(address: str) -> bool:
    """Whether only the host itself reaches it: its loopback, or a link of it. What is no address is nobody's."""
    try:
        ip = ip_address(address)
    except ValueError:
        return True
    return ip.is_loopback or ip.is_link_local or ip.is_unspecified
