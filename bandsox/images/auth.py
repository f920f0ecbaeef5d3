"""Credentials for registries, from where Docker and Podman keep them.

Read, in this order: ``$REGISTRY_AUTH_FILE``, Podman's ``auth.json`` (containers-auth.json(5)), Docker's ``config.json``
(``$DOCKER_CONFIG`` or ``~/.docker``). An entry may be a password, or name a credential helper: a program
``docker-credential-NAME`` that is given the registry's name (docker-credential-helpers' protocol). Nothing is written.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bandsox.decoding import ready
from bandsox.errors import InvalidRequest, MissingTool, RegistryError
from bandsox.images.reference import DOCKER_HUB
from bandsox.workers import in_thread

_HUB_KEY = "https://index.docker.io/v1/"
_HELPER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_HELPER_TIMEOUT_S = 30
_TOKEN_USER = "<token>"  # noqa: S105 - the protocol's mark for an identity token


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user's name and password, or an identity token (OAuth2 refresh token), or a registry token to use as it is."""

    username: str = ""
    password: str = ""
    identity_token: str = ""
    registry_token: str = ""


class _Entry(msgspec.Struct):
    auth: str = ""
    username: str = ""
    password: str = ""
    identitytoken: str = ""
    registrytoken: str = ""


class _File(msgspec.Struct, rename="camel"):
    auths: dict[str, _Entry] = {}
    cred_helpers: dict[str, str] = {}
    creds_store: str = ""


class _HelperAnswer(msgspec.Struct, rename="pascal"):
    username: str = ""
    secret: str = ""


async def find_credentials(domain: str, repository: str = "") -> Credentials | None:
    """The credentials for a registry's host, the most specific first where they are kept by repository.

    Raises
    ------
    InvalidRequest: a file of credentials cannot be read.
    MissingTool: the credential helper it names is not installed.
    RegistryError: the helper failed.
    """
    for path in _files():
        found = await _find_in(_read(path), domain, repository)
        if found is not None:
            return found
    return None


def _files() -> Iterator[Path]:
    home = Path.home()
    candidates = [os.environ.get("REGISTRY_AUTH_FILE")]
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        candidates.append(f"{runtime}/containers/auth.json")
    candidates.append(f"{os.environ.get('XDG_CONFIG_HOME') or home / '.config'}/containers/auth.json")
    candidates.append(f"{os.environ.get('DOCKER_CONFIG') or home / '.docker'}/config.json")
    for candidate in candidates:
        if candidate and Path(candidate).is_file():
            yield Path(candidate)


def _read(path: Path) -> _File:
    try:
        return msgspec.json.decode(path.read_bytes() or b"{}", type=ready(_File))
    except (OSError, msgspec.DecodeError) as error:
        raise InvalidRequest(f"the registry credentials in {path} cannot be read", cause=str(error)) from error


async def _find_in(file: _File, domain: str, repository: str) -> Credentials | None:
    for key in _keys(domain, repository):
        if helper := file.cred_helpers.get(key):
            return await _ask_helper(helper, domain)
    known = {_plain(key): entry for key, entry in file.auths.items()}
    for key in _keys(domain, repository):
        entry = known.get(key)
        if entry is not None and (found := _from_entry(entry, domain)) is not None:
            return found
    if file.creds_store:
        return await _ask_helper(file.creds_store, domain)
    return None


def _keys(domain: str, repository: str) -> Iterator[str]:
    """``host/a/b``, ``host/a``, ``host``, as Podman looks them up."""
    parts = [part for part in repository.split("/") if part]
    for count in range(len(parts), 0, -1):
        yield "/".join([domain, *parts[:count]])
    yield domain
    if domain == DOCKER_HUB:
        yield _HUB_KEY


def _plain(key: str) -> str:
    """A key of ``auths`` without the scheme and API version that Docker writes into some."""
    plain = key.removeprefix("https://").removeprefix("http://").rstrip("/")
    for version in ("/v1", "/v2"):
        plain = plain.removesuffix(version)
    return DOCKER_HUB if plain in ("index.docker.io", "registry-1.docker.io") else plain


def _from_entry(entry: _Entry, domain: str) -> Credentials | None:
    username, password = entry.username, entry.password
    if entry.auth:
        try:
            decoded = base64.b64decode(entry.auth, validate=True).decode()
        except (binascii.Error, UnicodeDecodeError) as error:
            raise InvalidRequest(f"the stored credentials for {domain} are not valid base64", remedy=f"docker login {domain}") from error
        username, _, password = decoded.rstrip("\0").partition(":")
    if entry.identitytoken or entry.registrytoken or username:
        return Credentials(username, password, entry.identitytoken, entry.registrytoken)
    return None


async def _ask_helper(name: str, domain: str) -> Credentials | None:
    """Ask ``docker-credential-NAME get``; None where it has nothing for this registry."""
    program = shutil.which(f"docker-credential-{name}") if _HELPER_NAME.fullmatch(name) else None
    if program is None:
        raise MissingTool(
            f"the credential helper docker-credential-{name} is not installed",
            cause=f"Docker's or Podman's configuration names it for {domain}",
            remedy="install it, or remove it from credsStore and credHelpers in the configuration",
        )
    server = _HUB_KEY if domain == DOCKER_HUB else domain
    try:
        done = await in_thread(lambda _: _run(program, server))
    except subprocess.TimeoutExpired as error:
        raise RegistryError(f"docker-credential-{name} did not answer within {_HELPER_TIMEOUT_S} seconds") from error
    if done.returncode != 0:
        said = (done.stdout + done.stderr).decode(errors="replace").strip()
        if "not found" in said.lower():
            return None
        raise RegistryError(f"docker-credential-{name} failed", cause=said[:500])
    try:
        answer = msgspec.json.decode(done.stdout, type=ready(_HelperAnswer))
    except msgspec.DecodeError as error:
        raise RegistryError(f"docker-credential-{name} gave an answer that cannot be read", cause=str(error)) from error
    if answer.username == _TOKEN_USER:
        return Credentials(identity_token=answer.secret)
    return Credentials(answer.username, answer.secret) if answer.username else None


def _run(program: str, server: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([program, "get"], input=server.encode(), capture_output=True, timeout=_HELPER_TIMEOUT_S, check=False)
