"""What was found out about this host, kept so that it is found out once."""

from __future__ import annotations

from bandsox.store.database import Database


class Probes:
    """What was found out about this host's accelerators, kept so that it is found out once."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, key: str) -> tuple[bool, str] | None:
        """Whether the accelerator works, and why, as it was found under `key`; None when it was never tried."""
        row = self._database.connection().execute("SELECT usable, reason FROM probes WHERE key = ?", (key,)).fetchone()
        return None if row is None else (bool(row["usable"]), row["reason"])

    def put(self, key: str, usable: bool, reason: str, checked_at: float) -> None:
        """Keep what was found under `key`."""
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO probes (key, usable, reason, checked_at) VALUES (?, ?, ?, ?)",
                (key, int(usable), reason, checked_at),
            )

    def clear(self) -> None:
        """Forget all, so that the host is examined afresh."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM probes")
