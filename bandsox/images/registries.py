"""How registries are reached: mirrors, plain HTTP and certificates, from ``registries.toml`` in the storage directory.

    timeout_s = 60                                      # how long a registry may be silent

    [[registry]]
    name = "docker.io"                                  # host[:port], as in references
    mirrors = ["mirror.example:5000", "https://cache.example/hub"]
    insecure = true                                     # plain HTTP, or a certificate nobody signed
    ca = "/etc/ssl/our-ca.pem"                          # who signs its certificate, beside those the system knows

``BANDSOX_INSECURE_REGISTRIES`` (hosts, comma-separated) adds to the insecure ones. A registry on a loopback address
is insecure without being named, as in Docker, unless a certificate authority is named for it. Docker's and Podman's
``certs.d/HOST/`` is honoured (containers-certs.d(5)): ``*.crt`` are authorities, ``*.cert`` with ``*.key`` are ours.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import msgspec

from bandsox.errors import InvalidRequest
from bandsox.http import Patience
from bandsox.images.reference import DOCKER_HUB

_HUB_HOST = "registry-1.docker.io"
_CERTIFICATE_DIRECTORIES = ("~/.config/containers/certs.d", "/etc/containers/certs.d", "/etc/docker/certs.d")


class _Registry(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    mirrors: list[str] = []
    insecure: bool | None = None
    ca: str | None = None


class _File(msgspec.Struct, forbid_unknown_fields=True):
    registry: list[_Registry] = []
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=3600)] = Patience().silence_s


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a registry's images can be had: a host, a path that precedes repositories, and how far it is trusted."""

    host: str
    prefix: str = ""
    insecure: bool = False
    ca: str | None = None
    patience: Patience = field(default_factory=Patience)

    @property
    def credentials_key(self) -> str:
        """The host under which credentials are kept."""
        return DOCKER_HUB if self.host == _HUB_HOST else self.host

    def tls(self) -> ssl.SSLContext:
        """The TLS settings for this endpoint: verified, against the system's certificates and those named for it.

        Raises
        ------
        InvalidRequest: one that is named cannot be read.
        """
        context = ssl.create_default_context()
        if self.ca:
            _load(self.ca, context.load_verify_locations)
        for authority in _certificates(self.credentials_key, "*.crt"):
            _load(authority, context.load_verify_locations)
        for own in _certificates(self.credentials_key, "*.cert"):
            _load(own, partial(context.load_cert_chain, keyfile=own.with_suffix(".key")))
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def _certificates(host: str, pattern: str) -> list[Path]:
    return [path for directory in _CERTIFICATE_DIRECTORIES for path in sorted((Path(directory).expanduser() / host).glob(pattern))]


def _load(path: str | Path, load: Callable[[str | Path], None]) -> None:
    try:
        load(path)
    except OSError as error:  # ssl.SSLError is one as well
        raise InvalidRequest(f"the certificate {path} cannot be read", cause=str(error)) from error


class Registries:
    """The settings of one storage directory.

    Raises
    ------
    InvalidRequest: the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._registries: dict[str, _Registry] = {}
        self._patience = Patience()
        if path.is_file():
            try:
                settings = msgspec.toml.decode(path.read_bytes(), type=_File)
            except (OSError, msgspec.DecodeError) as error:
                raise InvalidRequest(f"{path} cannot be read", cause=str(error)) from error
            self._registries = {registry.name: registry for registry in settings.registry}
            self._patience = Patience(silence_s=settings.timeout_s)
        configured = os.environ.get("BANDSOX_INSECURE_REGISTRIES", "")
        self._insecure = {host.strip() for host in configured.split(",") if host.strip()}

    def endpoints(self, domain: str) -> list[Endpoint]:
        """Where to look for a registry's images, in order: its mirrors, then itself."""
        registry = self._registries.get(domain)
        mirrors = [self._mirror(mirror) for mirror in registry.mirrors] if registry else []
        return [*mirrors, self._endpoint(domain)]

    def _mirror(self, text: str) -> Endpoint:
        scheme, separator, rest = text.partition("://")
        host, _, prefix = (rest if separator else text).rstrip("/").partition("/")
        known = self._endpoint(host)
        return replace(known, prefix=f"{prefix}/" if prefix else "", insecure=known.insecure or scheme == "http")

    def _endpoint(self, host: str) -> Endpoint:
        registry = self._registries.get(host, _Registry(host))
        insecure = registry.insecure
        if insecure is None:
            trusted = registry.ca is not None or bool(_certificates(host, "*.crt"))
            insecure = host in self._insecure or (_is_loopback(host) and not trusted)
        return Endpoint(_HUB_HOST if host == DOCKER_HUB else host, "", insecure, registry.ca, self._patience)


def _is_loopback(host: str) -> bool:
    name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False
