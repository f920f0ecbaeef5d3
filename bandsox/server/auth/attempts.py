"""How often something may be tried: so many times within a minute, for each who tries."""

from __future__ import annotations

import time
from collections import OrderedDict, deque

from bandsox.errors import TooManyRequests

WINDOW_S = 60.0
_MOST_REMEMBERED = 10_000


class Attempts:
    """Counts what each has tried within the last minute."""

    def __init__(self) -> None:
        self._times: OrderedDict[str, deque[float]] = OrderedDict()

    def count(self, who: str, limit: int, what: str) -> None:
        """Count an attempt.

        Raises
        ------
        TooManyRequests: `who` has made `limit` of them within a minute; this one does not count.
        """
        now = time.monotonic()
        times = self._times.setdefault(who, deque())
        self._times.move_to_end(who)
        while times and times[0] <= now - WINDOW_S:
            times.popleft()
        if len(times) >= limit:
            wait = max(1, round(times[0] + WINDOW_S - now)) if times else round(WINDOW_S)
            raise TooManyRequests(
                f"too many {what}: {limit} a minute are allowed", remedy=f"try again in {wait} s", detail={"retry_after": wait}
            )
        times.append(now)
        while len(self._times) > _MOST_REMEMBERED:
            self._times.popitem(last=False)
