"""A running machine whose agent misbehaves: every operation ends in a plain error, in time and in little memory."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from bandsox import AsyncBandSox, BandSox, BandSoxError, MicroVM
from bandsox.errors import ProtocolError
from bandsox.guest import blocking, files
from tests.hostile import memory
from tests.hostile.conftest import told
from tests.hostile.hurry import HurriedLoop
from tests.hostile.operations import OPERATIONS

MIB = 1 << 20

NOTICED_AT_ONCE = [
    *("garbage", "padding", "wrong-version", "garbage-after", "padding-after", "oversized", "gigantic"),
    *("data-flood", "stderr-flood", "empty-data-flood", "event-flood", "window-flood", "welcome-flood", "result-flood"),
    *("host-frames", "not-messagepack", "deep", "wide", "ugly-error", "other-answers", "generous", "lying"),
]
NOTICED_BY_A_DEADLINE = ["silent", "wrong-nonce", "half-welcome", "no-welcome", "deaf", "silent-after", "half-frame", "creeping"]
LEAVING = ["hang-up", "flap", "hang-up-after", "breaking"]
"""Those that close connections. A virtio-serial port that was closed under its host may not come back: they have machines of their own."""

MISBEHAVIOURS = NOTICED_AT_ONCE + NOTICED_BY_A_DEADLINE + LEAVING

MAY_SUCCEED = {
    "data-flood": "the first megabytes of an archive are all that was asked for",
    "result-flood": "a result is what some operations wait for, and what follows it is nobody's",
    "other-answers": "a result without fields is as good as any other",
    "generous": "a thousand changes, or the first megabytes of an archive, are all that was asked for",
    "lying": "a result without fields has nothing to lie about",
    "breaking": "what came before the end is all that was asked for",
}

MEMORY_MIB = 512
"""The guest's: what its driver may have queued on eight ports fits into it."""

VMM_PEAK = (MEMORY_MIB + 512) * MIB
"""The guest's memory, its translated code, and what the VMM needs itself."""

OWN_GROWTH = 256 * MIB
"""Several operations side by side, each of which may gather 64 MiB."""

AT_ONCE = 6
"""How many operations run side by side; with more they would wait for one another's ports."""

SHARE = 1 if "BANDSOX_TEST_ROUNDS" in os.environ else 4
"""A misbehaviour meets one operation of as many, and the next misbehaviour the next ones; in `make soak` each meets all."""

_PATIENCE = 50
"""How often a machine is told what to do next."""

MachineFor = Callable[[str], MicroVM]


@pytest.fixture(scope="module")
def machine_for(hostile: BandSox, image: str, options: Mapping[str, Any]) -> Iterator[MachineFor]:
    """The machine that misbehaves so: most of them are one and the same."""
    machines: dict[str, MicroVM] = {}

    def find(misbehaviour: str) -> MicroVM:
        key = misbehaviour if misbehaviour in LEAVING else ""
        if key not in machines:
            machines[key] = hostile.create_vm(image, mem_mib=MEMORY_MIB, **told(options, f"hostile.link={misbehaviour}"))
        elif not key:
            _choose(machines[key], misbehaviour)
        return machines[key]

    yield find
    for machine in machines.values():
        machine.delete()


def _choose(machine: MicroVM, misbehaviour: str) -> None:
    """Have a machine misbehave so from now on. One that floods a port does so until it has read the next HELLO there, and sends more
    meanwhile than the host looks through; so it may have to be told again."""
    for attempt in range(_PATIENCE):
        try:
            assert machine.run(["misbehave", misbehaviour]).exit_code == 0
            return
        except ProtocolError:
            if attempt == _PATIENCE - 1:
                raise


@pytest.fixture
def hurried(misbehaviour: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[HurriedLoop]:
    """A loop of short deadlines; those that threads and whole trees have are shortened besides."""
    monkeypatch.setattr(blocking, "STALL_TIMEOUT", 0.5)
    monkeypatch.setattr(files, "TREE_TIMEOUT", 30.0)
    loop = HurriedLoop(speed=10 if misbehaviour in NOTICED_AT_ONCE else 100)
    yield loop
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


@pytest.mark.parametrize("misbehaviour", MISBEHAVIOURS)
def test_every_operation_survives(
    hostile: BandSox, machine_for: MachineFor, hurried: HurriedLoop, tmp_path: Path, misbehaviour: str
) -> None:
    machine = machine_for(misbehaviour)
    names = list(OPERATIONS)[MISBEHAVIOURS.index(misbehaviour) % SHARE :: SHARE]
    before = memory.reset_peak()

    outcomes = hurried.run_until_complete(_attempt_all(names, hostile.storage_dir, machine.vm_id, tmp_path))

    assert memory.peak() - before < OWN_GROWTH
    assert memory.peak(machine.process.pid) < VMM_PEAK
    for name, outcome in outcomes.items():
        if not isinstance(outcome, BaseException):
            assert misbehaviour in MAY_SUCCEED, name
            continue
        assert isinstance(outcome, BandSoxError), f"{name}: {outcome!r}"
        assert all(line.isprintable() for line in str(outcome).split("\n")), f"{name}: {outcome!r}"
        assert 0 < len(str(outcome)) < 1500
    assert {path.name for path in tmp_path.iterdir()} == set(outcomes)  # nothing was written beside what was asked for


async def _attempt_all(names: list[str], storage: Path, vm_id: str, tmp_path: Path) -> dict[str, object]:
    """Carry out operations, each with a directory of its own; their results, or the errors they end in."""
    async with AsyncBandSox(storage) as bandsox:
        vm = await bandsox.get_vm(vm_id)
        assert vm is not None
        turns = asyncio.Semaphore(AT_ONCE)

        async def attempt(name: str) -> object:
            place = tmp_path / name
            place.mkdir()
            async with turns:
                return await OPERATIONS[name](vm, place)

        return dict(zip(names, await asyncio.gather(*map(attempt, names), return_exceptions=True), strict=True))
