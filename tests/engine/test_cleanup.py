"""What nobody has wanted for a day is removed, and nothing that is still in use."""

from __future__ import annotations

import os
import secrets
import time
from pathlib import Path

import pytest

from bandsox import BandSox, MicroVM
from bandsox.engine.cleanup import DISUSED_S
from bandsox.settings import Layout


def aged(path: Path) -> Path:
    """`path`, which nobody has touched for long."""
    then = time.time() - DISUSED_S - 60
    os.utime(path, (then, then))
    return path


@pytest.fixture
def layout(bandsox: BandSox) -> Layout:
    return Layout.open(bandsox.storage_dir)


def test_a_download_that_broke_off_long_ago(bandsox: BandSox, layout: Layout) -> None:
    old, new = (layout.downloads / secrets.token_hex(8) for _ in range(2))
    for file in (old, new):
        file.write_bytes(b"a part")
    aged(old)
    bandsox.cleanup()
    assert not old.exists()
    assert new.read_bytes() == b"a part"
    new.unlink()


def test_copies_of_programs_that_no_machine_has(bandsox: BandSox, layout: Layout, vm: MicroVM) -> None:
    old = layout.programs / secrets.token_hex(16)
    (old / "usr" / "bin").mkdir(parents=True)
    (old / "usr" / "bin" / "qemu").write_bytes(b"an older version")
    aged(old)
    if vm.info()["confinement"] == "none":
        pytest.skip("no confinement here, and so no copies in use")
    used = [aged(tree) for tree in layout.programs.iterdir() if tree != old and f"/{tree.name} " in mounts(vm)]
    assert used
    bandsox.cleanup()
    assert not old.exists()
    assert all(tree.is_dir() for tree in used)
    with bandsox.create_vm(disk_size_mib=0) as another:
        assert another.run(["true"]).exit_code == 0


def mounts(vm: MicroVM) -> str:
    """What the machine's VMM has mounted."""
    process = vm.process
    assert process is not None
    return Path(f"/proc/{process.pid}/mountinfo").read_text()
