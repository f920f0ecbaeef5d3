"""What the server costs: commands and files through it against the library on the same machine, in turns; long lists; how long others wait.

The list is of a storage directory of its own with a hundred stopped machines, and is measured in processor time of the server, which other
work on the host does not falsify: 1000 ms divided by it is what one core can answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

from bandsox.core import AsyncBandSox
from bandsox.models import VMRecord, VMStatus
from bandsox.vm import AsyncMicroVM
from bench.figures import Samples, table

_ROUNDS = 100
_SIZE = 256 << 20
_TURNS = 3
_LISTED = 100
_LISTS = 300
_PROBES = 500
_CLIENTS, _VMS = 200, 20


async def measure(bandsox: AsyncBandSox) -> None:
    vm = await bandsox.create_vm(mem_mib=1024)
    try:
        async with _serving(bandsox.storage_dir) as (server, pid), AsyncBandSox(server_url=server) as remote:
            there = await remote.get_vm(vm.vm_id)
            assert there is not None
            await _commands(vm, there, pid)
            await _files(vm, there)
            await _probes(vm, there, remote, server)
        await _lists(vm._record)
    finally:
        await vm.delete()


async def _commands(vm: AsyncMicroVM, there: AsyncMicroVM, pid: int) -> None:
    here, far = Samples("run(['true']), the library"), Samples("run(['true']), through the server")
    spent = dict.fromkeys((here.name, far.name), 0.0)
    for machine in (vm, there):
        await machine.run(["true"])
    served = _processor_s(pid)
    for _ in range(_ROUNDS):  # in turns: both see the same host
        for samples, machine in ((here, vm), (far, there)):
            before = time.process_time()
            await samples.of(1, partial(machine.run, ["true"]))
            spent[samples.name] += time.process_time() - before
    over = (far.median - here.median) * 1000
    library, client = (spent[samples.name] / _ROUNDS * 1000 for samples in (here, far))
    server = (_processor_s(pid) - served) / _ROUNDS * 1000
    table(
        "Commands through the server",
        [here, far],
        f"Over the library at the median: {over:.1f} ms (target: at most 1.5 ms).",
        f"In processor time, which other work on the host does not falsify: the library {library:.1f} ms; through the server"
        f" {client:.1f} ms of the client and {server:.1f} ms of the server, {client + server - library:.1f} ms more.",
    )


async def _files(vm: AsyncMicroVM, there: AsyncMicroVM) -> None:
    rates: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as work:
        source, target = Path(work) / "source", Path(work) / "target"
        source.write_bytes(os.urandom(1 << 20) * (_SIZE >> 20))
        for _ in range(_TURNS):
            for name, machine in (("library", vm), ("server", there)):
                for way, move in (
                    ("upload", partial(machine.upload_file, source, "/dev/shm/file")),
                    ("download", partial(machine.download_file, "/dev/shm/file", target)),
                ):
                    start = time.perf_counter()
                    await move()
                    rates.setdefault((way, name), []).append(_SIZE / (time.perf_counter() - start) / 1e6)
                await vm.remove("/dev/shm/file")  # there is room for one at a time
    print(f"\n### Files of {_SIZE >> 20} MiB through the server\n\n| | the library MB/s | through the server MB/s | share (target: 60 %) |")
    print("|---|---|---|---|")
    for way in ("upload", "download"):
        here, far = median(rates[way, "library"]), median(rates[way, "server"])
        print(f"| {way} | {here:.0f} | {far:.0f} | {far / here:.0%} |")


async def _probes(vm: AsyncMicroVM, there: AsyncMicroVM, remote: AsyncBandSox, url: str) -> None:
    """How long others wait, alone and among many, while a gigabyte goes through."""
    quiet = Samples("GET /healthz, nothing else")
    await quiet.of(_PROBES, lambda: _healthy(remote))
    await there.run("truncate -s 1G /root/gigabyte")
    busy = Samples("while 1 GiB moves")
    await _while_moving(there, remote, busy)
    clones = await vm.fork(count=_VMS - 1)
    try:
        crowded = Samples(f"while 1 GiB moves, with {_CLIENTS} clients and {_VMS} VMs")
        async with _crowd(url, [f"/api/vms/{each.vm_id}" for each in (vm, *clones)]) as asked:
            begin = time.perf_counter()
            await _while_moving(there, remote, crowded)
            seconds = time.perf_counter() - begin
    finally:
        for clone in clones:
            await clone.delete()
    notes = f"The clients asked for a VM each second: {asked[0] / seconds:.0f} answers a second."
    table("Who waits", [quiet, busy, crowded], "Target: 50 ms at the 99th percentile.", notes)


async def _healthy(remote: AsyncBandSox) -> object:
    return await remote._server.call("GET", "/healthz")  # type: ignore[attr-defined]


async def _while_moving(there: AsyncMicroVM, remote: AsyncBandSox, samples: Samples) -> None:
    server = remote._server  # type: ignore[attr-defined]

    async def move() -> None:
        path, params = f"/api/vms/{there.vm_id}/download", {"path": "/root/gigabyte"}
        async with server.streaming("GET", path, params=params, patient=True) as answer:
            async for _ in answer.aiter_raw():
                pass

    moving = asyncio.create_task(move())
    while not moving.done():
        await samples.of(1, lambda: _healthy(remote))
    await moving


@contextlib.asynccontextmanager
async def _crowd(url: str, paths: list[str]) -> AsyncIterator[list[int]]:
    """Clients of another process for the time of the block; then the value has how many answers they got."""
    host, _, port = url.removeprefix("http://").partition(":")
    command = [sys.executable, "-m", "bench.clients", host, port, str(_CLIENTS), *paths]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    assert process.stdin is not None
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    answers: list[int] = []
    try:
        yield answers
    finally:
        process.stdin.close()
        answers.append(int(await process.stdout.readline()))
        await process.wait()


async def _lists(record: VMRecord) -> None:
    with tempfile.TemporaryDirectory() as storage:
        async with AsyncBandSox(storage) as bandsox:
            for number in range(_LISTED):
                spec = replace(record.spec, name=f"vm-{number}")
                listed = replace(record, id=f"{number:016x}", spec=spec, status=VMStatus.STOPPED, pid=None, created_at=float(number))
                bandsox.engine.vms.insert(listed)
        async with _serving(Path(storage)) as (url, pid), AsyncBandSox(server_url=url) as remote:
            server = remote._server  # type: ignore[attr-defined]
            for _ in range(20):
                await server.call("GET", "/api/vms")
            before = _processor_s(pid)
            for _ in range(_LISTS):
                await server.call("GET", "/api/vms")
            each = (_processor_s(pid) - before) / _LISTS
    print(
        f"\n### GET /api/vms with {_LISTED} VMs\n\n{each * 1000:.1f} ms of processor time: {1 / each:.0f} a second on a core (target: 300)."
    )


@contextlib.asynccontextmanager
async def _serving(storage: Path) -> AsyncIterator[tuple[str, int]]:
    """The URL of a server of a storage directory, and its pid."""
    command = [sys.executable, "-m", "bandsox", "--json", "--storage", str(storage), "serve", "--port", "0"]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        yield json.loads(await process.stdout.readline())["url"], process.pid
    finally:
        process.terminate()
        await process.wait()


def _processor_s(pid: int) -> float:
    """The processor time of a process so far (proc(5), fields 14 and 15 of stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
