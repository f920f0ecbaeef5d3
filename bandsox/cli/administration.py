"""Who may use a server, and whom it tells of changes, for the command line: of a server that is named, or of a storage directory here."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from bandsox.cli import servers
from bandsox.cli.command import Invocation
from bandsox.errors import NotFound
from bandsox.models import ApiKey, AuditEntry, Delivery, LoginSession, NewApiKey, NewWebhook, Quotas, WebhookInfo
from bandsox.settings import Layout

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from bandsox.core import BandSox
    from bandsox.core.administration import Authentication, Webhooks
    from bandsox.models import KeyChanges


@contextlib.contextmanager
def authentication(state: Invocation) -> Iterator[Authentication | OwnAuthentication]:
    """Who may use the server that the command line names, or those of its storage directory, for the time of the block."""
    with _named(state) as place:
        yield OwnAuthentication(place) if isinstance(place, Layout) else place.auth


@contextlib.contextmanager
def webhooks(state: Invocation) -> Iterator[Webhooks | OwnWebhooks]:
    """Whom that server, or those of the storage directory, tell of changes, for the time of the block."""
    with _named(state) as place:
        yield OwnWebhooks(place) if isinstance(place, Layout) else place.webhooks


@contextlib.contextmanager
def _named(state: Invocation) -> Iterator[BandSox | Layout]:
    """The server that the command line names, or the storage directory."""
    url = servers.url_of(state)
    if url is None:
        yield Layout.open(state.storage)
        return
    from bandsox.core import BandSox

    with BandSox(server_url=url, headers=servers.headers_for(url)) as server:
        yield server


class OwnAuthentication:
    """Who may use the servers of a storage directory of this host."""

    def __init__(self, layout: Layout) -> None:
        from bandsox.server.auth.gatekeeper import Gatekeeper

        self._layout = layout
        self._gatekeeper = Gatekeeper(layout.root)
        self._file = self._gatekeeper.file

    def create_key(
        self,
        name: str,
        scopes: Sequence[str] = ("admin",),
        *,
        expires_in: float | None = None,
        prefix: str = "",
        quotas: Quotas | None = None,
    ) -> NewApiKey:
        """Make a key, and have it shown for the only time."""
        from bandsox.server.auth import keys

        return keys.create(self._file, name, scopes, expires_in=expires_in, prefix=prefix, quotas=quotas or Quotas())

    def list_keys(self) -> list[ApiKey]:
        """The keys, without what they are."""
        from bandsox.server.auth import keys
        from bandsox.store import Database, VMs

        authority = self._gatekeeper.authority()
        return keys.listed(authority, self._gatekeeper.usage.read(), VMs(Database(self._layout.database)).list())

    def edit_key(self, key_id: str, **changes: Unpack[KeyChanges]) -> ApiKey:
        """Change what a key may do; what is not named stays."""
        from bandsox.server.auth import keys

        keys.edit(self._file, key_id, changes)
        found = next((key for key in self.list_keys() if key.id == key_id), None)
        if found is None:
            raise NotFound(f"the key {key_id} was revoked meanwhile")
        return found

    def revoke_key(self, key_id: str) -> None:
        """Have a key let nobody in any more."""
        from bandsox.server.auth import keys

        keys.revoke(self._file, key_id)

    def list_sessions(self) -> list[LoginSession]:
        """The sessions of people who are logged in, the newest first."""
        from bandsox.server.auth import sessions

        return sessions.listed(self._gatekeeper.authority(), self._gatekeeper.usage.read())

    def end_session(self, session_id: str) -> None:
        """End a session."""
        from bandsox.server.auth import sessions

        sessions.end(self._file, session_id)

    def end_sessions(self) -> int:
        """End all, and return how many there were."""
        from bandsox.server.auth import sessions

        return sessions.end_others(self._file, None)

    def audit(self, *, caller: str | None = None, path: str | None = None, refused: bool | None = None) -> Iterator[AuditEntry]:
        """Who did what, the newest first."""
        import msgspec

        from bandsox.server import audit, logs

        wanted = audit.Wanted(caller=caller, path=path, refused=refused)
        after: str | None = None
        while True:
            page = audit.page(self._layout.root / logs.AUDIT, wanted, 500, after)
            for place, entry in page.entries:
                facts: dict[str, Any] = msgspec.to_builtins(entry)
                yield AuditEntry(id=place, **facts)
            after = page.next
            if after is None:
                return


class OwnWebhooks:
    """Whom the servers of a storage directory of this host tell of changes."""

    def __init__(self, layout: Layout) -> None:
        from bandsox.store import Database
        from bandsox.store import Webhooks as Table

        self._table = Table(Database(layout.database), layout.locks)

    def create(self, url: str, events: Sequence[str] = ("*",)) -> NewWebhook:
        """Have an address told of what happens from now on."""
        hook = self._table.add(url, events)
        info = hook.info
        return NewWebhook(
            id=info.id,
            url=info.url,
            events=info.events,
            created_at=info.created_at,
            enabled=info.enabled,
            failing_since=info.failing_since,
            next_attempt_at=info.next_attempt_at,
            secret=hook.secret,
        )

    def list(self) -> list[WebhookInfo]:
        """All of them, the oldest first."""
        return [hook.info for hook in self._table.list()]

    def edit(
        self, webhook_id: str, *, url: str | None = None, events: Sequence[str] | None = None, enabled: bool | None = None
    ) -> WebhookInfo:
        """Change one; None: that stays."""
        return self._table.edit(webhook_id, url=url, kinds=events, enabled=enabled).info

    def delete(self, webhook_id: str) -> None:
        """Tell it no more."""
        self._table.delete(webhook_id)

    def deliveries(self, webhook_id: str) -> Sequence[Delivery]:
        """What became of the last attempts, the newest first."""
        return self._table.deliveries(self._table.get(webhook_id).id)
