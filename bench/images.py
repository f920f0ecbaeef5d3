"""Layers to a root file system: MB of layer data a second, stage by stage, and what creating from a large image costs.

MB are of the layers' uncompressed tar archives. Besides the time on the clock, which other work on the machine stretches,
the CPU time is given: that over two cores is what an idle machine of two can do at best. The stages are the same code run
alone, one thread each; what is left of a conversion is the tar reader, the tree and the tables.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import os
import random
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from bandsox.core import AsyncBandSox
from bandsox.download import download
from bandsox.images import convert
from bandsox.images.blobs import file_chunks
from bandsox.images.compression import decompress
from bandsox.images.flatten import LayerFile
from bandsox.images.limits import Limits
from bandsox.images.squashfs import BLOCK_SIZE
from bandsox.images.squashfs_tables import compress
from bandsox.images.tarstream import ByteStream, TarReader
from bandsox.settings import DEFAULT_IMAGE
from bench.figures import Samples, table

_FILES = 6000
_PIECE = 16 * 1024
_PIECES_A_FILE = 3
_LARGE = 2 << 30
_TARGET = 150
ROUNDS = 5


async def measure(bandsox: AsyncBandSox) -> None:
    with tempfile.TemporaryDirectory() as work:
        plain = Path(work) / "layer.tar"
        _write_layer(plain)
        packed = {"gzip": _packed(plain, ["gzip", "-6"]), "zstd": _packed(plain, ["zstd", "-3", "-q"])}
        print("\n### Images\n\n| | MB/s | CPU s | MB per CPU s |\n|---|---|---|---|")
        await _stages(plain, packed)
        await _conversions(plain, packed)
        print(f"\nTarget of the conversion: {_TARGET} MB/s on 2 cores; at best that is twice the last column.")
        await _large(bandsox, Path(work) / "large.tar")


# ── stages ──────────────────────────────────────────────────────────────────────────────────────


async def _stages(plain: Path, packed: dict[str, Path]) -> None:
    size = plain.stat().st_size
    with _served(plain.parent) as origin, _row("download, and SHA-256 of it", size):
        await download(f"{origin}/{plain.name}", plain.with_name("copy"))
    _stage("read", size, file_chunks(plain))
    with _row("read and SHA-256", size):
        digest = hashlib.sha256()
        for chunk in file_chunks(plain):
            digest.update(chunk)
    for name, path in packed.items():
        _stage(f"decompress {name}", size, decompress(file_chunks(path)))
    _stage("walk the tar", size, TarReader(ByteStream(file_chunks(plain))))
    _stage("read and LZ4", size, (compress(block) for block in _blocks(plain)))


def _stage(name: str, size: int, work: Iterable[object]) -> None:
    with _row(name, size):
        for _ in work:
            pass


def _blocks(path: Path) -> Iterator[memoryview]:
    for chunk in file_chunks(path):
        view = memoryview(chunk)
        for start in range(0, len(view), BLOCK_SIZE):
            yield view[start : start + BLOCK_SIZE]


async def _conversions(plain: Path, packed: dict[str, Path]) -> None:
    size = plain.stat().st_size
    diff_id = hashlib.sha256(plain.read_bytes()).hexdigest()
    for name, path in {"plain": plain, **packed}.items():
        descriptor = os.open(plain.with_name("image"), os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        try:
            with _row(f"**convert a {name} layer**", size):
                await convert.run([LayerFile(path, diff_id, name)], descriptor, Limits())
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _row(name: str, size: int) -> Iterator[None]:
    """Measure the block, with the processes it has waited for, and print it."""
    seconds, cpu = time.perf_counter(), _cpu()
    yield
    seconds, cpu = time.perf_counter() - seconds, _cpu() - cpu
    print(f"| {name} | {size / 1e6 / seconds:.0f} | {cpu:.2f} | {size / 1e6 / cpu:.0f} |")


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


# ── data ────────────────────────────────────────────────────────────────────────────────────────


def _write_layer(path: Path) -> None:
    """300 MB in 6,000 files that compress as those of images do: two thirds text-like, one third not at all."""
    chance = random.Random(1)
    words = [chance.randbytes(chance.randint(2, 9)).hex().encode() for _ in range(4000)]
    texts = [b" ".join(chance.choices(words, k=_PIECE // 8))[:_PIECE] for _ in range(256)]
    noises = [chance.randbytes(_PIECE) for _ in range(128)]
    with tarfile.open(path, "w") as archive:
        for number in range(_FILES):
            entry = tarfile.TarInfo(f"usr/lib/place{number % 100}/file{number}")
            content = b"%d" % number + b"".join(chance.choices(texts + noises, k=_PIECES_A_FILE))
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))


def _packed(plain: Path, command: list[str]) -> Path:
    path = plain.with_suffix(f".{command[0]}")
    with plain.open("rb") as source, path.open("wb") as target:
        subprocess.run([*command, "-c"], stdin=source, stdout=target, check=True)
    return path


@contextlib.contextmanager
def _served(directory: Path) -> Iterator[str]:
    """An HTTP server of its own process, on the loopback interface."""
    program = (
        "import http.server as h;"
        "s = h.ThreadingHTTPServer(('127.0.0.1', 0), h.SimpleHTTPRequestHandler); print(s.server_address[1], flush=True); s.serve_forever()"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        assert server.stdout is not None
        try:
            yield f"http://127.0.0.1:{server.stdout.readline().strip()}"
        finally:
            server.kill()


# ── a large image ───────────────────────────────────────────────────────────────────────────────


async def _large(bandsox: AsyncBandSox, archive: Path) -> None:
    """A 2 GiB image costs to create from what the small one costs: the image is not touched."""
    base = await bandsox.pull_image(DEFAULT_IMAGE, "missing")
    await asyncio.to_thread(_write_large, archive)
    images = bandsox.engine.images
    async with images.adding():
        with archive.open("rb") as file:
            layer = await images.add_layer(file)
        large = await images.commit([layer], base.config, base=base, references=["bench-large"])
    samples = [Samples(f"create_vm from {image.rootfs.stat().st_size >> 20} MiB") for image in (base, large)]
    for _ in range(ROUNDS):
        for created, image in zip(samples, (base, large), strict=True):
            with created.measuring():
                vm = await bandsox.create_vm(image.id)
            await vm.delete()
    await bandsox.remove_image(large.id, force=True)
    table("Image size", samples, f"Ratio of the medians: {samples[1].median / samples[0].median:.2f}.")


def _write_large(archive: Path) -> None:
    noise = os.urandom(64 << 20)
    entry = tarfile.TarInfo("large")
    entry.size = _LARGE
    with archive.open("wb") as file:
        file.write(entry.tobuf())
        for _ in range(_LARGE // len(noise)):
            file.write(noise)
        file.write(bytes(1024))
