"""The timeline of a server's machine."""

from __future__ import annotations

import base64
from typing import Any

import msgspec

from bandsox.client.access import RemoteAccess
from bandsox.client.addresses import segment
from bandsox.decoding import ready
from bandsox.models import MOST_DIFFERENCES, Checkpoint, FileDifference, ProgressCallback


class RemoteTimeline(RemoteAccess):
    """The methods on the timeline, as `AsyncMicroVM` has them."""

    async def checkpoint(self, label: str | None = None, progress: ProgressCallback | None = None) -> Checkpoint:
        """Keep this instant of it, running or paused, as a place to go back to; it goes on."""
        made = await self._server.make(f"{self._path}/checkpoints", progress, json={"label": label})
        return msgspec.convert(made, ready(Checkpoint))

    async def checkpoints(self) -> list[Checkpoint]:
        """Its checkpoints, oldest first."""
        return await self._server.get(f"{self._path}/checkpoints", list[Checkpoint])

    async def remove_checkpoint(self, label: str) -> None:
        """Delete one of its checkpoints; the others stay as they are."""
        await self._server.call("DELETE", f"{self._path}/checkpoints/{segment(label)}", patient=True)

    async def rewind(self, label: str, progress: ProgressCallback | None = None) -> None:
        """Go back to a checkpoint, whatever it does now: its memory, programs and disk are those of then."""
        await self._server.work("POST", f"{self._path}/rewind", progress, json={"label": label})
        await self.info()

    async def diff(
        self, before: str, after: str | None = None, *, limit: int = MOST_DIFFERENCES, progress: ProgressCallback | None = None
    ) -> list[FileDifference]:
        """The files that differ between two of its checkpoints, or between one and now, in the order of their paths."""
        body = {"before": before, "after": after, "limit": limit}
        found = await self._server.work("POST", f"{self._path}/diff", progress, json=body)
        return [_difference(each) for each in found["differences"]]


def _difference(facts: dict[str, Any]) -> FileDifference:
    raw = facts.get("raw_path")
    path = facts["path"].encode() if raw is None else base64.b64decode(raw)
    return FileDifference(facts["change"], path, facts["type"], facts["size"])
