"""Whether this host can go on from a snapshot: its hypervisor, its CPU, and the artefacts that machines share; and what else it can do."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import TYPE_CHECKING

from bandsox.errors import HostError, RequirementNotMet, Unsupported
from bandsox.models import Snapshot, VMRecord
from bandsox.vmm.host_cpu import host_cpu, obstacle

if TYPE_CHECKING:
    from bandsox.engine.engine import Engine
    from bandsox.settings import Layout

COLD = "give cold=True (--cold), which boots from its disk"


async def check_host(engine: Engine, snapshot: Snapshot) -> None:
    """See to it that this host's hypervisor and CPU can go on from a snapshot.

    Raises
    ------
    Unsupported, RequirementNotMet: they cannot; the message says why.
    """
    version = await _version_with(engine, snapshot.vmm, snapshot.accelerator)
    if not engine.vmms[snapshot.vmm].reads(snapshot.vmm_version, version):
        raise Unsupported(
            f"the snapshot {snapshot.name} cannot be restored by this {snapshot.vmm}",
            cause=f"it was taken with {snapshot.vmm_version}, and this is {version}",
            remedy=f"install {snapshot.vmm} {'.'.join(snapshot.vmm_version.split('.')[:2])}, or {COLD}",
        )
    transports = engine.vmms[snapshot.vmm].transports()
    if snapshot.transport not in transports.names:
        raise Unsupported(
            f"the snapshot {snapshot.name} is of a VM that is reached over {snapshot.transport}", cause=transports.reason, remedy=COLD
        )
    if snapshot.isolation < engine.require:
        raise RequirementNotMet(f"the snapshot {snapshot.name} was taken of a VM with less isolation than is required", remedy=COLD)
    cpu = await asyncio.to_thread(host_cpu, engine.layout.runtime)
    if (reason := obstacle(snapshot.accelerator, snapshot.cpu, cpu)) is not None:
        raise Unsupported(f"the snapshot {snapshot.name} cannot be restored on this host", cause=reason, remedy=COLD)


async def _version_with(engine: Engine, vmm_name: str, accelerator: str) -> str:
    """The version of a VMM of this host that has `accelerator`."""
    vmm = engine.vmms[vmm_name]
    try:
        version, offered = await vmm.version(), await vmm.accelerators()
    except HostError as error:
        raise Unsupported(f"a snapshot of {vmm_name} cannot be restored on this host", cause=error.message, remedy=COLD) from error
    if accelerator not in {each.name for each in offered}:
        raise Unsupported(f"a snapshot that needs {accelerator} cannot be restored on this host", remedy=COLD)
    return version


async def chosen_anew(engine: Engine, record: VMRecord) -> VMRecord:
    """A machine that boots here: on the best that this host has.

    Raises
    ------
    RequirementNotMet, HostError: it has nothing for it.
    """
    from bandsox.engine.accelerators import Trial
    from bandsox.vmm.kernel import BootFiles

    spec = record.spec
    offer = await asyncio.to_thread(engine.confiner.choose, spec.confinement)
    trial = Trial(BootFiles(record.kernel, record.initramfs), offer.confinement, spec.boot_args, spec.cpu_template, spec.special)
    choice = await engine.accelerators.choose(trial, spec.vmm, engine.require)
    return dataclasses.replace(
        record,
        vmm=choice.vmm.name,
        vmm_version=await choice.vmm.version(),
        accelerator=choice.accelerator.name,
        accelerator_reason=choice.accelerator.reason,
        isolation=choice.accelerator.isolation,
        transport=choice.transport,
        confinement=offer.confinement,
        confinement_reason=offer.reason,
    )


async def as_then(engine: Engine, record: VMRecord, snapshot: Snapshot) -> VMRecord:
    """A machine, to be started as the one that it was when it was saved."""
    offer = await asyncio.to_thread(engine.confiner.choose, record.spec.confinement)
    then = dataclasses.replace(
        record,
        vmm=snapshot.vmm,
        accelerator=snapshot.accelerator,
        isolation=snapshot.isolation,
        transport=snapshot.transport,
        confinement=offer.confinement,
        confinement_reason=offer.reason,
    )
    return with_network(then, snapshot.network is not None)


def with_network(record: VMRecord, enabled: bool | None) -> VMRecord:
    """A machine that must have a network, must have none, or None: may."""
    return dataclasses.replace(record, spec=dataclasses.replace(record.spec, enable_networking=enabled))


def check_artefacts(layout: Layout, snapshot: Snapshot) -> None:
    """See to it that what the machine was made of is here. Blocks.

    Raises
    ------
    Unsupported: it is not.
    """
    for what, path in {"kernel": snapshot.kernel, "initramfs": snapshot.initramfs, "root file system": snapshot.rootfs}.items():
        if not (layout.root / path).is_file():
            raise Unsupported(f"the snapshot {snapshot.name} needs a {what} that is not here", cause=f"{path} does not exist")
