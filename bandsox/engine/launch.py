"""What a machine is started with: its record, the specification for its VMM, and what its agent is told first."""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
import time
from string import ascii_lowercase
from typing import TYPE_CHECKING

from bandsox.engine import identity, networking
from bandsox.errors import MachineError, Unsupported
from bandsox.models import Isolation, VMRecord, VMStatus
from bandsox.network import vault
from bandsox.tracing import traced
from bandsox.vmm.base import Accelerator, Disk, LaunchSpec, Origin

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Any

    from bandsox.engine.accelerators import Choice
    from bandsox.engine.engine import Engine
    from bandsox.guest import GuestClient
    from bandsox.models import Image, ProgressCallback, RestoreReceipt, VMSpec
    from bandsox.settings import Layout
    from bandsox.vmm.base import NetworkDevice
    from bandsox.vmm.confinement import Offer
    from bandsox.vmm.kernel import BootFiles


NO_TOKEN = bytes(32)
"""What an agent takes that was not set up yet."""


@dataclasses.dataclass(frozen=True, slots=True)
class Ground:
    """What a machine is made of on this host: specification, image, kernel, the VMM that was chosen, and what that is locked into."""

    spec: VMSpec
    image: Image
    files: BootFiles
    choice: Choice
    version: str
    offer: Offer

    def record(self) -> VMRecord:
        """The record of a machine that is about to be made."""
        created_at, accelerator = time.time(), self.choice.accelerator
        return VMRecord(
            id=identity.record_id(),
            spec=self.spec,
            status=VMStatus.CREATING,
            created_at=created_at,
            image_id=self.image.id,
            image_config=self.image.config,
            rootfs=self.image.rootfs,
            kernel=self.files.kernel,
            initramfs=self.files.initramfs,
            vmm=self.choice.vmm.name,
            vmm_version=self.version,
            accelerator=accelerator.name,
            accelerator_reason=accelerator.reason,
            isolation=accelerator.isolation,
            transport=self.choice.transport,
            confinement=self.offer.confinement,
            confinement_reason=self.offer.reason,
            token=secrets.token_hex(32),
            expires_at=created_at + self.spec.ttl if self.spec.ttl is not None else None,
        )


@traced("image")
async def ground(engine: Engine, spec: VMSpec, *, force_rebuild: bool = False, progress: ProgressCallback | None = None) -> Ground:
    """What a machine that is to be as `spec` says is made of.

    Raises
    ------
    InvalidRequest: the specification is out of bounds. ImageError, ImageNotFound: the image cannot be had.
    RequirementNotMet: this host has no hypervisor for it.
    """
    from bandsox.engine.accelerators import Trial
    from bandsox.vmm import cpu_template

    identity.check_spec(spec)
    if spec.cpu_template is not None:
        spec = dataclasses.replace(spec, cpu_template=cpu_template.load(spec.cpu_template))
    image = await engine.images.resolve(spec.image, pull="always" if force_rebuild else "missing", progress=progress)
    files = await asyncio.to_thread(engine.kernels.boot_files, spec.kernel_path, progress)
    offer = await asyncio.to_thread(engine.confiner.choose, spec.confinement)
    trial = Trial(files, offer.confinement, spec.boot_args, spec.cpu_template, spec.special)
    choice = await engine.accelerators.choose(trial, spec.vmm, engine.require, progress)
    return Ground(spec, image, files, choice, await choice.vmm.version(), offer)


@dataclasses.dataclass(frozen=True, slots=True)
class Past:
    """What a machine goes on from: the files of a snapshot, and the secret of the machine that it was taken of.

    ``frozen``: none of that machine's programs ran while it was saved. ``itself``: it is that machine, and not a copy of it.
    """

    origin: Origin
    token: str
    frozen: bool
    itself: bool = False

    def check(self, receipt: RestoreReceipt) -> None:
        """See to it that no program has run in the copy before it was one of its own, where that was provided for.

        Raises
        ------
        MachineError: one has.
        """
        if self.frozen and not receipt.frozen:
            raise MachineError("programs ran in a copy of a VM before it had an identity of its own")


def launch_spec(
    layout: Layout,
    record: VMRecord,
    network: NetworkDevice | None = None,
    past: Past | None = None,
    attached: Sequence[Path] = (),
) -> LaunchSpec:
    """What a VMM needs to start the machine of a record, from its boot or from a snapshot.

    Parameters
    ----------
    attached: further disks, which the guest may write to.
    """
    directory = layout.vm(record.id)
    root = Disk(record.rootfs, read_only=True)
    overlay = directory / "disk.img"
    in_memory = record.spec.disk_size_mib == 0
    words = ["bandsox.root=vda", f"bandsox.overlay={'tmpfs' if in_memory else 'vdb'}", f"bandsox.transport={record.transport}"]
    if network is not None:
        words += [f"bandsox.network={network.mtu}", *([f"bandsox.gateway={network.gateway}"] if network.gateway else [])]
    words += ["bandsox.balloon"] if record.spec.balloon_mib is not None else []
    words += ["bandsox.emulated"] if record.isolation is Isolation.EMULATED else []
    disks = [root] if in_memory else [root, Disk(overlay, read_only=False)]
    if attached:
        names = (f"vd{letter}" for letter in ascii_lowercase[len(disks) :])
        words.append("bandsox.disks=" + ",".join(name for name, _ in zip(names, attached, strict=False)))
        disks += [Disk(path, read_only=False) for path in attached]
    return LaunchSpec(
        vm_id=record.id,
        directory=directory,
        sockets=layout.sockets(record.id),
        vcpu=record.spec.vcpu,
        mem_mib=record.spec.mem_mib,
        kernel=record.kernel,
        initramfs=record.initramfs,
        disks=tuple(disks),
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


def environment(record: VMRecord) -> dict[str, str]:
    """The variables of every program in a machine: of its image, of its secrets, and its own."""
    return {**record.image_config.env, **vault.environment(record.spec.secrets), **record.spec.env_vars}


async def set_up(client: GuestClient, record: VMRecord, trust: Mapping[str, Any] | None, deadline_s: float) -> VMRecord:
    """Give a machine that has booted its name, its environment, its network, the time and its secret, and return its record.

    A machine that need not have a network, and whose kernel has no driver for one, gets none.

    Parameters
    ----------
    trust: what its programs are to trust besides (`bandsox.network.vault`); None: nothing.

    Raises
    ------
    Unsupported: it must have one.
    """
    try:
        await _set_up(client, record, trust, deadline_s)
    except Unsupported as error:
        if record.network is None or record.spec.enable_networking:
            raise
        record = dataclasses.replace(record, network=None, network_reason=error.message)
        await _set_up(client, record, trust, deadline_s)
    return record


async def _set_up(client: GuestClient, record: VMRecord, trust: Mapping[str, Any] | None, deadline_s: float) -> None:
    name = identity.hostname(record.spec.name)
    await client.setup(
        token=bytes.fromhex(record.token),
        hostname=name,
        env=environment(record),
        user=record.image_config.user,
        workdir=record.image_config.workdir or "/",
        hosts=networking.hosts(record.network, name),
        resolv=networking.resolv_conf(record.network) if record.network is not None else None,
        network=networking.guest_side(record.network) if record.network is not None else None,
        trust=trust,
        timeout=deadline_s,
        tell_time=True,
        entropy=secrets.token_bytes(64),
    )


async def renew(client: GuestClient, record: VMRecord, itself: bool, trust: Mapping[str, Any] | None, deadline_s: float) -> RestoreReceipt:
    """Make a machine that goes on from a snapshot one of its own, and let its programs go on; `trust` as for `set_up`."""
    name = identity.hostname(record.spec.name)
    return await client.renew(
        token=bytes.fromhex(record.token),
        itself=itself,
        hostname=name,
        env=environment(record),
        user=record.image_config.user,
        workdir=record.image_config.workdir or "/",
        hosts=networking.hosts(record.network, name),
        resolv=networking.resolv_conf(record.network) if record.network is not None else None,
        network=networking.guest_side(record.network) if record.network is not None else None,
        trust=trust,
        timeout=deadline_s,
    )
