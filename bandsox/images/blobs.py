"""The blob store: manifests, configurations and layers, each a file named by the digest of its content.

A blob is written to a file of its own, checked, flushed to the disk and renamed; so what has a blob's name is
whole, whenever the process or the machine dies. A download that broke off stays as ``<hex>.partial`` and is
gone on with by whoever wants that blob next; the lock ``blob <digest>`` makes that one process at a time.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import zstandard

from bandsox.errors import CorruptImage, DigestMismatch
from bandsox.images import spec
from bandsox.images.compression import decompress, detect, peek
from bandsox.images.limits import Limits
from bandsox.locks import Locks, try_lock_file
from bandsox.settings import Layout
from bandsox.workers import Stopped, in_thread, storage_errors, storage_full

_CHUNK = 1 << 20
_RESERVE = 64 << 20
_TEMPORARY_PREFIX = "image-"
_MEDIA_SUFFIX = {"gzip": "+gzip", "zstd": "+zstd", "none": ""}
_ZSTD_LEVEL = 1


class BlobStore:
    """The blobs of one storage directory.

    Parameters
    ----------
    layout: the storage directory.
    directory: where the blobs are kept; by default where those of images are.
    """

    def __init__(self, layout: Layout, locks: Locks, directory: Path | None = None) -> None:
        self.directory = directory or layout.images / "blobs" / "sha256"
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._layout = layout
        self._locks = locks

    # ── reading ─────────────────────────────────────────────────────────────────────────────────

    def path(self, digest: str) -> Path:
        """Where the blob `digest` is or would be."""
        return self.directory / digest.removeprefix("sha256:")

    def has(self, digest: str) -> bool:
        """Whether the blob is here, whole."""
        return self.path(digest).is_file()

    def read(self, digest: str, limit: int) -> bytes:
        """A small blob's content, verified.

        Raises
        ------
        CorruptImage: it is longer than `limit` bytes, or gone.
        DigestMismatch: it was damaged since it was written.
        """
        path = self.path(digest)
        try:
            with path.open("rb") as file:
                data = file.read(limit + 1)
        except FileNotFoundError as error:
            raise CorruptImage(f"the blob {digest} is missing from this storage directory", remedy="pull the image again") from error
        if len(data) > limit:
            raise CorruptImage(f"the blob {digest} is longer than {limit} bytes")
        return spec.verify(data, digest, f"the stored blob {digest}")

    def list(self) -> Iterator[str]:
        """The digests of all blobs."""
        for entry in os.scandir(self.directory):
            if len(entry.name) == 64:
                yield f"sha256:{entry.name}"

    # ── writing ─────────────────────────────────────────────────────────────────────────────────

    def put(self, data: bytes) -> str:
        """Store a small blob; return its digest."""
        digest = spec.digest_of(data)
        if not self.has(digest):
            with storage_errors(self.directory), self.temporary_file() as (descriptor, path):
                _write_all(descriptor, data)
                self._publish(descriptor, path, digest)
        return digest

    def add_layer(self, chunks: Iterator[bytes], limits: Limits, stop: threading.Event | None = None) -> spec.Layer:
        """Store a layer from a tar stream; blocks, so call it in a thread.

        A stream that is gzip or zstd already is kept as it is, any other (xz and bzip2 unpacked first) is compressed
        with zstd, which costs less time than writing it out in full would.

        Raises
        ------
        CorruptImage: the stream cannot be decompressed, or is more than `limits` allow.
        StorageFull: there is no room for it.
        """
        with storage_errors(self.directory), self.temporary_file() as (descriptor, path):
            sink = _HashingFile(descriptor)
            content = hashlib.sha256()
            unpacked = 0
            head, chunks = peek(_stoppable(chunks, stop))
            kind = detect(head)
            if kind in ("gzip", "zstd"):
                for chunk in decompress(sink.tee(chunks)):
                    unpacked += len(chunk)
                    limits.check_unpacked(unpacked)
                    content.update(chunk)
            else:
                kind = "zstd"
                compressor = zstandard.ZstdCompressor(level=_ZSTD_LEVEL, write_checksum=True).compressobj()
                for chunk in decompress(chunks):
                    unpacked += len(chunk)
                    limits.check_unpacked(unpacked)
                    content.update(chunk)
                    sink.write(compressor.compress(chunk))
                sink.write(compressor.flush())
            digest = f"sha256:{sink.digest.hexdigest()}"
            if not self.has(digest):
                self._publish(descriptor, path, digest)
        media_type = spec.OCI_LAYER + _MEDIA_SUFFIX[kind]
        return spec.Layer(digest, sink.size, media_type, f"sha256:{content.hexdigest()}")

    def copy_in(self, chunks: Iterator[bytes], digest: str, stop: threading.Event | None = None) -> None:
        """Store a blob whose digest is known; blocks, so call it in a thread.

        Raises
        ------
        DigestMismatch: `chunks` are something else.
        StorageFull: there is no room for it.
        """
        with storage_errors(self.directory), self.temporary_file() as (descriptor, path):
            sink = _HashingFile(descriptor)
            for chunk in _stoppable(chunks, stop):
                sink.write(chunk)
            _check(sink.digest.hexdigest(), digest)
            self._publish(descriptor, path, digest)

    @asynccontextmanager
    async def partial(self, digest: str, size: int) -> AsyncIterator[Partial | None]:
        """The unfinished download of a blob, or None when the blob is here already.

        Others that want the same blob wait meanwhile, and then find it here.

        Raises
        ------
        StorageFull: what is missing of it does not fit the disk.
        """
        async with self._locks.hold(f"blob {digest}"):
            if self.has(digest):
                yield None
                return
            path = self.path(digest).with_suffix(".partial")
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                partial = Partial(self, path, descriptor, digest, size)
                self.require_space(size - partial.offset)
                await partial.rehash()
                with storage_errors(self.directory):
                    yield partial
            finally:
                os.close(descriptor)

    def require_space(self, size: int) -> None:
        """Check that `size` bytes more fit.

        Raises
        ------
        StorageFull: they do not.
        """
        if size > 0 and shutil.disk_usage(self.directory).free < size + min(_RESERVE, size):
            raise storage_full(self.directory)

    @contextmanager
    def temporary_file(self) -> Iterator[tuple[int, Path]]:
        """A new file in the temporary directory, removed unless it was renamed; locked while it is in use, so
        that `remove_rubbish` of another process can tell it from what a killed process left."""
        while True:
            path = self._layout.temporary / f"{_TEMPORARY_PREFIX}{os.urandom(8).hex()}"
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            if try_lock_file(descriptor) and os.fstat(descriptor).st_nlink:
                break
            os.close(descriptor)
        try:
            yield descriptor, path
        finally:
            path.unlink(missing_ok=True)
            os.close(descriptor)

    def remove_rubbish(self, *, partials: bool) -> int:
        """Remove temporary files whose process is gone, and unfinished downloads where `partials`; return the bytes freed.

        Call it only while nothing is being pulled.
        """
        freed = 0
        for path in self._layout.work.glob(f"*/{_TEMPORARY_PREFIX}*"):
            freed += _remove_unless_locked(path)
        if partials:
            for path in self.directory.glob("*.partial"):
                freed += path.stat().st_blocks * 512
                path.unlink()
        return freed

    def _publish(self, descriptor: int, path: Path, digest: str) -> None:
        os.fchmod(descriptor, 0o400)
        os.fsync(descriptor)
        path.rename(self.path(digest))
        fsync_directory(self.directory)


class Partial:
    """A blob that is being downloaded; ``offset`` is how many bytes of it are here."""

    def __init__(self, store: BlobStore, path: Path, descriptor: int, digest: str, size: int) -> None:
        self._store = store
        self._path = path
        self._descriptor = descriptor
        self._digest = digest
        self._size = size
        self._hash = hashlib.sha256()
        self.offset = os.fstat(descriptor).st_size
        if self.offset > size:
            self._truncate()

    async def rehash(self) -> None:
        """Take up what an earlier process left."""
        if self.offset:
            await in_thread(self._read_back)

    def _read_back(self, stop: threading.Event) -> None:
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        while chunk := os.read(self._descriptor, _CHUNK):
            if stop.is_set():
                raise Stopped
            self._hash.update(chunk)

    async def write(self, data: bytes) -> None:
        """Add what came next.

        Raises
        ------
        DigestMismatch: that is more than the blob's size.
        """
        if self.offset + len(data) > self._size:
            self._truncate()
            raise DigestMismatch(f"the blob {self._digest} is longer than the {self._size} bytes its manifest says")
        await in_thread(lambda _: self._append(data))

    def restart(self) -> None:
        """Drop what is here: the server cannot go on in the middle."""
        self._truncate()

    async def commit(self) -> None:
        """Make it a blob.

        Raises
        ------
        DigestMismatch: it has another size or digest; what was downloaded is dropped.
        """
        if self.offset != self._size:
            found = self.offset
            self._truncate()
            raise DigestMismatch(f"the blob {self._digest} is {found} bytes long, and {self._size} in its manifest")
        try:
            _check(self._hash.hexdigest(), self._digest)
        except DigestMismatch:
            self._truncate()
            raise
        await in_thread(lambda _: self._store._publish(self._descriptor, self._path, self._digest))

    def _append(self, data: bytes) -> None:
        self._hash.update(data)
        _write_all(self._descriptor, data)
        self.offset += len(data)

    def _truncate(self) -> None:
        os.ftruncate(self._descriptor, 0)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        self._hash = hashlib.sha256()
        self.offset = 0


class _HashingFile:
    """A file being written, with the digest and size of what was written."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.digest = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes) -> None:
        self.digest.update(data)
        self.size += len(data)
        _write_all(self._descriptor, data)

    def tee(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self.write(chunk)
            yield chunk


def _check(found: str, digest: str) -> None:
    if f"sha256:{found}" != digest:
        raise DigestMismatch(
            f"what came as the blob {digest} has another digest, sha256:{found}",
            cause="it was damaged or changed where it is kept, or on the way",
            remedy="pull again; if it happens again, the image is broken where it comes from",
        )


def _stoppable(chunks: Iterator[bytes], stop: threading.Event | None) -> Iterator[bytes]:
    for chunk in chunks:
        if stop is not None and stop.is_set():
            raise Stopped
        yield chunk


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _remove_unless_locked(path: Path) -> int:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return 0
    try:
        if not try_lock_file(descriptor):
            return 0
        size = os.fstat(descriptor).st_blocks * 512
        path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)
    return size


def fsync_directory(path: Path) -> None:
    """Make a rename in `path` last."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_chunks(path: Path) -> Iterator[bytes]:
    """A file's content, a mebibyte at a time."""
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            yield chunk
