"""What a network costs: creating a VM with one, against one without."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from bandsox.core import AsyncBandSox
from bench.figures import Samples, table

ROUNDS = 8


async def measure(bandsox: AsyncBandSox) -> None:
    without, within = Samples("create_vm without a network"), Samples("create_vm with a network")
    making = Samples("of it, the host's side: namespace, rules and uplink")
    for _ in range(ROUNDS):
        for samples, networked in ((without, False), (within, True)):
            with samples.measuring():
                vm = await bandsox.create_vm(enable_networking=networked)
            await vm.delete()
        with tempfile.TemporaryDirectory(dir=bandsox.engine.layout.temporary) as directory:
            with making.measuring():
                _, namespace = await asyncio.to_thread(bandsox.engine.networks.make, Path(directory))
            namespace.close()
    extra = (within.median - without.median) * 1000
    table("Network", [without, within, making], f"A network costs {extra:.0f} ms at the median (target: at most 40).")
