"""Image references: how an image is named, in the notation of containers/image (``containers-transports(5)``).

    python:3-alpine  docker://host:5000/a/b@sha256:…    a registry
    oci:DIR[:TAG]    oci-archive:FILE[:TAG]             an OCI image layout, as a directory or a tar archive
    docker-archive:FILE[:REF]   docker-daemon:REF       what `docker save` writes; a running Docker
    dir:PATH                                            what `skopeo copy … dir:` writes
    rootfs:FILE.tar[.gz|.zst|.xz]                       a root file system as one archive
    debootstrap:SUITE[?include=a,b&variant=…]           a root file system made of Debian packages

A `Reference` is parsed once, where it enters, and trusted from then on. Its text is canonical: the same image has the
same text, and two texts never mean one thing in different working directories.
"""

from __future__ import annotations

import enum
import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl

from bandsox.errors import InvalidReference

DOCKER_HUB = "docker.io"
DEFAULT_TAG = "latest"

_MAX_LENGTH = 4096
_MAX_NAME = 255
_DOMAIN = re.compile(
    r"(?:(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])(?:\.(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9]))*"
    r"|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?"
)
_PATH_PART = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_SCHEME = re.compile(r"([a-z][a-z0-9-]*):")
_SUITE = re.compile(r"[a-z][a-z0-9-]{0,63}")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]{1,127}")
_VARIANTS = ("extract", "custom", "essential", "apt", "minbase", "required", "buildd", "important", "standard", "debootstrap")
_OPTIONS = ("include", "variant", "components")


class Transport(str, enum.Enum):
    """Where an image comes from."""

    REGISTRY = "docker"
    OCI = "oci"
    OCI_ARCHIVE = "oci-archive"
    DOCKER_ARCHIVE = "docker-archive"
    DOCKER_DAEMON = "docker-daemon"
    DIRECTORY = "dir"
    ROOTFS = "rootfs"
    DEBOOTSTRAP = "debootstrap"


@dataclass(frozen=True, slots=True)
class Reference:
    """A parsed image reference.

    ``name`` is the full repository (``docker.io/library/python``) of a registry's or Docker daemon's image, the absolute
    path of a local one, the suite of ``debootstrap:``. ``tag`` and ``digest`` are as written, the tag ``latest``
    where a registry's reference has neither. ``options`` are debootstrap's, sorted.
    """

    transport: Transport
    name: str
    tag: str | None = None
    digest: str | None = None
    options: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def __str__(self) -> str:
        """The canonical text, which `parse_reference` reads back."""
        if self.transport is Transport.REGISTRY:
            return self._repository_text(self.name)
        if self.transport is Transport.DOCKER_DAEMON:
            return "docker-daemon:" + self._repository_text(self.name)
        if self.transport is Transport.DEBOOTSTRAP:
            query = "&".join(f"{key}={','.join(values)}" for key, values in self.options)
            return f"debootstrap:{self.name}" + (f"?{query}" if query else "")
        return f"{self.transport.value}:{self.name}" + (f":{self.tag}" if self.tag else "")

    @property
    def familiar(self) -> str:
        """The text as people write it: without ``docker.io/library/``."""
        if self.transport is not Transport.REGISTRY:
            return str(self)
        name = self.name.removeprefix(f"{DOCKER_HUB}/")
        return self._repository_text(name.removeprefix("library/") if name.count("/") == 1 else name)

    @property
    def domain(self) -> str:
        """The registry's host, with its port where one was given."""
        return self.name.split("/", 1)[0]

    @property
    def repository(self) -> str:
        """The repository's path within its registry."""
        return self.name.split("/", 1)[1]

    @property
    def path(self) -> Path:
        """The local file or directory of the transports that have one."""
        return Path(self.name)

    @property
    def reads_host(self) -> bool:
        """Whether fetching it reads this host's files or runs its programs: not for a remote caller to choose."""
        return self.transport is not Transport.REGISTRY

    def _repository_text(self, name: str) -> str:
        return name + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")


def parse_reference(text: str) -> Reference:
    """Read an image reference.

    Raises
    ------
    InvalidReference: it has no transport and is no repository name, or what its transport needs is missing.
    """
    if not text or text != text.strip() or len(text) > _MAX_LENGTH or not text.isprintable():
        raise _invalid(text, "it is empty, too long, or has blanks or control characters around or in it")
    scheme = _SCHEME.match(text)
    transport = _transport(text, scheme.group(1)) if scheme else None
    if transport is None:
        return _repository(text, text, Transport.REGISTRY)
    assert scheme is not None
    rest = text[scheme.end() :]
    if not rest:
        raise _invalid(text, f"nothing follows {scheme.group(0)}")
    if transport is Transport.REGISTRY:
        if not rest.startswith("//"):
            raise _invalid(text, "the docker transport is written docker://NAME")
        return _repository(text, rest[2:], transport)
    if transport is Transport.DOCKER_DAEMON:
        return _repository(text, rest, transport)
    if transport is Transport.DEBOOTSTRAP:
        return _debootstrap(text, rest)
    return _local(text, rest, transport)


def _invalid(text: str, cause: str, remedy: str | None = None) -> InvalidReference:
    shown = text if len(text) < 200 else text[:200] + "…"
    return InvalidReference(f"{shown!r} is not an image reference", cause=cause, remedy=remedy)


def _transport(text: str, scheme: str) -> Transport | None:
    """The transport a reference begins with, or None where the colon is a port's or tag's."""
    for transport in Transport:
        if scheme == transport.value and (transport is not Transport.REGISTRY or text.startswith("docker://")):
            return transport
    if text.startswith(f"{scheme}://"):
        known = ", ".join(transport.value for transport in Transport)
        remedy = f"leave out {scheme}://" if scheme in ("http", "https") else f"known transports: {known}"
        raise _invalid(text, f"{scheme}:// is not a transport of images", remedy)
    return None


def _repository(whole: str, text: str, transport: Transport) -> Reference:
    """Read ``[domain/]path[:tag][@digest]`` (distribution's reference grammar), Docker Hub's names included."""
    rest, at, digest = text.partition("@")
    if at and not _DIGEST.fullmatch(digest):
        raise _invalid(whole, f"{digest!r} is not a digest: sha256: and 64 hexadecimal digits")
    head, slash, last = rest.rpartition("/")
    last, colon, tag = last.partition(":")
    if colon and not _TAG.fullmatch(tag):
        raise _invalid(whole, f"{tag!r} is not a tag: letters, digits, '_', '.' and '-', at most 128")
    name = head + slash + last
    first, _, remainder = name.partition("/")
    if remainder and ("." in first or ":" in first or first == "localhost" or first.lower() != first):
        domain, path = first, remainder
    else:
        domain, path = DOCKER_HUB, name
    if domain == "index.docker.io":
        domain = DOCKER_HUB
    if domain == DOCKER_HUB and "/" not in path:
        path = f"library/{path}"
    if not _DOMAIN.fullmatch(domain):
        raise _invalid(whole, f"{domain!r} is not a host name")
    for part in path.split("/"):
        if not _PATH_PART.fullmatch(part):
            cause = f"{part!r} is not a part of a repository's name: lower-case letters, digits, and single '.', '_' or '-' between them"
            raise _invalid(whole, cause, f"did you mean {whole.lower()!r}?" if part.lower() != part else None)
    if len(domain) + 1 + len(path) > _MAX_NAME:
        raise _invalid(whole, f"a repository's name has at most {_MAX_NAME} characters")
    default = None if digest or tag else DEFAULT_TAG
    return Reference(transport, f"{domain}/{path}", tag or default, digest or None)


def _local(whole: str, text: str, transport: Transport) -> Reference:
    """Read ``PATH[:TAG]``; a path with a colon is taken whole where it exists."""
    if transport is Transport.DIRECTORY or transport is Transport.ROOTFS or Path(text).exists():
        path, tag = text, None
    else:
        path, colon, tag = text.partition(":")
        if colon and not tag:
            raise _invalid(whole, "nothing follows the last colon")
    if not path:
        raise _invalid(whole, "the path is missing")
    if transport is Transport.DOCKER_ARCHIVE and tag:
        tag = str(_repository(whole, tag, Transport.REGISTRY))
    return Reference(transport, os.path.normpath(Path(path).absolute()), tag or None)


def _debootstrap(whole: str, text: str) -> Reference:
    suite, _, query = text.partition("?")
    if not _SUITE.fullmatch(suite):
        raise _invalid(whole, f"{suite!r} is not the name of a Debian or Ubuntu release, such as bookworm")
    options: dict[str, tuple[str, ...]] = {}
    for key, value in parse_qsl(query.replace("+", "%2B"), keep_blank_values=True):
        if key not in _OPTIONS:
            raise _invalid(whole, f"debootstrap: has no option {key!r}; it has {', '.join(_OPTIONS)}")
        items = tuple(sorted({item for item in value.split(",") if item}))
        if key == "variant" and (len(items) != 1 or items[0] not in _VARIANTS):
            raise _invalid(whole, f"{value!r} is not a variant; mmdebstrap has {', '.join(_VARIANTS)}")
        for item in items:
            if not _PACKAGE.fullmatch(item):
                raise _invalid(whole, f"{item!r} is not the name of a Debian package or component")
        if items:
            options[key] = items
    return Reference(Transport.DEBOOTSTRAP, suite, options=tuple(sorted(options.items())))
