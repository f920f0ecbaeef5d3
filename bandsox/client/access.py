"""What every part of a remote machine's handle needs to know of the machine: where it is."""

from __future__ import annotations

import abc
from typing import Any

from bandsox.client.connection import Connection


class RemoteAccess(abc.ABC):
    """A way to a machine of a server."""

    _server: Connection

    @property
    @abc.abstractmethod
    def _path(self) -> str:
        """What the addresses of its routes begin with."""

    @abc.abstractmethod
    async def info(self) -> dict[str, Any]:
        """What is known of it now."""
