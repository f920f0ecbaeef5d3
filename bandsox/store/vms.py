"""The table of machines."""

from __future__ import annotations

import builtins
import dataclasses
import functools
import json
import sqlite3
from collections.abc import Iterator, Mapping
from typing import Any

from bandsox.errors import Conflict, VMNotFound
from bandsox.models import VMRecord, VMStatus
from bandsox.process import ProcessId
from bandsox.store.database import Database
from bandsox.store.records import decode, encode


class VMs:
    """Machines by id and by name.

    Names are unique among the machines of a storage directory, so that a name can stand wherever an id can.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def insert(self, record: VMRecord, *, numbered: bool = False) -> VMRecord:
        """Add a machine, and return its record.

        Parameters
        ----------
        numbered: where another machine has its name it gets the first number behind it that makes another one: ``name-2``.

        Raises
        ------
        Conflict: another machine has this name.
        """
        try:
            with self._database.transaction() as connection:
                if numbered:
                    name = _free_name(connection, record.spec.name)
                    record = dataclasses.replace(record, spec=dataclasses.replace(record.spec, name=name))
                row = _row(record)
                columns, values = ", ".join(row), ", ".join(f":{column}" for column in row)
                connection.execute(f"INSERT INTO vms ({columns}) VALUES ({values})", row)  # noqa: S608 — column names are ours
        except sqlite3.IntegrityError as error:
            raise _name_taken(record.spec.name) from error
        return record

    def get(self, id_or_name: str) -> VMRecord:
        """The machine with this id, name, or unambiguous beginning of an id (at least 4 characters).

        Raises
        ------
        VMNotFound: there is none.
        Conflict: the beginning fits several.
        """
        connection = self._database.connection()
        row = connection.execute("SELECT record FROM vms WHERE id = ?", (id_or_name,)).fetchone()
        if row is None:  # one statement for both sorts what it finds, and most who ask have the id
            row = connection.execute("SELECT record FROM vms WHERE name = ?", (id_or_name,)).fetchone()
        if row is not None:
            return _decoded(row["record"])
        rows = []
        if len(id_or_name) >= 4 and id_or_name.isalnum():
            rows = connection.execute("SELECT record FROM vms WHERE id GLOB ?1 || '*' LIMIT 2", (id_or_name,)).fetchall()
        if len(rows) > 1:
            raise Conflict(f"{id_or_name!r} is the beginning of several ids", remedy="give more of the id, or the name")
        if not rows:
            raise VMNotFound(f"no VM has the id or name {id_or_name!r}", remedy="see `bandsox vm list`")
        return _decoded(rows[0]["record"])

    def list(self, *, limit: int | None = None, metadata_equals: Mapping[str, Any] | None = None) -> builtins.list[VMRecord]:
        """The machines, newest first; with `metadata_equals` those whose metadata has all these values."""
        found: builtins.list[VMRecord] = []
        for record in self._newest_first():
            if limit is not None and len(found) >= limit:
                break
            if metadata_equals and any(record.spec.metadata.get(key) != value for key, value in metadata_equals.items()):
                continue
            found.append(record)
        return found

    def expired(self, now: float) -> builtins.list[str]:
        """The ids of the machines whose time to live ended before `now`, in seconds since the epoch."""
        rows = self._database.connection().execute("SELECT id FROM vms WHERE expires_at <= ?", (now,))
        return [row["id"] for row in rows]

    def processes(self) -> builtins.list[tuple[str, ProcessId]]:
        """The VMMs of the machines that run or are paused, each behind its machine's id."""
        rows = self._database.connection().execute(
            "SELECT id, pid, pid_start FROM vms WHERE status IN ('running', 'paused') AND pid IS NOT NULL AND pid_start IS NOT NULL"
        )
        return [(row["id"], ProcessId(row["pid"], row["pid_start"])) for row in rows]

    def update(self, vm_id: str, /, **changes: Any) -> VMRecord:
        """Replace fields of a record in one step, and return the new record.

        Fields of the specification are given as ``spec_<field>``.

        Raises
        ------
        VMNotFound: it was deleted meanwhile.
        Conflict: the new name belongs to another machine.
        """
        spec_changes = {key.removeprefix("spec_"): changes.pop(key) for key in list(changes) if key.startswith("spec_")}
        while True:
            found = self._database.connection().execute("SELECT record FROM vms WHERE id = ?", (vm_id,)).fetchone()
            if found is None:
                raise VMNotFound(f"VM {vm_id} was deleted")
            old = _decoded(found["record"])
            spec = dataclasses.replace(old.spec, **spec_changes) if spec_changes else old.spec
            new = dataclasses.replace(old, spec=spec, **changes)
            if self._replace(found["record"], old, new):
                return new

    def _replace(self, text: str, old: VMRecord, new: VMRecord) -> bool:
        """Put one record in the place of another, which is written as `text`; False where that is there no more.

        So nobody else waits while a record is read and made anew, and a transaction is one statement, which costs half of three.
        """
        before, changed = _columns(old), _columns(new)
        changed = {column: value for column, value in changed.items() if value != before[column]}
        if (record := encode(new)) != text:
            changed["record"] = record
        if not changed:
            return True
        assignments = ", ".join(f"{column} = ?" for column in changed)  # what does not change costs as much in indexes and triggers
        try:
            statement = f"UPDATE vms SET {assignments} WHERE id = ? AND record = ?"  # noqa: S608 — column names are ours
            return self._database.write(statement, (*changed.values(), old.id, text)) == 1
        except sqlite3.IntegrityError as error:
            raise _name_taken(new.spec.name) from error

    def settle_deadline(self, vm_id: str, expires_at: float) -> None:
        """A machine's deadline was kept; it has none any more, unless it got another one meanwhile."""
        with self._database.transaction() as connection:
            connection.execute(
                "UPDATE vms SET expires_at = NULL, record = json_set(record, '$.expires_at', NULL) WHERE id = ? AND expires_at = ?",
                (vm_id, expires_at),
            )

    def delete(self, vm_id: str) -> None:
        """Forget a machine; no error when it is already gone."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM vms WHERE id = ?", (vm_id,))

    def _newest_first(self) -> Iterator[VMRecord]:
        for row in self._database.connection().execute("SELECT record FROM vms ORDER BY created_at DESC, id"):
            yield _decoded(row["record"])


@functools.lru_cache(maxsize=1024)
def _decoded(text: str) -> VMRecord:
    """The record that `text` is, decoded once: every command asks for its machine's, lists for all, and records are frozen."""
    return decode(VMRecord, text)


def _free_name(connection: sqlite3.Connection, wanted: str) -> str:
    """`wanted`, or that with the first number which no machine has."""
    taken = {row["name"] for row in connection.execute("SELECT name FROM vms WHERE substr(name, 1, length(?1)) = ?1", (wanted,))}
    return next(name for number in range(len(taken) + 1) if (name := f"{wanted}-{number + 1}" if number else wanted) not in taken)


def _row(record: VMRecord) -> dict[str, Any]:
    return {**_columns(record), "record": encode(record)}


def _columns(record: VMRecord) -> dict[str, Any]:
    """What is found of a record without reading it."""
    return {
        "id": record.id,
        "name": record.spec.name,
        "status": VMStatus(record.status).value,
        "created_at": record.created_at,
        "expires_at": record.expires_at,
        "pid": record.pid,
        "pid_start": record.pid_start,
        "image_id": record.image_id,
        "rootfs": str(record.rootfs),
    }


def _name_taken(name: str) -> Conflict:
    return Conflict(f"a VM named {json.dumps(name)} exists", remedy="choose another name, or delete that VM")
