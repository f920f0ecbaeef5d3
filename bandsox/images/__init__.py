"""From an image reference to a read-only root file system, named by digest and shared by all machines.

`Images` is the way in. References follow the containers/image transports (`bandsox.images.reference`); layers are kept
in a content-addressed blob store (`blobs`); the conversion to squashfs streams (`flatten`, `squashfs`) in a process of
its own (`convert`). Nothing of an image is ever unpacked on the host's file system.

Names are imported when they are first used: the process that converts needs few of them, and starts for every image.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bandsox.images.limits import Limits
    from bandsox.images.manager import Images, PullPolicy
    from bandsox.images.reference import Reference, Transport, parse_reference
    from bandsox.images.removal import Removed
    from bandsox.images.spec import Layer, Platform

_PLACES = {
    "Images": "manager",
    "Layer": "spec",
    "Limits": "limits",
    "Platform": "spec",
    "PullPolicy": "manager",
    "Reference": "reference",
    "Removed": "removal",
    "Transport": "reference",
    "parse_reference": "reference",
}

__all__ = ["Images", "Layer", "Limits", "Platform", "PullPolicy", "Reference", "Removed", "Transport", "parse_reference"]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
