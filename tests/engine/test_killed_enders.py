"""Processes killed while they stop or delete a machine: what they have begun can be brought to its end."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap

import pytest

from bandsox import BandSox
from bandsox.settings import Layout
from tests.engine.leaks import Traces

_ENDER = """
    import os, shutil, signal, sys
    from bandsox import BandSox
    from bandsox.engine import ownership
    from bandsox.store import VMs

    storage, vm_id, verb, stage = sys.argv[1:]

    def die(*_arguments, **_options):
        os.kill(os.getpid(), signal.SIGKILL)

    machine = BandSox(storage).get_vm(vm_id)
    if stage == "process":
        ownership.end = ownership.end_all = die
    elif stage == "directories":
        shutil.rmtree = die
    elif stage == "record":
        VMs.delete = VMs.update = die
    getattr(machine, verb)()
"""


def kill_while(bandsox: BandSox, vm_id: str, verb: str, stage: str) -> None:
    """Let another process stop or delete a machine, and die when it comes to `stage`."""
    arguments = [str(bandsox.storage_dir), vm_id, verb, stage]
    ender = subprocess.run([sys.executable, "-c", textwrap.dedent(_ENDER), *arguments], check=False)
    assert ender.returncode == -signal.SIGKILL


@pytest.mark.parametrize("stage", ["process", "directories", "record"])
def test_a_deletion_that_was_killed_is_gone_on_with(bandsox: BandSox, stage: str) -> None:
    layout = Layout.open(bandsox.storage_dir)
    bandsox.cleanup()  # of what processes that other tests killed have left
    before = Traces.of(layout)
    machine = bandsox.create_vm(mem_mib=256)

    kill_while(bandsox, machine.vm_id, "delete", stage)

    assert machine.status().value in {"running", "dead"}
    bandsox.delete_vm(machine.vm_id)
    bandsox.cleanup()  # of the killed process's work directory
    assert bandsox.get_vm(machine.vm_id) is None
    assert Traces.of(layout).changes_since(before) == {}


def test_a_stop_that_was_killed_loses_nothing(bandsox: BandSox) -> None:
    with bandsox.create_vm(mem_mib=256) as machine:
        for stage in ("process", "directories", "record"):
            machine.write_bytes("/root/file", stage.encode())

            kill_while(bandsox, machine.vm_id, "stop", stage)

            assert machine.status().value == "dead"
            machine.start()
            assert machine.read_bytes("/root/file") == stage.encode()
