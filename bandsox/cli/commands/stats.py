"""``bandsox stats`` and ``bandsox ps``: how busy machines are."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bandsox.cli.command import Command
from bandsox.cli.operation import operation
from bandsox.cli.output import duration, notice, print_json, print_table, size
from bandsox.cli.parameters import vm_argument
from bandsox.errors import BandSoxError

if TYPE_CHECKING:
    from bandsox.cli.runtime import Call
    from bandsox.models import Metrics, ProcessInfo
    from bandsox.vm import AsyncMicroVM


@click.command(
    cls=Command,
    examples=(
        ("bandsox stats", "all running VMs"),
        ("bandsox --json stats dev", "one of them, for a program"),
    ),
)
@vm_argument("vms", nargs=-1, metavar="[VM]...")
@operation
async def stats(call: Call, vms: tuple[str, ...]) -> None:
    """Show how busy VMs are.

    One reading: CPU is the busy share of all its CPUs since the VM was started, LOAD the average of the last minute, MEMORY and DISK are as
    the guest sees them, READ/WRITTEN is what its disks and RECEIVED/SENT what its network has carried since then, VMM names hypervisor and
    accelerator, and HOST is what it takes of this host's memory.
    """
    import asyncio

    if vms:
        machines = [await call.vm(name) for name in vms]
        readings = await asyncio.gather(*map(_reading, machines))
    else:
        running = [info["id"] for info in await call.bandsox.list_vms() if info["status"] == "running"]
        machines = [await call.vm(vm_id) for vm_id in running]
        answers = await asyncio.gather(*map(_reading, machines), return_exceptions=True)
        readings = [_or_raise(answer) for answer in answers if not isinstance(answer, BandSoxError)]
        for machine, answer in zip(machines, answers, strict=True):
            if isinstance(answer, BandSoxError):
                notice(f"{machine.name}: {answer.message}", call.state)
    if call.state.json:
        print_json(readings)
        return
    columns = ("NAME", "ID", "CPU", "LOAD", "MEMORY", "DISK", "READ/WRITTEN", "RECEIVED/SENT", "PROCESSES", "UP", "VMM", "HOST")
    print_table(columns, map(_stats_row, readings), call.state, right=("CPU", "LOAD", "PROCESSES"))


def _or_raise(answer: dict[str, Any] | BaseException) -> dict[str, Any]:
    if isinstance(answer, BaseException):
        raise answer
    return answer


async def _reading(vm: AsyncMicroVM) -> dict[str, Any]:
    metrics = await vm.metrics()
    facts = dataclasses.asdict(metrics)
    del facts["processes"]
    info = await vm.info()
    boundary = {key: info[key] for key in ("vmm", "vmm_version", "accelerator", "isolation", "transport")}
    return {"id": vm.vm_id, "name": vm.name, **boundary, **facts, "host_rss": _host_memory(vm)}


def _host_memory(vm: AsyncMicroVM) -> int | None:
    """The resident memory of its VMM in bytes; None when it has ended meanwhile."""
    if vm.process is None:
        return None
    try:
        pages = int(Path(f"/proc/{vm.process.pid}/statm").read_text().split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def _stats_row(reading: dict[str, Any]) -> tuple[str, ...]:
    busy = reading["cpu_user_ms"] + reading["cpu_system_ms"]
    ticks = busy + reading["cpu_idle_ms"] + reading["cpu_steal_ms"]
    memory, disk = reading["memory_total"] - reading["memory_available"], reading["disk_total"] - reading["disk_free"]
    return (
        reading["name"],
        reading["id"][:12],
        f"{busy / ticks:.0%}" if ticks else "-",
        f"{reading['load'][0]:.2f}",
        f"{size(memory)} of {size(reading['memory_total'])}",
        f"{size(disk)} of {size(reading['disk_total'])}",
        _both(reading["disk_read"], reading["disk_written"]),
        _both(reading["network_received"], reading["network_sent"]),
        str(reading["process_count"]),
        duration(reading["uptime_ms"] / 1000),
        f"{reading['vmm']}/{reading['accelerator']}",
        size(reading["host_rss"]) if reading["host_rss"] is not None else "-",
    )


def _both(came: int | None, went: int | None) -> str:
    return "-" if came is None or went is None else f"{size(came)}/{size(went)}"


_KTHREADD = 2
"""The process that all threads of a Linux kernel descend from."""


@click.command(
    "ps",
    cls=Command,
    examples=(("bandsox ps dev", "what runs in it, the busiest last"), ("bandsox ps -a dev", "and its kernel's threads")),
)
@vm_argument()
@click.option("-a", "--all", "every", is_flag=True, help="The threads of its kernel, too.")
@operation
async def processes(call: Call, vm: str, every: bool) -> None:
    """Show the processes of a VM."""
    metrics: Metrics = await (await call.vm(vm)).metrics(processes=True)
    shown = [process for process in metrics.processes if every or _KTHREADD not in {process.pid, process.ppid}]
    found = sorted(shown, key=lambda process: process.cpu_ms)
    if call.state.json:
        print_json([_process_info(process) for process in found])
        return
    if call.state.quiet:
        for process in found:
            click.echo(process.pid)
        return
    columns = ("PID", "PARENT", "UID", "STATE", "MEMORY", "CPU", "COMMAND")
    print_table(columns, map(_process_row, found), call.state, right=("PID", "PARENT", "UID", "MEMORY", "CPU"))


def _process_info(process: ProcessInfo) -> dict[str, Any]:
    texts = {"name": os.fsdecode(process.name), "argv": [os.fsdecode(argument) for argument in process.argv]}
    return {**dataclasses.asdict(process), **texts}


def _process_row(process: ProcessInfo) -> tuple[str, ...]:
    command = " ".join(map(os.fsdecode, process.argv)) or f"[{os.fsdecode(process.name)}]"
    return (
        str(process.pid),
        str(process.ppid),
        str(process.uid),
        process.state,
        size(process.rss),
        f"{process.cpu_ms / 1000:.2f} s",
        command,
    )
