"""Devices that not every hypervisor has, of a machine that runs: what they are set to holds for later starts too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from bandsox.engine import identity
from bandsox.errors import Conflict
from bandsox.models import Balloon, VMRecord, VMStatus

if TYPE_CHECKING:
    from bandsox.engine.engine import Engine
    from bandsox.vmm.base import Devices


async def balloon(engine: Engine, vm_id: str) -> Balloon:
    """How large a machine's balloon is.

    Raises
    ------
    Conflict: it does not run, or has no balloon.
    VMMError: there is no telling, such as where the guest's kernel has no driver for it.
    """
    record = await engine.get(vm_id)
    return await _devices(engine, record, "balloon", record.spec.balloon_mib).balloon(engine.layout.sockets(record.id))


async def set_balloon(engine: Engine, vm_id: str, mib: int) -> None:
    """Have a machine's balloon take `mib` MiB of its memory; it does so little by little, and gives it back when the guest runs short.

    Raises
    ------
    InvalidRequest: that is too much. Otherwise as `balloon`.
    """
    async with engine.locked(vm_id):
        record = await engine.get(vm_id)
        devices = _devices(engine, record, "balloon", record.spec.balloon_mib)
        identity.check_balloon(mib, record.spec.mem_mib)
        await devices.set_balloon(engine.layout.sockets(record.id), mib)
        await engine.update(record.id, spec_balloon_mib=mib)


async def set_mmds(engine: Engine, vm_id: str, data: Mapping[str, Any]) -> None:
    """Have a machine's metadata service say `data`, and nothing that it said before.

    Raises
    ------
    InvalidRequest: it is more than the service holds. Otherwise as `balloon`.
    """
    plain = identity.check_mmds(data)
    async with engine.locked(vm_id):
        record = await engine.get(vm_id)
        await _devices(engine, record, "mmds", record.spec.mmds).set_mmds(engine.layout.sockets(record.id), plain)
        await engine.update(record.id, spec_mmds=plain)


def _devices(engine: Engine, record: VMRecord, option: str, value: object) -> Devices:
    if record.status not in {VMStatus.RUNNING, VMStatus.PAUSED}:
        raise Conflict(f"VM {record.spec.name} is {record.status.value}")
    devices = engine.vmms[record.vmm].devices
    if value is None or devices is None:
        raise Conflict(f"VM {record.spec.name} was made without {option}", remedy=f"give the option {option} when it is created")
    return devices
