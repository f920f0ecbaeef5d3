"""Browser sessions: what somebody gets for the password. Signed, listed, valid for a day, and revocable.

A token is ``bss_<id>.<issued>.<signature>``. ``auth.json`` has the ids of those that are open, so each is known to whoever lists them, and
one that is struck out there is over; the token itself is kept nowhere. A new password ends all.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import math
import secrets
import time
from collections.abc import Mapping

from bandsox.errors import NotAuthenticated, NotFound
from bandsox.models import LoginSession
from bandsox.server.auth.callers import Caller, Scope
from bandsox.server.auth.file import AuthFile, Authority, Session

PREFIX = "bss_"
COOKIE = "bandsox_session"
LIFETIME_S = 24 * 3600
MAX_SESSIONS = 1000
"""How many are open at most; who logs in then ends the oldest."""

_AGENT_LENGTH = 200

SOMEBODY = Caller("session", "password", frozenset({Scope.ADMIN}))
"""Whoever knows the password."""


def begin(file: AuthFile, password: str, client: str, agent: str) -> str:
    """A token for a new session.

    Parameters
    ----------
    password: the hash of the password that was shown.
    client, agent: the address it was shown from, and what called itself so there.

    Raises
    ------
    NotAuthenticated: it is not the password any more.
    """
    with file.changing() as change:
        authority = change.existing
        if not hmac.compare_digest(authority.password, password):
            raise NotAuthenticated("that is not the password")
        session, issued = secrets.token_hex(16), f"{math.floor(change.now * 1000) / 1000:.3f}"  # not a moment that is still to come
        shown = "".join(each for each in agent[:_AGENT_LENGTH] if each.isprintable())
        going_on = sorted(open_sessions(authority).items(), key=lambda each: each[1].created_at)[-MAX_SESSIONS + 1 :]
        change.authority = dataclasses.replace(authority, sessions={**dict(going_on), session: Session(float(issued), client, shown)})
    claim = f"{PREFIX}{session}.{issued}"
    return f"{claim}.{_signature(authority, claim)}"


def open_sessions(authority: Authority) -> dict[str, Session]:
    """The sessions that are not over, by their ids."""
    now = time.time()
    return {each: session for each, session in authority.sessions.items() if session.created_at <= now < session.created_at + LIFETIME_S}


def listed(authority: Authority, last_used: Mapping[str, float], current: str | None = None) -> list[LoginSession]:
    """What is known of those that are not over, the newest first.

    Parameters
    ----------
    last_used: when each was, by id. current: the id of the one by which this is asked for.
    """
    newest_first = sorted(open_sessions(authority).items(), key=lambda each: each[1].created_at, reverse=True)
    return [
        LoginSession(
            id=each,
            created_at=session.created_at,
            expires_at=session.created_at + LIFETIME_S,
            last_used_at=last_used.get(each),
            client=session.client,
            agent=session.agent,
            current=each == current,
        )
        for each, session in newest_first
    ]


def caller(authority: Authority, token: str) -> Caller | None:
    """The caller of a session; None where the token is not ours, or the session is over."""
    claim, _, signature = token.rpartition(".")
    if not hmac.compare_digest(signature.encode(), _signature(authority, claim).encode()):
        return None
    return owner(authority, claim.removeprefix(PREFIX).partition(".")[0])


def owner(authority: Authority, session: str) -> Caller | None:
    """Who has the session with this id; None where there is none, or it is over."""
    known = authority.sessions.get(session)
    if known is None or not known.created_at <= time.time() < known.created_at + LIFETIME_S:
        return None
    return dataclasses.replace(SOMEBODY, session=session, until=known.created_at + LIFETIME_S)


def end(file: AuthFile, session: str) -> None:
    """End a session.

    Raises
    ------
    NotFound: there is none with this id.
    """
    with file.changing() as change:
        authority = change.existing
        if session not in open_sessions(authority):
            raise NotFound(f"there is no session {session!r}", remedy="see `bandsox auth list-sessions`")
        change.authority = dataclasses.replace(authority, sessions={each: of for each, of in authority.sessions.items() if each != session})


def end_others(file: AuthFile, but: str | None) -> int:
    """End all sessions but the one with this id. Returns how many these were."""
    with file.changing() as change:
        authority = change.existing
        kept = {each: session for each, session in authority.sessions.items() if each == but}
        ended = len(open_sessions(authority).keys() - kept.keys())
        change.authority = dataclasses.replace(authority, sessions=kept)
    return ended


def _signature(authority: Authority, claim: str) -> str:
    return hmac.new(bytes.fromhex(authority.secret), b"session " + claim.encode(), hashlib.sha256).hexdigest()
