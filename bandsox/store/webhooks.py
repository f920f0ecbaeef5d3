"""The table of webhooks, how far each has come in the journal, and what became of its last deliveries."""

from __future__ import annotations

import base64
import builtins
import dataclasses
import os
import re
import secrets
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from bandsox.errors import InvalidRequest, NotFound
from bandsox.models import Change, Delivery, Webhook
from bandsox.store.database import Database

NOTICE = "webhooks"
"""The file below ``locks`` that is touched by whoever changes a webhook."""

MOST = 100
KEPT = 200
"""How many attempts of each webhook are kept."""

_KIND = re.compile(r"\*|[a-z]+\.(\*|[a-z]+)")
_LONGEST = 2048


class Webhooks:
    """The webhooks of one storage directory.

    Parameters
    ----------
    locks: the directory of the file that tells of changes.
    """

    def __init__(self, database: Database, locks: Path) -> None:
        self._database = database
        self.notice = locks / NOTICE

    def add(self, url: str, kinds: Sequence[str]) -> Webhook:
        """Have an address told of the changes that happen from now on.

        Raises
        ------
        InvalidRequest: it is no address, there is no such kind, or there are too many.
        """
        hook_id, secret = secrets.token_hex(8), f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"
        with self._database.transaction() as connection:
            if connection.execute("SELECT count(*) FROM webhooks").fetchone()[0] >= MOST:
                raise InvalidRequest(f"there are {MOST} webhooks already", remedy="delete some")
            connection.execute(
                "INSERT INTO webhooks (id, url, kinds, secret, created_at, position)"
                " VALUES (?, ?, ?, ?, ?, (SELECT coalesce(max(id), 0) FROM changes))",
                (hook_id, _checked_url(url), _encoded(kinds), secret, time.time()),
            )
        self._tell()
        return self.get(hook_id)

    def get(self, hook_id: str) -> Webhook:
        """The webhook with this id.

        Raises
        ------
        NotFound: there is none.
        """
        row = self._database.connection().execute("SELECT * FROM webhooks WHERE id = ?", (hook_id,)).fetchone()
        if row is None:
            raise NotFound(f"there is no webhook {hook_id!r}", remedy="see `bandsox webhook list`")
        return _webhook(row)

    def list(self) -> builtins.list[Webhook]:
        """All of them, the oldest first."""
        return [_webhook(row) for row in self._database.connection().execute("SELECT * FROM webhooks ORDER BY created_at, id")]

    def edit(self, hook_id: str, *, url: str | None = None, kinds: Sequence[str] | None = None, enabled: bool | None = None) -> Webhook:
        """Change a webhook; None: it stays. What is under way is tried again at once. One that is enabled is told of what happens then.

        Raises
        ------
        As `add`. NotFound: there is none with this id.
        """
        wanted: dict[str, Any] = {"attempts": 0, "failing_since": None, "next_at": 0.0}
        if url is not None:
            wanted["url"] = _checked_url(url)
        if kinds is not None:
            wanted["kinds"] = _encoded(kinds)
        if enabled is not None:
            wanted["enabled"] = int(enabled)
        with self._database.transaction() as connection:
            if enabled and not self.get(hook_id).enabled:
                wanted["position"] = connection.execute("SELECT coalesce(max(id), 0) FROM changes").fetchone()[0]
            self._set(connection, hook_id, wanted)
        self._tell()
        return self.get(hook_id)

    def delete(self, hook_id: str) -> None:
        """Forget a webhook.

        Raises
        ------
        NotFound: there is none with this id.
        """
        with self._database.transaction() as connection:
            if connection.execute("DELETE FROM webhooks WHERE id = ?", (hook_id,)).rowcount == 0:
                raise NotFound(f"there is no webhook {hook_id!r}", remedy="see `bandsox webhook list`")
        self._tell()

    # ── what became of it ───────────────────────────────────────────────────────────────────────

    def deliveries(self, hook_id: str) -> builtins.list[Delivery]:
        """What became of the last attempts of a webhook, the newest first."""
        query = "SELECT message, kind, at, attempt, outcome, status, error, ms FROM deliveries WHERE webhook_id = ? ORDER BY id DESC"
        return [Delivery(**row) for row in self._database.connection().execute(query, (hook_id,))]

    def passed(self, hook_id: str, change: Change) -> None:
        """A webhook need not be told of a change, nor of those before it."""
        with self._database.transaction() as connection:
            connection.execute("UPDATE webhooks SET position = ? WHERE id = ?", (change.id, hook_id))

    def settle(self, hook: Webhook, change: Change, delivery: Delivery, next_at: float | None) -> None:
        """Write down what became of an attempt, and when there will be another one; None: never, the change is done with."""
        if next_at is None:
            place: dict[str, Any] = {"position": change.id, "attempts": 0, "failing_since": None, "next_at": 0.0}
        else:
            since = delivery.at if hook.failing_since is None else hook.failing_since
            place = {"attempts": delivery.attempt, "failing_since": since, "next_at": next_at}
        with self._database.transaction() as connection:
            if self._set(connection, hook.id, place, missing_ok=True):
                self._note(connection, hook.id, delivery)

    def note(self, hook_id: str, delivery: Delivery) -> None:
        """Keep what became of an attempt that is about no change."""
        with self._database.transaction() as connection:
            self._note(connection, hook_id, delivery)

    def _note(self, connection: sqlite3.Connection, hook_id: str, delivery: Delivery) -> None:
        connection.execute(
            "INSERT INTO deliveries (webhook_id, message, kind, at, attempt, outcome, status, error, ms)"
            " VALUES (:webhook_id, :message, :kind, :at, :attempt, :outcome, :status, :error, :ms)",
            {"webhook_id": hook_id, **dataclasses.asdict(delivery)},
        )
        connection.execute(
            "DELETE FROM deliveries WHERE webhook_id = ?1 AND id NOT IN"
            " (SELECT id FROM deliveries WHERE webhook_id = ?1 ORDER BY id DESC LIMIT ?2)",
            (hook_id, KEPT),
        )

    def _set(self, connection: sqlite3.Connection, hook_id: str, wanted: dict[str, Any], *, missing_ok: bool = False) -> bool:
        columns = ", ".join(f"{column} = :{column}" for column in wanted)
        done = connection.execute(f"UPDATE webhooks SET {columns} WHERE id = :id", {**wanted, "id": hook_id})  # noqa: S608 — names are ours
        if not done.rowcount and not missing_ok:
            raise NotFound(f"there is no webhook {hook_id!r}", remedy="see `bandsox webhook list`")
        return bool(done.rowcount)

    def _tell(self) -> None:
        self.notice.touch(mode=0o600)
        os.utime(self.notice)


def _webhook(row: sqlite3.Row) -> Webhook:
    facts = dict(row)
    kinds, enabled = msgspec.json.decode(facts.pop("kinds"), type=tuple[str, ...]), bool(facts.pop("enabled"))
    return Webhook(kinds=kinds, enabled=enabled, **facts)


def _encoded(kinds: Sequence[str]) -> str:
    wrong = next((kind for kind in kinds if _KIND.fullmatch(kind) is None), None)
    if wrong is not None or not kinds or len(kinds) > 32:
        raise InvalidRequest(f"there is no kind of change {wrong!r}" if kinds else "no kind of change was named", remedy="give vm.*, or *")
    return msgspec.json.encode(sorted(set(kinds))).decode()


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0 and not parts.fragment and "@" not in parts.netloc
    except ValueError:
        usable = False
    if not usable or len(url) > _LONGEST or not url.isascii() or not url.isprintable() or " " in url:
        raise InvalidRequest(f"{url[:100]!r} is no address of a webhook", remedy="give it as https://example.org/hook")
    return url
