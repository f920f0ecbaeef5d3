"""The SQLite file: opening, schema, transactions.

WAL mode lets readers and one writer in many processes work at once; a transaction begins as a writer
(``BEGIN IMMEDIATE``) so that it never fails half-way for want of the lock. ``synchronous=NORMAL`` keeps the
file consistent after a crash of any process; the last transactions before a power cut may be lost, whole.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
)
"""Each entry takes the schema one version further; ``PRAGMA user_version`` counts those applied."""


class Database:
    """One connection per thread to the storage directory's registry."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._local = threading.local()
        self._all: list[sqlite3.Connection] = []
        self._guard = threading.Lock()
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
        with self._guard:
            self._all.append(opened)
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
            if isinstance(error, sqlite3.OperationalError) and str(error) == _FULL:
                from bandsox.workers import storage_full

                raise storage_full(self.path.parent) from error
            raise

    def close(self) -> None:
        """Close the connections of every thread."""
        with self._guard:
            for connection in self._all:
                connection.close()
            self._all.clear()
        self._local = threading.local()

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
                for statement in step.split(";"):
                    if statement.strip():
                        connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {len(_MIGRATIONS)}")

    def _version(self) -> int:
        version: int = self.connection().execute("PRAGMA user_version").fetchone()[0]
        return version
