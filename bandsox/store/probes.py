"""What was found out about this host, kept so that it is found out once.

What works stays known. What failed may have failed because the host was busy, so it is believed for a day only.
"""

from __future__ import annotations

from dataclasses import dataclass

from bandsox.models import Transport
from bandsox.store.database import Database

FAILURE_LIFE_S = 24 * 3600.0
"""How long it is believed that something does not work."""


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """Whether an accelerator works, why, and over which transport its guest's agent answers."""

    usable: bool
    reason: str
    transport: Transport


class Probes:
    """What was found out about this host's accelerators, kept so that it is found out once."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, key: str, now: float) -> ProbeResult | None:
        """What was found under `key`; None when it was never tried, or is to be tried again at the time `now` (seconds since 1970)."""
        query = "SELECT usable, reason, transport FROM probes WHERE key = ? AND (usable OR checked_at > ?)"
        row = self._database.connection().execute(query, (key, now - FAILURE_LIFE_S)).fetchone()
        return None if row is None else ProbeResult(bool(row["usable"]), row["reason"], row["transport"])

    def put(self, key: str, finding: ProbeResult, checked_at: float) -> None:
        """Keep what was found under `key`."""
        with self._database.transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO probes (key, usable, reason, transport, checked_at) VALUES (?, ?, ?, ?, ?)",
                (key, int(finding.usable), finding.reason, finding.transport, checked_at),
            )

    def clear(self) -> None:
        """Forget all, so that everything is tried again."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM probes")
