"""The table of snapshots."""

from __future__ import annotations

import builtins
import json
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from bandsox.errors import Conflict, SnapshotNotFound
from bandsox.models import Belonging, Purpose, Snapshot
from bandsox.store.database import Database
from bandsox.store.identity import Identity
from bandsox.store.records import decode, encode


class Snapshots:
    """Snapshots by id and by name. A row is what makes a directory a snapshot; its files are not looked at here.

    Names are unique among the snapshots of a storage directory, and both they and metadata can change; the rest of a record
    never does, and is the snapshot's manifest. A snapshot that was not taken for itself has a row that says what it belongs to, as
    long as there is the snapshot.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def insert(
        self,
        snapshot: Snapshot,
        rootfs: str,
        verified: Mapping[str, Identity],
        publish: Callable[[], object],
        belonging: Belonging | None = None,
    ) -> None:
        """Add a snapshot whose files `publish` puts into their place; it is there with them, or neither is.

        Parameters
        ----------
        rootfs: the absolute path of the root file system that it needs.
        verified: the identities of its files, as they are known to be right.
        belonging: what it is for, where it was not taken for itself.

        Raises
        ------
        Conflict: another snapshot has this name.
        """
        row = {
            "id": snapshot.id,
            "name": snapshot.name,
            "created_at": snapshot.created_at,
            "image_id": snapshot.image_id,
            "rootfs": rootfs,
            "metadata": json.dumps(dict(snapshot.metadata)),
            "verified": encode(verified),
            "record": encode(snapshot),
        }
        try:
            with self._database.transaction() as connection:
                columns, values = ", ".join(row), ", ".join(f":{column}" for column in row)
                connection.execute(f"INSERT INTO snapshots ({columns}) VALUES ({values})", row)  # noqa: S608 — column names are ours
                if belonging is not None:
                    whose = (snapshot.id, belonging.purpose, belonging.owner, belonging.label)
                    connection.execute("INSERT INTO belongings (snapshot_id, purpose, owner, label) VALUES (?, ?, ?, ?)", whose)
                publish()
        except sqlite3.IntegrityError as error:
            raise name_taken(snapshot.name) from error

    def get(self, id_or_name: str) -> Snapshot:
        """The snapshot with this id, name, or unambiguous beginning of an id (at least 4 characters).

        Raises
        ------
        SnapshotNotFound: there is none.
        Conflict: the beginning fits several.
        """
        rows = self._rows("WHERE id = ?1 OR name = ?1 ORDER BY id = ?1 DESC LIMIT 1", id_or_name)
        if not rows and len(id_or_name) >= 4 and id_or_name.isalnum():
            rows = self._rows("WHERE id GLOB ?1 || '*' LIMIT 2", id_or_name)
        if len(rows) > 1:
            raise Conflict(f"{id_or_name!r} is the beginning of several ids", remedy="give more of the id, or the name")
        if not rows:
            raise SnapshotNotFound(f"no snapshot has the id or name {id_or_name!r}", remedy="see `bandsox snapshot list`")
        return _snapshot(rows[0])

    def has_name(self, name: str) -> bool:
        """Whether a snapshot has this name."""
        return bool(self._rows("WHERE name = ?", name))

    def list(self, *, of_their_own: bool = False) -> builtins.list[Snapshot]:
        """All snapshots, newest first; only those that belong to nothing with `of_their_own`."""
        condition = "WHERE id NOT IN (SELECT snapshot_id FROM belongings)" if of_their_own else ""
        return [_snapshot(row) for row in self._rows(f"{condition} ORDER BY created_at DESC, id")]

    def belonging(self, snapshot_id: str) -> Belonging | None:
        """What a snapshot belongs to; None for one of its own."""
        query = "SELECT purpose, owner, label FROM belongings WHERE snapshot_id = ?"
        row = self._database.connection().execute(query, (snapshot_id,)).fetchone()
        return None if row is None else Belonging(row["purpose"], row["owner"], row["label"])

    def belongings(self, purpose: Purpose, owner: str | None = None) -> builtins.list[tuple[Belonging, Snapshot]]:
        """The snapshots that are there for a purpose, of one owner or of all, oldest first."""
        query = """
            SELECT snapshots.*, belongings.owner, belongings.label FROM belongings JOIN snapshots ON id = snapshot_id
            WHERE purpose = ?1 AND (?2 IS NULL OR owner = ?2) ORDER BY created_at, id
        """
        rows = self._database.connection().execute(query, (purpose, owner)).fetchall()
        return [(Belonging(purpose, row["owner"], row["label"]), _snapshot(row)) for row in rows]

    def owned(self, vm_id: str) -> builtins.list[str]:
        """The ids of the snapshots that belong to a machine."""
        query = "SELECT snapshot_id FROM belongings WHERE purpose IN ('checkpoint', 'memory') AND owner = ?"
        return [row["snapshot_id"] for row in self._database.connection().execute(query, (vm_id,))]

    def orphans(self) -> builtins.list[str]:
        """The ids of the snapshots that belong to a machine which is gone."""
        query = """
            SELECT snapshot_id FROM belongings WHERE purpose IN ('checkpoint', 'memory') AND owner NOT IN (SELECT id FROM vms)
        """
        return [row["snapshot_id"] for row in self._database.connection().execute(query)]

    def manifest(self, snapshot_id: str) -> str:
        """The manifest as it was taken, in JSON; errors as `get`."""
        rows = self._rows("WHERE id = ?", snapshot_id)
        if not rows:
            raise SnapshotNotFound(f"the snapshot {snapshot_id} was deleted")
        text: str = rows[0]["record"]
        return text

    def verified(self, snapshot_id: str) -> dict[str, Identity]:
        """The identities that its files had when their content was known to be right; empty for one that was deleted."""
        rows = self._rows("WHERE id = ?", snapshot_id)
        return decode(dict[str, Identity], rows[0]["verified"]) if rows else {}

    def set_verified(self, snapshot_id: str, verified: Mapping[str, Identity]) -> None:
        """Keep that the files' content is right."""
        with self._database.transaction() as connection:
            connection.execute("UPDATE snapshots SET verified = ? WHERE id = ?", (encode(verified), snapshot_id))

    def rename(self, snapshot_id: str, name: str) -> None:
        """Give a snapshot another name.

        Raises
        ------
        SnapshotNotFound: it was deleted meanwhile. Conflict: another one has the name.
        """
        try:
            self._update("UPDATE snapshots SET name = ? WHERE id = ?", name, snapshot_id)
        except sqlite3.IntegrityError as error:
            raise name_taken(name) from error

    def set_metadata(self, snapshot_id: str, metadata: Mapping[str, Any]) -> None:
        """Replace a snapshot's metadata; errors as `rename`."""
        self._update("UPDATE snapshots SET metadata = ? WHERE id = ?", json.dumps(dict(metadata)), snapshot_id)

    def delete(self, snapshot_id: str) -> None:
        """Forget a snapshot; no error when it is already gone."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM snapshots WHERE id = ?", (snapshot_id,))

    def _update(self, statement: str, value: str, snapshot_id: str) -> None:
        with self._database.transaction() as connection:
            if connection.execute(statement, (value, snapshot_id)).rowcount == 0:
                raise SnapshotNotFound(f"the snapshot {snapshot_id} was deleted")

    def _rows(self, condition: str, *values: str) -> builtins.list[sqlite3.Row]:
        return self._database.connection().execute(f"SELECT * FROM snapshots {condition}", values).fetchall()  # noqa: S608 — no values in it


def name_taken(name: str) -> Conflict:
    """The error that says so."""
    return Conflict(f"a snapshot named {json.dumps(name)} exists", remedy="choose another name, or delete that snapshot")


def _snapshot(row: sqlite3.Row) -> Snapshot:
    return replace(decode(Snapshot, row["record"]), name=row["name"], metadata=json.loads(row["metadata"]))
