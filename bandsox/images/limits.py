"""What an image may cost at most, against archives made to fill disks and memory."""

from __future__ import annotations

import os
from dataclasses import dataclass

from bandsox.errors import CorruptImage, InvalidRequest


@dataclass(frozen=True, slots=True)
class Limits:
    """``unpacked`` is in bytes over all layers, holes of sparse files included; ``files`` counts archive entries."""

    unpacked: int = 64 << 30
    files: int = 4_000_000

    @classmethod
    def configured(cls) -> Limits:
        """The defaults, or what ``BANDSOX_MAX_IMAGE_MIB`` says.

        Raises
        ------
        InvalidRequest: that is no number.
        """
        configured = os.environ.get("BANDSOX_MAX_IMAGE_MIB")
        if configured is None:
            return cls()
        if not configured.isdigit() or int(configured) == 0:
            raise InvalidRequest(f"BANDSOX_MAX_IMAGE_MIB is {configured!r}, not a number of mebibytes")
        return cls(unpacked=int(configured) << 20)

    def check_unpacked(self, size: int) -> None:
        """Check a size in bytes.

        Raises
        ------
        CorruptImage: it is over the limit.
        """
        if size > self.unpacked:
            raise CorruptImage(
                f"the image is larger than {self.unpacked >> 20} MiB when unpacked",
                cause="it is larger than the limit, or an archive made to fill disks",
                remedy="raise BANDSOX_MAX_IMAGE_MIB if the image is trusted and needed",
            )

    def check_files(self, count: int) -> None:
        """Check a number of archive entries.

        Raises
        ------
        CorruptImage: it is over the limit.
        """
        if count > self.files:
            raise CorruptImage(f"the image has more than {self.files} files")
