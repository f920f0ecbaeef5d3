"""Names with a slash in addresses: there ``%2F`` is a part of a name, and ``/`` stands between names (RFC 3986, 2.2).

The path that an ASGI application is given is decoded, and does not tell one from the other: ``DELETE /api/vms/a%2Ffiles`` would delete
files of the machine ``a``. So while an address is compared with the routes, an encoded slash is a character that no name has.
"""

from __future__ import annotations

import re
from urllib.parse import unquote

from starlette.types import Scope

_SLASH = "\ufdd0"
"""A noncharacter (Unicode, 23.7); it is not printable, so that it is in no name (`bandsox.engine.identity`)."""

_ENCODED = re.compile(r"%2[fF]")


def tell_apart(scope: Scope) -> None:
    """Have the path of a request tell slashes in names from those between them."""
    raw = scope.get("raw_path", b"").decode("latin-1")
    if _ENCODED.search(raw):
        scope["path"] = _SLASH.join(unquote(part) for part in _ENCODED.split(raw))


def name_in(segment: str) -> str:
    """The name that a part of such a path is."""
    return segment.replace(_SLASH, "/")


def shown(path: str) -> str:
    """Such a path, as it was sent."""
    return path.replace(_SLASH, "%2F")
