"""Names as parts of addresses."""

from __future__ import annotations

from urllib.parse import quote


def segment(name: str) -> str:
    """A name as one segment of a path, whatever is in it; ``.`` and ``..`` would be taken for directories (RFC 3986, 5.2.4)."""
    return name.replace(".", "%2E") if name in {".", ".."} else quote(name, safe="")


def vm_path(vm: str) -> str:
    """What the addresses about a machine begin with."""
    return f"/api/vms/{segment(vm)}"
