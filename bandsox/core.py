"""The front door: `BandSox`, and `AsyncBandSox` which it is made of.

Both are a library over a storage directory, as SQLite is over a file: several processes may work on one storage
directory at once, and machines outlive the process that made them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from bandsox.engine import Engine
from bandsox.errors import InvalidRequest, Unsupported, VMNotFound
from bandsox.models import Image, Isolation, ProgressCallback, RateLimits, VMRecord, VMSpec, VMStatus
from bandsox.portal import sync
from bandsox.settings import DEFAULT_IMAGE, check_confinement, default_confinement, default_disk_limits, default_vmm, isolation_of
from bandsox.vm.info import vm_info

if TYPE_CHECKING:
    from bandsox.engine.cleanup import Removed
    from bandsox.engine.findings import Finding
    from bandsox.vm import AsyncMicroVM, MicroVM
    from bandsox.vmm.firecracker.release import Program


class AsyncBandSox:
    """The machines and images of one storage directory.

    Parameters
    ----------
    storage_dir: where everything that lasts is kept; by default ``BANDSOX_STORAGE``, else ``/var/lib/bandsox`` for root
        and ``$XDG_DATA_HOME/bandsox`` for others.
    require: the least isolation a machine may have: ``"hardware"`` refuses to emulate a CPU.
    confinement: what the VMMs of new machines are locked into, where `create_vm` does not say: ``"auto"`` is the strongest that works
        here; ``"namespaces"`` and ``"jail"`` are refused where the host cannot give them; ``"none"``. By default
        ``BANDSOX_CONFINEMENT``, else ``"auto"``.

    Raises
    ------
    HostError: the storage directory belongs to somebody else.
    InvalidRequest: there is no such isolation or confinement.
    """

    def __init__(
        self,
        storage_dir: str | os.PathLike[str] | None = None,
        server_url: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 60,
        *,
        require: Isolation | str = Isolation.EMULATED,
        confinement: str | None = None,
    ) -> None:
        if server_url is not None or headers is not None or str(storage_dir or "").startswith(("http://", "https://")):
            raise Unsupported("this version has no remote client", remedy="use a storage directory of this host")
        self.timeout = timeout
        self.confinement = default_confinement() if confinement is None else check_confinement(confinement)
        self.engine = Engine(storage_dir, isolation_of(require))
        self.active_vms: dict[str, AsyncMicroVM] = {}

    async def __aenter__(self) -> AsyncBandSox:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """Let go of the storage directory. Machines and their sessions go on; ephemeral machines are deleted."""
        for vm in self.active_vms.values():
            await vm.disconnect()
        self.active_vms.clear()
        try:
            await self.engine.delete_own()
        finally:
            self.engine.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.storage_dir)!r})"

    # ── where things are ────────────────────────────────────────────────────────────────────────

    @property
    def storage_dir(self) -> Path:
        """The directory of everything that lasts."""
        return self.engine.layout.root

    @property
    def images_dir(self) -> Path:
        """Layer blobs and root file systems, named by digest."""
        return self.engine.layout.images

    @property
    def snapshots_dir(self) -> Path:
        """One directory a snapshot."""
        return self.engine.layout.snapshots

    @property
    def sockets_dir(self) -> Path:
        """The sockets of running machines."""
        return self.engine.layout.runtime

    @property
    def metadata_dir(self) -> Path:
        """The directory of each machine."""
        return self.engine.layout.vms

    # ── machines ────────────────────────────────────────────────────────────────────────────────

    async def create_vm(
        self,
        docker_image: str = DEFAULT_IMAGE,
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
        cpu_template: str | os.PathLike[str] | None = None,
        disk_bandwidth_mbps: float | None = None,
        disk_iops: int | None = None,
        confinement: str | None = None,
        ttl: float | None = None,
        ephemeral: bool = False,
        progress: ProgressCallback | None = None,
    ) -> AsyncMicroVM:
        """Make a machine of an image and start it; it is returned once its agent answers.

        Parameters
        ----------
        docker_image: an image reference; see docs/images.md for its forms.
        name: a label, unique in this storage directory; made up when absent.
        vcpu, mem_mib, disk_size_mib: its size; a disk of 0 keeps what the machine writes in its memory.
        kernel_path: a guest kernel other than the default one.
        enable_networking: None: a network where this version has one. True: an error where it has none.
        enable_vsock: accepted for compatibility; the link to the agent is chosen by the VMM.
        force_rebuild: look at the registry even when the image is here.
        env_vars: variables for every command, over the image's own.
        metadata: anything JSON can represent, kept with the machine.
        vmm: which hypervisor; by default ``BANDSOX_VMM``, else Firecracker where it can run a guest, else QEMU.
        boot_args: further kernel arguments.
        debug_console: have the kernel print all that it does on the console, which takes longer.
        cpu_template: what of the host's CPU the guest sees: one of Firecracker's static templates, or a file with a custom one.
        disk_bandwidth_mbps, disk_iops: limits on each of its disks, in 10^6 bytes and operations a second; by default
            ``BANDSOX_DISK_BANDWIDTH_MBPS`` and ``BANDSOX_DISK_IOPS``, else none.
        confinement: what the hypervisor is locked into; see `BandSox`. It holds for every later start of the machine.
        ttl: seconds after which the machine no longer exists; the next process that looks for machines deletes it.
        ephemeral: it is deleted when this object is closed or its process ends, even by SIGKILL; `AsyncMicroVM.keep` lets it live.
        progress: called with each step of long work.

        Raises
        ------
        InvalidRequest: a parameter is out of bounds.
        FileNotFoundError: the kernel or the image does not exist.
        RequirementNotMet: this host cannot isolate or confine it as demanded.
        BootFailed: the machine did not come up; nothing of it is left.
        """
        if enable_networking:
            raise Unsupported("this version gives machines no network", remedy="pass enable_networking=False")
        if mcp is not None:
            raise Unsupported("this version does not configure MCP servers", remedy="leave mcp out")
        spec = VMSpec(
            image=docker_image,
            name=name if name is not None else self.engine.new_name(),
            vcpu=vcpu,
            mem_mib=mem_mib,
            disk_size_mib=disk_size_mib,
            env_vars=dict(env_vars or {}),
            metadata=dict(metadata or {}),
            enable_networking=False,
            kernel_path=os.fspath(kernel_path) if kernel_path is not None else None,
            boot_args=boot_args,
            debug_console=debug_console,
            cpu_template=os.fspath(cpu_template) if cpu_template is not None else None,
            disk_limits=_disk_limits(disk_bandwidth_mbps, disk_iops),
            vmm=vmm if vmm is not None else default_vmm(),
            confinement=self.confinement if confinement is None else check_confinement(confinement),
            ttl=ttl,
        )
        return self._handle(await self.engine.create(spec, force_rebuild=force_rebuild, ephemeral=ephemeral, progress=progress))

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
        if status == VMStatus.RUNNING:
            change = self.engine.resume if record.status in {VMStatus.PAUSED, VMStatus.RUNNING} else self.engine.start
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

    # ── the host ────────────────────────────────────────────────────────────────────────────────

    async def cleanup(self) -> Removed:
        """Remove what processes that died have left behind, and nothing else."""
        return await self.engine.cleanup()

    async def install_kernel(
        self,
        url: str | None = None,
        *,
        sha256: str | None = None,
        output: str | os.PathLike[str] | None = None,
        force: bool = False,
        progress: ProgressCallback | None = None,
    ) -> str:
        """Make a guest kernel the default one, and return what it is called. Whoever needs one first installs it, unless this did.

        Parameters
        ----------
        url: an ELF kernel or a bzImage with its drivers built in, as a file or an http(s) address; by default that of the host's
            package archive.
        sha256: what its content must be; needed with plain http.
        output: a file that gets a copy of it.
        force: fetch it although there is one.

        Raises
        ------
        DownloadFailed, DigestMismatch, HostError: it cannot be had.
        CorruptImage: it is not a kernel.
        """
        from bandsox.engine import provision

        source = provision.Source(url, sha256) if url is not None else None
        copy = Path(output) if output is not None else None
        return await provision.install_kernel(self.engine, source, force=force, output=copy, progress=progress)

    async def install_firecracker(
        self, url: str | None = None, *, sha256: str | None = None, force: bool = False, progress: ProgressCallback | None = None
    ) -> Program:
        """Install the pinned release of Firecracker and its jailer, and return the Firecracker that machines get.

        Nothing is fetched when one that will do is named by ``BANDSOX_FIRECRACKER``, is installed, or is on PATH.

        Parameters
        ----------
        url: the archive of a release, as a file or an http(s) address; by default the project's own.
        sha256: what its content must be; by default that of the pinned release.
        force: fetch it although there is one.

        Raises
        ------
        Unsupported: there is no pinned release for this machine, or the version is too old.
        DownloadFailed, DigestMismatch: it cannot be had.
        """
        from bandsox.engine import provision

        source = provision.Source(url, sha256) if url is not None else None
        return await provision.install_firecracker(self.engine, source, force=force, progress=progress)

    async def install_image(
        self,
        url: str | None = None,
        *,
        sha256: str | None = None,
        output: str | os.PathLike[str] | None = None,
        force: bool = False,
        progress: ProgressCallback | None = None,
    ) -> Image:
        """Make an image the default one. Whoever needs it first builds it, unless this did.

        Parameters
        ----------
        url: a tar archive of a root file system, as a file or an http(s) address; by default Debian with Python.
        sha256: what its content must be.
        output: a file that gets a copy of its root file system, as squashfs.
        force: build it although it is here.

        Raises
        ------
        DownloadFailed, DigestMismatch, ImageError: it cannot be had.
        """
        from bandsox.engine import provision

        source = provision.Source(url, sha256) if url is not None else None
        copy = Path(output) if output is not None else None
        return await provision.install_image(self.engine, source, force=force, output=copy, progress=progress)

    async def doctor(self, again: bool = False) -> list[Finding]:
        """What this host can do, what it lacks, and the command that mends it.

        Parameters
        ----------
        again: whether to boot a guest with every accelerator, also where it is known whether that works.
        """
        from bandsox.engine.doctor import examine

        if again:
            await self.engine.accelerators.forget()
        return await examine(self.engine)

    # ── images ──────────────────────────────────────────────────────────────────────────────────

    async def pull_image(
        self, reference: str, policy: Literal["missing", "always", "never"] = "always", progress: ProgressCallback | None = None
    ) -> Image:
        """An image, ready to run: fetched afresh, or with the policy ``missing`` only when it is not here."""
        return await self.engine.images.resolve(reference, policy, progress)

    async def list_images(self) -> Sequence[Image]:
        """The images of this storage directory, newest first."""
        return await self.engine.images.list()

    async def tag_image(self, reference: str, name: str) -> Image:
        """Give an image that is here a further name, which wins over a registry's."""
        return await self.engine.images.tag(reference, name)

    async def remove_image(self, reference: str, force: bool = False) -> None:
        """Remove a name of an image, and the image with its last name.

        Raises
        ------
        Conflict: a VM was made of it.
        """
        await self.engine.images.remove(reference, force=force)

    def _handle(self, record: VMRecord) -> AsyncMicroVM:
        from bandsox.vm import AsyncMicroVM

        known = self.active_vms.get(record.id)
        if known is None:
            known = self.active_vms[record.id] = AsyncMicroVM(self.engine, record)
        known.refresh(record)
        return known


def _disk_limits(bandwidth_mbps: float | None, operations: int | None) -> RateLimits:
    """What was asked for, else what the environment says."""
    default_bandwidth, default_operations = default_disk_limits()
    bandwidth_mbps = default_bandwidth if bandwidth_mbps is None else bandwidth_mbps
    operations = default_operations if operations is None else operations
    if not (bandwidth_mbps is None or (math.isfinite(bandwidth_mbps) and bandwidth_mbps > 0)):
        raise InvalidRequest(f"a disk's bandwidth must be a positive number of MB/s, not {bandwidth_mbps!r}")
    return RateLimits(None if bandwidth_mbps is None else max(1, round(bandwidth_mbps * 1e6)), operations)


class BandSox:
    """The blocking face of `AsyncBandSox`: the same methods, parameters and results.

    Every method runs its asynchronous namesake; see there. It can be used from several threads.
    """

    def __init__(
        self,
        storage_dir: str | os.PathLike[str] | None = None,
        server_url: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 60,
        *,
        require: Isolation | str = Isolation.EMULATED,
        confinement: str | None = None,
    ) -> None:
        self._async = AsyncBandSox(storage_dir, server_url, headers, timeout, require=require, confinement=confinement)

    def __enter__(self) -> BandSox:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.storage_dir)!r})"

    storage_dir = property(lambda self: self._async.storage_dir, doc=AsyncBandSox.storage_dir.__doc__)
    images_dir = property(lambda self: self._async.images_dir, doc=AsyncBandSox.images_dir.__doc__)
    snapshots_dir = property(lambda self: self._async.snapshots_dir, doc=AsyncBandSox.snapshots_dir.__doc__)
    sockets_dir = property(lambda self: self._async.sockets_dir, doc=AsyncBandSox.sockets_dir.__doc__)
    metadata_dir = property(lambda self: self._async.metadata_dir, doc=AsyncBandSox.metadata_dir.__doc__)

    close = sync(AsyncBandSox.close)
    list_vms = sync(AsyncBandSox.list_vms)
    get_vm_info = sync(AsyncBandSox.get_vm_info)
    update_vm_metadata = sync(AsyncBandSox.update_vm_metadata)
    rename_vm = sync(AsyncBandSox.rename_vm)
    update_vm_status = sync(AsyncBandSox.update_vm_status)
    cleanup = sync(AsyncBandSox.cleanup)
    install_kernel = sync(AsyncBandSox.install_kernel)
    install_firecracker = sync(AsyncBandSox.install_firecracker)
    install_image = sync(AsyncBandSox.install_image)
    doctor = sync(AsyncBandSox.doctor)
    pull_image = sync(AsyncBandSox.pull_image)
    list_images = sync(AsyncBandSox.list_images)
    tag_image = sync(AsyncBandSox.tag_image)
    remove_image = sync(AsyncBandSox.remove_image)

    @property
    def active_vms(self) -> dict[str, MicroVM]:
        """The machines this object has made or looked up, by id."""
        return {vm_id: _blocking(vm) for vm_id, vm in self._async.active_vms.items()}

    create_vm = sync(AsyncBandSox.create_vm).then(lambda _, vm: _blocking(vm))
    create_vm_from_dockerfile = sync(AsyncBandSox.create_vm_from_dockerfile).then(lambda _, vm: _blocking(vm))
    get_vm = sync(AsyncBandSox.get_vm).then(lambda _, vm: None if vm is None else _blocking(vm))
    delete_vm = sync(AsyncBandSox.delete_vm)


def _blocking(vm: AsyncMicroVM) -> MicroVM:
    from bandsox.vm import MicroVM

    return MicroVM(vm)
