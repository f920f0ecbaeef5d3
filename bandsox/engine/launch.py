"""What a machine is started with: its record, the specification for its VMM, and what its agent is told first."""

from __future__ import annotations

import dataclasses
import secrets
import time
from typing import TYPE_CHECKING

from bandsox.engine import identity, networking
from bandsox.errors import MachineError, Unsupported
from bandsox.models import VMRecord, VMStatus
from bandsox.vmm.base import Accelerator, Disk, LaunchSpec, Origin

if TYPE_CHECKING:
    from bandsox.engine.accelerators import Choice
    from bandsox.guest import GuestClient
    from bandsox.models import Image, RestoreReceipt, VMSpec
    from bandsox.settings import Layout
    from bandsox.vmm.base import NetworkDevice
    from bandsox.vmm.confinement import Offer
    from bandsox.vmm.kernel import BootFiles


NO_TOKEN = bytes(32)
"""What an agent takes that was not set up yet."""


def new_record(spec: VMSpec, image: Image, files: BootFiles, choice: Choice, version: str, offer: Offer) -> VMRecord:
    """The record of a machine that is about to be made."""
    created_at = time.time()
    return VMRecord(
        id=identity.record_id(),
        spec=spec,
        status=VMStatus.CREATING,
        created_at=created_at,
        image_id=image.id,
        image_config=image.config,
        rootfs=image.rootfs,
        kernel=files.kernel,
        initramfs=files.initramfs,
        vmm=choice.vmm.name,
        vmm_version=version,
        accelerator=choice.accelerator.name,
        accelerator_reason=choice.accelerator.reason,
        isolation=choice.accelerator.isolation,
        transport=choice.transport,
        confinement=offer.confinement,
        confinement_reason=offer.reason,
        token=secrets.token_hex(32),
        expires_at=created_at + spec.ttl if spec.ttl is not None else None,
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Past:
    """What a machine goes on from: the files of a snapshot, and the secret of the machine that it was taken of.

    ``frozen``: none of that machine's programs ran while it was saved.
    """

    origin: Origin
    token: str
    frozen: bool

    def check(self, receipt: RestoreReceipt) -> None:
        """See to it that no program has run in the copy before it was one of its own, where that was provided for.

        Raises
        ------
        MachineError: one has.
        """
        if self.frozen and not receipt.frozen:
            raise MachineError("programs ran in a copy of a VM before it had an identity of its own")


def launch_spec(layout: Layout, record: VMRecord, network: NetworkDevice | None = None, past: Past | None = None) -> LaunchSpec:
    """What a VMM needs to start the machine of a record, from its boot or from a snapshot."""
    directory = layout.vm(record.id)
    root = Disk(record.rootfs, read_only=True)
    overlay = directory / "disk.img"
    in_memory = record.spec.disk_size_mib == 0
    words = ["bandsox.root=vda", f"bandsox.overlay={'tmpfs' if in_memory else 'vdb'}", f"bandsox.transport={record.transport}"]
    words += ["bandsox.network"] if network is not None else []
    words += ["bandsox.balloon"] if record.spec.balloon_mib is not None else []
    return LaunchSpec(
        vm_id=record.id,
        directory=directory,
        sockets=layout.sockets(record.id),
        vcpu=record.spec.vcpu,
        mem_mib=record.spec.mem_mib,
        kernel=record.kernel,
        initramfs=record.initramfs,
        disks=(root,) if in_memory else (root, Disk(overlay, read_only=False)),
        boot_args=" ".join((*words, record.spec.boot_args)).strip(),
        accelerator=Accelerator(record.accelerator, record.isolation, record.accelerator_reason),
        confinement=record.confinement,
        transport=record.transport,
        cpu_template=record.spec.cpu_template,
        disk_limits=record.spec.disk_limits,
        network_limits=record.spec.network_limits,
        balloon_mib=record.spec.balloon_mib,
        mmds=record.spec.mmds,
        track_dirty_pages=record.spec.track_dirty_pages,
        debug_console=record.spec.debug_console,
        network=network,
        origin=None if past is None else past.origin,
    )


async def set_up(client: GuestClient, record: VMRecord, deadline_s: float) -> VMRecord:
    """Give a machine that has booted its name, its environment, its network, the time and its secret, and return its record.

    A machine that need not have a network, and whose kernel has no driver for one, gets none.

    Raises
    ------
    Unsupported: it must have one.
    """
    try:
        await _set_up(client, record, deadline_s)
    except Unsupported as error:
        if record.network is None or record.spec.enable_networking:
            raise
        record = dataclasses.replace(record, network=None, network_reason=error.message)
        await _set_up(client, record, deadline_s)
    return record


async def _set_up(client: GuestClient, record: VMRecord, deadline_s: float) -> None:
    name = identity.hostname(record.spec.name)
    environment = {**record.image_config.env, **record.spec.env_vars}
    await client.setup(
        token=bytes.fromhex(record.token),
        hostname=name,
        env=environment,
        user=record.image_config.user,
        workdir=record.image_config.workdir or "/",
        hosts=networking.hosts(record.network, name),
        resolv=networking.resolv_conf(record.network) if record.network is not None else None,
        network=networking.guest_side(record.network) if record.network is not None else None,
        timeout=deadline_s,
        tell_time=True,
        entropy=secrets.token_bytes(64),
    )


async def renew(client: GuestClient, record: VMRecord, deadline_s: float) -> RestoreReceipt:
    """Make a machine that goes on from a snapshot one of its own, and let its programs go on.

    Its network comes first, while they still stand still; all else is the agent's order.
    """
    if record.network is not None:
        await client.setup(network=networking.guest_side(record.network), timeout=deadline_s)
    name = identity.hostname(record.spec.name)
    return await client.renew(
        token=bytes.fromhex(record.token),
        hostname=name,
        env={**record.image_config.env, **record.spec.env_vars},
        user=record.image_config.user,
        workdir=record.image_config.workdir or "/",
        hosts=networking.hosts(record.network, name),
        resolv=networking.resolv_conf(record.network) if record.network is not None else None,
        timeout=deadline_s,
    )
