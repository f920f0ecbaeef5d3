"""Devices that can be changed while a machine runs: its balloon, and its metadata service."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bandsox.models import Balloon
from bandsox.vmm.firecracker import configuration, requests
from bandsox.vmm.firecracker.client import Client


class FirecrackerDevices:
    """See `bandsox.vmm.base.Devices`."""

    async def balloon(self, sockets: Path) -> Balloon:
        """How large the balloon is to be, and is.

        Raises
        ------
        VMMError: Firecracker refused, in its own words. MachineStopped: it is not running.
        """
        return await asyncio.to_thread(_balloon, sockets / configuration.API_SOCKET)

    async def set_balloon(self, sockets: Path, mib: int) -> None:
        """Have the balloon take `mib` MiB; errors as `balloon`, one of them that the guest has no driver for it."""
        await asyncio.to_thread(_send, sockets / configuration.API_SOCKET, requests.BalloonUpdate(amount_mib=mib))

    async def set_mmds(self, sockets: Path, data: Mapping[str, Any]) -> None:
        """Have the metadata service say something else; errors as `balloon`."""
        await asyncio.to_thread(_send, sockets / configuration.API_SOCKET, requests.MmdsContents(contents=dict(data)))


def _send(api: Path, request: requests.Request) -> None:
    with Client(api) as client:
        client.send(request)


def _balloon(api: Path) -> Balloon:
    with Client(api) as client:
        seen = client.get("/balloon/statistics", requests.BalloonStatistics)
    guest = (seen.free_memory, seen.available_memory, seen.total_memory)
    return Balloon(seen.target_mib, seen.actual_mib, *(None if size is None else size >> 20 for size in guest))
