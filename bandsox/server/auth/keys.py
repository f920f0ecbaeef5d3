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
from collections.abc import Iterable, Mapping, Sequence

from bandsox.errors import InvalidRequest, NotFound
from bandsox.models import ApiKey, KeyChanges, NewApiKey, Quotas, QuotaUse, VMRecord, VMSpec
from bandsox.server.auth.callers import NO_QUOTAS, Caller, Scope, scopes_of
from bandsox.server.auth.file import AuthFile, Authority, Key

PREFIX = "bsx_"
MAX_KEYS = 1000
_NAME_LENGTH = 128


def create(
    file: AuthFile,
    name: str,
    scopes: Iterable[str] = (Scope.ADMIN,),
    *,
    expires_in: float | None = None,
    prefix: str = "",
    quotas: Quotas = NO_QUOTAS,
) -> NewApiKey:
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
    new = NewApiKey(f"bsx_k_{secrets.token_hex(4)}", PREFIX + secrets.token_hex(32), name)
    with file.changing() as change:
        authority = change.existing
        if len(authority.keys) >= MAX_KEYS:
            raise InvalidRequest(f"there are {MAX_KEYS} keys already", remedy="revoke some")
        expires_at = _expiry(change.now, expires_in)
        key = _checked(Key(name, digest(authority, new.key), given, change.now, expires_at, prefix, quotas))
        change.authority = dataclasses.replace(authority, keys={**authority.keys, new.key_id: key})
    return new


def edit(file: AuthFile, key_id: str, wanted: KeyChanges) -> None:
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


def listed(authority: Authority, last_used: Mapping[str, float], records: Iterable[VMRecord]) -> list[ApiKey]:
    """What is known of the keys.

    Parameters
    ----------
    last_used: when each was, by id. records: all machines.
    """
    specs = [record.spec for record in records]
    return [
        ApiKey(
            id=key_id,
            name=key.name,
            created_at=key.created_at,
            last_used_at=last_used.get(key_id),
            expires_at=key.expires_at,
            scopes=tuple(scope.value for scope in key.scopes),
            prefix=key.prefix,
            quotas=key.quotas,
            used=_used([spec for spec in specs if spec.name.startswith(key.prefix)]),
        )
        for key_id, key in authority.keys.items()
    ]


def _used(specs: Sequence[VMSpec]) -> QuotaUse:
    """How much machines have together."""
    return QuotaUse(
        vms=len(specs),
        vcpu=sum(spec.vcpu for spec in specs),
        mem_mib=sum(spec.mem_mib for spec in specs),
        disk_mib=sum(spec.disk_size_mib for spec in specs),
    )


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
