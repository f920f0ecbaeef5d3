"""The initramfs: the agent as ``/init`` and the kernel modules it loads first, as a cpio archive.

The format is "newc" (Linux: Documentation/driver-api/early-userspace/buffer-format.rst). It is not compressed: the
kernel reads it faster than it could unpack it, all the more under emulation.
"""

from __future__ import annotations

import io
import stat
from collections.abc import Sequence
from pathlib import Path

from bandsox.vmm.built import built_program

_DIRECTORIES = ("dev", "proc", "sys", "mnt", "modules")
_DEVICES = {"dev/console": (5, 1), "dev/null": (1, 3)}
"""What Go's runtime and the kernel open before the agent has mounted anything."""


def agent_binary(machine: str) -> Path:
    """The guest agent for `machine` (as ``uname -m`` says), built with the package.

    Raises
    ------
    HostError: this installation was made without it.
    """
    return built_program("bandsox-agent", "the guest agent", machine)


def build(agent: Path, modules: Sequence[Path]) -> bytes:
    """The archive with `agent` as ``/init`` and `modules`, to be loaded in this order."""
    archive = _Archive()
    for name in _DIRECTORIES:
        archive.add(name, stat.S_IFDIR | 0o755)
    for name, numbers in _DEVICES.items():
        archive.add(name, stat.S_IFCHR | 0o600, device=numbers)
    archive.add("init", stat.S_IFREG | 0o755, agent.read_bytes())
    for module in modules:
        archive.add(f"modules/{module.name}", stat.S_IFREG | 0o644, module.read_bytes())
    archive.add("modules.list", stat.S_IFREG | 0o644, "".join(f"/modules/{m.name}\n" for m in modules).encode())
    return archive.finish()


class _Archive:
    def __init__(self) -> None:
        self._out = io.BytesIO()
        self._inode = 0

    def add(self, name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        self._inode += 1
        path = name.encode() + b"\0"
        fields = (self._inode, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(path), 0)
        self._out.write(b"070701" + b"".join(b"%08x" % field for field in fields) + path)
        self._pad()
        self._out.write(data)
        self._pad()

    def finish(self) -> bytes:
        self._inode = -1
        self.add("TRAILER!!!", 0)
        return self._out.getvalue()

    def _pad(self) -> None:
        self._out.write(b"\0" * (-self._out.tell() % 4))
