"""From a stack of layers to one squashfs image, in one pass and with memory that depends on no file's size.

A reader thread decompresses the layers, lowest first, and hashes what comes out; the calling thread parses the tar
stream, keeps the tree of what each layer leaves, and packs file contents as they pass. Contents that an upper
layer hides have then been packed in vain; their space is given back at the end. That costs less than reading
every layer twice, and nothing where layers only add, as nearly all do. Memory grows with the number of files
(about 500 bytes each), as the file system's tables do.

Everything here blocks, and is ended early by ending the process; `bandsox.images.convert` gives it one.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bandsox.errors import CorruptImage, DigestMismatch
from bandsox.images.compression import decompress
from bandsox.images.limits import Limits
from bandsox.images.squashfs import Writer
from bandsox.images.squashfs_tables import Content, storable_xattr
from bandsox.images.tarstream import ByteStream, Entry, TarReader
from bandsox.images.tree import Directory, Inode, Kind, Tree, show_path, split_path

FORMAT = "squashfs-lz4-1"
"""Changes whenever the same layers would give another image; part of the root file system's name."""

_READ_SIZE = 256 * 1024
_QUEUE_CHUNKS = 8
_MAX_TARGET = 4095
_MAX_ID = 0xFFFFFFFE
_OVERLAY_XATTRS = (b"trusted.overlay.", b"user.overlay.")


@dataclass(frozen=True, slots=True)
class LayerFile:
    """A layer to apply: its file, compressed or not, and the digest (hex) of what is inside.

    ``require_end`` is for archives that no manifest vouches for: one without its end mark was truncated.
    """

    path: Path
    diff_id: str
    name: str
    require_end: bool = False


@dataclass(slots=True)
class Job:
    """One conversion: what it may cost, whom it tells how many compressed bytes are read, and its counts."""

    limits: Limits = field(default_factory=Limits)
    progress: Callable[[int], None] = lambda _: None
    read: int = 0
    unpacked: int = 0
    files: int = 0


def flatten(layers: list[LayerFile], descriptor: int, job: Job) -> int:
    """Write the image that `layers`, lowest first, amount to; return its size in bytes.

    Parameters
    ----------
    descriptor: an open and empty file.

    Raises
    ------
    CorruptImage: a layer cannot be read, leads out of the image's root, or exceeds ``job.limits``.
    DigestMismatch: a layer's content is not what its ``diff_id`` says.
    OSError: reading or writing failed, such as for want of space.
    """
    tree = Tree()
    with Writer(descriptor) as writer:
        for layer in layers:
            tree.next_layer()
            try:
                with _unpacked(layer, job) as stream:
                    _apply(TarReader(stream, require_end=layer.require_end), tree, writer, job)
                    stream.drain()
            except CorruptImage as error:
                raise CorruptImage(f"{layer.name}: {error.message}", cause=error.cause, remedy=error.remedy) from error
        return writer.finish(tree.root)


# ── reading ahead ───────────────────────────────────────────────────────────────────────────────


def _raw(layer: LayerFile, job: Job) -> Iterator[bytes]:
    with layer.path.open("rb", buffering=0) as file:
        while chunk := file.read(_READ_SIZE):
            job.read += len(chunk)
            job.progress(job.read)
            yield chunk


def _verified(layer: LayerFile, job: Job) -> Iterator[bytes]:
    """The layer's content, checked against its digest at the end."""
    digest = hashlib.sha256()
    for chunk in decompress(_raw(layer, job)):
        job.unpacked += len(chunk)
        job.limits.check_unpacked(job.unpacked)
        digest.update(chunk)
        yield chunk
    if digest.hexdigest() != layer.diff_id:
        raise DigestMismatch(
            f"{layer.name} does not contain what the image's configuration says",
            cause=f"its content has the digest sha256:{digest.hexdigest()}, not sha256:{layer.diff_id}",
            remedy="pull the image again; if it happens again, the image is broken where it comes from",
        )


@contextmanager
def _unpacked(layer: LayerFile, job: Job) -> Iterator[ByteStream]:
    """The layer's content, read ahead by a thread of its own by a few chunks.

    The thread ends its deliveries with None or an exception; whoever stops listening early reads on to that.
    """
    chunks: queue.Queue[bytes | BaseException | None] = queue.Queue(_QUEUE_CHUNKS)
    abandoned = threading.Event()

    def run() -> None:
        outcome: BaseException | None = None
        try:
            for chunk in _verified(layer, job):
                if abandoned.is_set():
                    break
                chunks.put(chunk)
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits for the data
            outcome = error
        chunks.put(outcome)

    ended = False

    def received() -> Iterator[bytes]:
        nonlocal ended
        while isinstance(item := chunks.get(), bytes):
            yield item
        ended = True
        if item is not None:
            raise item

    thread = threading.Thread(target=run, name="bandsox-layer", daemon=True)
    thread.start()
    stream = received()
    try:
        yield ByteStream(stream)
    finally:
        abandoned.set()
        while not ended and isinstance(chunks.get(), bytes):
            pass
        thread.join()


# ── applying ────────────────────────────────────────────────────────────────────────────────────


def _apply(reader: TarReader, tree: Tree, writer: Writer, job: Job) -> None:
    for entry in reader:
        job.files += 1
        job.limits.check_files(job.files)
        path = split_path(entry.path)
        if entry.type == b"1":
            tree.link(path, split_path(entry.link))
            continue
        content = None
        if entry.type not in _KINDS:
            content = _store(reader, entry, writer, job)
        tree.apply(path, _inode(entry, path, content))


def _store(reader: TarReader, entry: Entry, writer: Writer, job: Job) -> Content:
    """Pack a file's content; what a sparse file has in holes counts against the limit like any other."""
    job.unpacked += entry.holes
    job.limits.check_unpacked(job.unpacked)
    return writer.file(entry.size, reader.content())


def _inode(entry: Entry, path: tuple[bytes, ...], content: Content | None) -> Inode:
    if not (0 <= entry.uid <= _MAX_ID and 0 <= entry.gid <= _MAX_ID):
        raise CorruptImage(f"{show_path(path)} belongs to the user {entry.uid} and group {entry.gid}, which cannot be")
    xattrs = _kept(entry.xattrs)
    owner = (entry.mode, entry.uid, entry.gid, entry.mtime)
    kind = _KINDS.get(entry.type)
    if kind is None:
        return Inode(Kind.FILE, *owner, xattrs=xattrs, content=content)
    if kind is Kind.DIRECTORY:
        return Directory(*owner, xattrs=xattrs)
    if kind is Kind.SYMLINK:
        if not 0 < len(entry.link) <= _MAX_TARGET or b"\0" in entry.link:
            raise CorruptImage(f"the symbolic link {show_path(path)} has a target of {len(entry.link)} bytes")
        return Inode(kind, 0o777, *owner[1:], xattrs=xattrs, target=entry.link)
    if kind is not Kind.FIFO and not (0 <= entry.device[0] < 1 << 12 and 0 <= entry.device[1] < 1 << 20):
        raise CorruptImage(f"the device {show_path(path)} has the impossible number {entry.device}")
    return Inode(kind, *owner, xattrs=xattrs, device=entry.device)


_KINDS = {
    b"2": Kind.SYMLINK,
    b"3": Kind.CHARACTER,
    b"4": Kind.BLOCK,
    b"5": Kind.DIRECTORY,
    b"6": Kind.FIFO,
}
"""Every other type is a regular file, as POSIX says of types an implementation does not know."""


def _kept(xattrs: dict[bytes, bytes] | None) -> dict[bytes, bytes] | None:
    """The attributes that squashfs can hold, less overlayfs's own: in a lower layer those would act, not be data."""
    if not xattrs:
        return None
    kept = {name: value for name, value in xattrs.items() if storable_xattr(name) and not name.startswith(_OVERLAY_XATTRS)}
    return kept or None
