"""A registry that is closed while other threads use it."""

from __future__ import annotations

import gc
import threading
from pathlib import Path

from bandsox.store import Database


def _open_files(path: Path) -> int:
    gc.collect()
    return sum(str(path) in str(entry.resolve()) for entry in Path("/proc/self/fd").iterdir())


def test_who_is_in_the_middle_of_a_transaction_ends_it(tmp_path: Path) -> None:
    database = Database(tmp_path / "registry.db")
    within, closed = threading.Event(), threading.Event()

    def write() -> None:
        with database.transaction() as connection:
            connection.execute("CREATE TABLE numbers (n INTEGER)")
            within.set()
            assert closed.wait(60)
            connection.executemany("INSERT INTO numbers VALUES (?)", [(n,) for n in range(1000)])

    writer = threading.Thread(target=write)
    writer.start()
    assert within.wait(60)
    database.close()
    closed.set()
    writer.join()
    assert _open_files(tmp_path) == 0
    reopened = Database(tmp_path / "registry.db")
    assert reopened.connection().execute("SELECT count(*) FROM numbers").fetchone()[0] == 1000
    reopened.close()
    assert _open_files(tmp_path) == 0
