"""From a request to its caller: whose key or session it carries, and where each may be carried."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Collection, Mapping
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from urllib.parse import parse_qs

import msgspec

from bandsox.errors import BandSoxError, NotAuthenticated, NotFound
from bandsox.server.auth import keys, sessions
from bandsox.server.auth.attempts import Attempts
from bandsox.server.auth.callers import EVERYBODY, Caller
from bandsox.server.auth.file import AuthFile, Authority
from bandsox.server.auth.tickets import Credential, Tickets
from bandsox.settings import write_atomically

SUBPROTOCOL = "bandsox.auth."
"""Behind it stands a token in base64url, in the list of subprotocols of a WebSocket."""

LOGINS_PER_MINUTE = 10
_LAST_USE_GRAIN_S = 60.0
_MAX_TOKEN = 512


class Gatekeeper:
    """Knows the callers of one storage directory."""

    def __init__(self, storage: Path) -> None:
        self.file = AuthFile(storage)
        self.usage = Usage(storage, self._ids)
        self.tickets: Tickets[Credential | None] = Tickets()
        self._logins = Attempts()
        self._hashing = asyncio.Semaphore(2)  # a hash takes 64 MiB

    @property
    def enabled(self) -> bool:
        """Whether callers have to say who they are."""
        return self.file.read() is not None

    def credential(self, headers: Mapping[str, str], query: str = "", *, websocket: bool = False) -> Credential | None:
        """What a request has to show for its caller; None where it shows nothing.

        Parameters
        ----------
        query: of the address; a ticket or token in it (``ticket=``, ``token=``) counts for a WebSocket only, whose opener may not be able
            to set headers.
        """
        token = _bearer(headers)
        if token is None and websocket:
            if (ticket := _in_query(query, "ticket")) is not None:
                return self.tickets.take(ticket)
            token = _subprotocol_token(headers) or _in_query(query, "token")
        if token is not None:
            return Credential(token)
        cookie = cookie_of(headers)
        return None if cookie is None else Credential(cookie, by_cookie=True)

    def caller(self, credential: Credential | None) -> Caller | None:
        """Whose a credential is now; None where nobody knows."""
        authority = self.file.read()
        if authority is None:
            return EVERYBODY
        if credential is None:
            return None
        if not credential.by_cookie:
            return self._known(authority, credential.token)
        caller = self._known(authority, credential.token) if credential.token.startswith(sessions.PREFIX) else None
        return None if caller is None else dataclasses.replace(caller, by_cookie=True)

    def still(self, caller: Caller) -> Caller | None:
        """A caller that was let in, until when it may do what it could then; None where it may not any more."""
        authority = self.file.read()
        if authority is None:
            return caller
        now = keys.owner(authority, caller.id) if caller.session is None else sessions.owner(authority, caller.session)
        if now is None or (now.scopes, now.prefix) != (caller.scopes, caller.prefix):
            return None
        until = min((each.until for each in (caller, now) if each.until is not None), default=None)
        return None if until is not None and until <= time.time() else dataclasses.replace(caller, until=until)

    def _known(self, authority: Authority, token: str) -> Caller | None:
        if len(token) > _MAX_TOKEN:
            return None
        caller: Caller | None = (sessions if token.startswith(sessions.PREFIX) else keys).caller(authority, token)
        if caller is not None:
            self.usage.note(caller.session or caller.id)
        return caller

    def _ids(self) -> Collection[str]:
        authority = self.file.read()
        return () if authority is None else {*authority.keys, *authority.sessions}

    def authority(self) -> Authority:
        """What keys and sessions there are.

        Raises
        ------
        NotFound: authentication is off.
        """
        authority = self.file.read()
        if authority is None:
            raise NotFound("authentication is off", remedy="run `bandsox auth init`")
        return authority

    async def login(self, password: str, client: str, agent: str) -> str:
        """A session's token, for the password.

        Parameters
        ----------
        client, agent: the address it comes from, and what calls itself so there.

        Raises
        ------
        NotFound: authentication is off. TooManyRequests. NotAuthenticated: it is another password.
        """
        shown = await self._shown(password, client)
        return await asyncio.to_thread(sessions.begin, self.file, shown, client, agent)

    async def change_password(self, current: str, new: str, client: str) -> None:
        """Set another password, and end all sessions.

        Raises
        ------
        As `login`. InvalidRequest: it is too short.
        """
        shown = await self._shown(current, client)
        async with self._hashing:
            await asyncio.to_thread(self.file.set_password, new, before=shown)

    async def _shown(self, password: str, client: str) -> str:
        """The hash of the password, which this is. Raises as `login`."""
        known = self.authority().password
        self._logins.count(client, LOGINS_PER_MINUTE, "logins")
        async with self._hashing:
            if not await asyncio.to_thread(_matches, known, password):
                raise NotAuthenticated("that is not the password")
        return known


class Usage:
    """When each key and session was last used, to the minute: ``<storage>/auth-usage.json``.

    Parameters
    ----------
    there_are: the ids of those that there are; no others are kept.
    """

    def __init__(self, storage: Path, there_are: Callable[[], Collection[str]]) -> None:
        self._path = storage / "auth-usage.json"
        self._there_are = there_are
        self._writing = threading.Lock()
        self._noted: dict[str, float] = {}

    def note(self, used: str) -> None:
        """The key or session with this id was used now. It is written in a thread, and only once a minute."""
        now = time.time()
        if now - self._noted.get(used, 0.0) < _LAST_USE_GRAIN_S:
            return
        self._noted[used] = now
        with contextlib.suppress(RuntimeError):  # no event loop: the command line, which has no need of it
            asyncio.get_running_loop().run_in_executor(None, self._write, used, now)

    def read(self) -> dict[str, float]:
        """The times by id, in seconds since the epoch."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, float])
        except (OSError, msgspec.MsgspecError):
            return {}

    def _write(self, used: str, when: float) -> None:
        with self._writing, contextlib.suppress(OSError, BandSoxError):  # a full disk keeps nobody out
            there_are = self._there_are()
            self._noted = {each: at for each, at in list(self._noted.items()) if each in there_are}
            kept = {each: at for each, at in {**self.read(), used: when}.items() if each in there_are}
            write_atomically(self._path, msgspec.json.encode(kept))


def cookie_of(headers: Mapping[str, str]) -> str | None:
    """The session's token in the cookies of a request."""
    if (sent := headers.get("cookie")) is None:
        return None
    try:
        cookies = SimpleCookie(sent)
    except CookieError:
        return None
    found = cookies.get(sessions.COOKIE)
    return None if found is None else found.value


def _bearer(headers: Mapping[str, str]) -> str | None:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _subprotocol_token(headers: Mapping[str, str]) -> str | None:
    for each in headers.get("sec-websocket-protocol", "").split(","):
        name = each.strip()
        if name.startswith(SUBPROTOCOL):
            text = name.removeprefix(SUBPROTOCOL)
            with contextlib.suppress(binascii.Error, ValueError):
                return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode() or None
    return None


def _in_query(query: str, name: str) -> str | None:
    return next(iter(parse_qs(query).get(name, ())), None)


def _matches(encoded: str, password: str) -> bool:
    import argon2

    try:
        return argon2.PasswordHasher().verify(encoded, password)
    except argon2.exceptions.VerificationError:
        return False
