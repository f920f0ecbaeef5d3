"""Which files differ between two states of a machine, told by the agent of another machine that has the disks of both."""

from __future__ import annotations

from bandsox.errors import LimitExceeded, ProtocolError
from bandsox.guest.answers import CompareAnswer, DifferencesEvent, decode
from bandsox.guest.connection import Operations
from bandsox.guest.files import TREE_TIMEOUT
from bandsox.guest.frames import FrameType
from bandsox.guest.messages import Compare
from bandsox.models import FileDifference

MOST_PATH_BYTES = 64 << 20
"""How many bytes the paths of all differences may have: how long they are is the guest's choice."""


class ComparisonOperations(Operations):
    """The comparison of two disks."""

    async def compare(self, before: str, after: str, *, limit: int, timeout: float = TREE_TIMEOUT) -> tuple[list[FileDifference], bool]:
        """The first `limit` files that differ between the writable layers on two disks, over this machine's image; whether there are more.

        Parameters
        ----------
        before, after: the guest's names of the disks, such as ``vdb``.
        timeout: seconds for all of it.

        Raises
        ------
        LimitExceeded: their paths have more than `MOST_PATH_BYTES`.
        GuestFileError: a disk does not hold a writable layer that can be read.
        MachineStopped, Timeout, ProtocolError: the connection failed.
        """
        found: list[FileDifference] = []
        length = 0
        async with self._connector.operation(Compare(before=before, after=after, limit=limit), timeout=timeout) as connection:
            while True:
                kind, payload = await connection.next_frame()
                if kind == FrameType.RESULT:
                    return found, decode(payload, CompareAnswer).truncated
                if kind != FrameType.EVENT:
                    raise connection.unexpected(kind)
                differences = decode(payload, DifferencesEvent).differences
                length += sum(len(each.path) for each in differences)
                if length > MOST_PATH_BYTES:
                    raise LimitExceeded(f"the paths of what differs have more than {MOST_PATH_BYTES} bytes", remedy="compare nearer states")
                found += [FileDifference(each.change, each.path, each.type, each.size) for each in differences]
                if len(found) > limit:
                    raise ProtocolError(f"the guest tells of more than the {limit} differences that were asked for")
