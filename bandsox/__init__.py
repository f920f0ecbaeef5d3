"""BandSox: any OCI image as a real virtual machine, in milliseconds, on any Linux host.

    from bandsox import BandSox

    with BandSox() as bs:
        vm = bs.create_vm("python:3-alpine", enable_networking=False)
        print(vm.exec_python_capture("print('Hello from VM!')")["stdout"])
        vm.delete()

Everything a user names is here; the names are imported when they are first used, so that importing the package costs
nothing.
"""

from __future__ import annotations

from bandsox.version import __version__

TYPE_CHECKING = False  # as in typing, which takes longer to import than a whole interpreter takes to start
if TYPE_CHECKING:
    from typing import Any

    from bandsox.core import AsyncBandSox, BandSox
    from bandsox.core.pools import AsyncPool, Pool
    from bandsox.errors import BandSoxError
    from bandsox.models import (
        Checkpoint,
        DirEntry,
        ExecResult,
        FileChange,
        FileDifference,
        FileStat,
        GuestInfo,
        Image,
        ImageConfig,
        Isolation,
        Metrics,
        Policy,
        Progress,
        Quotas,
        Retention,
        Secret,
        SessionInfo,
        Template,
        VMStatus,
    )
    from bandsox.vm import AsyncMicroVM, MicroVM

_PLACES = {
    "bandsox.core": ("AsyncBandSox", "BandSox"),
    "bandsox.core.pools": ("AsyncPool", "Pool"),
    "bandsox.vm": ("AsyncMicroVM", "MicroVM"),
    "bandsox.errors": ("BandSoxError",),
    "bandsox.models": (
        "Checkpoint",
        "DirEntry",
        "ExecResult",
        "FileChange",
        "FileDifference",
        "FileStat",
        "GuestInfo",
        "Image",
        "ImageConfig",
        "Isolation",
        "Metrics",
        "Policy",
        "Progress",
        "Quotas",
        "Retention",
        "Secret",
        "SessionInfo",
        "Template",
        "VMStatus",
    ),
}

__all__ = [
    "AsyncBandSox",
    "AsyncMicroVM",
    "AsyncPool",
    "BandSox",
    "BandSoxError",
    "Checkpoint",
    "DirEntry",
    "ExecResult",
    "FileChange",
    "FileDifference",
    "FileStat",
    "GuestInfo",
    "Image",
    "ImageConfig",
    "Isolation",
    "Metrics",
    "MicroVM",
    "Policy",
    "Pool",
    "Progress",
    "Quotas",
    "Retention",
    "Secret",
    "SessionInfo",
    "Template",
    "VMStatus",
    "__version__",
]


def __getattr__(name: str) -> Any:
    import importlib

    for place, names in _PLACES.items():
        if name in names:
            return getattr(importlib.import_module(place), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
