"""Devices that only some VMs have."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from bandsox.server.shapes.base import Given, Shape


class BalloonInfo(Given):
    """How large a balloon is to be, and is, and what the guest says of the rest, in MiB."""

    target_mib: int
    actual_mib: int
    free_mib: int | None
    available_mib: int | None
    total_mib: int | None


class NewBalloon(Shape):
    """How much a balloon shall take."""

    mib: int = Field(ge=0, le=1 << 24)


class NewMmds(Shape):
    """What a metadata service shall say."""

    data: dict[str, Any]
