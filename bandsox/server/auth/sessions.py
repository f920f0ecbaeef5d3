"""Browser sessions: what somebody gets for the password. Signed, valid for a day, and revocable.

A token is ``bss_<id>.<issued>.<signature>``: nothing is stored for a session but that it was ended. A new password ends all.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import secrets
import time

from bandsox.server.auth.callers import Caller, Scope
from bandsox.server.auth.file import AuthFile, Authority

PREFIX = "bss_"
COOKIE = "bandsox_session"
LIFETIME_S = 24 * 3600

_ALL = "*"

SOMEBODY = Caller("session", "password", frozenset({Scope.ADMIN}))
"""Whoever knows the password."""


def new(authority: Authority) -> str:
    """A token for a new session."""
    claim = f"{PREFIX}{secrets.token_hex(16)}.{time.time():.3f}"
    return f"{claim}.{_signature(authority, claim)}"


def caller(authority: Authority, token: str) -> Caller | None:
    """The caller of a session; None where the token is not ours, or the session is over."""
    return None if _valid(authority, token) is None else SOMEBODY


def still(authority: Authority, since: float) -> Caller | None:
    """Whoever had a session at a moment, in seconds since the epoch; None where the password was changed since."""
    return None if since <= authority.revoked.get(_ALL, 0.0) else SOMEBODY


def end(file: AuthFile, token: str) -> None:
    """End a session; nothing happens where it is none."""
    with file.changing() as change:
        authority = change.authority
        session = None if authority is None else _valid(authority, token)
        if authority is not None and session is not None:
            kept = {each: when for each, when in authority.revoked.items() if each == _ALL or when > change.now}
            change.authority = dataclasses.replace(authority, revoked={**kept, session: change.now + LIFETIME_S})


def _valid(authority: Authority, token: str) -> str | None:
    """The id of a session that is not over."""
    claim, _, signature = token.rpartition(".")
    if not hmac.compare_digest(signature.encode(), _signature(authority, claim).encode()):
        return None
    session, _, issued_text = claim.partition(".")
    issued = float(issued_text)
    if not issued <= time.time() < issued + LIFETIME_S or session in authority.revoked or issued <= authority.revoked.get(_ALL, 0.0):
        return None
    return session


def _signature(authority: Authority, claim: str) -> str:
    return hmac.new(bytes.fromhex(authority.secret), b"session " + claim.encode(), hashlib.sha256).hexdigest()
