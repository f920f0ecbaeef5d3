"""From `create_vm` to the first answered command, against the bare VMM to the agent's first byte."""

from __future__ import annotations

from bandsox.core import AsyncBandSox
from bench.figures import Samples, table
from bench.rawvm import raw_vm

ROUNDS = 8


async def measure(bandsox: AsyncBandSox) -> None:
    floor, created, stopped = Samples("bare VMM to the agent's first byte"), Samples("create_vm and `true`"), Samples("stop")
    model = await bandsox.create_vm()
    record = model._record
    await model.delete()
    for _ in range(ROUNDS):
        with floor.measuring():
            async with raw_vm(bandsox, record) as raw:
                await raw.first_byte()
        with created.measuring():
            vm = await bandsox.create_vm()
            await vm.run(["true"])
        with stopped.measuring():
            await vm.stop()
        await vm.delete()
    table("Create", [floor, created, stopped], f"Ratio of the medians: {created.median / floor.median:.2f} (target: at most 1.15).")
