"""The initramfs, as cpio itself reads it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from bandsox.vmm import debian_kernel, initramfs


def test_cpio_unpacks_what_was_packed(tmp_path: Path) -> None:
    agent, module = tmp_path / "agent", tmp_path / "virtio.ko"
    agent.write_bytes(b"agent" * 1001)
    module.write_bytes(b"module")
    target = tmp_path / "target"
    target.mkdir()
    archive = initramfs.build(agent, [module])
    subprocess.run(["cpio", "-i", "--quiet"], input=archive, cwd=target, check=True)
    assert (target / "init").read_bytes() == agent.read_bytes()
    assert (target / "init").stat().st_mode & 0o777 == 0o755
    assert (target / "modules.list").read_text() == "/modules/virtio.ko\n"
    assert (target / "modules/virtio.ko").read_bytes() == b"module"


def test_modules_come_after_what_they_depend_on() -> None:
    modules = {
        "virtio_blk": b"\0depends=virtio,virtio_ring\0",
        "virtio": b"\0depends=\0",
        "virtio_ring": b"\0depends=virtio\0",
        "unrelated": b"\0depends=\0",
    }
    assert debian_kernel.in_load_order(modules, ["virtio_blk", "built_in"]) == ["virtio", "virtio_ring", "virtio_blk"]
