"""Snapshots that travel through registries."""

from __future__ import annotations

from pydantic import Field

from bandsox.server.shapes.base import Given, Shape

_Reference = Field(min_length=1, max_length=1024, examples=["host:5000/team/prepared:1"])


class PushSnapshot(Shape):
    """Where a snapshot is to be sent."""

    reference: str = _Reference
    base: str | None = Field(None, min_length=1, description="a snapshot that the receiver has: only what differs from it is sent")
    image: bool = Field(True, description="with the root file system of the VM's image")


class PushedSnapshot(Given):
    """The digest of what was sent."""

    digest: str = Field(examples=["sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"])


class PullSnapshot(Shape):
    """Where a snapshot is to be taken from: a tag, or a digest after `@`."""

    reference: str = _Reference
    name: str | None = Field(None, min_length=1, max_length=128, description="another name than it had")
