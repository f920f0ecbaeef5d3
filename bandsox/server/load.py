"""How busy the server's host is."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any


def now(storage: Path) -> dict[str, Any]:
    """CPUs, load (of 1, 5 and 15 minutes), and bytes of memory and of the storage directory's file system, as the kernel has them."""
    disk = shutil.disk_usage(storage)
    memory = _memory()
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "load": list(os.getloadavg()),
        "mem_total": memory["MemTotal"],
        "mem_available": memory["MemAvailable"],
        "disk_total": disk.total,
        "disk_free": disk.free,
    }


def _memory() -> dict[str, int]:
    """The figures of proc_meminfo(5), in bytes."""
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) * 1024 for words in lines}
