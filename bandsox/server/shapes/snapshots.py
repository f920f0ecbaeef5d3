"""Snapshots and clones."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from bandsox.server.shapes.base import ID, Environment, Given, Seconds, Shape
from bandsox.server.shapes.machines import VM


class NewSnapshot(Shape):
    """A snapshot to be taken."""

    name: str | None = Field(None, min_length=1, description="unique; made of the VM's id and the time when absent", examples=["ready"])
    metadata: dict[str, Any] | None = None


class TakenSnapshot(Given):
    """A snapshot that was taken. `snapshot_id` is its name, as earlier versions have it."""

    snapshot_id: str = Field(examples=["ready"])
    id: str = Field(examples=[ID])


class Restore(Shape):
    """How a VM is to go on from a snapshot."""

    name: str | None = Field(None, min_length=1, description="unique; made up when absent")
    enable_networking: bool | None = None
    env_vars: Environment | None = None
    metadata: dict[str, Any] | None = Field(None, description="in place of the saved VM's")
    cold: bool = Field(False, description="boot from its disk, where this host cannot go on from its memory")


class RestoredVM(Given):
    """A VM that was made of a snapshot, and runs."""

    id: str = Field(examples=[ID])
    status: Literal["restored"] = "restored"
    name: str


class Fork(Shape):
    """Clones to be made."""

    count: int = Field(1, ge=1, le=1000)
    name: str | None = Field(None, min_length=1, description="of several clones the beginning of their names")
    env_vars: Environment | None = None
    metadata: dict[str, Any] | None = Field(None, description="in place of the VM's own")


class Forked(Given):
    """The clones, which run."""

    status: Literal["forked"] = "forked"
    vms: list[VM]


class Belonging(Given):
    """What a snapshot is there for that was not taken for itself."""

    purpose: Literal["checkpoint", "memory", "template"]
    owner: str = Field(description="the id of the VM whose checkpoint or memory it is, or the template's key", examples=[ID])
    label: str = Field(description="the checkpoint's", examples=["installed"])


class SnapshotInfo(Given):
    """All that is known of a snapshot."""

    id: str = Field(examples=[ID])
    snapshot_name: str
    source_vm_id: str
    vcpu: int
    mem_mib: int
    disk_size_mib: int
    image: str
    image_id: str
    rootfs_path: str
    backend_rootfs_path: str
    network_config: dict[str, Any] | None
    vsock_config: dict[str, Any] | None
    env_vars: Environment
    metadata: dict[str, Any]
    created_at: float = Field(description="seconds since the epoch")
    parent: str | None
    belongs_to: Belonging | None = Field(description="null for one that was taken for itself")
    vmm: str
    vmm_version: str
    accelerator: str
    path: str
    size: int = Field(description="bytes on the disk")
    compressed: bool
    status: str | None = Field(None, description="what is wrong with it: `no_metadata` or `metadata_corrupted`")


class RetentionShape(Shape):
    """Which snapshots are kept. Null: whatever their age, or number."""

    max_age: Seconds | None = Field(None, description="in seconds", examples=[2592000])
    max_count: int | None = Field(None, ge=1, le=10**6, description="how many the newest of each VM are", examples=[7])
    protected: list[Annotated[str, Field(min_length=1, max_length=128)]] = Field(
        [], max_length=100, description="those whose name fits one of these patterns stay, and are not counted", examples=[["release-*"]]
    )


class PruneSnapshots(Shape):
    """What is to be removed now."""

    kept: RetentionShape | None = Field(None, description="null: what is kept at all times")
    dry_run: bool = Field(False, description="remove nothing, and tell what would be")


class PrunedSnapshot(Given):
    """A snapshot that was removed."""

    id: str = Field(examples=[ID])
    snapshot_name: str
    source_vm_id: str
    created_at: float
