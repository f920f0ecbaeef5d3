"""The server's logs: what it has to say on stderr, who did what in ``<storage>/audit.log``. A line of JSON each; no secrets in any.

They are written by a thread of their own, so that a disk that hangs does not stop the event loop.
"""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import os
import queue
import threading
import time
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path

import msgspec

from bandsox.server.replies import textual

AUDIT = "audit.log"
"""The audit log's name in the storage directory."""

AUDIT_FILES = 5
"""How many older ones are kept, with ``.1`` and so on behind their names."""

_AUDIT_BYTES = 16 << 20
_WRITTEN_S = 5.0

_audit = logging.getLogger("bandsox.audit")


class _Lines(logging.Formatter):
    """A record as a line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Format it."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        line = {"time": moment, "level": record.levelname.lower(), **getattr(record, "event", {"message": record.getMessage()})}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(textual(line)).decode()


class _OwnerOnly(logging.handlers.RotatingFileHandler):
    """A log of bounded size that nobody else can read."""

    def _open(self) -> TextIOWrapper:
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        return os.fdopen(descriptor, "a", encoding="utf-8")

    def shouldRollover(self, record: logging.LogRecord) -> bool:  # noqa: N802 — its name there
        """Whether it is as large as it may be. (`logging` would format each record twice, to know that it stays below.)"""
        del record
        return self.stream is not None and os.fstat(self.stream.fileno()).st_size >= self.maxBytes

    def emit(self, record: logging.LogRecord) -> None:
        """Write it, or tell that all before it was written."""
        written: threading.Event | None = getattr(record, "written", None)
        if written is None:
            super().emit(record)
        else:
            written.set()


def settle() -> None:
    """Return once the audit log has what happened so far, or after a while where its disk hangs. Blocks."""
    written = threading.Event()
    _audit.info("settled", extra={"written": written})
    if _audit.handlers:
        written.wait(_WRITTEN_S)


@contextlib.contextmanager
def logging_to(storage: Path) -> Iterator[None]:
    """Write the logs for the time of the block."""
    audit = _OwnerOnly(storage / AUDIT, maxBytes=_AUDIT_BYTES, backupCount=AUDIT_FILES, delay=True)
    with (
        _written(_audit, audit, logging.INFO),
        _written(logging.getLogger(), logging.StreamHandler(), logging.WARNING),
    ):
        yield


@contextlib.contextmanager
def _written(logger: logging.Logger, handler: logging.Handler, level: int) -> Iterator[None]:
    handler.setFormatter(_Lines())
    handler.setLevel(level)
    lines: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    entrance = _Untouched(lines)
    listener = logging.handlers.QueueListener(lines, handler)
    logger.setLevel(level)
    logger.addHandler(entrance)
    logger.propagate = False
    listener.start()
    try:
        yield
    finally:
        logger.removeHandler(entrance)
        listener.stop()
        handler.close()


class _Untouched(logging.handlers.QueueHandler):
    """Hands records on as they are, within this process."""

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Leave it as it is."""
        return record
