"""Progress of a transfer, from the worker thread that moves it to the event loop that shows it."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import AsyncIterator

from bandsox.models import ProgressCallback
from bandsox.workers import Task


@contextlib.asynccontextmanager
async def transferring(
    callback: ProgressCallback | None, label: str | bytes | os.PathLike[str], total: int | None = None
) -> AsyncIterator[Task]:
    """A transfer of `total` bytes, or of as many as there are, which ends when the block ends well."""
    task = Task(callback, secrets.token_hex(4), os.fsdecode(label), total)
    yield task
    task.finish(whole=task.done)
