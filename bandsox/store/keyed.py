"""Requests that are carried out once, however often they are sent: what was asked under a key, what it was to make, and its outcome."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from bandsox.process import ProcessId
from bandsox.store.database import Database

KEPT_S = 24 * 3600.0
"""How long an outcome is kept, in seconds."""

KEPT = 2000
"""How many outcomes of one caller are kept."""


@dataclass(frozen=True, slots=True)
class KeyedRequest:
    """A request. `asked` is a digest of all that was asked for; `plan` are the ids of what it makes; `outcome` is None until it has one.

    `owner` is the process that carries it out, and `fresh` tells that it was not known before.
    """

    asked: str
    plan: tuple[str, ...]
    outcome: str | None
    owner: ProcessId
    fresh: bool = False


class KeyedRequests:
    """The requests of each caller by their keys, kept until they have an outcome, and then as `KEPT_S` and `KEPT` say."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def claim(self, caller: str, key: str, asked: str, plan: Sequence[str], owner: ProcessId) -> KeyedRequest:
        """The request with this key; where there is none, it is this one from now on."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM keyed_requests WHERE outcome IS NOT NULL AND at < ?", (time.time() - KEPT_S,))
            if (known := self.get(caller, key)) is not None:
                return known
            connection.execute(
                "DELETE FROM keyed_requests WHERE outcome IS NOT NULL AND caller = ?1 AND rowid NOT IN"
                " (SELECT rowid FROM keyed_requests WHERE caller = ?1 ORDER BY at DESC LIMIT ?2)",
                (caller, KEPT - 1),
            )
            connection.execute(
                "INSERT INTO keyed_requests VALUES (?, ?, ?, ?, ?, ?, ?, NULL)",
                (caller, key, asked, time.time(), owner.pid, owner.start, msgspec.json.encode(list(plan)).decode()),
            )
        return KeyedRequest(asked, tuple(plan), None, owner, fresh=True)

    def take_over(self, caller: str, key: str, before: ProcessId, owner: ProcessId) -> bool:
        """Carry out a request in the place of a process that died; False where another one does by now."""
        with self._database.transaction() as connection:
            done = connection.execute(
                "UPDATE keyed_requests SET pid = ?, pid_start = ? WHERE caller = ? AND key = ? AND pid = ? AND pid_start = ?",
                (owner.pid, owner.start, caller, key, before.pid, before.start),
            )
            return done.rowcount == 1

    def plan(self, caller: str, key: str, plan: Sequence[str]) -> None:
        """Write down what has become of the plan."""
        with self._database.transaction() as connection:
            encoded = msgspec.json.encode(list(plan)).decode()
            connection.execute("UPDATE keyed_requests SET plan = ? WHERE caller = ? AND key = ?", (encoded, caller, key))

    def settle(self, caller: str, key: str, outcome: str) -> None:
        """Keep the outcome of a request."""
        with self._database.transaction() as connection:
            values = (outcome, time.time(), caller, key)
            connection.execute("UPDATE keyed_requests SET outcome = ?, at = ? WHERE caller = ? AND key = ?", values)

    def forget(self, caller: str, key: str) -> None:
        """Forget a request that has had no effects."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM keyed_requests WHERE caller = ? AND key = ?", (caller, key))

    def get(self, caller: str, key: str) -> KeyedRequest | None:
        """The request with this key, if it is known."""
        statement = "SELECT * FROM keyed_requests WHERE caller = ? AND key = ?"
        row = self._database.connection().execute(statement, (caller, key)).fetchone()
        if row is None:
            return None
        plan = msgspec.json.decode(row["plan"], type=tuple[str, ...])
        return KeyedRequest(row["asked"], plan, row["outcome"], ProcessId(row["pid"], row["pid_start"]))
