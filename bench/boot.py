"""From `create_vm` to the first answered command, from the kernel's first instruction and from a warm boot, against the bare VMM to the
agent's first byte."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from bandsox.core import AsyncBandSox
from bench.figures import Samples, table
from bench.rawvm import raw_vm

ROUNDS = 8


async def measure(bandsox: AsyncBandSox) -> None:
    floor, stopped = Samples("bare VMM to the agent's first byte"), Samples("stop")
    cold, warm = Samples("create_vm and `true`, from the beginning"), Samples("create_vm and `true`, from a warm boot")
    model = await bandsox.create_vm()
    record = model._record
    await model.delete()
    for _ in range(ROUNDS):
        with floor.measuring():
            async with raw_vm(bandsox, record) as raw:
                await raw.first_byte()
        for created, allowed in ((cold, "0"), (warm, "1")):
            with _warm_boot(allowed), created.measuring():
                vm = await bandsox.create_vm()
                await vm.run(["true"])
            if created is cold:
                with stopped.measuring():
                    await vm.stop()
            await vm.delete()
    ratios = (f"{each.name}: {each.median / floor.median:.2f} times the bare VMM at the median." for each in (cold, warm))
    table("Create", [floor, cold, warm, stopped], *ratios, "At most 1.15 is wanted.")


@contextlib.contextmanager
def _warm_boot(choice: str) -> Iterator[None]:
    before = os.environ.get("BANDSOX_WARM_BOOT")
    os.environ["BANDSOX_WARM_BOOT"] = choice
    try:
        yield
    finally:
        if before is None:
            del os.environ["BANDSOX_WARM_BOOT"]
        else:
            os.environ["BANDSOX_WARM_BOOT"] = before
