"""What each version of Firecracker can do, in one table, after its ``CHANGELOG.md`` and its sources.

1.8 is the oldest that is driven: from there on guests on x86_64 find their devices through ACPI.
"""

from __future__ import annotations

import enum

from bandsox.errors import Unsupported

VersionTriple = tuple[int, int, int]


class Feature(enum.Enum):
    """Something that not every supported version has: the first that has it, and what it is."""

    ACPI_DEVICES = (1, 8, 0), "devices that the guest finds through ACPI"
    NETWORK_OVERRIDES = (1, 12, 0), "another TAP device for a restored machine"
    TRACK_DIRTY_PAGES_ON_LOAD = (1, 13, 0), "`track_dirty_pages` in place of `enable_diff_snapshots`"
    DIFF_WITHOUT_TRACKING = (1, 13, 0), "incremental snapshots without dirty page tracking"
    VSOCK_OVERRIDE = (1, 16, 0), "another vsock socket for a restored machine"
    CLOCK_REALTIME = (1, 15, 1), "a restored guest's clock that counts the time between"

    @property
    def since(self) -> VersionTriple:
        """The first version that has it."""
        return self.value[0]

    def available(self, version: VersionTriple) -> bool:
        """Whether `version` has it."""
        return version >= self.since

    def require(self, version: VersionTriple) -> None:
        """Refuse a version that lacks it.

        Raises
        ------
        Unsupported: `version` is older.
        """
        if not self.available(version):
            raise Unsupported(
                f"Firecracker {'.'.join(map(str, version))} lacks {self.value[1]}",
                remedy=f"use {'.'.join(map(str, self.since[:2]))} or newer: bandsox init --force",
            )


_SNAPSHOT_FORMATS: tuple[tuple[VersionTriple, int], ...] = (
    ((1, 8, 0), 2),
    ((1, 9, 0), 3),
    ((1, 10, 1), 4),
    ((1, 11, 0), 5),
    ((1, 12, 0), 6),
    ((1, 13, 0), 8),
    ((1, 15, 0), 9),
    ((1, 16, 0), 10),
)
"""From which version on snapshots have which format (Firecracker, ``SNAPSHOT_VERSION`` in ``src/vmm/src/persist.rs``)."""


def snapshot_format(version: VersionTriple) -> int | None:
    """The major version of the snapshot format that `version` writes and reads; None for one that is newer than this table."""
    if version[:2] > _SNAPSHOT_FORMATS[-1][0][:2]:
        return None
    return max(kind for since, kind in _SNAPSHOT_FORMATS if version >= since)
