"""The journal of what happens to machines, snapshots and images, which triggers write (`bandsox.store.database`)."""

from __future__ import annotations

import builtins
from pathlib import Path

from bandsox.models import Change
from bandsox.store.database import Database

_PAGE = 256


class Changes:
    """The journal's last 10,000 entries. Their numbers begin with 1 and have no gaps."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @property
    def notice(self) -> Path:
        """The file that is written to whenever something changes, by whichever process: SQLite's write-ahead log."""
        return self._database.path.with_name(f"{self._database.path.name}-wal")

    def last(self) -> int:
        """The number of the latest change; 0 before the first."""
        row = self._database.connection().execute("SELECT max(id) AS last FROM changes").fetchone()
        return row["last"] or 0

    def after(self, number: int) -> builtins.list[Change]:
        """The next changes after the one with this number, oldest first, a page of them at most."""
        statement = "SELECT id, at, kind, subject, name, owner, status FROM changes WHERE id > ? ORDER BY id LIMIT ?"
        return [Change(**row) for row in self._database.connection().execute(statement, (number, _PAGE))]

    def latest(self, kind: str, subject: str) -> Change | None:
        """The last change of a kind that happened to something; None where the journal has none."""
        statement = "SELECT id, at, kind, subject, name, owner, status FROM changes WHERE kind = ? AND subject = ? ORDER BY id DESC LIMIT 1"
        row = self._database.connection().execute(statement, (kind, subject)).fetchone()
        return None if row is None else Change(**row)

    def settle(self) -> None:
        """Return once whoever is writing has finished, or is dead.

        A writer's log grows before its transaction can be seen, so the notice may come too early.
        """
        with self._database.transaction():
            pass
