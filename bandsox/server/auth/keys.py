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
    given = scopes_of(scopes)
    if not name.strip() or len(name) > _NAME_LENGTH or not name.isprintable():
        raise InvalidRequest(f"a key's name has between one and {_NAME_LENGTH} printable characters")
    if prefix and Scope.ADMIN in given:
        raise InvalidRequest("a key for some machines cannot have the scope admin, which is about all of them", remedy="give it exec")
    if expires_in is not None and not 0 < expires_in < 1e10:
        raise InvalidRequest(f"a key cannot expire in {expires_in:g} seconds")
    if any(limit is not None and limit < 0 for limit in dataclasses.astuple(quotas)):
        raise InvalidRequest("a quota is not negative")
    new = NewKey(f"bsx_k_{secrets.token_hex(4)}", PREFIX + secrets.token_hex(32), name)
    with file.changing() as change:
        authority = change.existing
        if len(authority.keys) >= MAX_KEYS:
            raise InvalidRequest(f"there are {MAX_KEYS} keys already", remedy="revoke some")
        expires_at = None if expires_in is None else change.now + expires_in
        key = Key(name, digest(authority, new.key), tuple(sorted(given)), change.now, expires_at, prefix, quotas)
        change.authority = dataclasses.replace(authority, keys={**authority.keys, new.key_id: key})
    return new


def revoke(file: AuthFile, key_id: str) -> None:
    """Have a key let nobody in any more.

    Raises
    ------
    NotFound: there is no such key.
    """
    with file.changing() as change:
        authority = change.existing
        if key_id not in authority.keys:
            raise NotFound(f"there is no key {key_id!r}", remedy="see `bandsox auth list-keys`")
        change.authority = dataclasses.replace(authority, keys={each: key for each, key in authority.keys.items() if each != key_id})


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
    return Caller(key_id, known.name, frozenset(known.scopes), known.prefix, known.quotas)
