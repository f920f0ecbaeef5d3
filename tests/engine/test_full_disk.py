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


# What the programs below begin with: they leave the disk as much room as they say.
_BEGINNING = """
    import contextlib, os, shutil, sys
    from pathlib import Path
    from bandsox import BandSox
    from bandsox.engine.frozen import is_frozen
    from bandsox.errors import StorageFull
    from tests.engine.leaks import Traces
    from bandsox.settings import Layout

    kernels, storage, small, large = map(Path, sys.argv[1:])

    @contextlib.contextmanager
    def room(left):
        status = os.statvfs(storage)
        with open(storage / "filler", "wb") as filler:
            os.posix_fallocate(filler.fileno(), 0, max(1, status.f_bavail * status.f_frsize - left))
        yield
        (storage / "filler").unlink()

    def fails(what, operation):
        try:
            operation()
        except StorageFull as error:
            assert "no room left" in error.message, error
        else:
            raise AssertionError(f"{what} on a full disk did not fail")

    layout = Layout.open(storage)
    shutil.copytree(kernels, layout.kernels, symlinks=True, dirs_exist_ok=True)

    def traces():
        found = Traces.of(layout)
        return found.files, found.sockets, found.processes
"""


# Runs likewise. What is left of the file system is less and less than a snapshot takes, so that each of its steps finds it full.
_SAVER = (
    _BEGINNING
    + """
    with BandSox(storage) as bandsox:
        with bandsox.create_vm(f"rootfs:{small}", enable_networking=False) as machine:
            machine.write_bytes("/file", os.urandom(4 << 20))
            machine.snapshot("first")
            size = sum(file.stat().st_blocks * 512 for file in (layout.snapshots / bandsox.get_snapshot_info("first")["id"]).iterdir())

            before = traces()
            for left in (0, 1 << 20, size // 2, size + size // 4, 2 * size - size // 4):
                with room(left):
                    fails(f"a snapshot with {left} of {size} bytes left", machine.snapshot)
                    fails(f"a fork with {left} of {size} bytes left", machine.fork)
                assert machine.status().value == "running" and len(machine.read_bytes("/file")) == 4 << 20
                assert not is_frozen(layout.vm(machine.vm_id))
                assert traces() == before, (left, traces(), before)
                assert [info["snapshot_name"] for info in bandsox.list_snapshots()] == ["first"]
                assert len(list(layout.snapshots.iterdir())) == 1
            with room(1 << 20):
                fails("a restore", lambda: bandsox.restore_vm("first"))
                bandsox.delete_snapshot("first")  # as one does then
            assert traces() == before, (traces(), before)
            (clone,) = machine.fork()
            with clone:
                assert clone.read_bytes("/file") == machine.read_bytes("/file")
        assert bandsox.list_vms() == [] and bandsox.list_snapshots() == []
"""
)


# Runs likewise: what is kept for a machine, and what comes from elsewhere.
_KEEPER = (
    _BEGINNING
    + """
    archive = small.with_name("snapshot.tar")

    def taken():
        return sum(file.stat().st_blocks * 512 for file in layout.snapshots.rglob("*"))

    with BandSox(storage) as bandsox:
        shape = {"mem_mib": 128, "enable_networking": False}
        with bandsox.create_vm(f"rootfs:{small}", **shape) as machine:
            machine.write_bytes("/file", os.urandom(4 << 20))
            machine.snapshot("first")
            bandsox.export_snapshot("first", archive)
            bandsox.delete_snapshot("first")
            machine.hibernate()
            memory = taken()
            machine.resume()
            machine.checkpoint("then")
            size = taken()
            machine.write_bytes("/later", b"later")

            before, shelf = traces(), set(layout.snapshots.iterdir())
            attempts = {
                "a checkpoint": (lambda: machine.checkpoint("full"), size),
                "to hibernate": (machine.hibernate, memory),
                "an import": (lambda: bandsox.import_snapshot(archive, "from afar"), size // 2),
                "an export": (lambda: bandsox.export_snapshot(machine.checkpoints()[0].snapshot, storage / "out.tar"), 1 << 20),
                "a template": (lambda: bandsox.template(f"rootfs:{small}", **shape), size // 2),
            }
            for what, (attempt, most) in attempts.items():
                for left in (0, most // 4, most):
                    with room(left):
                        fails(f"{what} with {left} bytes left", attempt)
                    assert machine.status().value == "running" and machine.read_bytes("/later") == b"later", what
                    assert not is_frozen(layout.vm(machine.vm_id))
                    assert traces() == before, (what, left, traces(), before)
                    assert set(layout.snapshots.iterdir()) == shelf, (what, left)
                    assert bandsox.list_snapshots() == [] and bandsox.list_templates() == []
            with room(1 << 20):
                fails("to rewind", lambda: machine.rewind("then"))
            assert machine.status().value == "running" and machine.read_bytes("/later") == b"later"
            assert traces() == before, (traces(), before)
            machine.hibernate()
            with room(0), contextlib.suppress(StorageFull):
                machine.resume()
            if machine.status().value == "saved":
                machine.resume()
            assert machine.read_bytes("/later") == b"later"
            machine.rewind("then")
            assert [entry["name"] for entry in machine.list_dir("/")].count("later") == 0
        assert bandsox.list_vms() == [] and bandsox.list_snapshots() == [] and not list(layout.snapshots.iterdir())
"""
)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
@pytest.mark.parametrize(("program", "room_mib"), [(_PROGRAM, 96), (_SAVER, 512), (_KEEPER, 512)], ids=["machines", "snapshots", "states"])
def test_a_full_disk(storage: Path, tmp_path: Path, program: str, room_mib: int) -> None:
    for name, size in (("small", 1_000), ("large", 4_000_000)):
        (tmp_path / name).write_bytes(os.urandom(size))
        with tarfile.open(tmp_path / f"{name}.tar", "w") as archive:
            archive.add(tmp_path / name, "file")
    mounted = tmp_path / "storage"
    mounted.mkdir(mode=0o700)
    needed = sum(path.stat().st_size for path in (storage / "kernels").rglob("*") if path.is_file() and not path.is_symlink())
    size = needed + (room_mib << 20)  # the VMM's programs among them
    mount = f'mount -t tmpfs -o mode=0700,size={size} tmpfs "$1" && shift && exec "$@"'
    places = [storage / "kernels", mounted, tmp_path / "small.tar", tmp_path / "large.tar"]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", mount, "sh", mounted, sys.executable, "-c", textwrap.dedent(program), *places],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
