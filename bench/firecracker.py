"""Firecracker through the library, against the bare calls of its API: the same ones in the same order, the same guest, the same run.

Starting the VMM, pausing and resuming are measured with a guest of a few bytes that halts, which every KVM runs. `create_vm` needs a Linux
guest, and is measured where this machine's KVM brings one up.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bandsox.core import AsyncBandSox
from bandsox.engine import disks, launch, ownership
from bandsox.engine.accelerators import Choice
from bandsox.engine.engine import Engine
from bandsox.errors import MissingTool, Unsupported
from bandsox.guest import frames
from bandsox.guest.doorbell import UnixDoorbell
from bandsox.guest.link import AGENT_PORT
from bandsox.models import Confinement, Isolation, Shape, VMRecord, VMSpec, VMStatus
from bandsox.settings import DEFAULT_IMAGE
from bandsox.vmm.base import Accelerator, LaunchSpec, Origin
from bandsox.vmm.firecracker import Firecracker, configuration
from bandsox.vmm.firecracker.requests import SnapshotCreate, State
from bandsox.vmm.kernel import BootFiles
from bench.figures import Samples, table
from bench.firecracker_floor import Bare, encoded
from bench.jailer import Jailed
from tests.firecracker import found
from tests.vmm.firecracker.guests import program

ROUNDS = 40
CROWD, CROWD_ROUNDS = 20, 5

_CREATE = SnapshotCreate(snapshot_path="state", mem_file_path="memory")


async def measure(bandsox: AsyncBandSox) -> None:
    setup = found()
    os.environ.update({name: path for name, path in setup.environment.items() if Path(path).exists()})
    vmm = bandsox.engine.vmms["firecracker"]
    assert isinstance(vmm, Firecracker)
    try:
        await vmm.version()
        await vmm.accelerators()
    except (MissingTool, Unsupported) as error:
        print(f"\n### Firecracker\n\nNot measured: {error.message}.")
        return
    with tempfile.TemporaryDirectory() as work:
        kernel = program(Path(work) / "guest", b"", "halt")
        async with _machine(bandsox.engine, kernel) as record:
            await _starts(bandsox.engine, vmm, record)
            await _snapshots(bandsox.engine, vmm, record)
            await _crowd(bandsox.engine, vmm, record)
            await _pauses(bandsox, record)
    if setup.reason is None:
        await _creates(bandsox, dict(setup.options))
    else:
        print(f"\n`create_vm` is not measured: {setup.reason}.")


async def _starts(engine: Engine, vmm: Firecracker, record: VMRecord) -> None:
    """From nothing to a guest that runs, without waiting for what it does."""
    floor, open_, confined = samples = [
        Samples("bare Firecracker: process and requests"),
        Samples("the same by the library, not confined"),
        Samples(f"the same by the library, confined ({record.confinement.name.lower()})"),
    ]
    for _ in range(ROUNDS):
        with _place(engine, record) as spec, floor.measuring(), Bare(spec):
            pass
        for started, confinement in ((open_, Confinement.NONE), (confined, record.confinement)):
            with _place(engine, record) as spec:
                with started.measuring():
                    process = await vmm.start(replace(spec, confinement=confinement))
                await ownership.end(process)
                engine.confiner.forget(spec.vm_id)
    table("Firecracker: start", samples, _over(open_, floor), _over(confined, floor))


async def _snapshots(engine: Engine, vmm: Firecracker, record: VMRecord) -> None:
    """What a guest stands still for while it is saved, and from nothing to a guest that goes on: of its memory little was ever written."""
    bare_pause, whole, changes, settling, bare_restore, restore = samples = [
        Samples("bare pause, snapshot, resume"),
        Samples("the same by the library"),
        Samples("the same by the library, of what has changed (track_dirty_pages)"),
        Samples("making it what clones map, while the guest runs"),
        Samples("bare Firecracker: process, load, resume"),
        Samples("the same by the library"),
    ]
    for _ in range(ROUNDS):
        with _place(engine, record) as spec, Bare(spec) as bare, bare_pause.measuring():
            for request in (State(state="Paused"), _CREATE, State(state="Resumed")):
                bare.send(encoded(request))
        for pause, tracked in ((changes, True), (whole, False)):
            with _place(engine, record) as spec, tempfile.TemporaryDirectory(dir=engine.layout.temporary) as work:
                shape = await _saved(engine, vmm, replace(spec, track_dirty_pages=tracked), Path(work), pause, settling)
                origin = Origin(Path(work), shape)
                if tracked:
                    continue
                with _place(engine, record, origin) as clone, bare_restore.measuring(), Bare(clone):
                    pass
                with _place(engine, record, origin) as clone:
                    with restore.measuring():
                        process = await vmm.start(clone)
                    await ownership.end(process)
                    engine.confiner.forget(clone.vm_id)
    table("Firecracker: snapshots", samples, _over(whole, bare_pause), _over(changes, bare_pause), _over(restore, bare_restore))


async def _crowd(engine: Engine, vmm: Firecracker, record: VMRecord) -> None:
    """Many guests that go on from one snapshot at once, until the last of them runs."""
    bare = Samples(f"{CROWD} bare Firecrackers at once: process, load, resume")
    jailed = Samples("the same by Firecracker's own jailer")
    samples = [
        Samples("the same by the library, not confined"),
        Samples(f"the same by the library, confined ({record.confinement.name.lower()})"),
    ]
    with (
        _place(engine, record) as spec,
        tempfile.TemporaryDirectory(dir=engine.layout.temporary) as work,
        tempfile.TemporaryDirectory(dir=engine.layout.temporary) as jails,
    ):
        origin = Origin(Path(work), await _saved(engine, vmm, spec, Path(work), Samples(""), Samples("")))
        for _ in range(CROWD_ROUNDS):
            with _places(engine, record, origin) as places:
                await _all_at_once(bare, [Bare(place) for place in places])
            if os.geteuid() == 0:
                with _places(engine, record, origin) as places:
                    await _all_at_once(jailed, [Jailed(place, Path(jails)) for place in places])
            for ours, confinement in zip(samples, (Confinement.NONE, record.confinement), strict=True):
                with _places(engine, record, origin) as places:
                    with ours.measuring():
                        processes = await asyncio.gather(*(vmm.start(replace(place, confinement=confinement)) for place in places))
                    for place, process in zip(places, processes, strict=True):
                        await ownership.end(process)
                        engine.confiner.forget(place.vm_id)
    floors = [floor for floor in (bare, jailed) if floor.values]
    shares = [f"Throughput at the median: {floor.median / samples[-1].median * 100:.0f} % of `{floor.name}`." for floor in floors]
    table("Firecracker: a crowd from one snapshot", [*floors, *samples], *shares)


async def _all_at_once(sample: Samples, floors: Sequence[Bare]) -> None:
    with contextlib.ExitStack() as stack:
        for each in floors:
            stack.push(each)
        with sample.measuring():
            await asyncio.gather(*(asyncio.to_thread(each.__enter__) for each in floors))


@contextlib.contextmanager
def _places(engine: Engine, like: VMRecord, origin: Origin) -> Iterator[list[LaunchSpec]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(_place(engine, like, origin)) for _ in range(CROWD)]


async def _saved(engine: Engine, vmm: Firecracker, spec: LaunchSpec, target: Path, pause: Samples, settling: Samples) -> Shape:
    """A machine that is started, saved to `target` and ended."""
    process = await vmm.start(spec)
    await vmm.prepare(spec, target)
    with pause.measuring():
        await vmm.pause(spec.sockets)
        shape = await vmm.save(spec, target)
        await vmm.resume(spec.sockets)
    with settling.measuring():
        await vmm.settle(target, shape)
    await ownership.end(process)
    engine.confiner.forget(spec.vm_id)
    for file in target.iterdir():
        file.chmod(0o444)
    return shape


async def _pauses(bandsox: AsyncBandSox, record: VMRecord) -> None:
    vm = await bandsox.get_vm(record.id)
    assert vm is not None
    names = ("bare pause", "pause", "bare resume", "resume")
    bare_pause, pause, bare_resume, resume = samples = [Samples(name) for name in names]
    with _place(bandsox.engine, record) as spec, Bare(spec) as bare:
        for _ in range(ROUNDS * 5):
            with bare_pause.measuring():
                bare.send(encoded(State(state="Paused")))
            with bare_resume.measuring():
                bare.send(encoded(State(state="Resumed")))
            with pause.measuring():
                await vm.pause()
            with resume.measuring():
                await vm.resume()
    table("Firecracker: pause and resume", samples, _over(pause, bare_pause), _over(resume, bare_resume))


async def _creates(bandsox: AsyncBandSox, options: dict[str, Any]) -> None:
    """From an image to the first answer of the agent."""
    floor, created = Samples("bare Firecracker to the agent's first byte"), Samples("create_vm")
    model = await bandsox.create_vm(vmm="firecracker", **options)
    record = model._record
    await model.delete()
    for _ in range(ROUNDS):
        with _place(bandsox.engine, record) as spec:
            vsock = spec.sockets / configuration.VSOCK_SOCKET
            with UnixDoorbell(vsock) as bell, floor.measuring(), Bare(spec):
                await bell.rung()
                await _first_byte(vsock)
        with created.measuring():
            vm = await bandsox.create_vm(vmm="firecracker", **options)
        await vm.delete()
    table("Firecracker: create", [floor, created], _over(created, floor))


@contextlib.asynccontextmanager
async def _machine(engine: Engine, kernel: Path) -> AsyncIterator[VMRecord]:
    """A machine with another kernel, which the registry takes for one that runs."""
    image = await engine.images.resolve(DEFAULT_IMAGE, "missing")
    vmm = engine.vmms["firecracker"]
    files = BootFiles(kernel, engine.kernels.boot_files().initramfs)
    spec = VMSpec(image=DEFAULT_IMAGE, name=engine.new_name(), disk_size_mib=64)
    choice = Choice(vmm, Accelerator("kvm", Isolation.HARDWARE, "measured"), "vsock")
    record = launch.Ground(spec, image, files, choice, await vmm.version(), engine.confiner.choose("auto")).record()
    try:
        engine.layout.vm(record.id).mkdir(mode=0o700)
        engine.vms.insert(record)
        engine._make_disk(record)
        engine.layout.sockets(record.id).mkdir(mode=0o700)
        process = await vmm.start(launch.launch_spec(engine.layout, record))
        yield engine.vms.update(record.id, status=VMStatus.RUNNING, pid=process.pid, pid_start=process.start)
    finally:
        await engine.delete(record.id)


@contextlib.contextmanager
def _place(engine: Engine, like: VMRecord, origin: Origin | None = None) -> Iterator[LaunchSpec]:
    """Directories, disk and links for one more machine like that of a record."""
    with tempfile.TemporaryDirectory(dir=engine.layout.temporary) as work:
        directory, sockets = Path(work), engine.layout.runtime / f"raw-{secrets.token_hex(4)}"
        sockets.mkdir(mode=0o700)
        spec = launch.launch_spec(engine.layout, like)
        own = tuple(disk if disk.read_only else replace(disk, path=directory / "disk.img") for disk in spec.disks)
        disks.create(engine.layout, like.spec.disk_size_mib, directory / "disk.img")
        spec = replace(spec, vm_id=f"raw-{secrets.token_hex(4)}", directory=directory, sockets=sockets, disks=own, origin=origin)
        for name, target in {configuration.RUN: sockets, **configuration.links(spec)}.items():
            (directory / name).symlink_to(target)
        try:
            yield spec
        finally:
            shutil.rmtree(sockets)


async def _first_byte(vsock: Path) -> None:
    """Return when the agent has answered anything at all."""
    reader, writer = await asyncio.open_unix_connection(str(vsock))
    writer.write(b"CONNECT %d\n" % AGENT_PORT + frames.hello(secrets.token_bytes(16), bytes(32)))
    await writer.drain()
    await reader.readline()
    await reader.readexactly(1)
    writer.close()


def _over(sample: Samples, floor: Samples) -> str:
    return f"`{sample.name}` over `{floor.name}` at the median: {(sample.median - floor.median) * 1000:.2f} ms."
