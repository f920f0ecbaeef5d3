"""Random sequences of writing, saving, copying, going on, going back, sleeping, starting anew and deleting, against a model of contents."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule, run_state_machine_as_test

from bandsox import BandSox, MicroVM
from bandsox.settings import Layout
from tests.engine.leaks import Traces

ROUNDS = int(os.environ.get("BANDSOX_TEST_ROUNDS", "2"))
_STEPS = 8
_MOST_MACHINES = 4

WORDS = st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=8)


@dataclass(frozen=True)
class Content:
    """What is in a machine, or was when it was saved: one file in memory and one on disk."""

    memory: str = ""
    disk: str = ""


class Sequences(RuleBasedStateMachine):
    """The model is `contents`; every machine is compared with it after whatever concerned it, and all of them at the end."""

    machines: Bundle[MicroVM] = Bundle("machines")
    snapshots: Bundle[str] = Bundle("snapshots")

    def __init__(self, bandsox: BandSox, base: str) -> None:
        super().__init__()
        self.bandsox, self.base = bandsox, base
        self.layout = Layout.open(bandsox.storage_dir)
        self.before, self.shelf = Traces.of(self.layout), set(self.layout.snapshots.iterdir())
        self.running: dict[MicroVM, Content] = {}
        self.saved: dict[str, Content] = {}
        self.timelines: dict[MicroVM, dict[str, Content]] = {}

    def _there_is(self, machine: MicroVM, content: Content) -> MicroVM:
        self.running[machine] = content
        self._agrees(machine)
        return machine

    def _agrees(self, machine: MicroVM) -> None:
        found = machine.run("cat /dev/shm/word 2> /dev/null; echo; cat /root/word").text
        assert found == f"{self.running[machine].memory}\n{self.running[machine].disk}", machine

    def _room(self) -> bool:
        return len(self.running) < _MOST_MACHINES

    @precondition(_room)
    @rule(target=machines)
    def begin(self) -> MicroVM:
        return self._there_is(self.bandsox.restore_vm(self.base), Content())

    @rule(machine=machines, memory=WORDS, disk=WORDS)
    def write(self, machine: MicroVM, memory: str, disk: str) -> None:
        machine.run(f"printf {memory} > /dev/shm/word; printf {disk} > /root/word; sync")
        self.running[machine] = Content(memory, disk)

    @rule(target=snapshots, machine=machines, paused=st.booleans())
    def snapshot(self, machine: MicroVM, paused: bool) -> str:
        if paused:
            machine.pause()
        name = machine.snapshot()
        if paused:
            assert machine.status().value == "paused"
            machine.resume()
        self._agrees(machine)
        self.saved[name] = self.running[machine]
        return name

    @precondition(_room)
    @rule(target=machines, machine=machines)
    def fork(self, machine: MicroVM) -> MicroVM:
        (clone,) = machine.fork()
        self._agrees(machine)
        return self._there_is(clone, self.running[machine])

    @precondition(_room)
    @rule(target=machines, snapshot=snapshots)
    def restore(self, snapshot: str) -> MicroVM:
        return self._there_is(self.bandsox.restore_vm(snapshot), self.saved[snapshot])

    @precondition(_room)
    @rule(target=machines, snapshot=snapshots)
    def restore_cold(self, snapshot: str) -> MicroVM:
        return self._there_is(self.bandsox.restore_vm(snapshot, cold=True), dataclasses.replace(self.saved[snapshot], memory=""))

    @rule(machine=machines)
    def start_anew(self, machine: MicroVM) -> None:
        machine.stop()
        machine.start()
        self._there_is(machine, dataclasses.replace(self.running[machine], memory=""))

    @rule(machine=machines)
    def checkpoint(self, machine: MicroVM) -> None:
        label = machine.checkpoint().label
        self._agrees(machine)
        self.timelines.setdefault(machine, {})[label] = self.running[machine]

    @precondition(lambda self: self.timelines)
    @rule(machine=machines, number=st.integers(0, _STEPS), asleep=st.booleans())
    def rewind(self, machine: MicroVM, number: int, asleep: bool) -> None:
        timeline = self.timelines.get(machine, {})
        assert [checkpoint.label for checkpoint in machine.checkpoints()] == list(timeline)
        if timeline:
            if asleep:
                machine.hibernate()
            label = list(timeline)[number % len(timeline)]
            machine.rewind(label)
            self._there_is(machine, timeline[label])

    @rule(machine=machines)
    def sleep(self, machine: MicroVM) -> None:
        machine.hibernate()
        assert machine.status().value == "saved"
        machine.resume()
        self._agrees(machine)

    @rule(machine=consumes(machines))
    def delete(self, machine: MicroVM) -> None:
        machine.delete()
        del self.running[machine]
        self.timelines.pop(machine, None)

    @rule(snapshot=consumes(snapshots))
    def delete_snapshot(self, snapshot: str) -> None:
        self.bandsox.delete_snapshot(snapshot)
        del self.saved[snapshot]

    @invariant()
    def what_is_listed_is_what_there_is(self) -> None:
        assert {info["snapshot_name"] for info in self.bandsox.list_snapshots()} == {self.base, *self.saved}
        assert {info["id"] for info in self.bandsox.list_vms()} >= {machine.vm_id for machine in self.running}

    def teardown(self) -> None:
        try:
            for machine in self.running:
                self._agrees(machine)
        finally:
            for machine in self.running:
                machine.delete()
            for name in self.saved:
                self.bandsox.delete_snapshot(name)
        assert set(self.layout.snapshots.iterdir()) == self.shelf
        assert Traces.of(self.layout).changes_since(self.before) == {}


@pytest.mark.timeout(120 + 120 * ROUNDS)
def test_contents_are_always_what_the_model_says_and_nothing_leaks(bandsox: BandSox) -> None:
    for info in bandsox.list_snapshots():
        bandsox.delete_snapshot(info["id"])
    with bandsox.create_vm(mem_mib=128, vmm="qemu", enable_networking=False) as machine:
        machine.run("touch /dev/shm/word /root/word; sync")
        base = machine.snapshot()
    bounded = settings(
        max_examples=ROUNDS,
        stateful_step_count=_STEPS,
        deadline=None,
        derandomize="BANDSOX_TEST_ROUNDS" not in os.environ,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    try:
        run_state_machine_as_test(lambda: Sequences(bandsox, base), settings=bounded)  # type: ignore[arg-type]
    finally:
        bandsox.delete_snapshot(base)
