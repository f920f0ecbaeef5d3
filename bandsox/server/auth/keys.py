"""API keys: ``bsx_`` and 64 hexadecimal digits, shown once, kept as a keyed digest.

A key has 256 random bits, so nobody guesses one, and a fast digest is as good as a slow one; it is keyed (BLAKE2b, RFC 7693), so that a
copy of the digests alone tells nothing.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypedDict

from bandsox.errors import InvalidRequest, NotFound
from bandsox.server.auth.callers import NO_QUOTAS, Caller, Quotas, Scope, scopes_of
from bandsox.server.auth.file import AuthFile, Authority, Key

PREFIX = "bsx_"
MAX_KEYS = 1000
_NAME_LENGTH = 128


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key at the only time at which it is known."""

    key_id: str
    key: str
    name: str


def create(
    file: AuthFile,
    name: str,
    scopes: Iterable[str] = (Scope.ADMIN,),
    *,
    expires_in: float | None = None,
    prefix: str = "",
    quotas: Quotas = NO_QUOTAS,
) -> NewKey:
    """Make a key.

    Parameters
    ----------
    expires_in: seconds from now on; None: it does not expire.
    prefix: what the names of all machines begin with that exist for it.

    Raises
    ------
    InvalidRequest: it would be of no use, or there are too many. NotFound: authentication is off.
    """
    given = tuple(sorted(scopes_of(scopes)))
    new = NewKey(f"bsx_k_{secrets.token_hex(4)}", PREFIX + secrets.token_hex(32), name)
    with file.changing() as change:
        authority = change.existing
        if len(authority.keys) >= MAX_KEYS:
            raise InvalidRequest(f"there are {MAX_KEYS} keys already", remedy="revoke some")
        expires_at = _expiry(change.now, expires_in)
        key = _checked(Key(name, digest(authority, new.key), given, change.now, expires_at, prefix, quotas))
        change.authority = dataclasses.replace(authority, keys={**authority.keys, new.key_id: key})
    return new


class Edit(TypedDict, total=False):
    """What is to be changed of a key, as for `create`; what is absent stays."""

    name: str
    scopes: Iterable[str]
    expires_in: float | None
    prefix: str
    quotas: Quotas


def edit(file: AuthFile, key_id: str, wanted: Edit) -> None:
    """Change what a key may do; running servers know at once.

    Raises
    ------
    As `create`. NotFound: there is no such key.
    """
    with file.changing() as change:
        authority = change.existing
        key = _existing(authority, key_id)
        edited = dataclasses.replace(
            key,
            name=wanted.get("name", key.name),
            scopes=tuple(sorted(scopes_of(wanted["scopes"]))) if "scopes" in wanted else key.scopes,
            expires_at=_expiry(change.now, wanted["expires_in"]) if "expires_in" in wanted else key.expires_at,
            prefix=wanted.get("prefix", key.prefix),
            quotas=wanted.get("quotas", key.quotas),
        )
        change.authority = dataclasses.replace(authority, keys={**authority.keys, key_id: _checked(edited)})


def revoke(file: AuthFile, key_id: str) -> None:
    """Have a key let nobody in any more.

    Raises
    ------
    NotFound: there is no such key.
    """
    with file.changing() as change:
        authority = change.existing
        _existing(authority, key_id)
        change.authority = dataclasses.replace(authority, keys={each: key for each, key in authority.keys.items() if each != key_id})


def _existing(authority: Authority, key_id: str) -> Key:
    if key_id not in authority.keys:
        raise NotFound(f"there is no key {key_id!r}", remedy="see `bandsox auth list-keys`")
    return authority.keys[key_id]


def _expiry(now: float, expires_in: float | None) -> float | None:
    if expires_in is not None and not 0 < expires_in < 1e10:
        raise InvalidRequest(f"a key cannot expire in {expires_in:g} seconds")
    return None if expires_in is None else now + expires_in


def _checked(key: Key) -> Key:
    """A key that is of use. Raises InvalidRequest for others."""
    if not key.name.strip() or len(key.name) > _NAME_LENGTH or not key.name.isprintable():
        raise InvalidRequest(f"a key's name has between one and {_NAME_LENGTH} printable characters")
    if key.prefix and Scope.ADMIN in key.scopes:
        raise InvalidRequest("a key for some machines cannot have the scope admin, which is about all of them", remedy="give it exec")
    if any(limit is not None and limit < 0 for limit in dataclasses.astuple(key.quotas)):
        raise InvalidRequest("a quota is not negative")
    return key


def digest(authority: Authority, key: str) -> str:
    """What is kept of a key."""
    return hashlib.blake2b(key.encode(), key=bytes.fromhex(authority.secret), digest_size=32).hexdigest()


def caller(authority: Authority, key: str) -> Caller | None:
    """Whose key this is; None where it is nobody's, or has expired. Takes as long for one as for the other."""
    wanted = digest(authority, key)
    found: tuple[str, Key] | None = None
    for key_id, each in authority.keys.items():
        if hmac.compare_digest(each.digest, wanted):
            found = key_id, each
    if found is None:
        return None
    return owner(authority, found[0])


def owner(authority: Authority, key_id: str) -> Caller | None:
    """Who has the key with this id; None where there is none, or it has expired."""
    known = authority.keys.get(key_id)
    if known is None or (known.expires_at is not None and known.expires_at <= time.time()):
        return None
    return Caller(key_id, known.name, frozenset(known.scopes), known.prefix, known.quotas, until=known.expires_at)
