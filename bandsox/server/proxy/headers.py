"""What of a request and its answer is handed on.

The guest gets nothing that is the server's: not its cookies, not a key. The browser gets nothing with which a guest could reach beyond its
own pages: no cookie for other hosts or under the server's names, no wider service worker.
"""

from __future__ import annotations

from collections.abc import Iterable

Headers = list[tuple[bytes, bytes]]

_HOP_BY_HOP = frozenset(
    {b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te", b"trailer", b"upgrade"}
    | {b"transfer-encoding"}
)
"""RFC 9110, section 7.6.1."""

_OURS = b"bandsox_"
_KEY = b"x-bandsox-key"
_KEYS = (b"bsx_", b"bss_")
_WEBSOCKET = b"sec-websocket-"


def to_guest(headers: Iterable[tuple[bytes, bytes]], port: int, *, scheme: str, prefix: str, websocket: bool = False) -> Headers:
    """The headers of a request as the guest gets them.

    Parameters
    ----------
    prefix: of the address that the browser sees.
    """
    given = [(name.lower(), value) for name, value in headers]
    named = _named_by_connection(given)
    kept: Headers = [(b"host", f"localhost:{port}".encode())]
    for name, value in given:
        if name in _HOP_BY_HOP or name in named or name in {b"host", _KEY, b"expect"} or name.startswith(b"x-forwarded-"):
            continue
        if websocket and name.startswith(_WEBSOCKET):
            continue
        if name == b"authorization" and value.partition(b" ")[2].strip().startswith(_KEYS):
            continue
        if name == b"cookie":
            cookies = [each for each in value.split(b";") if not each.strip().startswith(_OURS)]
            if cookies:
                kept.append((name, b";".join(cookies).strip()))
            continue
        kept.append((name, value))
    host = next((value for name, value in given if name == b"host"), b"")
    return [*kept, (b"x-forwarded-host", host), (b"x-forwarded-proto", scheme.encode()), (b"x-forwarded-prefix", prefix.encode())]


def from_guest(headers: Iterable[tuple[bytes, bytes]]) -> Headers:
    """The headers of an answer as the browser gets them."""
    given = [(name.lower(), value) for name, value in headers]
    named = _named_by_connection(given)
    kept: Headers = []
    for name, value in given:
        if name in _HOP_BY_HOP or name in named or name == b"service-worker-allowed":
            continue
        if name == b"set-cookie":
            if not value.strip().startswith(_OURS):
                kept.append((name, b";".join(part for part in value.split(b";") if not part.strip().lower().startswith(b"domain="))))
            continue
        kept.append((name, value))
    return kept


def _named_by_connection(headers: Headers) -> set[bytes]:
    return {word.strip().lower() for name, value in headers if name == b"connection" for word in value.split(b",")}
