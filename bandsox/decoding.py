"""Types that are decoded into, from any thread.

msgspec makes what it has to know of a class when it first meets it, and keeps that with the class before it is whole. Another thread that
meets the class meanwhile takes it for whole, and the process ends (msgspec 0.22: a segmentation fault, in one of twenty processes that
began with ten restores at once). So every class is made known under one lock before anything is decoded into it.
"""

from __future__ import annotations

import threading
from typing import TypeVar

import msgspec

Kind = TypeVar("Kind")

_lock = threading.Lock()
_known: set[object] = set()


def ready(kind: type[Kind]) -> type[Kind]:
    """`kind`, as what msgspec's functions are given: a class of fields, or a container of such."""
    if kind not in _known:
        with _lock:
            msgspec.json.Decoder(kind)  # which makes known all that it is made of
            _known.add(kind)
    return kind
