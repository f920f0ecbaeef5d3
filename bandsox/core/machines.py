"""The machines of a storage directory: the part of `AsyncBandSox` that makes, finds and deletes them."""

from __future__ import annotations

import math
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bandsox.core import mcpservers
from bandsox.core.opening import Opening
from bandsox.engine.identity import check_dns, check_mmds
from bandsox.errors import InvalidRequest, VMNotFound
from bandsox.models import (
    TEMPLATE_PREFIX,
    OnExpiry,
    Policy,
    ProgressCallback,
    PublishedPort,
    RateLimits,
    Secret,
    SecretUse,
    Template,
    VMSpec,
    VMStatus,
)
from bandsox.settings import DEFAULT_IMAGE, check_confinement, default_disk_limits, default_vmm
from bandsox.vm.info import vm_info

if TYPE_CHECKING:
    from bandsox.network.vault import Vault
    from bandsox.vm import AsyncMicroVM


class Machines(Opening):
    """The methods about machines."""

    async def create_vm(
        self,
        docker_image: str | Template = DEFAULT_IMAGE,
        name: str | None = None,
        vcpu: int = 1,
        mem_mib: int = 128,
        kernel_path: str | None = None,
        enable_networking: bool | None = None,
        enable_vsock: bool = True,
        force_rebuild: bool = False,
        disk_size_mib: int = 4096,
        env_vars: Mapping[str, str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        mcp: Mapping[str, Any] | None = None,
        *,
        vmm: str | None = None,
        boot_args: str = "",
        debug_console: bool = False,
        dns: Sequence[str] = (),
        cpu_template: str | os.PathLike[str] | None = None,
        disk_bandwidth_mbps: float | None = None,
        disk_iops: int | None = None,
        confinement: str | None = None,
        ttl: float | None = None,
        idle_timeout: float | None = None,
        on_expiry: OnExpiry = "delete",
        auto_resume: bool = False,
        publish: Mapping[int | str, int] | Iterable[PublishedPort | str] | None = None,
        network_bandwidth_mbps: float | None = None,
        balloon_mib: int | None = None,
        mmds: Mapping[str, Any] | None = None,
        track_dirty_pages: bool = False,
        network: Policy | str | None = None,
        secrets: Mapping[str, Secret] | None = None,
        ephemeral: bool = False,
        progress: ProgressCallback | None = None,
    ) -> AsyncMicroVM:
        """Make a machine of an image and start it; it is returned once its agent answers.

        Parameters
        ----------
        docker_image: an image reference; see docs/images.md for its forms. Or a template, or ``template:`` and the id of one, from
            which the machine goes on: its size, kernel and hypervisor are the template's.
        name: a label, unique in this storage directory; made up when absent.
        vcpu, mem_mib, disk_size_mib: its size; a disk of 0 keeps what the machine writes in its memory.
        kernel_path: a guest kernel other than the default one.
        enable_networking: None: a network if this host and the guest's kernel can have one, else ``network_reason`` says why not.
            True: an error where that is so. False: none.
        enable_vsock: accepted for compatibility; the link to the agent is chosen by the VMM.
        force_rebuild: look at the registry even when the image is here.
        env_vars: variables for every command, over the image's own.
        metadata: anything JSON can represent, kept with the machine.
        mcp: MCP servers for an agent in the machine, such as ``{"github": {"token": …}}`` or ``{"own": {"spec": {"command", "args",
            "env"}}}``: written to ``/workspace/.mcp.json``, their variables given to every command, their secrets not shown again.
        vmm: which hypervisor; by default ``BANDSOX_VMM``, else Firecracker where it can run a guest, else QEMU.
        boot_args: further kernel arguments.
        debug_console: have the kernel print all that it does on the console, which takes longer.
        dns: addresses of name servers, at most three; by default those of this host.
        cpu_template: what of the host's CPU the guest sees: one of Firecracker's static templates, or a file with a custom one.
        disk_bandwidth_mbps, disk_iops: limits on each of its disks, in 10^6 bytes and operations a second; by default
            ``BANDSOX_DISK_BANDWIDTH_MBPS`` and ``BANDSOX_DISK_IOPS``, else none.
        confinement: what the hypervisor is locked into; see `BandSox`. It holds for every later start of the machine.
        ttl: how many seconds it may run, from now on and after each time it is woken when they are over.
        idle_timeout: how many seconds it may run while no operation on its guest is under way and no session runs in it.
        on_expiry: what becomes of it then: ``"delete"``, ``"stop"``, ``"pause"``, or ``"snapshot"``, which is `AsyncMicroVM.hibernate`. It
            is done whether this process still runs or not.
        auto_resume: when it is paused or saved, it goes on at the next operation on its guest.
        publish: ports of this host that lead to ports of the guest, as ``{8080: 80}`` or ``["127.0.0.1:8080:80", "80"]``; on loopback
            unless an address is given. They hold for every start of the machine.
        network_bandwidth_mbps: a limit on its network in each direction, in 10^6 bytes a second. Firecracker only, as the next three.
        balloon_mib: how much of its memory a balloon takes from it at first; 0 for a balloon that is empty. `AsyncMicroVM.set_balloon`
            changes that. None: it has no balloon.
        mmds: what its metadata service says (Firecracker, ``docs/mmds``, version 2), at http://169.254.169.254/ to who has asked there for
            a token; at most 50 KiB as JSON. It comes over the network, which the machine then has to have. None: there is no such service.
        track_dirty_pages: when it is saved, only what has changed of its memory since it was started or last saved is written while it
            stands still. It runs somewhat slower for that.
        network: where it may go: a `Policy`, or the name of a preset: ``internet``, ``none``, ``registry-only``, ``learn``. None: the
            Internet, and nothing is written down. `AsyncMicroVM.set_network_policy` changes it. Or ``cni:`` and the name of a CNI
            network of this host (``BANDSOX_CNI_CONFIG``), which root's machines can be attached to.
        secrets: values that its programs use and do not have, by the variables that hold their placeholders. Requests to a `Secret`'s hosts
            get the value outside the guest, whose programs trust an authority of its own for these names. The machine has to have a
            network then; its policy allows the hosts besides. `AsyncMicroVM.set_secret` changes a value.
        ephemeral: it is deleted when this object is closed or its process ends, even by SIGKILL; `AsyncMicroVM.keep` lets it live.
        progress: called with each step of long work.

        Raises
        ------
        InvalidRequest: a parameter is out of bounds.
        FileNotFoundError: the kernel or the image does not exist.
        RequirementNotMet: this host cannot isolate or confine it as demanded.
        BootFailed: the machine did not come up; nothing of it is left.
        """
        asked = None if mcp is None else mcpservers.servers(mcp)
        cni = _cni(network)
        uses, vault = _secrets(secrets)
        template = docker_image.id if isinstance(docker_image, Template) else _template_id(docker_image)
        spec = VMSpec(
            image="" if isinstance(docker_image, Template) else docker_image,
            name=name if name is not None else self.engine.new_name(),
            vcpu=vcpu,
            mem_mib=mem_mib,
            disk_size_mib=disk_size_mib,
            env_vars={**(asked.env if asked else {}), **(env_vars or {})},
            metadata=dict(metadata or {}),
            mcp=asked.shown if asked else None,
            enable_networking=True if enable_networking is None and (mmds is not None or uses or cni) else enable_networking,
            dns=check_dns(dns),
            kernel_path=os.fspath(kernel_path) if kernel_path is not None else None,
            boot_args=boot_args,
            debug_console=debug_console,
            cpu_template=os.fspath(cpu_template) if cpu_template is not None else None,
            disk_limits=_disk_limits(disk_bandwidth_mbps, disk_iops),
            vmm=vmm if vmm is not None else default_vmm(),
            confinement=self.confinement if confinement is None else check_confinement(confinement),
            ttl=ttl,
            idle_timeout=idle_timeout,
            on_expiry=on_expiry,
            auto_resume=auto_resume,
            publish=_published(publish),
            network_limits=RateLimits(_bytes_a_second("a network's", network_bandwidth_mbps)),
            balloon_mib=balloon_mib,
            mmds=None if mmds is None else check_mmds(mmds),
            track_dirty_pages=track_dirty_pages,
            policy=None if cni is not None else _policy(network),
            cni=cni,
            secrets=uses,
        )
        if template is not None:
            record = await self.engine.templates.start(template, spec, vault=vault, ephemeral=ephemeral, progress=progress)
        else:
            record = await self.engine.create(spec, force_rebuild=force_rebuild, ephemeral=ephemeral, vault=vault, progress=progress)
        vm = self._handle(record)
        if asked is not None:
            await self._configure(vm, asked)
        return vm

    async def _configure(self, vm: AsyncMicroVM, asked: mcpservers.Servers) -> None:
        """Write down a new machine's MCP servers; it is deleted if that fails."""
        import anyio

        try:
            await vm.guest.write_bytes(mcpservers.PLACE, asked.file, mode=0o600)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await vm.delete()
            raise

    async def create_vm_from_dockerfile(
        self,
        /,
        dockerfile_path: str | os.PathLike[str],
        tag: str | None = None,
        name: str | None = None,
        vcpu: int = 1,
        mem_mib: int = 128,
        disk_size_mib: int = 4096,
        env_vars: Mapping[str, str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        mcp: Mapping[str, Any] | None = None,
        *,
        context: str | os.PathLike[str] | None = None,
        build_args: Mapping[str, str] | None = None,
        progress: ProgressCallback | None = None,
        **kwargs: Any,
    ) -> AsyncMicroVM:
        """Build the image of a Dockerfile, and make a machine of it.

        Parameters
        ----------
        tag: a name for the image.
        context: the directory that COPY and ADD take files from; by default the Dockerfile's own.
        build_args: values for the Dockerfile's ARGs.
        kwargs: as for `create_vm`, like the others.

        Raises
        ------
        InvalidDockerfile: it cannot be read, or asks for what cannot be done.
        BuildFailed: one of its commands failed.
        """
        from bandsox.dockerfile import image_from_dockerfile

        image = await image_from_dockerfile(self.engine, dockerfile_path, tag, context=context, build_args=build_args, progress=progress)
        options = {"name": name, "vcpu": vcpu, "mem_mib": mem_mib, "disk_size_mib": disk_size_mib, "progress": progress, **kwargs}
        return await self.create_vm(tag or image.id, env_vars=env_vars, metadata=metadata, mcp=mcp, **options)

    async def get_vm(self, vm_id: str) -> AsyncMicroVM | None:
        """The machine with this id or name; None when there is none."""
        try:
            return self._handle(await self.engine.get(vm_id))
        except VMNotFound:
            return None

    async def list_vms(self, limit: int | None = None, metadata_equals: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """All machines, newest first; with `metadata_equals` those whose metadata has all these values."""
        records = await self.engine.list(limit=limit, metadata_equals=metadata_equals)
        return [vm_info(record) for record in records]

    async def get_vm_info(self, vm_id: str) -> dict[str, Any] | None:
        """What is known of a machine; None when there is none."""
        try:
            return vm_info(await self.engine.get(vm_id))
        except VMNotFound:
            return None

    async def update_vm_metadata(self, vm_id: str, metadata: Mapping[str, Any]) -> None:
        """Replace a machine's metadata."""
        await self.engine.set_metadata((await self.engine.get(vm_id)).id, metadata)

    async def rename_vm(self, vm_id: str, name: str) -> None:
        """Give a machine another name."""
        await self.engine.rename((await self.engine.get(vm_id)).id, name)

    async def update_vm_status(self, vm_id: str, status: str) -> None:
        """Bring a machine into a status: ``running``, ``paused`` or ``stopped``. It is not a label that can be set.

        Raises
        ------
        InvalidRequest: there is no such status.
        Conflict: it cannot be reached from the present one.
        """
        record = await self.engine.get(vm_id)
        change: Callable[[str], Awaitable[object]]
        if status == VMStatus.RUNNING:
            change = self.engine.resume if record.status in {VMStatus.PAUSED, VMStatus.RUNNING, VMStatus.SAVED} else self.engine.start
        elif status == VMStatus.PAUSED:
            change = self.engine.pause
        elif status == VMStatus.STOPPED:
            change = self.engine.stop
        else:
            raise InvalidRequest(f"a VM cannot be brought into the status {status!r}", remedy="choose running, paused or stopped")
        await change(record.id)

    async def delete_vm(self, vm_id: str) -> None:
        """Kill a machine and remove everything it owns; no error when there is none."""
        info = await self.get_vm_info(vm_id)
        if info is not None:
            self.active_vms.pop(info["id"], None)
            await self.engine.delete(info["id"])


def _template_id(reference: str) -> str | None:
    """The id of a template that stands for an image; None for an image's reference."""
    return reference.removeprefix(TEMPLATE_PREFIX) if reference.startswith(TEMPLATE_PREFIX) else None


def _published(publish: Mapping[int | str, int] | Iterable[PublishedPort | str] | None) -> tuple[PublishedPort, ...]:
    if publish is None:
        return ()
    from bandsox.engine import publishing

    return publishing.taken_from(publish)


def _cni(network: Policy | str | None) -> str | None:
    """The CNI network that is asked for."""
    if not isinstance(network, str) or not network.startswith("cni:"):
        return None
    from bandsox.network.cni import PREFIX, network_of

    return network_of(network.removeprefix(PREFIX))


def _policy(network: Policy | str | None) -> Policy | None:
    if network is None:
        return None
    from bandsox.network.policy import policy_of

    return policy_of(network)


def _secrets(asked: Mapping[str, Secret] | None) -> tuple[dict[str, SecretUse], Vault | None]:
    if not asked:
        return {}, None
    from bandsox.network.vault import uses_of

    return uses_of(asked)


def _disk_limits(bandwidth_mbps: float | None, operations: int | None) -> RateLimits:
    """What was asked for, else what the environment says."""
    default_bandwidth, default_operations = default_disk_limits()
    bandwidth_mbps = default_bandwidth if bandwidth_mbps is None else bandwidth_mbps
    operations = default_operations if operations is None else operations
    return RateLimits(_bytes_a_second("a disk's", bandwidth_mbps), operations)


def _bytes_a_second(whose: str, bandwidth_mbps: float | None) -> int | None:
    if bandwidth_mbps is None:
        return None
    if not (math.isfinite(bandwidth_mbps) and bandwidth_mbps > 0):
        raise InvalidRequest(f"{whose} bandwidth must be a positive number of MB/s, not {bandwidth_mbps!r}")
    return max(1, round(bandwidth_mbps * 1e6))
