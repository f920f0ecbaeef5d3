"""Fifty idle machines at once, and what each of them costs."""

from __future__ import annotations

from pathlib import Path

from bandsox.core import AsyncBandSox
from bandsox.vm import AsyncMicroVM

COUNT = 50


async def measure(bandsox: AsyncBandSox) -> None:
    vms: list[AsyncMicroVM] = []
    try:
        for _ in range(COUNT):
            vms.append(await bandsox.create_vm())
        answers = [(await vm.run(["true"])).exit_code for vm in vms]
        sizes = [_pss_mib(vm.process.pid) for vm in vms if vm.process is not None]
    finally:
        for vm in vms:
            await vm.delete()
    print(f"\n### Density\n\n{answers.count(0)} of {COUNT} machines answer at once.")
    print(f"PSS of a machine: {sum(sizes) / len(sizes):.0f} MiB in the mean, {sizes[-1]:.0f} MiB for the last.")


def _pss_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise LookupError(f"no Pss for {pid}")
