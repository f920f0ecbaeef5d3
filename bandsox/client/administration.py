"""Who may use a server, and whom it tells of changes: what its administrators do, as requests. All of it takes the scope ``admin``."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from bandsox.client.addresses import segment
from bandsox.client.connection import Connection
from bandsox.decoding import ready
from bandsox.models import (
    ApiKey,
    AuditEntry,
    CallerInfo,
    Delivery,
    KeyChanges,
    LoginSession,
    NewApiKey,
    NewWebhook,
    Quotas,
    WebhookInfo,
)

if TYPE_CHECKING:
    from typing_extensions import Unpack

_KEYS, _SESSIONS, _HOOKS = "/api/auth/keys", "/api/auth/sessions", "/api/webhooks"
_PAGE = 500


class _Check(msgspec.Struct):
    """A server's word on who calls."""

    caller: CallerInfo | None


class _Page(msgspec.Struct):
    """A page of the audit log."""

    entries: list[AuditEntry]
    next: str | None


class AsyncAuthentication:
    """Who may use a server. Made by `AsyncBandSox.auth`."""

    def __init__(self, server: Connection) -> None:
        self._server = server

    async def check(self) -> CallerInfo | None:
        """Whom the server takes this client for; None: for nobody that it knows. This is open to everybody."""
        return (await self._server.get("/api/auth/check", _Check)).caller

    async def create_key(
        self,
        name: str,
        scopes: Sequence[str] = ("admin",),
        *,
        expires_in: float | None = None,
        prefix: str = "",
        quotas: Quotas | None = None,
    ) -> NewApiKey:
        """Make a key. This is the only time that it is shown.

        Parameters
        ----------
        scopes: of ``read`` (look), ``exec`` (everything with machines) and ``admin``; each includes those before it.
        expires_in: seconds from now on; None: it does not expire.
        prefix: what the names of all machines begin with that exist for it.
        quotas: how much these may have, all together.

        Raises
        ------
        InvalidRequest: it would be of no use, or there are too many. NotFound: authentication is off.
        """
        body = {
            "name": name,
            "scopes": list(scopes),
            "expires_in": expires_in,
            "prefix": prefix,
            "quotas": dataclasses.asdict(quotas or Quotas()),
        }
        return msgspec.json.decode((await self._server.call("POST", _KEYS, json=body)).content, type=ready(NewApiKey))

    async def list_keys(self) -> list[ApiKey]:
        """The keys, with how much of their quotas is used, and without what they are."""
        return await self._server.get(_KEYS, list[ApiKey])

    async def edit_key(self, key_id: str, **changes: Unpack[KeyChanges]) -> ApiKey:
        """Change what a key may do, at once, and get what is known of it; what is not named stays.

        Raises
        ------
        As `create_key`. NotFound: there is no such key.
        """
        body: dict[str, Any] = dict(changes)
        if "scopes" in changes:
            body["scopes"] = list(changes["scopes"])
        if "quotas" in changes:
            body["quotas"] = dataclasses.asdict(changes["quotas"])
        answer = await self._server.call("PATCH", f"{_KEYS}/{segment(key_id)}", json=body)
        return msgspec.json.decode(answer.content, type=ready(ApiKey))

    async def revoke_key(self, key_id: str) -> None:
        """Have a key let nobody in any more; what is under way with it ends.

        Raises
        ------
        NotFound: there is no such key.
        """
        await self._server.call("DELETE", f"{_KEYS}/{segment(key_id)}")

    async def change_password(self, current: str, new: str) -> None:
        """Set another password, by showing the one that it is. All sessions end.

        Raises
        ------
        NotAuthenticated: `current` is not the password. TooManyRequests: that was tried too often. InvalidRequest: it is too short.
        """
        await self._server.call("PUT", "/api/auth/password", json={"current": current, "new": new}, patient=True)

    async def list_sessions(self) -> list[LoginSession]:
        """The sessions of people who are logged in, the newest first."""
        return await self._server.get(_SESSIONS, list[LoginSession])

    async def end_session(self, session_id: str) -> None:
        """End a session; its token is worth nothing from now on.

        Raises
        ------
        NotFound: there is no such session.
        """
        await self._server.call("DELETE", f"{_SESSIONS}/{segment(session_id)}")

    async def end_sessions(self) -> int:
        """End all sessions but the one by which this is asked for, if it is by one, and return how many there were."""
        return int((await self._server.call("DELETE", _SESSIONS)).json()["count"])

    async def audit(
        self,
        *,
        caller: str | None = None,
        client: str | None = None,
        method: str | None = None,
        path: str | None = None,
        status: int | None = None,
        refused: bool | None = None,
    ) -> AsyncIterator[AuditEntry]:
        """Who did what, the newest first, as far back as the log goes: each request that changed something, and each that was refused.

        Parameters
        ----------
        caller, client, method, status: only entries with these values; of WebSockets the method is ``WEBSOCKET``.
        path: only paths that begin so.
        refused: only what failed or was refused; False: only what was done.
        """
        wanted = {"caller": caller, "client": client, "method": method, "path": path, "status": status, "refused": refused}
        params: dict[str, Any] = {"limit": _PAGE, **{name: value for name, value in wanted.items() if value is not None}}
        while True:
            page = await self._server.get("/api/auth/audit", _Page, **params)
            for entry in page.entries:
                yield entry
            if page.next is None:
                return
            params["after"] = page.next


class AsyncWebhooks:
    """The addresses that a server tells of changes. Made by `AsyncBandSox.webhooks`."""

    def __init__(self, server: Connection) -> None:
        self._server = server

    async def create(self, url: str, events: Sequence[str] = ("*",)) -> NewWebhook:
        """Have an address told of what happens from now on. This is the only time that the key of its signatures is shown.

        Parameters
        ----------
        events: kinds of changes, as `AsyncBandSox.events` tells of; ``vm.*`` are all that begin so, ``*`` all.

        Raises
        ------
        InvalidRequest: it is no address, there is no such kind, or there are too many.
        """
        answer = await self._server.call("POST", _HOOKS, json={"url": url, "events": list(events)})
        return msgspec.json.decode(answer.content, type=ready(NewWebhook))

    async def list(self) -> list[WebhookInfo]:
        """All of them, the oldest first."""
        return await self._server.get(_HOOKS, list[WebhookInfo])

    async def get(self, webhook_id: str) -> WebhookInfo:
        """What is known of one.

        Raises
        ------
        NotFound: there is none with this id; so of all methods below.
        """
        return await self._server.get(f"{_HOOKS}/{segment(webhook_id)}", WebhookInfo)

    async def edit(
        self, webhook_id: str, *, url: str | None = None, events: Sequence[str] | None = None, enabled: bool | None = None
    ) -> WebhookInfo:
        """Change one; None: that stays. One that is enabled is told of what happens from then on. Raises as `create` too."""
        body = {"url": url, "events": None if events is None else [*events], "enabled": enabled}
        answer = await self._server.call("PATCH", f"{_HOOKS}/{segment(webhook_id)}", json=body)
        return msgspec.json.decode(answer.content, type=ready(WebhookInfo))

    async def delete(self, webhook_id: str) -> None:
        """Tell it no more."""
        await self._server.call("DELETE", f"{_HOOKS}/{segment(webhook_id)}")

    async def deliveries(self, webhook_id: str) -> Sequence[Delivery]:
        """What became of the last 200 attempts, the newest first."""
        return await self._server.get(f"{_HOOKS}/{segment(webhook_id)}/deliveries", tuple[Delivery, ...])

    async def test(self, webhook_id: str) -> Delivery:
        """Have the server send it a message of the type ``webhook.test``, once, and tell what became of it."""
        answer = await self._server.call("POST", f"{_HOOKS}/{segment(webhook_id)}/test", patient=True)
        return msgspec.json.decode(answer.content, type=ready(Delivery))
