"""Images."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from bandsox.server.shapes.base import Given, Shape


class Pull(Shape):
    """An image to be fetched."""

    reference: str = Field(min_length=1, examples=["python:3-alpine"])
    policy: Literal["missing", "always", "never"] = "always"


class Tag(Shape):
    """A further name for an image."""

    reference: str = Field(min_length=1)
    name: str = Field(min_length=1)


class ImageInfo(Given):
    """An image that is here."""

    id: str
    references: list[str]
    size: int
    architecture: str
    created_at: float
