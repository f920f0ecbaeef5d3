"""A VM's timeline."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from bandsox.models import MOST_DIFFERENCES
from bandsox.server.shapes.base import ID, Given, Shape

_Label = Field(min_length=1, max_length=128, examples=["before-upgrade"])


class NewCheckpoint(Shape):
    """A checkpoint to be made."""

    label: str | None = Field(None, min_length=1, max_length=128, description="unique in its VM; by default a number")


class CheckpointInfo(Given):
    """A place in a VM's timeline that it can go back to."""

    label: str
    created_at: float = Field(description="seconds since the epoch")
    snapshot: str = Field(description="the id of the snapshot that it is, of which VMs can be restored too", examples=[ID])
    after: str | None = Field(description="the snapshot from which the VM had gone on when it was made")


class Rewind(Shape):
    """Where to go back to."""

    label: str = _Label


class Compare(Shape):
    """What to compare."""

    before: str = _Label
    after: str | None = Field(None, min_length=1, max_length=128, description="a checkpoint's label; null: as it is now")
    limit: int = Field(10_000, ge=1, le=MOST_DIFFERENCES, description="the most files that may differ")


class Difference(Given):
    """A file that is not the same: of another content, type, mode or owner, or there in one of the two only."""

    change: Literal["created", "modified", "removed"]
    path: str
    raw_path: str | None = Field(None, description="where the path is not UTF-8: its bytes, in base64")
    type: str
    size: int = Field(description="bytes, later or, where it was removed, before")


class Differences(Given):
    """The files that differ, in the order of their paths."""

    differences: list[Difference]
