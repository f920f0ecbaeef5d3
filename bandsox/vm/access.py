"""What every part of a machine's handle needs to know of the machine: how to reach its agent."""

from __future__ import annotations

import abc
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bandsox.guest import GuestClient


class GuestAccess(abc.ABC):
    """A way to a machine's agent."""

    @abc.abstractmethod
    async def _live(self) -> GuestClient:
        """The client of the agent of a machine that runs.

        Raises
        ------
        Conflict: it is paused or stopped.
        """
