"""The trial boot finds out how the agent of a kernel is reached."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from bandsox.engine import accelerators
from bandsox.engine.accelerators import Accelerators, Trial
from bandsox.engine.engine import Engine
from bandsox.models import Confinement, Isolation
from bandsox.store import Probes
from bandsox.vmm.base import Accelerator, Transports
from bandsox.vmm.qemu import Qemu, vhost

pytestmark = pytest.mark.anyio


class WithoutPorts(Qemu):
    """QEMU where nothing is proven and vsock comes first, for which this host lacks the device."""

    def transports(self) -> Transports:
        return Transports(("vsock", "console"))

    async def accelerators(self) -> tuple[Accelerator, ...]:
        (emulated,) = (one for one in await super().accelerators() if one.proven)
        return (dataclasses.replace(emulated, proven=False),)


async def test_a_machine_that_cannot_have_vsock_is_reached_over_its_console(storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerators, "PROBE_DEADLINE_S", 120.0)
    engine = Engine(storage)
    try:
        probes = Probes(engine.database)
        if vhost.unavailable() is None:
            pytest.skip("this host has vhost-vsock")
        chooser = Accelerators(engine.layout, {"qemu": WithoutPorts(engine.layout.runtime, engine.confiner)}, probes)
        trial = Trial(engine.kernels.boot_files(), Confinement.NONE, boot_args="bandsox.test=transports")
        choice = await chooser.choose(trial, None, Isolation.EMULATED)
        assert choice.transport == "console"
        monkeypatch.setattr(accelerators, "PROBE_DEADLINE_S", 0.0)  # what is known is not tried again
        assert (await chooser.choose(trial, None, Isolation.EMULATED)).transport == "console"
    finally:
        Probes(engine.database).clear()
        engine.close()
