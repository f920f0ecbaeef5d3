"""Snapshots and clones, against the bare VMM's own saving and going on: the same files, the same guest, the same run.

The floor of a restore is a QEMU without confinement that is given the state and asked for one byte of its agent, and then, since a command
costs the guest what it costs, for its programs to be thawed and `true` to be run. That of a pause is QEMU's own ``stop``, ``migrate``
through a pipe to `cat`, and ``cont``, on the same machine.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from bandsox.core import AsyncBandSox
from bandsox.models import VMRecord
from bandsox.vm import AsyncMicroVM
from bandsox.vmm.base import Origin
from bandsox.vmm.qemu import qmp
from bandsox.vmm.qemu.command import monitor_socket
from bench.density import available_mib, pss_mib
from bench.figures import Samples, table
from bench.rawvm import raw_vm

ROUNDS = int(os.environ.get("BENCH_ROUNDS", "20"))
AT_ONCE = 20
CROWDS = 3
CLONES = int(os.environ.get("BENCH_CLONES", "100"))
_EVERY = 10
_IDLE_S = 10.0
_SETUP = ["python3 -c 'import json, uuid, asyncio'"]


async def measure(bandsox: AsyncBandSox) -> None:
    vm = await bandsox.create_vm(mem_mib=256, vmm="qemu", enable_networking=False)
    name = f"bench-{vm.vm_id}"
    try:
        await vm.exec_python("import json, uuid, asyncio")
        await _pauses(bandsox, vm)
        await vm.snapshot(name)
        record = vm._record
        await vm.delete()
        await _restores(bandsox, record, name)
        await _crowd(bandsox, record, name)
        await _density(bandsox)
    finally:
        await bandsox.delete_vm(record.id)
        await bandsox.delete_snapshot(name)


async def _pauses(bandsox: AsyncBandSox, vm: AsyncMicroVM) -> None:
    """How long the CPUs stand still, and how long the whole takes."""
    floor, paused, taken, forked = (Samples(name) for name in ("bare pause", "pause of a snapshot", "snapshot", "fork of one clone"))
    vmm: Any = bandsox.engine.vmms["qemu"]
    pause, resume = vmm.pause, vmm.resume
    began: list[float] = []

    async def pausing(sockets: Path) -> None:
        began.append(time.perf_counter())
        await pause(sockets)

    async def resuming(sockets: Path) -> None:
        await resume(sockets)
        paused.values.append(time.perf_counter() - began.pop())

    for _ in range(ROUNDS):
        await _bare_pause(bandsox, vm, floor)
        vmm.pause, vmm.resume = pausing, resuming
        try:
            with taken.measuring():
                name = await vm.snapshot()
        finally:
            del vmm.pause, vmm.resume
        await bandsox.delete_snapshot(name)
    for _ in range(ROUNDS // 2):
        with forked.measuring():
            (clone,) = await vm.fork()
        await clone.delete()
    over = (paused.median - floor.median) * 1000
    table(
        "Snapshot of a guest of 256 MiB", [floor, paused, taken, forked], f"Pause over the floor at the median: {over:.0f} ms (at most 30)."
    )


async def _bare_pause(bandsox: AsyncBandSox, vm: AsyncMicroVM, floor: Samples) -> None:
    work = bandsox.engine.layout.temporary / "bare-snapshot"
    reading, writing = os.pipe2(os.O_CLOEXEC)
    with work.open("wb") as file:
        cat = await asyncio.create_subprocess_exec("cat", stdin=reading, stdout=file)
    os.close(reading)
    async with qmp.connect(monitor_socket(bandsox.engine.layout.sockets(vm.vm_id))) as monitor:
        await monitor.execute("migrate-set-parameters", **{"max-bandwidth": 1 << 60})
        await monitor.execute("getfd", fdname="bare", descriptor=writing)
        os.close(writing)
        with floor.measuring():
            await monitor.execute("stop")
            await monitor.execute("migrate", uri="fd:bare")
            await cat.wait()
            await monitor.execute("cont")
    work.unlink()


async def _origin(bandsox: AsyncBandSox, name: str) -> tuple[Origin, bytes]:
    snapshot = await bandsox.engine.snapshots.get(name)
    return Origin(bandsox.engine.snapshots.shelf.path(snapshot), snapshot.shape), bytes.fromhex(snapshot.token)


async def _restores(bandsox: AsyncBandSox, record: VMRecord, name: str) -> None:
    origin, token = await _origin(bandsox, name)
    byte, command = Samples("bare VMM, and one byte of the agent"), Samples("bare VMM, thawed, and `true`")
    restored, first = Samples("restore_vm"), Samples("restore_vm and `true`")
    bare_cpu, our_cpu = Samples("bare VMM, processor time"), Samples("restore_vm and `true`, processor time of the VMM")
    steps: dict[str, Samples] = {}
    for _ in range(ROUNDS):
        start = time.perf_counter()
        async with raw_vm(bandsox, record, origin) as raw:
            await raw.first_byte(token)
            byte.values.append(time.perf_counter() - start)
        start = time.perf_counter()
        async with raw_vm(bandsox, record, origin) as raw:
            await raw.client_with(token).thaw()
            await raw.client_with(token).run(argv=["true"])
            command.values.append(time.perf_counter() - start)
            bare_cpu.values.append(_cpu_s(raw.process.pid))
        with first.measuring():
            with restored.measuring():
                clone = await bandsox.restore_vm(name)
            await clone.run(["true"])
        our_cpu.values.append(_cpu_s(_pid(clone)))
        receipt = clone.receipt
        for step in receipt.steps if receipt is not None else ():
            steps.setdefault(step.name, Samples(f"of which in the guest: {step.name}")).values.append(step.took_ms / 1000)
        await clone.delete()
    table(
        "Restore of a guest of 256 MiB",
        [byte, command, restored, first, bare_cpu, our_cpu, *steps.values()],
        f"Ratio of the medians, with `true` to the same on the bare VMM: {first.median / command.median:.2f} (at most 1.2); to one byte "
        f"of the agent: {first.median / byte.median:.2f}, and of restore_vm alone {restored.median / byte.median:.2f}.",
    )


async def _crowd(bandsox: AsyncBandSox, record: VMRecord, name: str) -> None:
    origin, token = await _origin(bandsox, name)

    async def bare(stack: AsyncExitStack) -> int:
        raw = await stack.enter_async_context(raw_vm(bandsox, record, origin))
        await raw.client_with(token).thaw()
        await raw.client_with(token).run(argv=["true"])
        return raw.process.pid

    async def restored(stack: AsyncExitStack) -> int:
        clone = await bandsox.restore_vm(name)
        stack.push_async_callback(clone.delete)
        await clone.run(["true"])
        return _pid(clone)

    floor, floor_cpu = Samples(f"{AT_ONCE} bare VMMs at once, thawed, and `true`"), Samples("processor time of all that")
    ours, our_cpu = Samples(f"{AT_ONCE} × restore_vm at once, and `true`"), Samples("processor time of all that")
    for _ in range(CROWDS):
        await _at_once(bare, floor, floor_cpu)
        await _at_once(restored, ours, our_cpu)
    table(
        f"{AT_ONCE} restores at once",
        [floor, floor_cpu, ours, our_cpu],
        f"Throughput against the floor: {floor.median / ours.median:.0%} (at least 80 %); for each second of a processor "
        f"{floor_cpu.median / our_cpu.median:.0%}.",
    )


async def _at_once(one: Callable[[AsyncExitStack], Awaitable[int]], took: Samples, cpu: Samples) -> None:
    """Start as many as are to be at once, each of which goes on until the last has answered; `one` returns its VMM's process."""
    async with AsyncExitStack() as stack:
        before = _own_cpu_s()
        with took.measuring():
            pids = await asyncio.gather(*(one(stack) for _ in range(AT_ONCE)))
        cpu.values.append(sum(map(_cpu_s, pids)) + _own_cpu_s() - before)


async def _density(bandsox: AsyncBandSox) -> None:
    template = await bandsox.template(setup=_SETUP, mem_mib=256, vmm="qemu", enable_networking=False)
    print(
        f"\n### {CLONES} clones of one template\n\n| clones | PSS of the newest MiB | its private memory MiB | host memory for each MiB |"
    )
    print("|---|---|---|---|")
    clones: list[AsyncMicroVM] = []
    before = available_mib()
    try:
        for number in range(1, CLONES + 1):
            clones.append(await bandsox.create_vm(template))
            if number == 1 or number % _EVERY == 0:
                private = _private_mib(clones[-1])
                spent = (before - available_mib()) / number
                print(f"| {number} | {pss_mib(clones[-1]):.0f} | {private:.0f} | {spent:.0f} |", flush=True)
        await asyncio.sleep(_IDLE_S)
        _print_parts(clones[-1], f"The last one after {_IDLE_S:.0f} s", "at most 25 are wanted")
        await clones[-1].run(["true"])
        _print_parts(clones[-1], "And when it has run `true`")
    finally:
        await _each(clones, lambda clone: clone.delete())
        await bandsox.remove_template(template.id)


def _print_parts(vm: AsyncMicroVM, when: str, wanted: str = "") -> None:
    parts = ", ".join(f"{size:.1f} {what}" for what, size in _parts(vm))
    print(f"\n{when}: {pss_mib(vm):.0f} MiB{f' ({wanted})' if wanted else ''}, of which its own: {parts}.")


async def _each(clones: list[AsyncMicroVM], do: Callable[[AsyncMicroVM], Awaitable[object]]) -> None:
    await asyncio.gather(*(do(clone) for clone in clones))


def _pid(vm: AsyncMicroVM) -> int:
    if vm.process is None:
        raise LookupError(f"{vm} has no process")
    return vm.process.pid


def _private_mib(vm: AsyncMicroVM) -> float:
    lines = Path(f"/proc/{_pid(vm)}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Dirty", "Private_Clean"))) / 1024


def _parts(vm: AsyncMicroVM) -> list[tuple[str, float]]:
    """What a VMM's private memory is, largest first."""
    sizes: dict[str, float] = {}
    what = ""
    for line in Path(f"/proc/{_pid(vm)}/smaps").read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            name = Path(words[5]).name if len(words) > 5 else ""
            what = {"memory": "guest memory", "[heap]": "heap"}.get(name, "files of programs and libraries" if name else "heap")
            what = "translated code" if not name and "x" in words[1] and "w" in words[1] else what
        elif words[0].startswith("Private_"):
            sizes[what] = sizes.get(what, 0) + int(words[1]) / 1024
    return sorted(sizes.items(), key=lambda item: -item[1])


def _own_cpu_s() -> float:
    """The processor time of this process and of the helpers that have ended."""
    return sum(os.times()[:4])


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
