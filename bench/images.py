"""Layers to a root file system: MB of layer data a second, and what creating from a large image costs."""

from __future__ import annotations

import asyncio
import io
import os
import tarfile
import tempfile
import time
from pathlib import Path

from bandsox.core import AsyncBandSox
from bandsox.settings import DEFAULT_IMAGE
from bench.figures import Samples, table

_FILES = 4000
_FILE_SIZE = 50_000
_LARGE = 2 << 30
ROUNDS = 5


async def measure(bandsox: AsyncBandSox) -> None:
    with tempfile.TemporaryDirectory() as work:
        archive = Path(work) / "layer.tar"
        size = _write_layer(archive)
        start = time.perf_counter()
        image = await bandsox.pull_image(f"rootfs:{archive}")
        seconds = time.perf_counter() - start
        await bandsox.remove_image(image.id, force=True)
        print(f"\n### Images\n\nConversion of {size / 1e6:.0f} MB in {_FILES} files: {size / 1e6 / seconds:.0f} MB/s (target: 150).")
        await _large(bandsox, Path(work) / "large.tar")


def _write_layer(path: Path) -> int:
    """Files like those of an image: half of each is text-like, half random."""
    text = (b"def function(argument):\n    return argument + 1\n" * 600)[: _FILE_SIZE // 2]
    with tarfile.open(path, "w") as archive:
        for number in range(_FILES):
            entry = tarfile.TarInfo(f"usr/lib/place{number % 100}/file{number}")
            content = text + os.urandom(_FILE_SIZE // 2)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path.stat().st_size


async def _large(bandsox: AsyncBandSox, archive: Path) -> None:
    """A 2 GiB image costs to create from what the small one costs: the image is not touched."""
    base = await bandsox.pull_image(DEFAULT_IMAGE, "missing")
    await asyncio.to_thread(_write_large, archive)
    images = bandsox.engine.images
    async with images.adding():
        with archive.open("rb") as file:
            layer = await images.add_layer(file)
        large = await images.commit([layer], base.config, base=base, references=["bench-large"])
    samples = []
    for name in (DEFAULT_IMAGE, "bench-large"):
        created = Samples(f"create_vm from {name}")
        for _ in range(ROUNDS):
            with created.measuring():
                vm = await bandsox.create_vm(name)
            await vm.delete()
        samples.append(created)
    await bandsox.remove_image(large.id, force=True)
    table("Image size", samples)


def _write_large(archive: Path) -> None:
    with archive.open("wb") as file, tarfile.open(fileobj=file, mode="w") as tar:
        entry = tarfile.TarInfo("large")
        entry.size = _LARGE
        with Path("/dev/urandom").open("rb") as noise:
            tar.addfile(entry, noise)
