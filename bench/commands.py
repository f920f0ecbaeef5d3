"""`exec_command("true")`, against fork and exec inside the guest plus a raw round trip on the same channel."""

from __future__ import annotations

import asyncio

from bandsox.core import AsyncBandSox
from bandsox.models import VMRecord
from bench.figures import Samples, table
from bench.rawvm import RAW_PORT, raw_vm

TURNS, ROUNDS = 10, 20
"""The floor and the library by turns, since the guest's speed changes in the course of minutes."""

_SPAWN = """
import os, time
for _ in range({rounds}):
    start = time.perf_counter()
    os.waitpid(os.posix_spawn("/bin/true", ["true"], {{}}), 0)
    print(time.perf_counter() - start)
"""

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
        spawn, execute, ping = Samples("fork and exec in the guest"), Samples("run(['true'])"), Samples("ping")
        for _ in range(TURNS):
            printed = (await vm.run(["python3", "-c", _SPAWN.format(rounds=ROUNDS)])).text
            spawn.values += [float(line) for line in printed.split()]
            await execute.of(ROUNDS, lambda: vm.run(["true"]))
            await ping.of(ROUNDS, vm.guest.ping)
        trip = await _round_trip(bandsox, vm._record)
    finally:
        await vm.delete()
    over = (execute.median - spawn.median - trip.median) * 1000
    table("Commands", [spawn, trip, ping, execute], f"Over the floor at the median: {over:.1f} ms (target: at most 2 ms).")


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
