"""The SQLite file: opening, schema, transactions.

WAL mode lets readers and one writer in many processes work at once; a transaction begins as a writer
(``BEGIN IMMEDIATE``) so that it never fails half-way for want of the lock. ``synchronous=NORMAL`` keeps the
file consistent after a crash of any process; the last transactions before a power cut may be lost, whole.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bandsox.errors import HostError

_BUSY_TIMEOUT_S = 30.0
_FULL = "database or disk is full"  # SQLITE_FULL, whose code Python tells from 3.11 on

_MIGRATIONS = (
    """
    CREATE TABLE vms (
        id         TEXT PRIMARY KEY,
        name       TEXT NOT NULL UNIQUE,
        status     TEXT NOT NULL,
        created_at REAL NOT NULL,
        expires_at REAL,
        pid        INTEGER,
        pid_start  INTEGER,
        image_id   TEXT NOT NULL,
        rootfs     TEXT NOT NULL,
        record     TEXT NOT NULL
    ) STRICT;
    CREATE INDEX vms_by_age ON vms (created_at);
    CREATE TABLE images (
        id              TEXT PRIMARY KEY,
        manifest_digest TEXT NOT NULL,
        rootfs_digest   TEXT NOT NULL,
        size            INTEGER NOT NULL,
        created_at      REAL NOT NULL,
        record          TEXT NOT NULL
    ) STRICT;
    CREATE TABLE image_references (
        reference   TEXT PRIMARY KEY,
        image_id    TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE,
        fingerprint TEXT
    ) STRICT;
    CREATE INDEX image_references_by_image ON image_references (image_id);
    CREATE TABLE image_blobs (
        image_id TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE,
        digest   TEXT NOT NULL,
        PRIMARY KEY (image_id, digest)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE probes (
        key        TEXT PRIMARY KEY,
        usable     INTEGER NOT NULL,
        reason     TEXT NOT NULL,
        checked_at REAL NOT NULL
    ) STRICT;
    """,
    """
    UPDATE vms SET record = json_set(record, '$.transport', 'virtio-serial') WHERE json_extract(record, '$.transport') = 'serial';
    """,
    """
    DELETE FROM probes;
    ALTER TABLE probes ADD COLUMN transport TEXT NOT NULL DEFAULT '';
    """,
    """
    CREATE TABLE snapshots (
        id         TEXT PRIMARY KEY,
        name       TEXT NOT NULL UNIQUE,
        created_at REAL NOT NULL,
        image_id   TEXT NOT NULL,
        rootfs     TEXT NOT NULL,
        metadata   TEXT NOT NULL,
        verified   TEXT NOT NULL,
        record     TEXT NOT NULL
    ) STRICT;
    CREATE INDEX snapshots_by_age ON snapshots (created_at);
    """,
    """
    CREATE TABLE changes (
        id      INTEGER PRIMARY KEY AUTOINCREMENT,
        at      REAL NOT NULL DEFAULT ((julianday('now') - 2440587.5) * 86400.0),
        kind    TEXT NOT NULL,
        subject TEXT NOT NULL,
        name    TEXT NOT NULL,
        owner   TEXT,
        status  TEXT
    ) STRICT;
    CREATE TRIGGER changes_are_bounded AFTER INSERT ON changes BEGIN
        DELETE FROM changes WHERE id <= NEW.id - 10000;
    END;
    CREATE TRIGGER vm_created AFTER INSERT ON vms BEGIN
        INSERT INTO changes (kind, subject, name, owner, status) VALUES ('vm.created', NEW.id, NEW.name, NEW.name, NEW.status);
    END;
    CREATE TRIGGER vm_status AFTER UPDATE OF status ON vms WHEN OLD.status <> NEW.status BEGIN
        INSERT INTO changes (kind, subject, name, owner, status) VALUES ('vm.status', NEW.id, NEW.name, NEW.name, NEW.status);
    END;
    CREATE TRIGGER vm_renamed AFTER UPDATE OF name ON vms WHEN OLD.name <> NEW.name BEGIN
        INSERT INTO changes (kind, subject, name, owner, status) VALUES ('vm.renamed', NEW.id, NEW.name, NEW.name, NEW.status);
    END;
    CREATE TRIGGER vm_updated AFTER UPDATE OF record ON vms
        WHEN json_extract(OLD.record, '$.spec.metadata') IS NOT json_extract(NEW.record, '$.spec.metadata')
          OR json_extract(OLD.record, '$.spec.publish') IS NOT json_extract(NEW.record, '$.spec.publish') BEGIN
        INSERT INTO changes (kind, subject, name, owner, status) VALUES ('vm.updated', NEW.id, NEW.name, NEW.name, NEW.status);
    END;
    CREATE TRIGGER vm_deleted AFTER DELETE ON vms BEGIN
        INSERT INTO changes (kind, subject, name, owner) VALUES ('vm.deleted', OLD.id, OLD.name, OLD.name);
    END;
    CREATE TRIGGER snapshot_created AFTER INSERT ON snapshots BEGIN
        INSERT INTO changes (kind, subject, name, owner)
        VALUES ('snapshot.created', NEW.id, NEW.name, json_extract(NEW.record, '$.spec.name'));
    END;
    CREATE TRIGGER snapshot_updated AFTER UPDATE OF name, metadata ON snapshots BEGIN
        INSERT INTO changes (kind, subject, name, owner)
        VALUES ('snapshot.updated', NEW.id, NEW.name, json_extract(NEW.record, '$.spec.name'));
    END;
    CREATE TRIGGER snapshot_deleted AFTER DELETE ON snapshots BEGIN
        INSERT INTO changes (kind, subject, name, owner)
        VALUES ('snapshot.deleted', OLD.id, OLD.name, json_extract(OLD.record, '$.spec.name'));
    END;
    CREATE TRIGGER image_created AFTER INSERT ON images BEGIN
        INSERT INTO changes (kind, subject, name) VALUES ('image.created', NEW.id, '');
    END;
    CREATE TRIGGER image_deleted AFTER DELETE ON images BEGIN
        INSERT INTO changes (kind, subject, name) VALUES ('image.deleted', OLD.id, '');
    END;
    CREATE TRIGGER image_named AFTER INSERT ON image_references BEGIN
        INSERT INTO changes (kind, subject, name) VALUES ('image.named', NEW.image_id, NEW.reference);
    END;
    CREATE TRIGGER image_renamed AFTER UPDATE OF image_id ON image_references WHEN OLD.image_id <> NEW.image_id BEGIN
        INSERT INTO changes (kind, subject, name) VALUES ('image.named', NEW.image_id, NEW.reference);
    END;
    CREATE TRIGGER image_unnamed AFTER DELETE ON image_references BEGIN
        INSERT INTO changes (kind, subject, name) VALUES ('image.unnamed', OLD.image_id, OLD.reference);
    END;
    """,
    """
    CREATE TABLE keyed_requests (
        caller    TEXT NOT NULL,
        key       TEXT NOT NULL,
        asked     TEXT NOT NULL,
        at        REAL NOT NULL,
        pid       INTEGER NOT NULL,
        pid_start INTEGER NOT NULL,
        plan      TEXT NOT NULL,
        outcome   TEXT,
        PRIMARY KEY (caller, key)
    ) STRICT;
    CREATE INDEX keyed_requests_by_age ON keyed_requests (caller, at);
    """,
    """
    CREATE TABLE belongings (
        snapshot_id TEXT PRIMARY KEY REFERENCES snapshots (id) ON DELETE CASCADE,
        purpose     TEXT NOT NULL,
        owner       TEXT NOT NULL,
        label       TEXT NOT NULL,
        UNIQUE (purpose, owner, label)
    ) STRICT;
    """,
    """
    CREATE TABLE webhooks (
        id            TEXT PRIMARY KEY,
        url           TEXT NOT NULL,
        kinds         TEXT NOT NULL,
        secret        TEXT NOT NULL,
        created_at    REAL NOT NULL,
        enabled       INTEGER NOT NULL DEFAULT 1,
        position      INTEGER NOT NULL,
        attempts      INTEGER NOT NULL DEFAULT 0,
        failing_since REAL,
        next_at       REAL NOT NULL DEFAULT 0
    ) STRICT;
    CREATE TABLE deliveries (
        id         INTEGER PRIMARY KEY AUTOINCREMENT,
        webhook_id TEXT NOT NULL REFERENCES webhooks (id) ON DELETE CASCADE,
        message    TEXT NOT NULL,
        kind       TEXT NOT NULL,
        at         REAL NOT NULL,
        attempt    INTEGER NOT NULL,
        outcome    TEXT NOT NULL,
        status     INTEGER,
        error      TEXT,
        ms         INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX deliveries_by_webhook ON deliveries (webhook_id, id);
    """,
)
"""Each entry takes the schema one version further; ``PRAGMA user_version`` counts those applied.

``changes`` is the journal of what happens to machines, snapshots and images, its end of 10,000 entries (`bandsox.store.changes`). It is
written by triggers, so in the transaction that makes a change, whoever makes it.
"""


class Database:
    """One connection per thread to the storage directory's registry."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._local = threading.local()
        self._migrate()

    def connection(self) -> sqlite3.Connection:
        """This thread's connection, opened at its first use."""
        existing: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if existing is not None:
            return existing
        opened = sqlite3.connect(self.path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
        opened.row_factory = sqlite3.Row
        opened.execute("PRAGMA journal_mode = WAL")
        opened.execute("PRAGMA synchronous = NORMAL")
        opened.execute("PRAGMA foreign_keys = ON")
        self._local.connection = opened
        return opened

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A write transaction: all of it happens, or, when the block raises, none.

        Raises
        ------
        StorageFull: there is no room for what was written.
        """
        connection = self.connection()
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException as error:
            if connection.in_transaction:  # SQLite ends it by itself where it has no room
                connection.execute("ROLLBACK")
            self._check_full(error)
            raise

    def write(self, statement: str, parameters: Sequence[Any]) -> int:
        """A write transaction of one statement, and how many rows it changed; errors as `transaction`.

        SQLite takes the lock of the writer before it reads, and waits for it, as with ``BEGIN IMMEDIATE``.
        """
        try:
            return self.connection().execute(statement, parameters).rowcount
        except sqlite3.OperationalError as error:
            self._check_full(error)
            raise

    def close(self) -> None:
        """Close this thread's connection, and let go of the others', which the garbage collector closes when their threads are done.

        To close one under a thread that is within a statement ends the process: SQLite frees what that thread works on.
        """
        own: sqlite3.Connection | None = getattr(self._local, "connection", None)
        self._local = threading.local()
        if own is not None:
            own.close()

    def _check_full(self, error: BaseException) -> None:
        if isinstance(error, sqlite3.OperationalError) and str(error) == _FULL:
            from bandsox.workers import storage_full

            raise storage_full(self.path.parent) from error

    def _migrate(self) -> None:
        if self._version() == len(_MIGRATIONS):
            return
        self.path.touch(mode=0o600)
        with self.transaction() as connection:
            version = self._version()
            if version > len(_MIGRATIONS):
                raise HostError(
                    f"{self.path} was written by a newer BandSox",
                    remedy="upgrade this installation, or name another storage directory",
                )
            for step in _MIGRATIONS[version:]:
                for statement in _statements(step):
                    connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {len(_MIGRATIONS)}")

    def _version(self) -> int:
        version: int = self.connection().execute("PRAGMA user_version").fetchone()[0]
        return version


def _statements(script: str) -> Iterator[str]:
    """The statements of a script one by one; those of a trigger belong to it."""
    statement = ""
    for piece in script.split(";")[:-1]:
        statement += f"{piece};"
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
