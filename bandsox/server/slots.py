"""Work of which a server does only so much at a time, since each takes a processor and much of the disk."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

from bandsox.errors import TooManyRequests
from bandsox.server.auth.callers import Caller, Scope

RETRY_S = 5
"""After how many seconds it is worth while to ask again."""


class Slots:
    """So many may be under way at once; whoever comes then is told to come again, and nothing of his waits in memory.

    A caller who is no administrator has at most half of them, so that one who is slow does not keep all others out.

    Parameters
    ----------
    what: of which.
    """

    def __init__(self, most: int, what: str) -> None:
        self._most, self._what = most, what
        self._taken: Counter[str] = Counter()

    @contextlib.contextmanager
    def one(self, caller: Caller) -> Iterator[None]:
        """A block that is one of them.

        Raises
        ------
        TooManyRequests: there are as many as there may be.
        """
        share = self._most if caller.may(Scope.ADMIN) else (self._most + 1) // 2
        if self._taken.total() >= self._most or self._taken[caller.id] >= share:
            raise TooManyRequests(
                f"this server does {self._most} {self._what} at a time, and at most {share} of them for you",
                cause="as many are under way",
                remedy=f"try again in {RETRY_S} s, or ask for a higher --transfers",
                detail={"retry_after": RETRY_S},
            )
        self._taken[caller.id] += 1
        try:
            yield
        finally:
            self._taken[caller.id] -= 1
            if not self._taken[caller.id]:
                del self._taken[caller.id]
