"""What a network costs: creating a VM with one, with and without a policy, against one without."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from bandsox.core import AsyncBandSox
from bandsox.models import Policy
from bench.figures import Samples, table

ROUNDS = 8
POLICY = Policy(allow=("*.example.com", "203.0.113.0/24"))


async def measure(bandsox: AsyncBandSox) -> None:
    without, within = Samples("create_vm without a network"), Samples("create_vm with a network")
    policed = Samples("create_vm with a network and a policy")
    making = Samples("of it, the host's side: namespace, rules and uplink")
    making_policed = Samples("the same with a policy: the filter started, its rules in force")
    for _ in range(ROUNDS):
        for samples, options in (
            (without, {"enable_networking": False}),
            (within, {"enable_networking": True}),
            (policed, {"network": POLICY}),
        ):
            with samples.measuring():
                vm = await bandsox.create_vm(**options)
            await vm.delete()
        for samples, policy in ((making, None), (making_policed, POLICY)):
            with tempfile.TemporaryDirectory(dir=bandsox.engine.layout.temporary) as directory:
                with samples.measuring():
                    _, namespace = await asyncio.to_thread(bandsox.engine.networks.make, Path(directory), policy=policy)
                    await namespace.completed()
                namespace.close()
    extra = (within.median - without.median) * 1000
    filtered = (making_policed.median - making.median) * 1000
    notes = f"A network costs {extra:.0f} ms at the median (target: at most 40).", f"A policy costs {filtered:.0f} ms more."
    table("Network", [without, within, policed, making, making_policed], *notes)
