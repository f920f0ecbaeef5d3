"""What a network costs: creating a VM with one, with and without a policy, against one without; and how much gets through it."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from bandsox.core import AsyncBandSox
from bandsox.models import Policy
from bench import throughput
from bench.figures import Samples, table

ROUNDS = 8
POLICY = Policy(allow=("*.example.com", "203.0.113.0/24"))


async def measure(bandsox: AsyncBandSox) -> None:
    without, within = Samples("create_vm without a network"), Samples("create_vm with a network")
    policed = Samples("create_vm with a network and a policy")
    starting = Samples("of it, the host's side until the VMM can start: namespace and TAP device")
    making = Samples("and until packets get through: rules and uplink")
    starting_policed = Samples("with a policy, until the VMM can start")
    making_policed = Samples("and until packets get through: the filter started, its rules in force")
    for _ in range(ROUNDS):
        for samples, options in (
            (without, {"enable_networking": False}),
            (within, {"enable_networking": True}),
            (policed, {"network": POLICY}),
        ):
            with samples.measuring():
                vm = await bandsox.create_vm(**options)
            await vm.delete()
        for first, whole, policy in ((starting, making, None), (starting_policed, making_policed, POLICY)):
            with tempfile.TemporaryDirectory(dir=bandsox.engine.layout.temporary) as directory:
                with whole.measuring():
                    with first.measuring():
                        _, namespace = await asyncio.to_thread(bandsox.engine.networks.make, Path(directory), policy=policy)
                    await namespace.completed()
                namespace.close()
    extra = (within.median - without.median) * 1000
    filtered = (policed.median - within.median) * 1000
    notes = f"A network costs {extra:.0f} ms at the median (target: at most 40).", f"A policy costs {filtered:.0f} ms more."
    table("Network", [without, within, policed, starting, making, starting_policed, making_policed], *notes)
    throughput.begin(bandsox.storage_dir)
