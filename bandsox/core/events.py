"""What happens in a storage directory: the part of `AsyncBandSox` that tells of it."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from bandsox.core.opening import Opening

if TYPE_CHECKING:
    from bandsox.engine.feed import Feed
    from bandsox.models import Change


class Events(Opening):
    """The methods about what happens."""

    @functools.cached_property
    def feed(self) -> Feed:
        """The changes as they come; see `events`."""
        from bandsox.engine.feed import Feed

        return Feed(self.engine)

    async def events(self, after: int | None = None) -> AsyncIterator[Change]:
        """What happens to machines, snapshots and images from now on, whichever process does it, until the caller stops asking.

        Parameters
        ----------
        after: begin behind the change with this ``id`` instead, to miss nothing between two calls. Where that is too long ago, the first
            change is of the kind ``lost``: what there is has to be asked for anew.
        """
        async with self.feed.following(after) as (_, changes):
            async for change in changes:
                yield change
