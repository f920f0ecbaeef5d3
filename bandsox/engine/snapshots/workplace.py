"""A directory for what is being made of a snapshot, for its owner only, gone when that is settled or given up."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from bandsox.settings import Layout
from bandsox.workers import storage_errors


@contextlib.contextmanager
def workplace(layout: Layout) -> Iterator[Path]:
    """Such a directory, for who may block.

    Raises
    ------
    StorageFull: there is no room for what the block writes.
    """
    directory = _make(layout)
    try:
        with storage_errors(directory):
            yield directory
    finally:
        _remove(directory)


@contextlib.asynccontextmanager
async def async_workplace(layout: Layout) -> AsyncIterator[Path]:
    """Such a directory, as `workplace`, for a task."""
    directory = _make(layout)
    try:
        with storage_errors(directory):
            yield directory
    finally:
        await asyncio.to_thread(_remove, directory)


def _make(layout: Layout) -> Path:
    directory = layout.temporary / f"snapshot-{secrets.token_hex(8)}"
    directory.mkdir(mode=0o700)
    return directory


def _remove(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
