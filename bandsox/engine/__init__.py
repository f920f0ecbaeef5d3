"""The verbs: create, start, stop, pause, resume, delete, recover, over images, hypervisors, guest link and store.

What a small process needs of this room (`bandsox.engine.housekeeper`) does not bring the rest of it along.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bandsox.engine.engine import Engine

__all__ = ["Engine"]


def __getattr__(name: str) -> Any:
    if name == "Engine":
        from bandsox.engine.engine import Engine

        return Engine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
