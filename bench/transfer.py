"""Files into and out of a machine, against `dd` from and to the same places over a port of the same kind."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from bandsox.core import AsyncBandSox
from bandsox.engine.ownership import process_of
from bandsox.models import VMRecord
from bandsox.process import ProcessId
from bench.rawvm import RAW_PORT, RawVM, raw_vm

SIZES_MB = (1, 16, 128, 1024)
TURNS = 5
"""How often each size is copied, but for the largest; the machine's own spread is then known."""

_MB = 1_000_000
_READY = b"r"
_DD = f"""exec 3<>/dev/$(grep -lx "{RAW_PORT}" /sys/class/virtio-ports/*/name | cut -d/ -f5); printf {_READY.decode()} >&3; exec dd bs=1M"""


async def measure(bandsox: AsyncBandSox) -> None:
    print(
        "\n### Transfer\n\nMedians of so many turns, raw and library by turns; the spread is the slowest of them to the fastest.\n\n"
        "| MB | turns | raw in MB/s | upload MB/s | ratio | ratio of processor time | raw out MB/s | download MB/s | ratio |"
        " ratio of processor time | RSS growth MiB |\n|---|---|---|---|---|---|---|---|---|---|---|"
    )
    vm = await bandsox.create_vm(mem_mib=512)
    try:
        async with raw_vm(bandsox, vm._record) as raw:
            await raw.client.setup(timeout=60)
            for size in SIZES_MB:
                await _row(bandsox, raw, vm._record, size * _MB)
    finally:
        await vm.delete()


@dataclass
class Turns:
    """What the same copy took, again and again."""

    rates: list[float] = field(default_factory=list)
    processor_s: list[float] = field(default_factory=list)

    @asynccontextmanager
    async def measuring(self, size: int, process: ProcessId) -> AsyncIterator[None]:
        """Count a copy of `size` bytes that the machine of `process` takes part in."""
        before, start = _processor_s(process), time.perf_counter()
        yield
        self.rates.append(size / (time.perf_counter() - start))
        self.processor_s.append(_processor_s(process) - before)

    def rate(self) -> str:
        slowest, fastest = min(self.rates) / 1e6, max(self.rates) / 1e6
        return f"{median(self.rates) / 1e6:.0f} ({slowest:.0f} to {fastest:.0f})"

    def ratios(self, floor: Turns) -> tuple[str, str]:
        """How fast, and at what cost of the machine's processor time, beside a `floor`."""
        rate = median(self.rates) / median(floor.rates)
        return f"{rate:.2f}", f"{median(self.processor_s) / max(0.01, median(floor.processor_s)):.2f}"


async def _row(bandsox: AsyncBandSox, raw: RawVM, record: VMRecord, size: int) -> None:
    guest = bandsox.engine.client(record)
    process = process_of(record, bandsox.engine.layout.vms)
    assert process is not None
    turns = TURNS if size <= 128 * _MB else 1
    place = "/dev/shm/file" if size <= 128 * _MB else "/var/tmp/file"
    raw_in, up, raw_out, down = Turns(), Turns(), Turns(), Turns()
    with tempfile.TemporaryDirectory() as work:
        source, target = Path(work) / "source", Path(work) / "target"
        source.write_bytes(os.urandom(_MB) * (size // _MB))
        before = _peak_mib()
        for _ in range(turns):
            await _raw(raw, raw_in, size, f"<&3 of={place} iflag=fullblock,count_bytes count={size}", inwards=True)
            async with up.measuring(size, process):
                await guest.upload_file(source, place)
            await _raw(raw, raw_out, size, f">&3 if={place}", inwards=False)
            async with down.measuring(size, process):
                await guest.download_file(place, target)
            for client in (guest, raw.client):
                await client.run(argv=["rm", "-f", place])
        growth = _peak_mib() - before
    cells = (raw_in.rate(), up.rate(), *up.ratios(raw_in), raw_out.rate(), down.rate(), *down.ratios(raw_out))
    print(f"| {size // _MB} | {turns} | {' | '.join(cells)} | {growth:.0f} |", flush=True)


async def _raw(raw: RawVM, turns: Turns, size: int, command: str, *, inwards: bool) -> None:
    """A plain copy over the raw port, measured from the moment at which its program is about to begin."""
    with raw.connect_raw() as connection:
        async with await raw.client.execute(shell=f"{_DD} {command}") as execution:
            assert await asyncio.to_thread(connection.recv, 1) == _READY
            async with turns.measuring(size, raw.process):
                await asyncio.to_thread(_send if inwards else _receive, connection, size)
                await execution.wait()


def _send(connection: socket.socket, size: int) -> None:
    block = memoryview(bytes(_MB))
    for _ in range(size // _MB):
        connection.sendall(block)


def _receive(connection: socket.socket, size: int) -> None:
    block = bytearray(_MB)
    while size:
        size -= connection.recv_into(block)


def _processor_s(process: ProcessId) -> float:
    """The processor time of a process so far (proc(5), fields 14 and 15 of stat)."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
