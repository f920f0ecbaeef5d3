"""Snapshots that nobody starts from for now: their files compressed, and only what differs from the snapshot their machine came from.

``NAME.packed`` in a snapshot's directory stands for its file ``NAME``: eight bytes of magic, the id of the snapshot whose file of that
name is its base (zeros: none), and a stream (`bandsox.engine.snapshots.extents`). Where both are there the file itself counts. Manifest
and row are as before: a snapshot is the same whether it is packed or not. What is needed of it is unpacked at the next start, once.

A base may be packed too, on a base of its own: such a chain is followed when a file is unpacked. Before a snapshot goes that others are
packed on, those are packed anew without it, so that no chain ever misses a link.

Whoever replaces or removes the files of a snapshot holds the lock ``<id> files`` alone, and whoever reads a base's shares it; a
child's is taken before its base's.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from bandsox.engine import sparse
from bandsox.engine.snapshots import extents
from bandsox.engine.snapshots.workplace import workplace
from bandsox.errors import CorruptSnapshot, SnapshotNotFound
from bandsox.locks import Locks
from bandsox.models import Snapshot
from bandsox.settings import Layout, sync
from bandsox.store import Snapshots as Table
from bandsox.workers import Stopped

_SUFFIX = ".packed"
_MAGIC = b"BSXCOLD1"
_ID_BYTES = 8


class ColdStorage:
    """The packed files of a storage directory's snapshots. Its methods block."""

    def __init__(self, layout: Layout, table: Table, locks: Locks) -> None:
        self._layout = layout
        self._table = table
        self._locks = locks

    def is_packed(self, snapshot: Snapshot) -> bool:
        """Whether any of its files is packed."""
        return any(self.is_file_packed(snapshot, name) for name in snapshot.files)

    def is_file_packed(self, snapshot: Snapshot, name: str) -> bool:
        """Whether one of its files is."""
        return not self._path(snapshot, name).exists() and self._packed(snapshot, name).exists()

    def pack(self, snapshot: Snapshot, stop: threading.Event, advance: Callable[[int], object] = lambda _: None) -> None:
        """Pack the files of a snapshot, which are whole, and which nobody uses.

        Parameters
        ----------
        stop: set by who does not want it any more; what is packed until then stays packed.
        advance: told how many bytes of the files have been looked at.

        Raises
        ------
        StorageFull: there is no room. Stopped: `stop` was set.
        """
        done = 0
        with self._files(snapshot), self._base_of(snapshot) as base:
            for name in sorted(snapshot.files):
                if self._path(snapshot, name).exists():
                    self._pack_file(snapshot, name, base, stop, lambda part, before=done: advance(before + part))  # type: ignore[misc]
                done += snapshot.files[name].size
                advance(done)

    def unpack(self, snapshot: Snapshot, name: str) -> bool:
        """See to it that a file of a snapshot is there as it was saved, and return whether it had to be unpacked.

        Raises
        ------
        CorruptSnapshot: it was damaged, or its base is gone. StorageFull: there is no room.
        """
        if not self.is_file_packed(snapshot, name):
            return False
        with self._files(snapshot):
            if self._path(snapshot, name).exists():
                return False
            with workplace(self._layout) as directory:
                self._restore(snapshot, name, directory / name)
                (directory / name).chmod(0o444)
                _settle(directory / name, self._path(snapshot, name))
            self._packed(snapshot, name).unlink(missing_ok=True)
        return True

    def release(self, snapshot_id: str, remove: Callable[[], object]) -> None:
        """Pack anew whatever is packed on a snapshot, then remove that.

        Parameters
        ----------
        remove: removes the snapshot, whose files nobody reads meanwhile.
        """
        while True:
            for dependent in self._dependents(snapshot_id):
                with contextlib.suppress(SnapshotNotFound):
                    self._make_independent(self._table.get(dependent))
            with self._locks.hold_blocking(_lock(snapshot_id)):
                if not self._dependents(snapshot_id):
                    remove()
                    return

    # ── files ───────────────────────────────────────────────────────────────────────────────────

    def _path(self, snapshot: Snapshot, name: str) -> Path:
        return self._layout.snapshots / snapshot.id / name

    def _packed(self, snapshot: Snapshot, name: str) -> Path:
        return self._layout.snapshots / snapshot.id / f"{name}{_SUFFIX}"

    def _files(self, snapshot: Snapshot) -> contextlib.AbstractContextManager[None]:
        return self._locks.hold_blocking(_lock(snapshot.id))

    @contextlib.contextmanager
    def _base_of(self, snapshot: Snapshot) -> Iterator[Snapshot | None]:
        """The snapshot that a snapshot's machine came from, which stays as it is meanwhile; None where it is not here."""
        if snapshot.parent is None or snapshot.parent == snapshot.id:
            yield None
            return
        with self._locks.hold_blocking(_lock(snapshot.parent), shared=True):
            try:
                base: Snapshot | None = self._table.get(snapshot.parent)
            except SnapshotNotFound:
                base = None
            yield base if base is not None and base.id == snapshot.parent else None

    def _pack_file(
        self, snapshot: Snapshot, name: str, base: Snapshot | None, stop: threading.Event, advance: Callable[[int], object]
    ) -> None:
        with workplace(self._layout) as directory:
            reference = self._reference(base, name, snapshot, directory / "base")
            chunks = extents.pack(self._path(snapshot, name), reference, advance)
            self._write(directory / name, base.id if base is not None and reference is not None else None, chunks, stop)
            _settle(directory / name, self._packed(snapshot, name))
        self._path(snapshot, name).unlink()

    def _reference(self, base: Snapshot | None, name: str, snapshot: Snapshot, work: Path) -> Path | None:
        """The file of `base` to pack on, unpacked to `work` where it is packed; None where there is none of the same size."""
        if base is None or name not in base.files or base.files[name].size != snapshot.files[name].size:
            return None
        if self._path(base, name).exists():
            return self._path(base, name)
        try:
            self._restore(base, name, work)
        except CorruptSnapshot:
            return None
        return work

    def _write(self, path: Path, base: str | None, chunks: Iterator[bytes], stop: threading.Event) -> None:
        with path.open("xb") as file:
            file.write(_MAGIC + (bytes.fromhex(base) if base is not None else bytes(_ID_BYTES)))
            for chunk in chunks:
                if stop.is_set():
                    raise Stopped
                file.write(chunk)
        path.chmod(0o444)

    def _restore(self, snapshot: Snapshot, name: str, target: Path) -> None:
        """Write a file of a snapshot, which is packed, to `target` as it was saved; the files of its bases are not touched."""
        try:
            with self._packed(snapshot, name).open("rb") as packed:
                base = _base(packed.read(len(_MAGIC) + _ID_BYTES))
                if base is not None:
                    self._copy_base(base, name, target)
                with target.open("r+b" if base is not None else "xb") as file:
                    extents.unpack(iter(lambda: packed.read(1 << 20), b""), file.fileno(), snapshot.files[name].size)
        except FileNotFoundError as error:
            raise _corrupt(snapshot, f"its {name} is missing") from error
        if sparse.digest(target) != snapshot.files[name].digest:
            raise _corrupt(snapshot, f"its {name} is not what was saved")

    def _copy_base(self, base_id: str, name: str, target: Path) -> None:
        with self._locks.hold_blocking(_lock(base_id), shared=True):
            base = self._table.get(base_id)
            if self._path(base, name).exists():
                sparse.copy(self._path(base, name), target)
            else:
                self._restore(base, name, target)

    # ── chains ──────────────────────────────────────────────────────────────────────────────────

    def _dependents(self, snapshot_id: str) -> list[str]:
        """The ids of the snapshots that are packed on this one."""
        found = set[str]()
        for path in self._layout.snapshots.glob(f"*/*{_SUFFIX}"):
            with contextlib.suppress(FileNotFoundError, CorruptSnapshot), path.open("rb") as file:
                if _base(file.read(len(_MAGIC) + _ID_BYTES)) == snapshot_id:
                    found.add(path.parent.name)
        known = {snapshot.id for snapshot in self._table.list()} if found else set()
        return sorted(found & known)  # what a killed process has left of a snapshot that it deleted is none

    def _make_independent(self, snapshot: Snapshot) -> None:
        """Pack what is packed on a base without one. What cannot be read any more is removed: nobody could go on from it."""
        with self._files(snapshot):
            for name in snapshot.files:
                packed = self._packed(snapshot, name)
                with contextlib.suppress(FileNotFoundError), workplace(self._layout) as directory:
                    if not self._path(snapshot, name).exists():
                        try:
                            self._restore(snapshot, name, directory / "whole")
                        except CorruptSnapshot:
                            packed.unlink()
                            continue
                        self._write(directory / name, None, extents.pack(directory / "whole"), threading.Event())
                        _settle(directory / name, packed)
                    else:
                        packed.unlink()


def _lock(snapshot_id: str) -> str:
    return f"{snapshot_id} files"


def _base(head: bytes) -> str | None:
    """The base that the beginning of a packed file names.

    Raises
    ------
    CorruptSnapshot: it is no packed file.
    """
    if len(head) != len(_MAGIC) + _ID_BYTES or not head.startswith(_MAGIC):
        raise CorruptSnapshot("a file of a snapshot cannot be unpacked", cause="it is not a packed file")
    named = head[len(_MAGIC) :]
    return named.hex() if named.strip(b"\0") else None


def _settle(work: Path, place: Path) -> None:
    """Give a file its place, where it is whole at every moment."""
    sync(work)
    work.replace(place)
    sync(place.parent)


def _corrupt(snapshot: Snapshot, cause: str) -> CorruptSnapshot:
    return CorruptSnapshot(f"the snapshot {snapshot.name} is damaged", cause=cause, remedy="delete it, and take another")
