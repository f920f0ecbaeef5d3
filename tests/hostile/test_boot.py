"""Machines that boot wrongly, at every stage and in every way: each says where it stopped, and nothing of it is left."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from bandsox import AsyncBandSox, BandSox
from bandsox.engine import beginnings
from bandsox.errors import BandSoxError, BootFailed
from tests.hostile.conftest import told

AT_ONCE = 4
"""How many machines boot side by side."""


def boot(hostile: BandSox, image: str, options: Mapping[str, Any], ways: Sequence[str]) -> dict[str, BootFailed]:
    """Boot a machine for each of `ways`, a kernel argument each; the errors they end in."""

    async def fail(bandsox: AsyncBandSox, turns: asyncio.Semaphore, way: str) -> BootFailed:
        async with turns:
            with pytest.raises(BootFailed) as raised:
                await bandsox.create_vm(image, mem_mib=128, **told(options, f"hostile.{way}"))
        return raised.value

    async def fail_all() -> list[BootFailed]:
        async with AsyncBandSox(hostile.storage_dir) as bandsox:
            turns = asyncio.Semaphore(AT_ONCE)
            return await asyncio.gather(*(fail(bandsox, turns, way) for way in ways))

    failures = dict(zip(ways, asyncio.run(fail_all()), strict=True))
    for failure in failures.values():
        assert failure.cause
        assert len(str(failure)) < 10_000
        for text in (str(failure), failure.console, failure.cause, failure.stage):
            assert all(line.isprintable() for line in text.split("\n"))
    assert hostile.list_vms() == []
    return failures


def test_a_machine_that_ends_says_at_which_stage(hostile: BandSox, image: str, options: Mapping[str, Any]) -> None:
    stages = ["modules", "mounts", "link", "root", "overlay", "switch", "ready"]
    failures = boot(hostile, image, options, [f"boot=off-{stage}" for stage in stages])
    assert [failure.stage for failure in failures.values()] == stages
    assert all("stopped while it came up" in failure.message for failure in failures.values())


def test_a_machine_that_ends_in_an_odd_way(hostile: BandSox, image: str, options: Mapping[str, Any]) -> None:
    failures = boot(hostile, image, options, ["boot=restart", "boot=exit", "boot=fatal", "boot=unknown-stage", "boot=slow-to-read"])
    assert all("stopped while it came up" in failure.message for failure in failures.values())
    assert "panicked: Attempted to kill init" in str(failures["boot=exit"].cause)
    assert failures["boot=fatal"].stage == "root"
    assert failures["boot=unknown-stage"].stage == "kernel"


def test_an_agent_that_answers_the_set_up_wrongly(hostile: BandSox, image: str, options: Mapping[str, Any]) -> None:
    ways = ("wrong-version", "garbage", "other-answers", "ugly-error")
    failures = boot(hostile, image, options, [f"setup={way}" for way in ways])
    assert all("an agent that cannot be used" in failure.message for failure in failures.values())
    assert "speaks protocol version 2" in str(failures["setup=wrong-version"].cause)


def test_an_agent_that_answers_wrongly_when_it_is_to_be_saved_boots_on(hostile: BandSox, image: str, options: Mapping[str, Any]) -> None:
    if options["vmm"] != "qemu":
        pytest.skip("only QEMU's machines are saved while they boot")
    for way in ("wrong-version", "garbage", "other-answers", "ugly-error"):  # what counts is how it is set up
        with hostile.create_vm(image, mem_mib=128, **told(options, f"hostile.prepare={way}")) as machine:
            assert machine.status().value == "running"


def test_a_machine_that_never_answers(hostile: BandSox, image: str, options: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beginnings, "BOOT_DEADLINE_S", 10.0)
    ways = ["boot=silent", "boot=flood", "setup=creeping", "setup=deaf", *(["prepare=deaf"] if options["vmm"] == "qemu" else [])]
    failures = boot(hostile, image, options, ways)
    assert all("did not come up within 10 s" in failure.message for failure in failures.values())


def test_a_machine_that_resets_whenever_it_is_asked(hostile: BandSox, image: str, options: Mapping[str, Any]) -> None:
    with hostile.create_vm(image, mem_mib=128, **told(options, "hostile.link=restart")) as machine:
        for _ in range(2):
            with pytest.raises(BandSoxError):
                machine.metrics()
            asyncio.run(machine.process.wait())
            assert machine.status().value == "dead"
            machine.start()
