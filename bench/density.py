"""Fifty idle machines at once, and what each of them costs."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from bandsox.core import AsyncBandSox
from bandsox.vm import AsyncMicroVM

COUNT = 50
_EVERY = 10
_IDLE_S = 10.0


async def measure(bandsox: AsyncBandSox) -> None:
    vms: list[AsyncMicroVM] = []
    before = available_mib()
    print("\n### Density\n\n| machines | PSS of the newest MiB | host memory for each MiB |\n|---|---|---|")
    try:
        for number in range(1, COUNT + 1):
            vms.append(await bandsox.create_vm(ephemeral=True))
            if number == 1 or number % _EVERY == 0:
                print(f"| {number} | {pss_mib(vms[-1]):.0f} | {(before - available_mib()) / number:.0f} |", flush=True)
        busy = sum(map(cpu_s, vms))
        await asyncio.sleep(_IDLE_S)
        idle = (sum(map(cpu_s, vms)) - busy) / _IDLE_S / COUNT
        answers = [(await vm.run(["true"])).exit_code for vm in vms]
        sizes = [pss_mib(vm) for vm in vms]
    finally:
        for vm in vms:
            await vm.delete()
    print(f"\n{answers.count(0)} of {COUNT} machines answer at once; each takes {idle:.1%} of a processor while it is idle.")
    print(f"PSS after that: {sum(sizes) / len(sizes):.0f} MiB in the mean, {max(sizes):.0f} MiB at most.")


def _pid(vm: AsyncMicroVM) -> int:
    if vm.process is None:
        raise LookupError(f"{vm} has no process")
    return vm.process.pid


def pss_mib(vm: AsyncMicroVM) -> float:
    """The memory of a machine's VMM, what it shares counted in parts."""
    return _field(Path(f"/proc/{_pid(vm)}/smaps_rollup"), "Pss:") / 1024


def available_mib() -> float:
    return _field(Path("/proc/meminfo"), "MemAvailable:") / 1024


def _field(path: Path, name: str) -> int:
    return next(int(line.split()[1]) for line in path.read_text().splitlines() if line.startswith(name))


def cpu_s(vm: AsyncMicroVM) -> float:
    """The processor time that a machine's VMM has taken."""
    fields = Path(f"/proc/{_pid(vm)}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
