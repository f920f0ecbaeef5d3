"""The client of one guest's agent: every operation of the protocol, as one method each."""

from __future__ import annotations

from bandsox.guest.comparison import ComparisonOperations
from bandsox.guest.connection import Connector
from bandsox.guest.files import FileOperations
from bandsox.guest.frames import TOKEN_SIZE
from bandsox.guest.link import Link
from bandsox.guest.machine import MachineOperations
from bandsox.guest.processes import ProcessOperations
from bandsox.guest.renewal import RenewalOperations
from bandsox.guest.streams import StreamOperations
from bandsox.guest.transfers import TransferOperations


class GuestClient(
    MachineOperations, RenewalOperations, ProcessOperations, FileOperations, TransferOperations, StreamOperations, ComparisonOperations
):
    """Talks to the agent of one machine. It holds nothing between operations, so there is nothing to close.

    Operations may run at once, each on a connection of its own. One client serves one event loop.

    Parameters
    ----------
    link: the way to the guest.
    token: the 32 bytes the guest was set up with; before it was, any will do.
    """

    def __init__(self, link: Link, token: bytes = bytes(TOKEN_SIZE)) -> None:
        super().__init__(Connector(link, token))
        self.link = link

    @property
    def token(self) -> bytes:
        """What later connections present."""
        return self._connector.token
