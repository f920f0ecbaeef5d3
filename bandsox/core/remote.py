"""The front door to a server: the methods of `AsyncBandSox`, each a request."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import msgspec

from bandsox.client import forms
from bandsox.client.addresses import vm_path
from bandsox.client.administration import AsyncAuthentication, AsyncWebhooks
from bandsox.client.connection import Connection
from bandsox.client.guest import refuse
from bandsox.client.machine import RemoteMicroVM
from bandsox.client.network import attachment, revealed
from bandsox.client.snapshots import RemoteSnapshots
from bandsox.core.asynchronous import AsyncBandSox
from bandsox.core.remote_templates import RemoteTemplates
from bandsox.decoding import ready
from bandsox.errors import InvalidRequest, Unsupported, VMNotFound
from bandsox.models import TEMPLATE_PREFIX, Change, Image, Isolation, OnExpiry, Policy, ProgressCallback, PublishedPort, Secret, Template
from bandsox.settings import DEFAULT_IMAGE, isolation_of

if TYPE_CHECKING:
    from bandsox.engine.cleanup import Removed
    from bandsox.engine.findings import Finding
    from bandsox.vm import AsyncMicroVM
    from bandsox.vmm.firecracker.release import Program

_DOCKERFILE_OPTIONS = frozenset(
    {"enable_networking", "force_rebuild", "dns", "vmm", "disk_bandwidth_mbps", "disk_iops", "confinement", "ttl", "idle_timeout"}
    | {"on_expiry", "auto_resume", "publish", "network_bandwidth_mbps", "balloon_mib", "mmds", "track_dirty_pages", "network", "secrets"}
)
"""What may be given to `create_vm_from_dockerfile` beyond its parameters."""


class RemoteBandSox(RemoteSnapshots, RemoteTemplates, AsyncBandSox):
    """The machines and images of a server. `AsyncBandSox` with a URL makes one of these; used as that."""

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
        if isolation_of(require) is not Isolation.EMULATED or confinement is not None:
            raise Unsupported("the server's host decides how its machines are isolated", remedy="give create_vm the confinement")
        if server_url is not None and storage_dir is not None:
            raise InvalidRequest("a storage directory and a server were given", remedy="give one of them")
        self.timeout = timeout
        self.active_vms: dict[str, AsyncMicroVM] = {}
        self._server = Connection(server_url or str(storage_dir), headers, timeout)

    @property
    def engine(self) -> NoReturn:  # type: ignore[override]
        """Refused, and with it every method that is not here: the engine is the server's."""
        refuse()

    def __repr__(self) -> str:
        return f"AsyncBandSox({self._server.url!r})"

    async def close(self) -> None:
        """Let go of the server. Machines and their sessions go on."""
        for vm in self.active_vms.values():
            await vm.disconnect()
        self.active_vms.clear()
        await self._server.close()

    @property
    def storage_dir(self) -> Path:
        """Refused: it is another host's."""
        _not_here()

    images_dir = snapshots_dir = sockets_dir = metadata_dir = storage_dir

    @property
    def auth(self) -> AsyncAuthentication:
        """Who may use it: keys with their quotas, sessions, the password, and who did what. For its administrators."""
        return AsyncAuthentication(self._server)

    @property
    def webhooks(self) -> AsyncWebhooks:
        """The addresses that it tells of changes. For its administrators."""
        return AsyncWebhooks(self._server)

    # ── machines ────────────────────────────────────────────────────────────────────────────────

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
        """Make a machine of an image and start it; as `AsyncBandSox.create_vm`, but for what concerns files of this host."""
        if kernel_path is not None or boot_args or debug_console or cpu_template is not None or ephemeral:
            refuse()
        if isinstance(docker_image, Template):
            docker_image = f"{TEMPLATE_PREFIX}{docker_image.id}"
        wanted = {
            "image": docker_image,
            "name": name,
            "vcpu": vcpu,
            "mem_mib": mem_mib,
            "enable_networking": enable_networking,
            "enable_vsock": enable_vsock,
            "force_rebuild": force_rebuild,
            "disk_size_mib": disk_size_mib,
            "env_vars": dict(env_vars or {}),
            "metadata": dict(metadata or {}),
            "mcp": None if mcp is None else dict(mcp),
            "vmm": vmm,
            "dns": list(dns),
            "disk_bandwidth_mbps": disk_bandwidth_mbps,
            "disk_iops": disk_iops,
            "network_bandwidth_mbps": network_bandwidth_mbps,
            "balloon_mib": balloon_mib,
            "mmds": None if mmds is None else dict(mmds),
            "track_dirty_pages": track_dirty_pages,
            "confinement": confinement,
            "ttl": ttl,
            "idle_timeout": idle_timeout,
            "on_expiry": on_expiry,
            "auto_resume": auto_resume,
            "publish": _published(publish),
            "network": attachment(network),
            "secrets": revealed(secrets),
        }
        made = await self._server.make("/api/vms", progress, json=wanted)
        return await self._made(made)

    async def _made(self, made: Mapping[str, Any]) -> AsyncMicroVM:
        vm = await self.get_vm(made["id"])
        if vm is None:
            raise VMNotFound("the machine was deleted as soon as it was made")
        return vm

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
        """Have the server build the image of a Dockerfile of this host, with the files of its context, and make a machine of it."""
        if kwargs.keys() - _DOCKERFILE_OPTIONS:
            refuse()
        fields = {
            "tag": tag,
            "name": name,
            "vcpu": vcpu,
            "mem_mib": mem_mib,
            "disk_size_mib": disk_size_mib,
            "env_vars": dict(env_vars or {}),
            "metadata": dict(metadata or {}),
            "mcp": None if mcp is None else dict(mcp),
            "build_args": dict(build_args or {}),
            **{option: value for option, value in kwargs.items() if option not in {"publish", "network", "secrets"}},
            "publish": _published(kwargs.get("publish")),
            "network": attachment(kwargs.get("network")),
            "secrets": revealed(kwargs.get("secrets")),
        }
        path = Path(dockerfile_path)
        directory = Path(context) if context is not None else path.parent
        async with forms.build(path, directory, fields) as (headers, pieces):
            made = await self._server.work("POST", "/api/vms/from-dockerfile", progress, content=pieces, headers=headers)
        return await self._made(made)

    async def get_vm(self, vm_id: str) -> AsyncMicroVM | None:
        """The machine with this id or name; None when there is none."""
        info = await self.get_vm_info(vm_id)
        if info is None:
            return None
        return self.active_vms.setdefault(info["id"], RemoteMicroVM(self._server, info))

    async def list_vms(self, limit: int | None = None, metadata_equals: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """All machines, newest first; with `metadata_equals` those whose metadata has all these values."""
        params: dict[str, Any] = {} if limit is None else {"limit": limit}
        if metadata_equals is not None:
            params["metadata_equals"] = json.dumps(dict(metadata_equals))
        return await self._server.get("/api/vms", list[dict[str, Any]], **params)

    async def get_vm_info(self, vm_id: str) -> dict[str, Any] | None:
        """What is known of a machine; None when there is none."""
        try:
            return await self._server.get(vm_path(vm_id), dict[str, Any])
        except VMNotFound:
            return None

    async def update_vm_metadata(self, vm_id: str, metadata: Mapping[str, Any]) -> None:
        """Replace a machine's metadata."""
        await self._server.call("PUT", f"{vm_path(vm_id)}/metadata", json={"metadata": dict(metadata)})

    async def rename_vm(self, vm_id: str, name: str) -> None:
        """Give a machine another name."""
        await self._server.call("PUT", f"{vm_path(vm_id)}/name", json={"name": name})

    async def update_vm_status(self, vm_id: str, status: str) -> None:
        """Bring a machine into a status: ``running``, ``paused`` or ``stopped``."""
        await self._server.call("PUT", f"{vm_path(vm_id)}/status", json={"status": status}, patient=True)

    async def delete_vm(self, vm_id: str) -> None:
        """Kill a machine and remove everything it owns; no error when there is none."""
        vm = await self.get_vm(vm_id)
        if vm is not None:
            self.active_vms.pop(vm.vm_id, None)
            await vm.delete()

    # ── what happens, images and the host ───────────────────────────────────────────────────────

    async def events(self, after: int | None = None) -> AsyncIterator[Change]:
        """What happens on the server, as it happens, until the caller stops asking."""
        params = {} if after is None else {"after": after}
        async with contextlib.aclosing(self._server.lines("GET", "/api/events", params=params)) as lines:
            async for line in lines:
                if line["type"] != "hello":
                    yield Change(line["id"], line["at"], line["type"], line["subject"], line["name"], None, line["status"])

    async def pull_image(
        self, reference: str, policy: Literal["missing", "always", "never"] = "always", progress: ProgressCallback | None = None
    ) -> Image:
        """An image of the server's, ready to run."""
        return _image(await self._server.work("POST", "/api/images/pull", progress, json={"reference": reference, "policy": policy}))

    async def list_images(self) -> Sequence[Image]:
        """The images of the server, newest first."""
        return [_image(each) for each in await self._server.get("/api/images", list[dict[str, Any]])]

    async def tag_image(self, reference: str, name: str) -> Image:
        """Give an image a further name."""
        return _image((await self._server.call("POST", "/api/images/tag", json={"reference": reference, "name": name})).json())

    async def remove_image(self, reference: str, force: bool = False) -> None:
        """Remove a name of an image, and the image with its last name."""
        await self._server.call("DELETE", "/api/images", params={"reference": reference, "force": force})

    async def cleanup(self) -> Removed:
        """Remove what processes that died have left behind on the server's host."""
        from bandsox.engine.cleanup import Removed

        return msgspec.json.decode((await self._server.call("POST", "/api/cleanup", patient=True)).content, type=ready(Removed))

    async def doctor(self, again: bool = False) -> list[Finding]:
        """What the server's host can do."""
        from bandsox.engine.findings import Finding

        if again:
            refuse()
        return msgspec.json.decode((await self._server.call("GET", "/api/doctor", patient=True)).content, type=ready(list[Finding]))

    async def install_kernel(self, *arguments: Any, **options: Any) -> str:
        """Refused: what is installed on the server's host is decided there."""
        _not_here()

    async def install_firecracker(self, *arguments: Any, **options: Any) -> Program:
        """Refused: what is installed on the server's host is decided there."""
        _not_here()

    async def install_cni_plugins(self, *arguments: Any, **options: Any) -> Path:
        """Refused: what is installed on the server's host is decided there."""
        _not_here()

    async def install_image(self, *arguments: Any, **options: Any) -> Image:
        """Refused: what is installed on the server's host is decided there."""
        _not_here()


def _published(publish: Mapping[int | str, int] | Iterable[PublishedPort | str] | None) -> list[dict[str, Any]]:
    from bandsox.engine.publishing import taken_from

    return [{"guest_port": port.guest_port, "host_port": port.host_port, "host": port.host} for port in taken_from(publish)]


def _image(facts: dict[str, Any]) -> Image:
    return msgspec.convert(facts, ready(Image), dec_hook=lambda kind, value: Path(value) if kind is Path else value)


def _not_here() -> NoReturn:
    raise Unsupported("this is a matter of the server's host", remedy="do it there")
