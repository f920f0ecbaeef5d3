"""Starting a VMM without transparent huge pages.

QEMU asks for them for the translated code of its guest (QEMU, accel/tcg/region.c), in an arena that fills from several places at once: a
clone that has run for a second then holds some 30 MiB for 22 MiB of code. For one machine that is a good bargain, for a hundred clones that
mostly wait it is not. What says so is a flag of the process that a child inherits and ``execve`` keeps (prctl(2),
``PR_SET_THP_DISABLE``); no tool sets it for another program, so it is set here for the moment of the start.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

_SET, _GET = 41, 42
_STARTING = threading.Lock()


@contextlib.contextmanager
def without_huge_pages() -> Iterator[None]:
    """What is started within the block has no transparent huge pages; on a kernel that cannot do that it is as without."""
    import ctypes  # costs what a machine that boots should not

    prctl = ctypes.CDLL(None).prctl
    with _STARTING:
        before = prctl(_GET, 0, 0, 0, 0)
        prctl(_SET, 1, 0, 0, 0)
        try:
            yield
        finally:
            prctl(_SET, max(0, before), 0, 0, 0)
