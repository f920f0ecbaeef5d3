"""The images of a storage directory: the part of `AsyncBandSox` that fetches, names and removes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from bandsox.core.opening import Opening
from bandsox.models import Image, ProgressCallback


class Images(Opening):
    """The methods about images."""

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
