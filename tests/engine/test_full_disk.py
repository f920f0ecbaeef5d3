"""A storage directory on a file system that is full: an error that says so, and nothing half-made is left."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import textwrap
from pathlib import Path

import pytest

# Runs in a mount namespace of its own, on a small file system that it fills.
_PROGRAM = """
    import asyncio, contextlib, os, shutil, sys
    from pathlib import Path
    from bandsox import AsyncBandSox, BandSox
    from bandsox.errors import StorageFull
    from tests.engine.leaks import Traces
    from bandsox.settings import Layout

    kernels, storage, small, large = map(Path, sys.argv[1:])

    @contextlib.contextmanager
    def full():
        with open(storage / "filler", "wb", buffering=0) as filler, contextlib.suppress(OSError):
            while filler.write(bytes(1 << 16)) == 1 << 16:
                pass
        yield
        (storage / "filler").unlink()

    def fails(what, operation):
        with full():
            try:
                operation()
            except StorageFull as error:
                assert "no room left" in error.message, error
                assert error.remedy
            else:
                raise AssertionError(f"{what} on a full disk did not fail")

    async def sync(vm_id):
        async with AsyncBandSox(storage) as bandsox:
            await (await bandsox.get_vm(vm_id)).guest.sync()

    layout = Layout.open(storage)
    shutil.copytree(kernels, layout.kernels, symlinks=True, dirs_exist_ok=True)
    with BandSox(storage) as bandsox:
        bandsox.pull_image(f"rootfs:{small}", "missing")
        before = Traces.of(layout)

        fails("create", lambda: bandsox.create_vm(f"rootfs:{small}"))
        assert bandsox.list_vms() == []
        fails("import", lambda: bandsox.pull_image(f"rootfs:{large}", "always"))

        after = Traces.of(layout)
        assert (after.files, after.sockets, after.processes) == (before.files, before.sockets, before.processes)
        with bandsox.create_vm(f"rootfs:{small}") as machine:
            machine.write_bytes("/file", bytes(1 << 20))
            fails("download", lambda: machine.download_file("/file", storage / "download"))
            assert not (storage / "download").exists()
            asyncio.run(sync(machine.vm_id))
            with full():
                machine.write_bytes("/more", os.urandom(8 << 20))
                asyncio.run(sync(machine.vm_id))
                assert machine.read_bytes("/file") == bytes(1 << 20)  # a running machine can be used
            machine.stop()
            machine.start()  # and what it could not write is all that it has lost
            assert machine.read_bytes("/file") == bytes(1 << 20)
            machine.write_bytes("/more", b"again")
            fails("rename", lambda: [bandsox.rename_vm(machine.vm_id, f"name {n}" * 9) for n in range(1000)])
            with full():
                machine.delete()  # as one does then
        assert bandsox.list_vms() == []
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
def test_a_full_disk(storage: Path, tmp_path: Path) -> None:
    for name, size in (("small", 1_000), ("large", 4_000_000)):
        (tmp_path / name).write_bytes(os.urandom(size))
        with tarfile.open(tmp_path / f"{name}.tar", "w") as archive:
            archive.add(tmp_path / name, "file")
    mounted = tmp_path / "storage"
    mounted.mkdir(mode=0o700)
    needed = sum(path.stat().st_size for path in (storage / "kernels").rglob("*") if path.is_file() and not path.is_symlink())
    size = needed + (96 << 20)  # the VMM's programs among them
    mount = f'mount -t tmpfs -o mode=0700,size={size} tmpfs "$1" && shift && exec "$@"'
    program = [sys.executable, "-c", textwrap.dedent(_PROGRAM)]
    places = [storage / "kernels", mounted, tmp_path / "small.tar", tmp_path / "large.tar"]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", mount, "sh", mounted, *program, *places],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
