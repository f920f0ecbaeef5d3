"""Machines."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from bandsox.server.shapes.base import ID, Environment, Given, Seconds, Shape
from bandsox.server.shapes.networks import CniNetwork, NetworkDemand, NewSecret, PolicyInfo
from bandsox.server.shapes.ports import NewPort
from bandsox.settings import DEFAULT_IMAGE


class VMOptions(Shape):
    """How a VM is to be. As the parameters of `create_vm`."""

    name: str | None = Field(None, description="unique; made up when absent", examples=["dev"])
    vcpu: int = Field(1, ge=1, le=1024)
    mem_mib: int = Field(128, ge=1, le=1 << 24)
    disk_size_mib: int = Field(4096, ge=0, le=1 << 30, description="0 keeps what the VM writes in its memory")
    enable_networking: bool | None = None
    enable_vsock: bool = True
    force_rebuild: bool = Field(False, description="look at the registry even when the image is here")
    env_vars: Environment | None = Field(None, examples=[{"LANG": "C.UTF-8"}])
    metadata: dict[str, Any] | None = Field(None, examples=[{"team": "web"}])
    mcp: dict[str, Any] | None = None
    dns: list[str] = Field([], max_length=3, description="addresses of name servers")
    vmm: str | None = Field(None, examples=["qemu"])
    disk_bandwidth_mbps: float | None = Field(None, gt=0)
    disk_iops: int | None = Field(None, ge=1)
    network_bandwidth_mbps: float | None = Field(None, gt=0, description="in each direction; Firecracker only, as the next three")
    balloon_mib: int | None = Field(None, ge=0, le=1 << 24, description="what a balloon takes from its memory at first")
    mmds: dict[str, Any] | None = Field(None, description="what its metadata service (version 2) says")
    track_dirty_pages: bool = Field(False, description="when it is saved, write only what has changed of its memory")
    confinement: str | None = Field(None, examples=["namespaces"])
    ttl: Seconds | None = Field(None, description="how many seconds it may run")
    idle_timeout: Seconds | None = Field(None, description="how many seconds it may run while nothing is done in it")
    on_expiry: Literal["delete", "stop", "pause", "snapshot"] = Field("delete", description="what becomes of it then")
    auto_resume: bool = Field(False, description="when it is paused or saved, it goes on at the next operation on its guest")
    publish: list[NewPort] = Field([], max_length=256, description="ports of the server's host that lead to ports of the guest")
    network: NetworkDemand | CniNetwork | None = Field(
        None,
        description="where it may go: a policy, or a preset's name; or `cni:` and a CNI network of the host",
        examples=["registry-only"],
    )
    secrets: dict[str, NewSecret] = Field(
        {}, max_length=32, description="what its programs use and do not have, by the variables that hold their placeholders"
    )


class NewVM(VMOptions):
    """A VM to be made."""

    image: str = Field(DEFAULT_IMAGE, min_length=1, examples=["python:3-alpine"])


class NewVMFromDockerfile(VMOptions):
    """A VM to be made of a Dockerfile's image: the fields of a form."""

    dockerfile: str = Field(min_length=1)
    tag: str | None = Field(None, min_length=1)
    build_args: dict[str, str] = Field(default_factory=dict)


class CreatedVM(Given):
    """A VM that was made, and runs."""

    id: str = Field(examples=[ID])
    status: Literal["created"] = "created"
    name: str = Field(examples=["dev"])


class Port(Given):
    """A port of the server's host that leads to one of a VM."""

    guest_port: int
    host_port: int
    host: str = Field(examples=["127.0.0.1"])
    url: str = Field(examples=["http://127.0.0.1:8080"])


class VM(Given):
    """All that is known of a VM."""

    id: str = Field(examples=[ID])
    name: str = Field(examples=["dev"])
    image: str = Field(examples=["python:3-alpine"])
    vcpu: int
    mem_mib: int
    disk_size_mib: int
    rootfs_path: str
    network_config: dict[str, Any] | None
    network_policy: PolicyInfo | None = Field(description="null: it may go wherever the Internet is, and nothing is written down")
    secrets: dict[str, list[str]] = Field(description="the hosts of its secrets, by their names")
    network_reason: str = Field(description="what its network is made of, or why it has none")
    vsock_config: dict[str, Any] | None
    created_at: float = Field(description="seconds since the epoch")
    status: Literal["creating", "running", "paused", "saved", "stopped", "dead"]
    pid: int | None
    env_vars: Environment
    mcp: dict[str, Any] | None
    metadata: dict[str, Any]
    agent_ready: bool
    restored_from: str | None
    receipt: dict[str, Any] | None = Field(description="what was done to make it a VM of its own, if it goes on from another")
    image_id: str
    vmm: str
    vmm_version: str
    accelerator: str
    accelerator_reason: str
    isolation: str
    confinement: str
    confinement_reason: str
    transport: str
    balloon_mib: int | None
    ports: list[Port]
    expires_at: float | None
    idle_timeout: float | None
    on_expiry: str
    auto_resume: bool
    pool: str | None = Field(None, description="the warm pool of this server in which it waits to be taken")


class NewName(Shape):
    """Another name."""

    name: str = Field(min_length=1, examples=["dev-2"])


class Renamed(Given):
    """The name it has now."""

    status: Literal["renamed"] = "renamed"
    name: str


class NewMetadata(Shape):
    """Metadata in the place of what is there."""

    metadata: dict[str, Any] = Field(examples=[{"team": "web"}])


class NewDeadlines(Shape):
    """How long a VM may run from now on. What is left out stays as it is; null is no limit."""

    ttl: Seconds | None = Field(None, description="how many seconds from now on", examples=[3600])
    idle_timeout: Seconds | None = Field(None, description="how many seconds while nothing is done in it")
    on_expiry: Literal["delete", "stop", "pause", "snapshot"] = Field("delete", description="what becomes of it then")
    auto_resume: bool = Field(False, description="when it is paused or saved, it goes on at the next operation on its guest")


class DeadlinesInForce(Given):
    """How long a VM may run."""

    expires_at: float | None = Field(description="seconds since the epoch")
    idle_timeout: float | None
    on_expiry: str
    auto_resume: bool


class WantedStatus(Shape):
    """A status to bring a VM into."""

    status: Literal["running", "paused", "stopped"]


class Console(Given):
    """What a VM has printed on its console since it was started, at most the first 256 KiB."""

    console: str
