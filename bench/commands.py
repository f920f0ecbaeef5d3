"""`exec_command("true")`, against fork and exec inside the guest plus a raw round trip on the same channel."""

from __future__ import annotations

import asyncio

from bandsox.core import AsyncBandSox
from bandsox.models import VMRecord
from bench.figures import Samples, table
from bench.rawvm import RAW_PORT, raw_vm

TURNS, ROUNDS = 10, 20
"""The floor and the library by turns, since the guest's speed changes in the course of minutes."""

_FORK = """
use Time::HiRes "time";
for (1..{rounds}) {{
    my $start = time;
    my $child = fork;
    exec {{"/bin/true"}} "true" unless $child;
    waitpid $child, 0;
    printf "%f\\n", time - $start;
}}
"""
"""In Perl, the smallest program of the image that can: what fork costs depends on how much memory it copies the tables of."""

_SPAWN = """
import os, time
for _ in range({rounds}):
    start = time.perf_counter()
    os.waitpid(os.posix_spawn("/bin/true", ["true"], {{}}), 0)
    print(time.perf_counter() - start)
"""
"""With vfork, as the agent does; it copies nothing."""

_ECHO = """
import os
for name in os.listdir("/sys/class/virtio-ports"):
    if open(f"/sys/class/virtio-ports/{{name}}/name").read().strip() == "{port}":
        port = os.open(f"/dev/{{name}}", os.O_RDWR)
while True:
    if data := os.read(port, 64):
        os.write(port, data)
"""


async def measure(bandsox: AsyncBandSox) -> None:
    vm = await bandsox.create_vm()
    try:
        fork, spawn = Samples("fork and exec in the guest"), Samples("vfork and exec in the guest")
        execute, ping = Samples("run(['true'])"), Samples("ping")
        for _ in range(TURNS):
            for samples, program in ((fork, ["perl", "-e", _FORK]), (spawn, ["python3", "-c", _SPAWN])):
                printed = (await vm.run([*program[:-1], program[-1].format(rounds=ROUNDS)])).text
                samples.values += [float(line) for line in printed.split()]
            await execute.of(ROUNDS, lambda: vm.run(["true"]))
            await ping.of(ROUNDS, vm.guest.ping)
        trip = await _round_trip(bandsox, vm._record)
    finally:
        await vm.delete()
    over, over_spawn = ((execute.median - floor.median - trip.median) * 1000 for floor in (fork, spawn))
    told = f"Over fork, exec and the trip at the median: {over:.1f} ms (target: at most 2 ms); with vfork {over_spawn:.1f} ms."
    table("Commands", [fork, spawn, trip, ping, execute], told)


async def _round_trip(bandsox: AsyncBandSox, record: VMRecord) -> Samples:
    samples = Samples("raw round trip of 64 bytes")
    async with raw_vm(bandsox, record) as raw:
        await raw.client.setup(timeout=60)
        async with await raw.client.execute(argv=["python3", "-c", _ECHO.format(port=RAW_PORT)]):
            with raw.connect_raw() as connection:
                connection.setblocking(False)
                loop = asyncio.get_running_loop()

                async def trip() -> None:
                    await loop.sock_sendall(connection, bytes(64))
                    received = 0
                    while received < 64:
                        received += len(await loop.sock_recv(connection, 64))

                await trip()
                await samples.of(TURNS * ROUNDS, trip)
    return samples
