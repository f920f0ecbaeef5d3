"""Which files differ between two states of a machine, told by the agent of another machine that has the disks of both."""

from __future__ import annotations

from bandsox.errors import ProtocolError
from bandsox.guest.answers import CompareAnswer, DifferencesEvent, decode
from bandsox.guest.connection import Operations
from bandsox.guest.files import TREE_TIMEOUT
from bandsox.guest.frames import FrameType
from bandsox.guest.messages import Compare
from bandsox.models import FileDifference


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
        GuestFileError: a disk does not hold a writable layer that can be read.
        MachineStopped, Timeout, ProtocolError: the connection failed.
        """
        found: list[FileDifference] = []
        async with self._connector.operation(Compare(before=before, after=after, limit=limit), timeout=timeout) as connection:
            while True:
                kind, payload = await connection.next_frame()
                if kind == FrameType.RESULT:
                    return found, decode(payload, CompareAnswer).truncated
                if kind != FrameType.EVENT:
                    raise connection.unexpected(kind)
                differences = decode(payload, DifferencesEvent).differences
                found += [FileDifference(each.change, each.path, each.type, each.size) for each in differences]
                if len(found) > limit:
                    raise ProtocolError(f"the guest tells of more than the {limit} differences that were asked for")
