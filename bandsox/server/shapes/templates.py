"""Templates and warm pools."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from bandsox.server.shapes.base import ID, Environment, Failure, Given, Seconds, Shape
from bandsox.settings import DEFAULT_IMAGE

_Word = Annotated[str, Field(max_length=128 << 10)]
_SetupCommand = Annotated[str, Field(min_length=1, max_length=128 << 10)] | Annotated[list[_Word], Field(min_length=1, max_length=4096)]


class PlacedFile(Shape):
    """A file that is put into a machine."""

    content: str = Field(max_length=32 << 20)
    encoding: Literal["utf-8", "base64"] = Field("utf-8", description="how `content` is written")
    mode: str = Field("644", pattern="^[0-7]{3}$", description="permission bits in octal")


class NewTemplate(Shape):
    """A template to be made, or found."""

    image: str = Field(DEFAULT_IMAGE, min_length=1, examples=["python:3-alpine"])
    setup: list[_SetupCommand] = Field(
        [], max_length=1024, description="texts for the image's shell, lists as they are", examples=[["pip install requests"]]
    )
    files: dict[str, PlacedFile] = Field({}, max_length=1024, description="what is put there before, by absolute paths")
    env_vars: Environment | None = None
    vcpu: int = Field(1, ge=1, le=1024)
    mem_mib: int = Field(128, ge=1, le=1 << 24)
    disk_size_mib: int = Field(4096, ge=0, le=1 << 30)
    enable_networking: bool | None = None
    vmm: str | None = Field(None, examples=["qemu"])
    timeout: Seconds | None = Field(None, description="how many seconds each command may take")


class TemplateInfo(Given):
    """A VM that was set up once, to start others from: their image is `template:ID`."""

    id: str = Field(examples=[ID])
    snapshot: str
    image: str
    image_id: str
    vcpu: int
    mem_mib: int
    disk_size_mib: int
    setup: list[str] = Field(description="the commands that were run")
    created_at: float = Field(description="seconds since the epoch, as the next")
    used_at: float = Field(description="when a VM was last made of it")
    size: int = Field(description="bytes on the disk")


class PruneTemplates(Shape):
    """Which templates to delete."""

    unused_for: float = Field(0.0, ge=0, lt=1e9, description="those of which no VM was made for so many seconds")


class NewPool(Shape):
    """A warm pool to be made."""

    template: str = Field(min_length=1, max_length=128, description="a template's id", examples=[ID])
    size: int = Field(2, ge=1, le=256, description="how many paused VMs stand ready")


class PoolSize(Shape):
    """How many VMs shall stand ready."""

    size: int = Field(ge=1, le=256)


class PoolInfo(Given):
    """A warm pool. `failure`: why the latest VM could not be made."""

    id: str = Field(examples=[ID])
    template: str = Field(description="the template's id")
    size: int
    ready: int = Field(description="how many VMs stand ready now")
    created_at: float = Field(description="seconds since the epoch")
    failure: Failure | None


class TakeFromPool(Shape):
    """What a VM of a pool is to be called, and to have."""

    name: str | None = Field(None, min_length=1, description="unique; made up when absent")
    env_vars: Environment | None = Field(None, description="variables over the template's")
    metadata: dict[str, Any] | None = None
