"""Killed processes, at every stage: nothing is lost, nothing is left."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from bandsox import BandSox, MicroVM
from bandsox.engine import ownership
from bandsox.engine.frozen import is_frozen
from bandsox.errors import Conflict, InvalidRequest, MachineStopped, OutcomeUnknown
from bandsox.models import Template
from bandsox.settings import Layout
from bandsox.vmm.qemu import Qemu, qmp
from bandsox.vmm.qemu.command import START_PORTS, monitor_socket
from tests.engine.leaks import Traces, processes_with


@pytest.fixture(scope="module")
def template(bandsox: BandSox) -> Iterator[Template]:
    """What is not about booting goes on from this, which takes a tenth of the time."""
    made = bandsox.template(mem_mib=256)
    yield made
    bandsox.remove_template(made.id)


@pytest.fixture
def own(bandsox: BandSox, template: Template) -> Iterator[MicroVM]:
    with bandsox.create_vm(template) as machine:
        yield machine


@pytest.fixture(scope="module")
def shared(bandsox: BandSox) -> Iterator[MicroVM]:
    """A machine on QEMU that runs, and does again when a test has ended."""
    with bandsox.create_vm(mem_mib=256, vmm="qemu", enable_networking=False) as machine:
        yield machine


def test_a_killed_vmm_is_reported_at_once_and_the_machine_starts_again(bandsox: BandSox, own: MicroVM) -> None:
    own.write_bytes("/root/file", b"kept")
    own.exec_command("sync")
    asyncio.run(ownership.end(own.process))
    assert own.status().value == "dead"
    with pytest.raises(Conflict, match="dead"):
        own.exec_command("true")
    own.start()
    assert own.read_bytes("/root/file") == b"kept"


def test_a_vmm_killed_under_a_command_ends_the_command(own: MicroVM) -> None:
    def kill(text: str) -> None:
        os.kill(own.process.pid, signal.SIGKILL)

    with pytest.raises((MachineStopped, OutcomeUnknown)):
        own.exec_command("echo started; sleep 1000", on_stdout=kill, timeout=None)


def test_a_guest_that_powers_itself_off_is_dead(own: MicroVM) -> None:
    with pytest.raises((MachineStopped, OutcomeUnknown)):
        own.exec_command("echo o > /proc/sysrq-trigger; sleep 100", timeout=60)
    asyncio.run(own.process.wait())
    assert own.status().value == "dead"


STAGES = ["directory", "record", "disk", "spawn", "boot"]

_MAKER = """
    import os, signal, sys
    from bandsox import BandSox
    from bandsox.engine import boot, disks, launch
    from bandsox.store import VMs

    stage, ephemeral = sys.argv[2], sys.argv[3] == "ephemeral"

    def die(*_arguments, **_options):
        os.kill(os.getpid(), signal.SIGKILL)

    if stage == "directory":
        VMs.insert = die
    elif stage == "record":
        disks.create = die
    elif stage == "disk":
        boot.started = die
    elif stage == "spawn":
        VMs.update = die
    elif stage == "boot":
        launch.set_up = die
    vm = BandSox(sys.argv[1]).create_vm(name="owned" if ephemeral else "half made", ephemeral=ephemeral)
    if stage == "waiter":
        vm._async._engine._owned[vm.vm_id]._waiter.kill()
    vm.exec_command("echo started; sleep 1000", on_stdout=die, timeout=None)
"""
"""Makes a machine, and is killed at a stage of that, or when a command runs in it."""


def _killed_maker(bandsox: BandSox, stage: str, kind: str) -> None:
    script = [sys.executable, "-c", textwrap.dedent(_MAKER), str(bandsox.storage_dir), stage, kind]
    assert subprocess.run(script, check=False).returncode == -signal.SIGKILL


@pytest.mark.parametrize("stage", STAGES)
def test_a_creator_killed_at_any_stage_leaves_what_cleanup_removes(bandsox: BandSox, template: Template, stage: str) -> None:
    layout = Layout.open(bandsox.storage_dir)
    bandsox.cleanup()
    before = Traces.of(layout)
    _killed_maker(bandsox, stage, "lasting")

    bandsox.cleanup()

    assert Traces.of(layout).changes_since(before) == {}
    assert all(info["name"] != "half made" for info in bandsox.list_vms())
    with bandsox.create_vm(template, name="half made") as machine:
        assert machine.exec_command("true") == 0


@pytest.mark.parametrize("stage", ["record", "disk", "boot", "command"])
def test_an_ephemeral_machine_is_removed_at_once_when_its_maker_is_killed(bandsox: BandSox, stage: str) -> None:
    layout = Layout.open(bandsox.storage_dir)
    bandsox.cleanup()
    before = Traces.of(layout)

    _killed_maker(bandsox, stage, "ephemeral")
    for remover in processes_with("bandsox.engine.cleanup_child", str(layout.root)):
        asyncio.run(remover.wait())

    assert Traces.of(layout).changes_since(before) == {}


def test_whoever_looks_next_removes_an_ephemeral_machine_whose_waiter_was_killed_too(bandsox: BandSox) -> None:
    layout = Layout.open(bandsox.storage_dir)
    bandsox.cleanup()
    before = Traces.of(layout)

    _killed_maker(bandsox, "waiter", "ephemeral")

    assert len(list(layout.vms.glob("*/owner"))) == 1
    assert all(info["name"] != "owned" for info in bandsox.list_vms())
    bandsox.cleanup()
    assert Traces.of(layout).changes_since(before) == {}


def test_an_ephemeral_machine_ends_with_the_object_that_made_it_unless_it_is_kept(
    storage: Path, bandsox: BandSox, template: Template
) -> None:
    with BandSox(storage) as maker:
        ended, kept = maker.create_vm(template, ephemeral=True), maker.create_vm(template, ephemeral=True)
        assert bandsox.get_vm(ended.vm_id) is not None
        kept.keep()
    assert bandsox.get_vm(ended.vm_id) is None
    machine = bandsox.get_vm(kept.vm_id)
    assert machine is not None
    with machine:
        assert machine.exec_command("true") == 0


_CLIENT = """
    import os, signal, sys
    from bandsox import BandSox
    vm = BandSox(sys.argv[1]).get_vm(sys.argv[2])
    if sys.argv[3] == "exec":
        vm.exec_command("echo started; yes", on_stdout=lambda text: os.kill(os.getpid(), signal.SIGKILL), timeout=None)
    else:
        def die(progress):
            if progress.done > 1_000_000:
                os.kill(os.getpid(), signal.SIGKILL)
        vm.upload_file(sys.argv[4], "/root/upload", progress=die)
"""


@pytest.mark.parametrize("operation", ["exec", "upload"])
def test_a_client_killed_in_the_middle_leaves_its_connection_usable(own: MicroVM, storage: Path, tmp_path: Path, operation: str) -> None:
    large = tmp_path / "large"
    large.write_bytes(os.urandom(20_000_000))
    for _ in range(2 * START_PORTS):  # each a few times, where there are ports
        script = [sys.executable, "-c", textwrap.dedent(_CLIENT), str(storage), own.vm_id, operation, str(large)]
        assert subprocess.run(script, check=False).returncode == -signal.SIGKILL
    assert own.run(["echo", "still there"]).stdout == b"still there\n"
    # The agent hears of the last one's end when the host's kernel tells it.
    gone = "while cat /proc/[0-9]*/comm | grep -qx yes || ls -A /root | grep -q '^[.]bandsox-'; do sleep 0.1; done"
    assert own.run(gone, timeout=60).exit_code == 0
    assert not any(process.name == b"yes" for process in own.metrics(processes=True).processes)
    assert own.run("ls /root").stdout == b""


_TURNER = """
    import os, signal, sys
    from bandsox import BandSox
    from bandsox.store import VMs
    from bandsox.vmm.qemu import Qemu

    def die(*_arguments, **_options):
        os.kill(os.getpid(), signal.SIGKILL)

    storage, vm_id, verb, step = sys.argv[1:]
    setattr(*((Qemu, verb) if step == "before" else (VMs, "update")), die)
    getattr(BandSox(storage).get_vm(vm_id), verb)()
"""
"""Pauses or resumes a machine, and is killed before its VMM was asked to, or after it has done so."""


async def _is_running(layout: Layout, vm_id: str) -> bool:
    """Whether a machine's CPUs run, by its QEMU."""
    async with qmp.connect(monitor_socket(layout.sockets(vm_id))) as monitor:
        running: bool = (await monitor.execute("query-status"))["running"]
        return running


@pytest.mark.parametrize("step", ["before", "after"])
@pytest.mark.parametrize("verb", ["pause", "resume"])
def test_whoever_looks_next_brings_a_machine_back_to_its_record_when_one_was_killed_between_them(
    bandsox: BandSox, shared: MicroVM, verb: str, step: str
) -> None:
    layout = Layout.open(bandsox.storage_dir)
    if verb == "resume":
        shared.pause()
    script = [sys.executable, "-c", textwrap.dedent(_TURNER), str(layout.root), shared.vm_id, verb, step]
    assert subprocess.run(script, check=False).returncode == -signal.SIGKILL
    assert asyncio.run(_is_running(layout, shared.vm_id)) == ((verb == "pause") == (step == "before"))

    assert shared.status().value == ("running" if verb == "pause" else "paused")

    assert asyncio.run(_is_running(layout, shared.vm_id)) == (verb == "pause")
    shared.resume()
    assert shared.run(["echo", "still there"]).stdout == b"still there\n"


@pytest.mark.parametrize("verb", ["pause", "resume"])
def test_a_vmm_that_is_killed_under_a_pause_or_a_resume_is_dead(
    bandsox: BandSox, shared: MicroVM, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    if verb == "resume":
        shared.pause()
    process, asked = shared.process, getattr(Qemu, verb)

    async def killed(vmm: Qemu, sockets: Path) -> None:
        await ownership.end(process)
        await asked(vmm, sockets)

    monkeypatch.setattr(Qemu, verb, killed)
    with pytest.raises(MachineStopped):
        getattr(shared, verb)()
    assert shared.status().value == "dead"
    assert not is_frozen(Layout.open(bandsox.storage_dir).vm(shared.vm_id))
    shared.start()
    assert shared.run(["echo", "again"]).stdout == b"again\n"


def test_a_flooded_console_is_bounded_and_does_not_stall_the_guest(own: MicroVM) -> None:
    own.exec_command("head -c 600000 /dev/zero | tr '\\0' x > /dev/console", timeout=300)
    assert own.exec_command("true") == 0
    assert len(own.console()) <= 256 * 1024


def test_machines_outlive_their_creator(bandsox: BandSox, storage: Path) -> None:
    script = "import sys; from bandsox import BandSox; print(BandSox(sys.argv[1]).create_vm().vm_id)"
    vm_id = subprocess.run([sys.executable, "-c", script, str(storage)], capture_output=True, text=True, check=True).stdout.strip()
    machine = bandsox.get_vm(vm_id)
    assert machine is not None
    with machine:
        assert machine.status().value == "running"
        assert machine.run(["echo", "hello"]).stdout == b"hello\n"


def test_a_machine_whose_time_is_over_is_gone(bandsox: BandSox, template: Template) -> None:
    machine = bandsox.create_vm(template, ttl=0.001)
    assert bandsox.get_vm(machine.vm_id) is None
    assert all(info["id"] != machine.vm_id for info in bandsox.list_vms())
    assert machine.process is not None
    assert not machine.process.is_alive()


def test_a_status_is_reached_not_set(bandsox: BandSox, own: MicroVM) -> None:
    for status in ("paused", "running", "stopped", "running"):
        bandsox.update_vm_status(own.vm_id, status)
        assert own.status().value == status
    with pytest.raises(InvalidRequest):
        bandsox.update_vm_status(own.vm_id, "dead")


def test_a_machine_whose_directory_somebody_removed_can_be_deleted(bandsox: BandSox, template: Template) -> None:
    machine = bandsox.create_vm(template)
    shutil.rmtree(bandsox.metadata_dir / machine.vm_id)
    machine.delete()
    assert bandsox.get_vm(machine.vm_id) is None


_STARTER = """
    import os, signal, sys
    from bandsox import BandSox
    from bandsox.engine import launch

    def die(*_arguments, **_options):
        os.kill(os.getpid(), signal.SIGKILL)

    launch.set_up = die
    BandSox(sys.argv[1]).get_vm(sys.argv[2]).start()
"""


def test_a_starter_that_is_killed_loses_nothing(bandsox: BandSox, own: MicroVM) -> None:
    own.write_bytes("/root/file", b"kept")
    own.stop()
    starter = subprocess.run([sys.executable, "-c", textwrap.dedent(_STARTER), str(bandsox.storage_dir), own.vm_id], check=False)
    assert starter.returncode == -signal.SIGKILL

    bandsox.cleanup()

    own.start()
    assert own.read_bytes("/root/file") == b"kept"
