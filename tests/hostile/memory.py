"""How much memory a process has used at most."""

from __future__ import annotations

import re
from pathlib import Path


def reset_peak() -> int:
    """Begin anew to record this process's peak (proc(5), ``clear_refs``); what it uses now, in bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return _field("self", "VmRSS")


def peak(pid: int | str = "self") -> int:
    """The most that a process has had resident since it was started, or since `reset_peak`, in bytes."""
    return _field(pid, "VmHWM")


def _field(pid: int | str, name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024
