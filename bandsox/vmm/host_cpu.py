"""What a saved guest expects of the CPU it goes on with, and whether a host has it."""

from __future__ import annotations

import platform
from pathlib import Path

from bandsox.models import HostCPU
from bandsox.vmm.tsc import known_khz

_TSC_TOLERANCE = 0.005
"""How far the rate of the time stamp counter may be off: a guest's clock is then off by as much, until it is set again."""

_CPUINFO = Path("/proc/cpuinfo")


def host_cpu(facts: Path) -> HostCPU:
    """The CPU of this host. Blocks for ms.

    Parameters
    ----------
    facts: a directory that lasts until the next reboot.
    """
    fields: dict[str, str] = {}
    with _CPUINFO.open() as lines:
        for line in lines:
            name, _, value = line.partition(":")
            if not name.strip():
                break  # the next processor
            fields[name.strip()] = value.strip()
    flags = tuple(sorted(fields.get("flags", fields.get("Features", "")).split()))
    return HostCPU(platform.machine(), fields.get("vendor_id", ""), fields.get("model name", ""), flags, known_khz(facts))


def obstacle(accelerator: str, there: HostCPU, here: HostCPU) -> str | None:
    """Why a guest that ran on the CPU `there` cannot go on with `here`; None where nothing speaks against it.

    An emulated CPU (``tcg``) is the same everywhere but for the rate of its time stamp counter, which is the host's.
    """
    if there.architecture != here.architecture:
        return f"it was taken on {there.architecture}, and this is {here.architecture}"
    if there.tsc_khz and here.tsc_khz and abs(there.tsc_khz - here.tsc_khz) > _TSC_TOLERANCE * there.tsc_khz:
        return f"its guest counts time at {there.tsc_khz} kHz, and this host's counter runs at {here.tsc_khz} kHz"
    if accelerator == "tcg":
        return None
    if there.vendor != here.vendor:
        return f"it was taken on a CPU of {there.vendor}, and this is one of {here.vendor}"
    if missing := sorted(set(there.flags) - set(here.flags)):
        return f"this host's CPU lacks what that had: {' '.join(missing)}"
    return None
