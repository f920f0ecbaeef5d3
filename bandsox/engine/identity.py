"""Ids, names and the specification's bounds: what comes from outside is checked here, once."""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from ipaddress import ip_address
from typing import Any, get_args

import msgspec

from bandsox.engine import disks
from bandsox.errors import InvalidRequest
from bandsox.models import OnExpiry, VMSpec

MIN_MEM_MIB = 48
MAX_MEM_MIB = 1024 * 1024
MAX_VCPU = 64
_NAME_LIMIT = 128
_MAX_RATE = 1 << 40
_MOST_NAME_SERVERS = 3
_MAX_SECONDS = 100 * 366 * 86_400.0
_METADATA_LIMIT = 1 << 20
_MMDS_LIMIT = 51_200
"""As Firecracker has it (Firecracker, ``--mmds-size-limit``)."""

_ENVIRONMENT_LIMIT = 256 * 1024

_chosen: ContextVar[list[str] | None] = ContextVar("chosen", default=None)


def new_id() -> str:
    """A machine's id: 16 hexadecimal digits, never given twice."""
    return secrets.token_hex(8)


def record_id() -> str:
    """The id of a new machine or snapshot: the next of those that were chosen for it, else a new one."""
    chosen = _chosen.get()
    return chosen.pop(0) if chosen else new_id()


@contextlib.contextmanager
def choosing(ids: Iterable[str]) -> Iterator[None]:
    """Within the block the machines and snapshots that are made get these ids of `new_id`, one after another.

    Whoever wrote them down before finds again what was made, even if he was killed before he knew.
    """
    token = _chosen.set(list(ids))
    try:
        yield
    finally:
        _chosen.reset(token)


def check_name(name: str) -> str:
    """A name of 1 to 128 printable characters; it is a label and never part of a path.

    Raises
    ------
    InvalidRequest: it is something else.
    """
    if not isinstance(name, str) or not 1 <= len(name) <= _NAME_LIMIT or not name.isprintable() or name != name.strip():
        raise InvalidRequest(f"{name!r} cannot be a name", remedy=f"use 1 to {_NAME_LIMIT} printable characters")
    return name


def check_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata as a plain dictionary, which JSON can represent in at most 1 MiB.

    Raises
    ------
    InvalidRequest: it cannot be represented, or is larger.
    """
    try:
        encoded = msgspec.json.encode(dict(metadata))
        plain = msgspec.json.decode(encoded, type=dict[str, Any])
    except (TypeError, ValueError, NotImplementedError) as error:
        raise InvalidRequest("metadata must be a dictionary that JSON can represent", cause=str(error)) from error
    if len(encoded) > _METADATA_LIMIT:
        raise InvalidRequest("metadata must not be larger than 1 MiB as JSON")
    return plain


def check_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Environment variables: names without ``=``, no NUL anywhere, at most 256 KiB together.

    Raises
    ------
    InvalidRequest: one of them is something else.
    """
    for name, value in variables.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise InvalidRequest(f"the environment variable {name!r} must have a string as name and value")
        if not name or "=" in name or "\0" in name or "\0" in value:
            raise InvalidRequest(f"{name!r} cannot be an environment variable", cause="it holds '=' or NUL, or is empty")
    if sum(len(name) + len(value) + 2 for name, value in variables.items()) > _ENVIRONMENT_LIMIT:
        raise InvalidRequest("the environment is larger than 256 KiB")
    return dict(variables)


def check_spec(spec: VMSpec) -> None:
    """Check every bound of a specification.

    Raises
    ------
    InvalidRequest: the first field that is out of bounds.
    """
    check_name(spec.name)
    check_environment(spec.env_vars)
    check_metadata(spec.metadata)
    _check_range("vcpu", spec.vcpu, 1, MAX_VCPU)
    _check_range("mem_mib", spec.mem_mib, MIN_MEM_MIB, MAX_MEM_MIB)
    if spec.disk_size_mib != 0:
        _check_range("disk_size_mib", spec.disk_size_mib, disks.MIN_MIB, disks.MAX_MIB)
    for field, rate in {
        "disk bandwidth": spec.disk_limits.bandwidth,
        "disk_iops": spec.disk_limits.operations,
        "network bandwidth": spec.network_limits.bandwidth,
    }.items():
        if rate is not None:
            _check_range(field, rate, 1, _MAX_RATE)
    for field, seconds in {"ttl": spec.ttl, "idle_timeout": spec.idle_timeout}.items():
        if seconds is not None and not (0 < seconds <= _MAX_SECONDS):
            raise InvalidRequest(f"{field} must be a positive number of seconds")
    if spec.on_expiry not in get_args(OnExpiry):
        raise InvalidRequest(f"{spec.on_expiry!r} is nothing to do on expiry", remedy=f"choose one of: {', '.join(get_args(OnExpiry))}")
    if spec.publish:
        from bandsox.engine import publishing

        publishing.check(spec.publish)
    if spec.balloon_mib is not None:
        check_balloon(spec.balloon_mib, spec.mem_mib)
    if spec.mmds is not None:
        check_mmds(spec.mmds)
        if spec.enable_networking is False:
            raise InvalidRequest("a metadata service comes over the network, which was asked for without", remedy="leave mmds out")
    if spec.cni is not None and spec.enable_networking is False:
        raise InvalidRequest("a CNI network was asked for, and no network", remedy="leave one of them out")
    if spec.secrets and spec.enable_networking is False:
        raise InvalidRequest("secrets are for requests over the network, which was asked for without", remedy="leave secrets out")
    if twice := sorted(set(spec.secrets) & set(spec.env_vars)):
        raise InvalidRequest(f"{twice[0]} is a secret and a variable", remedy="leave the variable out: it has the secret's placeholder")
    if re.search(r"[\0\n\r]", spec.boot_args):
        raise InvalidRequest("boot_args must be one line")


def check_balloon(mib: int, mem_mib: int) -> None:
    """What a balloon may take of so much memory: all but what the smallest machine has.

    Raises
    ------
    InvalidRequest: it is more.
    """
    _check_range("balloon_mib", mib, 0, max(0, mem_mib - MIN_MEM_MIB))


def check_mmds(data: Mapping[str, Any]) -> dict[str, Any]:
    """What a metadata service says, as a plain dictionary, which JSON can represent in at most 50 KiB.

    Raises
    ------
    InvalidRequest: it cannot be represented, or is larger.
    """
    plain = check_metadata(data)
    if len(msgspec.json.encode(plain)) > _MMDS_LIMIT:
        raise InvalidRequest(f"what a metadata service says must not be larger than {_MMDS_LIMIT} bytes as JSON")
    return plain


def _check_range(field: str, value: int, lowest: int, highest: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
        raise InvalidRequest(f"{field} must be a whole number from {lowest} to {highest}, not {value!r}")


def check_dns(addresses: Sequence[str]) -> tuple[str, ...]:
    """Addresses of at most three name servers (resolv.conf(5)), in their usual form.

    Raises
    ------
    InvalidRequest: they are something else.
    """
    if isinstance(addresses, str) or len(addresses) > _MOST_NAME_SERVERS:
        raise InvalidRequest(f"dns must be a list of at most {_MOST_NAME_SERVERS} addresses, not {addresses!r}")
    try:
        return tuple(str(ip_address(address)) for address in addresses)
    except ValueError as error:
        raise InvalidRequest("dns must be the addresses of name servers", cause=str(error)) from error


def hostname(name: str) -> str:
    """A host name made of a machine's name: letters, digits and hyphens, at most 63 (RFC 1123)."""
    return re.sub(r"[^A-Za-z0-9-]+", "-", name).strip("-")[:63].strip("-") or "bandsox"
