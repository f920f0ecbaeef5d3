"""One machine: `AsyncMicroVM`, and its blocking face `MicroVM`.

    handle     the machine: what it is, its life
    commands   what runs to its end      sessions   what goes on, and `followers` of it
    files      the guest's files         python     running Python code
    ports      what listens in it
    blocking   `MicroVM`                 info       a machine as data

Names are imported when they are first used: listing machines needs no handle on any.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bandsox.vm.blocking import MicroVM
    from bandsox.vm.handle import AsyncMicroVM
    from bandsox.vm.info import vm_info

_PLACES = {"AsyncMicroVM": "handle", "MicroVM": "blocking", "vm_info": "info"}

__all__ = ["AsyncMicroVM", "MicroVM", "vm_info"]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
