"""``<storage>/auth.json``: all of the authentication that lasts. Owner-only, written whole or not at all, under a lock.

It holds no key and no password, only what they can be checked against: for keys a keyed digest (they are random, so a fast one will do),
for the password an argon2id hash. Several processes may change it; a server notices by the file's identity, without being told.
"""

from __future__ import annotations

import contextlib
import fcntl
import hmac
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from bandsox.decoding import ready
from bandsox.errors import Conflict, HostError, InvalidRequest, NotAuthenticated, NotFound
from bandsox.models import Quotas
from bandsox.server.auth.callers import NO_QUOTAS, Scope
from bandsox.settings import write_atomically

MIN_PASSWORD = 8
MAX_PASSWORD = 1024


@dataclass(frozen=True, slots=True)
class Key:
    """An API key as it is kept. `digest` is that of `bandsox.server.auth.keys`; times are in seconds since the epoch."""

    name: str
    digest: str
    scopes: tuple[Scope, ...]
    created_at: float
    expires_at: float | None = None
    prefix: str = ""
    quotas: Quotas = NO_QUOTAS


@dataclass(frozen=True, slots=True)
class Session:
    """An open session as it is kept: since when, in seconds since the epoch, and from which client the password came."""

    created_at: float
    client: str
    agent: str


@dataclass(frozen=True, slots=True)
class Authority:
    """What ``auth.json`` holds. `password` is a hash, `secret` signs sessions and keys digests; keys and open sessions are by their ids."""

    password: str
    secret: str
    keys: dict[str, Key] = field(default_factory=dict)
    sessions: dict[str, Session] = field(default_factory=dict)


class AuthFile:
    """The file of one storage directory."""

    def __init__(self, storage: Path) -> None:
        self.path = storage / "auth.json"
        self._name = os.fspath(self.path)
        self._lock = storage / "locks" / "auth"
        self._known: tuple[tuple[int, int, int], Authority] | None = None

    def read(self) -> Authority | None:
        """What it holds now; None when authentication is off.

        Raises
        ------
        HostError: it is there but cannot be used, so nobody is let in.
        """
        try:
            status = os.stat(self._name)  # noqa: PTH116 — for each request
        except FileNotFoundError:
            self._known = None
            return None
        except OSError as error:
            raise _unusable(self.path, str(error)) from error
        identity = (status.st_ino, status.st_mtime_ns, status.st_size)
        if self._known is None or self._known[0] != identity:
            try:
                self._known = identity, msgspec.json.decode(self.path.read_bytes(), type=ready(Authority))
            except (OSError, msgspec.MsgspecError) as error:
                raise _unusable(self.path, str(error)) from error
        return self._known[1]

    @contextlib.contextmanager
    def changing(self) -> Iterator[Change]:
        """The contents, to be changed while nobody else does; they are written at the end of a block that succeeds.

        Raises
        ------
        HostError: as `read`.
        """
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            before = self.read()
            change = Change(before)
            yield change
            if change.authority is not None and change.authority != before:
                write_atomically(self.path, msgspec.json.format(msgspec.json.encode(change.authority)))
        finally:
            os.close(descriptor)

    def set_password(self, password: str, *, new: bool = False, before: str | None = None) -> None:
        """Set the password, and end all sessions; where there is no file yet, authentication is on from now on.

        Parameters
        ----------
        new: refuse where there is a file.
        before: the hash of the password that was shown, if one had to be.

        Raises
        ------
        InvalidRequest: the password is too short. Conflict: it is on already. NotAuthenticated: `before` is not the password any more.
        """
        if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
            raise InvalidRequest(f"a password has at least {MIN_PASSWORD} characters, and at most {MAX_PASSWORD}")
        import argon2

        encoded = argon2.PasswordHasher().hash(password)
        with self.changing() as change:
            if change.authority is not None and new:
                raise Conflict("authentication is on already", remedy="change the password with `bandsox auth set-password`")
            if before is not None and not hmac.compare_digest(change.existing.password, before):
                raise NotAuthenticated("that is not the password")
            if change.authority is None:
                change.authority = Authority(encoded, secrets.token_hex(32))
            else:
                # A password that is changed may have been known to others: what was got for it is worth nothing any more.
                change.authority = replace(change.authority, password=encoded, sessions={})


class Change:
    """A change of the file under way. Set `authority`."""

    def __init__(self, authority: Authority | None) -> None:
        import time

        self.authority = authority
        self.now = time.time()

    @property
    def existing(self) -> Authority:
        """The contents, where there are some.

        Raises
        ------
        NotFound: authentication is off.
        """
        if self.authority is None:
            raise NotFound("authentication is off", remedy="run `bandsox auth init`")
        return self.authority


def _unusable(path: Path, cause: str) -> HostError:
    return HostError(f"{path} cannot be read, so nobody is let in", cause=cause, remedy="restore it, or run `bandsox auth init` without it")
