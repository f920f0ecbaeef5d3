"""Files into and out of a machine, against `dd` from and to the same places over a port of the same kind."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import tempfile
import time
from pathlib import Path

from bandsox.core import AsyncBandSox
from bandsox.models import VMRecord
from bench.rawvm import RAW_PORT, RawVM, raw_vm

SIZES_MB = (1, 16, 128, 1024)
_MB = 1_000_000
_READY = b"r"
_DD = f"""exec 3<>/dev/$(grep -lx "{RAW_PORT}" /sys/class/virtio-ports/*/name | cut -d/ -f5); printf {_READY.decode()} >&3; exec dd bs=1M"""


async def measure(bandsox: AsyncBandSox) -> None:
    print(
        "\n### Transfer\n\n| MB | raw in MB/s | upload MB/s | ratio | raw out MB/s | download MB/s | ratio | RSS growth MiB |"
        "\n|---|---|---|---|---|---|---|---|"
    )
    vm = await bandsox.create_vm(mem_mib=512)
    try:
        async with raw_vm(bandsox, vm._record) as raw:
            await raw.client.ping(timeout=60)
            for size in SIZES_MB:
                await _row(bandsox, raw, vm._record, size * _MB)
    finally:
        await vm.delete()


async def _row(bandsox: AsyncBandSox, raw: RawVM, record: VMRecord, size: int) -> None:
    guest = bandsox.engine.client(record)
    place = "/dev/shm/file" if size <= 128 * _MB else "/var/tmp/file"
    with tempfile.TemporaryDirectory() as work:
        source, target = Path(work) / "source", Path(work) / "target"
        source.write_bytes(os.urandom(_MB) * (size // _MB))
        raw_in = await _raw(raw, size, f"<&3 of={place} iflag=fullblock,count_bytes count={size}", inwards=True)
        before = _peak_mib()
        start = time.perf_counter()
        await guest.upload_file(source, place)
        up = size / (time.perf_counter() - start)
        raw_out = await _raw(raw, size, f">&3 if={place}", inwards=False)
        start = time.perf_counter()
        await guest.download_file(place, target)
        down = size / (time.perf_counter() - start)
        growth = _peak_mib() - before
        for client in (guest, raw.client):
            await client.run(argv=["rm", "-f", place])
    cells = (size // _MB, raw_in / 1e6, up / 1e6, up / raw_in, raw_out / 1e6, down / 1e6, down / raw_out, growth)
    print("| {} | {:.0f} | {:.0f} | {:.2f} | {:.0f} | {:.0f} | {:.2f} | {:.0f} |".format(*cells), flush=True)


async def _raw(raw: RawVM, size: int, command: str, *, inwards: bool) -> float:
    """Bytes a second of a plain copy over the raw port, from the moment at which its program is about to begin."""
    with raw.connect_raw() as connection:
        async with await raw.client.execute(shell=f"{_DD} {command}") as execution:
            assert await asyncio.to_thread(connection.recv, 1) == _READY
            start = time.perf_counter()
            await asyncio.to_thread(_send if inwards else _receive, connection, size)
            await execution.wait()
            return size / (time.perf_counter() - start)


def _send(connection: socket.socket, size: int) -> None:
    block = memoryview(bytes(_MB))
    for _ in range(size // _MB):
        connection.sendall(block)


def _receive(connection: socket.socket, size: int) -> None:
    block = bytearray(_MB)
    while size:
        size -= connection.recv_into(block)


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
