"""``rootfs:`` and imported streams: a root file system as one tar archive, which becomes an image of one layer."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from bandsox.images.blobs import file_chunks
from bandsox.images.transports import Context, Fetched, store_layers
from bandsox.images.transports.archive import read_head
from bandsox.models import ImageConfig
from bandsox.workers import Stopped, Task, in_thread

_CHUNK = 1 << 20


async def fetch_file(path: Path, context: Context, config: ImageConfig | None = None) -> Fetched:
    """Store an archive as the single layer of an image.

    Raises
    ------
    ImageNotFound: there is no such file.
    CorruptImage, StorageFull: as they say.
    """
    read_head(path)
    task = Task(context.progress, f"rootfs:{path}", f"reading {path.name}", path.stat().st_size)
    fetched = await in_thread(lambda stop: _store(file_chunks(path), context, task, config, stop))
    task.finish()
    return fetched


async def fetch_stream(stream: BinaryIO, context: Context, config: ImageConfig | None) -> Fetched:
    """Store what a stream gives, such as standard input, as the single layer of an image."""
    task = Task(context.progress, "import", "reading the archive")
    wake, waker = os.pipe()
    try:
        fetched = await in_thread(
            lambda stop: _store(_stream_chunks(stream, wake), context, task, config, stop), on_stop=lambda: os.write(waker, b"x")
        )
    finally:
        os.close(wake)
        os.close(waker)
    task.finish()
    return fetched


def _store(chunks: Iterator[bytes], context: Context, task: Task, config: ImageConfig | None, stop: threading.Event) -> Fetched:
    def counted() -> Iterator[bytes]:
        done = 0
        for chunk in chunks:
            done += len(chunk)
            task.update(done)
            yield chunk

    stored = store_layers(context, (context.blobs.add_layer(counted(), context.limits, stop),), config)
    return replace(stored, require_end=True)


def _stream_chunks(stream: BinaryIO, wake: int) -> Iterator[bytes]:
    """What a stream gives until its end; a byte in the pipe `wake` ends the waiting for a stream that gives nothing."""
    try:
        descriptor: int | None = stream.fileno()
    except (OSError, AttributeError):
        descriptor = None
    if descriptor is None:
        yield from iter(lambda: stream.read(_CHUNK), b"")
        return
    while True:
        if wake in select.select([descriptor, wake], [], [])[0]:
            raise Stopped
        chunk = os.read(descriptor, _CHUNK)
        if not chunk:
            return
        yield chunk
