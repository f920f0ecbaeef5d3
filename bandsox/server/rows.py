"""Machines in lists, as JSON. Dashboards ask for all of them again and again, and next to none has changed: each is encoded once for as
long as the store knows its record."""

from __future__ import annotations

import msgspec

from bandsox.models import VMRecord
from bandsox.vm import vm_info

_MOST = 1024
"""How many are kept; the store keeps as many records."""


class Rows:
    """The machines of one storage directory."""

    def __init__(self) -> None:
        self._encoded: dict[str, tuple[VMRecord, msgspec.Raw]] = {}

    def of(self, record: VMRecord) -> msgspec.Raw:
        """What a list shows of a machine. Records are frozen: the same object has the same contents."""
        known = self._encoded.get(record.id)
        if known is not None and known[0] is record:
            return known[1]
        row = msgspec.Raw(msgspec.json.encode(vm_info(record)))
        if known is None and len(self._encoded) >= _MOST:
            del self._encoded[next(iter(self._encoded))]
        self._encoded[record.id] = record, row
        return row
