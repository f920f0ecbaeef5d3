"""Which snapshots go by themselves: those that are older than they may be, and those of which a machine has too many.

What a storage directory keeps is said once, in its ``retention.json``; without that nothing goes. Snapshots stay that belong to something
(checkpoints, templates, the memory of saved machines), whose name is protected, from which a machine goes on that is still there, on which
another snapshot is based, and, for as long as it lasts, that somebody uses.

The housekeeper (`bandsox.engine.housekeeper`) sleeps until the next one is too old, and hears of what else may make one go. It imports this
module, which therefore imports little.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bandsox.errors import HostError, InvalidRequest
from bandsox.models import Retention

if TYPE_CHECKING:
    from bandsox.engine.engine import Engine
    from bandsox.models import Snapshot
    from bandsox.settings import Layout

FILE = "retention.json"
"""In the storage directory."""

_MAX_SECONDS = 1e9
_MAX_PATTERNS, _LONGEST = 100, 128

_QUERY = """
    SELECT id, name, created_at, json_extract(record, '$.source_vm_id'),
        id IN (SELECT json_extract(record, '$.restored_from') FROM vms)
        OR id IN (SELECT json_extract(record, '$.parent') FROM snapshots AS others WHERE others.id <> snapshots.id)
    FROM snapshots WHERE id NOT IN (SELECT snapshot_id FROM belongings) ORDER BY created_at DESC, id
"""


@dataclass(frozen=True, slots=True)
class Due:
    """The ids of the snapshots that are to go now, and when the next one is too old; None: none will be by itself."""

    now: tuple[str, ...]
    next_at: float | None


def checked(kept: Retention) -> Retention:
    """What may be asked for.

    Raises
    ------
    InvalidRequest: it may not.
    """
    if kept.max_age is not None and not 0 < kept.max_age <= _MAX_SECONDS:
        raise InvalidRequest(f"the age of snapshots is at most a positive number of seconds, not {kept.max_age!r}")
    if kept.max_count is not None and not 1 <= kept.max_count <= 10**6:
        raise InvalidRequest(f"a VM keeps at least one snapshot, and at most a million, not {kept.max_count!r}")
    if len(kept.protected) > _MAX_PATTERNS or not all(1 <= len(pattern) <= _LONGEST for pattern in kept.protected):
        raise InvalidRequest(f"at most {_MAX_PATTERNS} patterns of names are protected, of 1 to {_LONGEST} characters")
    return kept


def read(root: Path) -> Retention:
    """What a storage directory keeps; everything where nothing was said.

    Raises
    ------
    HostError: what was said cannot be read.
    """
    try:
        said = json.loads((root / FILE).read_text())
        return checked(Retention(said["max_age"], said["max_count"], tuple(said["protected"])))
    except FileNotFoundError:
        return Retention()
    except (OSError, ValueError, TypeError, LookupError, InvalidRequest) as error:
        remedy = "say it anew with `bandsox snapshot retention`"
        raise HostError(f"{root / FILE} does not say which snapshots are kept", cause=str(error), remedy=remedy) from error


def write(layout: Layout, kept: Retention) -> None:
    """Say what a storage directory keeps, from now on. Blocks.

    Raises
    ------
    InvalidRequest: that may not be asked for.
    """
    from bandsox.settings import write_atomically

    checked(kept)
    if kept == Retention():
        (layout.root / FILE).unlink(missing_ok=True)
        return
    said: dict[str, Any] = {"max_age": kept.max_age, "max_count": kept.max_count, "protected": list(kept.protected)}
    write_atomically(layout.root / FILE, json.dumps(said).encode())
    tell(layout)


def tell(layout: Layout) -> None:
    """Snapshots have changed, or who needs them: the housekeeper looks what is to go now. Blocks."""
    if (layout.root / FILE).exists():
        from bandsox.engine.deadlines import wake_housekeeper

        wake_housekeeper(layout)


def due(root: Path, kept: Retention | None = None) -> Due:
    """Which snapshots of a storage directory are to go. Blocks.

    Parameters
    ----------
    kept: by default what it keeps.
    """
    kept = read(root) if kept is None else kept
    if kept.max_age is None and kept.max_count is None:
        return Due((), None)
    with contextlib.closing(sqlite3.connect(root / "bandsox.db", timeout=30)) as connection:
        return chosen(connection.execute(_QUERY), kept, time.time())


def chosen(snapshots: Iterable[tuple[str, str, float, str, int]], kept: Retention, now: float) -> Due:
    """Which of these are to go.

    Parameters
    ----------
    snapshots: id, name, when they were taken, the machine's id, and whether something needs them; the newest first.
    """
    of_machine: Counter[str] = Counter()
    doomed, later = [], []
    for snapshot_id, name, created_at, machine, needed in snapshots:
        if any(fnmatchcase(name, pattern) for pattern in kept.protected):
            continue
        of_machine[machine] += 1
        if needed:
            continue
        too_many = kept.max_count is not None and of_machine[machine] > kept.max_count
        too_old_at = None if kept.max_age is None else created_at + kept.max_age
        if too_many or (too_old_at is not None and too_old_at <= now):
            doomed.append(snapshot_id)
        elif too_old_at is not None:
            later.append(too_old_at)
    return Due(tuple(doomed), min(later, default=None))


async def prune(engine: Engine, kept: Retention | None = None, *, dry_run: bool = False) -> list[Snapshot]:
    """Remove the snapshots that are to go, but for those that somebody uses at this moment; return those that were removed.

    Parameters
    ----------
    kept: by default what the storage directory keeps.
    dry_run: remove nothing, and return those that would be.

    Raises
    ------
    InvalidRequest: `kept` may not be asked for. StorageFull: there is no room to unpack what is packed on one of them.
    """
    import asyncio

    return await asyncio.to_thread(_prune, engine, None if kept is None else checked(kept), dry_run)


def _prune(engine: Engine, kept: Retention | None, dry_run: bool) -> list[Snapshot]:
    from bandsox.errors import SnapshotNotFound

    root, shelf, removed = engine.layout.root, engine.snapshots.shelf, []
    for snapshot_id in due(root, kept).now:
        with contextlib.suppress(SnapshotNotFound):  # somebody else was faster
            snapshot = shelf.table.get(snapshot_id)
            if dry_run or shelf.remove_unused(snapshot_id, partial(_is_due, root, kept, snapshot_id)):
                removed.append(snapshot)
    return removed


def _is_due(root: Path, kept: Retention | None, snapshot_id: str) -> bool:
    return snapshot_id in due(root, kept).now
