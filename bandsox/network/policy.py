"""What a machine may reach, as people write it, and as the filter in its namespace reads it (``agent/internal/filter/policy.go``).

A rule is a network or a name, with ports and a protocol where it is not to hold for all::

    internet                 everything but what is not the Internet's (`bandsox.network.rules`)
    203.0.113.0/24           a network, or one address; [2001:db8::/32] in brackets where ports follow
    api.example.com          a name: TCP at ports 80 and 443, where the connection says that it is for this name
    *.example.org:443        whatever is below it, at one port
    db.example.org:5432-5434/tcp
    192.0.2.7:123/udp        ports are N, N-M or several with commas
    *:22                     the Internet at one port; the same as internet:22

What is denied wins over what is allowed, and what is not allowed is refused. What is none of the Internet's is only reached where a rule
names the range or a part of it, the host itself only by its very address, and other machines never.
"""

from __future__ import annotations

import dataclasses
import re
import socket
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

from bandsox.errors import InvalidRequest
from bandsox.models import Policy
from bandsox.network import plan
from bandsox.network.rules import NOT_INTERNET4, NOT_INTERNET6

MAX_RULES = 512
_MAX_TEXT = 48 << 10
_MAX_RANGES = 16
_SLOWEST_MBIT, _FASTEST_MBIT = 0.1, 1e6
_MOST_CONNECTIONS = 1 << 16
_NAME = re.compile(r"(?:\*\.)?(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_RULE = re.compile(r"(?P<host>\[[^\]]+\]|[^\[\]]+?)(?::(?P<ports>[0-9,-]+))?(?:/(?P<protocol>[a-z]+))?")
_PROTOCOLS = ("tcp", "udp", "icmp")
_EVERYWHERE = ("0.0.0.0/0", "::/0")
_WEB = ((80, 80), (443, 443))

REGISTRIES = (
    *("pypi.org", "files.pythonhosted.org"),
    *("registry.npmjs.org", "registry.yarnpkg.com"),
    *("crates.io", "index.crates.io", "static.crates.io"),
    *("proxy.golang.org", "sum.golang.org"),
    *("rubygems.org", "index.rubygems.org"),
    *("repo.maven.apache.org", "repo1.maven.org", "plugins.gradle.org"),
    *("deb.debian.org", "security.debian.org", "archive.ubuntu.com", "security.ubuntu.com", "ports.ubuntu.com", "dl-cdn.alpinelinux.org"),
)
"""What the preset ``registry-only`` allows: where packages of languages and distributions come from."""

INTERNET = Policy()
PRESETS = {
    "internet": INTERNET,
    "none": Policy(allow=()),
    "registry-only": Policy(allow=REGISTRIES),
    "learn": Policy(learn=True),
}


def policy_of(value: Policy | str | Mapping[str, Any] | None) -> Policy | None:
    """The policy that a caller asks for: one, the name of a preset, or the fields of one; checked, and in its usual form.

    Raises
    ------
    InvalidRequest: there is no such preset, or a rule cannot be read.
    """
    if value is None:
        return None
    if isinstance(value, str):
        if value not in PRESETS:
            raise InvalidRequest(f"there is no network policy {value!r}", remedy=f"choose one of {', '.join(PRESETS)}, or make a Policy")
        return PRESETS[value]
    if isinstance(value, Mapping):
        fields = [field.name for field in dataclasses.fields(Policy)]
        if unknown := sorted(set(value) - set(fields)):
            raise InvalidRequest(f"a network policy has no {unknown[0]!r}", remedy=f"it has {', '.join(fields)}")
        value = Policy(**value)
    for what, rate in (("upload_mbit", value.upload_mbit), ("download_mbit", value.download_mbit)):
        if rate is not None and not (isinstance(rate, (int, float)) and _SLOWEST_MBIT <= rate <= _FASTEST_MBIT):
            raise InvalidRequest(f"{what} is from {_SLOWEST_MBIT} to {_FASTEST_MBIT}, not {rate!r}")
    count = value.connections
    if count is not None and (not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= _MOST_CONNECTIONS):
        raise InvalidRequest(f"connections is a number from 1 to {_MOST_CONNECTIONS}, not {count!r}")
    return dataclasses.replace(value, allow=_texts("allow", value.allow), deny=_texts("deny", value.deny), learn=bool(value.learn))


def from_elsewhere(policy: Policy | None) -> Policy | None:
    """A policy that came with somebody else's snapshot, checked as by `policy_of`, without the rules that open what is not the
    Internet's, or single addresses, one of which may be this host's: that is for those to decide whose host it is.

    Raises
    ------
    InvalidRequest: it cannot be kept.
    """
    checked = policy_of(policy)
    if checked is None:
        return None
    return dataclasses.replace(checked, allow=tuple(text for text in checked.allow if not any(map(_is_narrow, parse(text)))))


def _is_narrow(rule: Mapping[str, Any]) -> bool:
    """Whether a rule is of a single address, or of a range that is not the Internet's or a part of one."""
    if rule["name"]:
        return False
    network = ip_network(rule["net"])
    special = (ip_network(text) for text in (NOT_INTERNET4 if network.version == 4 else NOT_INTERNET6))
    return network.prefixlen == network.max_prefixlen or any(network.subnet_of(each) for each in special)  # type: ignore[arg-type] # as above


def compiled(policy: Policy) -> dict[str, Any]:
    """A policy of `policy_of` as the filter reads it."""
    rules = {side: [rule for text in texts for rule in parse(text)] for side, texts in (("allow", policy.allow), ("deny", policy.deny))}
    for rule in rules["allow"]:
        if rule["name"] and not rule["ports"] and not rule["protocol"]:
            rule["protocol"], rule["ports"] = "tcp", _ranges(_WEB)
        elif rule["name"] and not rule["protocol"]:
            rule["protocol"] = "tcp"
    rates = {"upload": _bytes(policy.upload_mbit), "download": _bytes(policy.download_mbit)}
    return {**rules, "learn": policy.learn, **rates, "connections": policy.connections or 0}


def private_rules(policy: Policy) -> list[str]:
    """The rules of a policy of `policy_of` that open a way to what is not the Internet's, or to an address of this host.

    The filter takes a network for such a rule where it lies in a range that is not the Internet's, or is one address (`kindOf`, there).
    """
    return [text for text in policy.allow if any(rule["net"] and _is_private(ip_network(rule["net"])) for rule in parse(text))]


def _is_private(network: IPv4Network | IPv6Network) -> bool:
    special = NOT_INTERNET4 if network.version == 4 else NOT_INTERNET6
    if any(network.subnet_of(ip_network(each)) for each in special):  # type: ignore[arg-type] # both are of one version
        return True
    return network.num_addresses == 1 and _is_own(str(network.network_address), network.version)


def _is_own(address: str, version: int) -> bool:
    """Whether an address is this host's: then, and only then, a socket can be bound to it."""
    with socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def parse(text: str) -> list[dict[str, Any]]:
    """One rule as the filter reads it: two where it is of IPv4 and IPv6.

    Raises
    ------
    InvalidRequest: it cannot be read, or could not be kept.
    """
    parts = _RULE.fullmatch(text.strip().lower()) if isinstance(text, str) else None
    if parts is None:
        raise _unreadable(text)
    host, protocol = parts["host"].strip("[]"), parts["protocol"] or ""
    if protocol and protocol not in _PROTOCOLS:
        raise _unreadable(text, f"the protocols are {', '.join(_PROTOCOLS)}")
    ports = _ranges(_ports(text, parts["ports"])) if parts["ports"] else []
    if ports and protocol == "icmp":
        raise _unreadable(text, "ICMP has no ports")
    if host in {"internet", "*"}:
        return [{"net": network, "name": "", "protocol": protocol, "ports": ports} for network in _EVERYWHERE]
    if (network := _network(host)) is not None:
        pool = plan.POOL4 if network.version == 4 else plan.POOL6
        if network.subnet_of(pool):  # type: ignore[arg-type] # both are of one version
            raise InvalidRequest(f"no rule opens the way to other VMs: {text!r}")
        return [{"net": str(network), "name": "", "protocol": protocol, "ports": ports}]
    name = _name(text, host)
    if protocol == "udp" and (not ports or any(entry["first"] <= 443 <= entry["last"] for entry in ports)):
        raise _unreadable(text, "UDP to a name needs its ports, and QUIC (port 443) cannot be held to a name")
    return [{"net": "", "name": name, "protocol": protocol, "ports": ports}]


def _bytes(mbit: float | None) -> int:
    return 0 if mbit is None else round(mbit * 1e6 / 8)


def _texts(side: str, texts: Iterable[str]) -> tuple[str, ...]:
    if isinstance(texts, str):
        raise InvalidRequest(f"{side} is a list of rules, not {texts!r}")
    found = tuple(dict.fromkeys(texts))
    if len(found) > MAX_RULES or sum(map(len, map(str, found))) > _MAX_TEXT:
        raise InvalidRequest(f"a network policy has at most {MAX_RULES} rules of {_MAX_TEXT >> 10} KiB together on each side")
    for text in found:
        parse(text)
    return found


def _ports(text: str, ports: str) -> list[tuple[int, int]]:
    found = []
    for part in ports.split(","):
        first, _, last = part.partition("-")
        if not first.isdecimal() or not (last or first).isdecimal():
            raise _unreadable(text)
        found.append((int(first), int(last or first)))
    if len(found) > _MAX_RANGES or not all(1 <= first <= last <= 65535 for first, last in found):
        raise _unreadable(text, f"ports are numbers from 1 to 65535, in at most {_MAX_RANGES} ranges")
    return found


def _ranges(ports: Iterable[tuple[int, int]]) -> list[dict[str, int]]:
    return [{"first": first, "last": last} for first, last in sorted(ports)]


def _network(host: str) -> IPv4Network | IPv6Network | None:
    try:
        return ip_network(host, strict=False)
    except ValueError:
        return None


def _name(text: str, host: str) -> str:
    try:
        name = host.removesuffix(".").encode("ascii" if host.isascii() else "idna").decode()
    except UnicodeError as error:
        raise _unreadable(text, "it is no name of a host") from error
    if len(name) > 253 or _NAME.fullmatch(name) is None or re.fullmatch(r"[0-9.]+", name):
        raise _unreadable(text)
    return name


def _unreadable(text: object, cause: str | None = None) -> InvalidRequest:
    remedy = "write it as api.example.com, *.example.org:443 or 10.1.0.0/16:5432/tcp"
    return InvalidRequest(f"not a rule of a network policy: {text!r}", cause=cause, remedy=remedy)
