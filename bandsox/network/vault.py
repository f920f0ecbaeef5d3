"""Secrets that stay outside the guest: what is asked for, where the values are kept, and what filter and guest get of it.

A guest's environment has placeholders. Its filter ends the TLS of connections to the hosts that secrets are for, puts the values into the
requests, and goes on over TLS of its own to a server that has to prove its name to the authorities that this host trusts (or those of
``SSL_CERT_FILE``). To the guest it proves the name by an authority of the machine's own, which is for these names only, and whose key no
guest has.

Values and key are in one file of the machine's directory that only its owner can read. They are in no record, snapshot or log, and reach
the filter through pipes and a socket of the owner's. A machine that is forked gives its clones what it has: their programs have its
placeholders in their memory, and trust its authority already. A snapshot has the placeholders only; what goes on from it gets an
authority of its own, and the values again (`bandsox.vm.network`, ``set_secret``).
"""

from __future__ import annotations

import os
import re
import secrets
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from bandsox.decoding import ready
from bandsox.errors import HostError, InvalidRequest
from bandsox.models import Secret, SecretUse
from bandsox.network.policy import parse
from bandsox.settings import write_atomically

MAX_SECRETS = 32
_MAX_HOSTS = 16
_SHORTEST, _LONGEST = 8, 4096
_MAX_TEXT = 32 << 10
"""Of all values together; they travel in one message to the filter."""

_FILE = "secrets.json"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_VALUE = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?")
"""What a header can have (RFC 9110, 5.5), in ASCII."""

_AUTHORITIES = "/etc/bandsox/authorities.pem"
_TRUST = {
    **dict.fromkeys(("SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "PIP_CERT", "GIT_SSL_CAINFO"), _AUTHORITIES),
    **dict.fromkeys(("AWS_CA_BUNDLE", "CARGO_HTTP_CAINFO", "DENO_CERT", "NIX_SSL_CERT_FILE"), _AUTHORITIES),
    "NODE_EXTRA_CA_CERTS": "/etc/bandsox/authority.pem",
}
"""By which variables programs find authorities; the files are the agent's (``agent/internal/machine/trust.go``)."""

_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
_LARGEST_BUNDLE = 640 << 10
"""It travels in one message to the guest."""


class Authority(msgspec.Struct):
    """What a machine's programs trust for the names of its secrets: certificate and key in PEM, and OpenSSL's name for the file."""

    certificate: str
    key: str
    hash: str


class Vault(msgspec.Struct):
    """What is kept of a machine's secrets: its authority, once it has been started, and the values by the variables' names."""

    values: dict[str, str] = {}
    authority: Authority | None = None


def uses_of(asked: Mapping[str, Secret] | None) -> tuple[dict[str, SecretUse], Vault | None]:
    """What a caller asks for, checked: what is known of each secret, and the values.

    Raises
    ------
    InvalidRequest: one of them cannot be kept as it is asked for. The message has no value.
    """
    if not asked:
        return {}, None
    if len(asked) > MAX_SECRETS:
        raise InvalidRequest(f"a VM has at most {MAX_SECRETS} secrets")
    uses = {name: _use(name, secret) for name, secret in asked.items()}
    values = {name: check_value(name, secret.value) for name, secret in asked.items()}
    if sum(map(len, values.values())) > _MAX_TEXT:
        raise InvalidRequest(f"the values of a VM's secrets are at most {_MAX_TEXT >> 10} KiB together")
    return uses, Vault(values)


def check_value(name: str, value: object) -> str:
    """A value that a header can have.

    Raises
    ------
    InvalidRequest: it cannot. The message has no value.
    """
    if not isinstance(value, str) or not _SHORTEST <= len(value) <= _LONGEST or _VALUE.fullmatch(value) is None:
        wanted = f"{_SHORTEST} to {_LONGEST} printable ASCII characters without spaces around them"
        raise InvalidRequest(f"the value of the secret {name} cannot be sent in a header", remedy=f"it has to be {wanted}")
    return value


def environment(uses: Mapping[str, SecretUse]) -> dict[str, str]:
    """The variables of a machine with these secrets: where its programs find authorities, and the placeholders."""
    return {**_TRUST, **{name: use.placeholder for name, use in uses.items()}} if uses else {}


def read(directory: Path) -> Vault:
    """What is kept for the machine with this directory; nothing where there is nothing."""
    try:
        return msgspec.json.decode((directory / _FILE).read_bytes(), type=ready(Vault))
    except FileNotFoundError:
        return Vault()


def write(directory: Path, vault: Vault) -> None:
    """Keep it."""
    write_atomically(directory / _FILE, msgspec.json.encode(vault))


def compiled(uses: Mapping[str, SecretUse], values: Mapping[str, str]) -> list[dict[str, Any]]:
    """Secrets as the filter reads them."""
    return [
        {
            "placeholder": use.placeholder,
            "value": values.get(name, ""),
            "hosts": [_rule(name, host, plain_http=use.plain_http) for host in use.hosts],
            "query": use.query,
            "body": use.body,
            "plain": use.plain_http,
        }
        for name, use in uses.items()
    ]


def opened(directory: Path, uses: Mapping[str, SecretUse], program: Path) -> dict[str, Any] | None:
    """The filter's ``Vault``, with an authority that is made where there is none yet; None for a machine without secrets. Blocks.

    Parameters
    ----------
    program: the filter's, which makes authorities.

    Raises
    ------
    HostError: it cannot.
    """
    if not uses:
        return None
    vault = read(directory)
    if vault.authority is None:
        names = sorted({rule["name"] for secret in compiled(uses, {}) for rule in secret["hosts"]})
        vault.authority = _new_authority(program, names)
        write(directory, vault)
    return {"authority": msgspec.to_builtins(vault.authority), "secrets": compiled(uses, vault.values)}


def guest_side(directory: Path) -> dict[str, Any]:
    """What the agent is told of a machine's authority (``docs/protocol.md``, ``setup``).

    Raises
    ------
    HostError: this host has no list of authorities for images that have none.
    """
    authority = read(directory).authority
    if authority is None:
        raise HostError("the VM's secrets have no authority", cause="its directory was changed while it started", remedy="start it again")
    return {"certificate": authority.certificate.encode(), "hash": authority.hash, "roots": _host_roots()}


def trusted_file() -> str:
    """The file of authorities that is asked for in place of the host's; empty: none is."""
    return os.environ.get("SSL_CERT_FILE", "")


def _use(name: str, secret: Secret) -> SecretUse:
    if not isinstance(name, str) or _VARIABLE.fullmatch(name) is None or name in _TRUST:
        raise InvalidRequest(f"{name!r} cannot be the variable of a secret")
    if not isinstance(secret, Secret):
        raise InvalidRequest(f"the secret {name} has to be a Secret(value, hosts=[…])")
    hosts = secret.hosts
    if isinstance(hosts, str) or not 1 <= len(hosts) <= _MAX_HOSTS:
        raise InvalidRequest(f"the secret {name} needs a list of 1 to {_MAX_HOSTS} hosts")
    for host in hosts:
        _rule(name, host, plain_http=secret.plain_http)
    return SecretUse(f"bandsox_{secrets.token_hex(20)}", tuple(hosts), bool(secret.query), bool(secret.body), bool(secret.plain_http))


def _rule(name: str, host: str, *, plain_http: bool) -> dict[str, Any]:
    """The rule that allows a secret's host."""
    rule = parse(host)[0]
    if not rule["name"] or rule["protocol"] not in {"", "tcp"}:
        raise InvalidRequest(
            f"the secret {name} cannot be for {host!r}", remedy="give names, such as api.example.com or *.example.org:8443"
        )
    ports = rule["ports"] or [{"first": port, "last": port} for port in ((80, 443) if plain_http else (443,))]
    return {**rule, "protocol": "tcp", "ports": ports}


def _new_authority(program: Path, names: list[str]) -> Authority:
    done = subprocess.run([str(program), "authority"], input=msgspec.json.encode(names), capture_output=True, env={}, check=False)
    if done.returncode != 0:
        raise HostError("an authority for the VM's secrets cannot be made", cause=done.stderr.decode(errors="replace").strip())
    return msgspec.json.decode(done.stdout, type=ready(Authority))


def _host_roots() -> bytes:
    """Whom this host trusts, as PEM."""
    for path in filter(None, (trusted_file(), *_BUNDLES)):
        try:
            with Path(path).open("rb") as file:
                found = file.read(_LARGEST_BUNDLE + 1)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise HostError("the list of authorities that this host trusts cannot be read", cause=str(error)) from error
        if len(found) > _LARGEST_BUNDLE:
            raise HostError("the list of authorities that this host trusts is too long for a guest", cause=f"{path}: over 640 KiB")
        return found
    raise HostError("this host trusts no authority of certificates", remedy="apt-get install ca-certificates, or set SSL_CERT_FILE")
