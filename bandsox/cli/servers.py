"""Which server a command line is about, if any, and the key for it.

Keys are kept in ``~/.bandsox/credentials``, which nobody else can read, under the URL that each is for; a key goes to no other.

    [https://sandboxes.example.org]
    key = bsx_…
"""

from __future__ import annotations

import configparser
import os
from pathlib import Path
from urllib.parse import urlsplit

from bandsox.cli.command import Invocation
from bandsox.errors import AccessDenied, InvalidRequest
from bandsox.settings import write_atomically

DEFAULT_PORT = 8000


def url_of(state: Invocation) -> str | None:
    """The URL of the server that the command line or ``BANDSOX_URL`` names; None: the VMs are this host's.

    Raises
    ------
    InvalidRequest: it is no URL, or a storage directory was named as well.
    """
    if state.host is None and state.port is None:
        url = None if state.storage is not None else os.environ.get("BANDSOX_URL") or None
    elif state.storage is not None:
        raise InvalidRequest("a server and a storage directory were named", remedy="name one of them")
    elif state.host is not None and "://" in state.host:
        url = state.host if state.port is None else f"{state.host.rstrip('/')}:{state.port}"
    else:
        host = state.host or "127.0.0.1"
        url = f"http://{f'[{host}]' if ':' in host else host}:{state.port or DEFAULT_PORT}"
    return None if url is None else _checked(url)


def headers_for(url: str) -> dict[str, str]:
    """The headers with which the server of this URL is to be called: the key of ``BANDSOX_API_KEY``, or the one that is kept for it.

    Raises
    ------
    AccessDenied: others can read the keys.
    """
    key = os.environ.get("BANDSOX_API_KEY") or _kept().get(url, "key", fallback=None)
    return {"Authorization": f"Bearer {key}"} if key else {}


def keep_key(url: str, key: str | None) -> None:
    """Keep a key for the server of this URL; None: none any more. Raises as `headers_for`."""
    kept = _kept()
    kept.remove_section(url)
    if key is not None:
        kept[url] = {"key": key}
    place = _place()
    place.parent.mkdir(mode=0o700, exist_ok=True)
    lines = [line for name in kept.sections() for line in (f"[{name}]", f"key = {kept[name]['key']}", "")]
    write_atomically(place, "\n".join(lines).encode())


def _kept() -> configparser.ConfigParser:
    kept, place = configparser.ConfigParser(interpolation=None, default_section=""), _place()
    try:
        with place.open() as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise AccessDenied(f"{place} can be read by others", remedy=f"chmod 600 {place}, and make new keys")
            kept.read_file(file)
    except FileNotFoundError:
        pass
    except configparser.Error as error:
        raise InvalidRequest(f"{place} cannot be read", cause=str(error), remedy="remove it, and use `bandsox auth login`") from error
    return kept


def _place() -> Path:
    return Path("~/.bandsox/credentials").expanduser()


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        if parts.scheme in {"http", "https"} and parts.hostname and not parts.query and parts.username is None and parts.port != 0:
            return url.rstrip("/")
    except ValueError:
        pass
    raise InvalidRequest(f"{url!r} is not the URL of a server", remedy="give it as https://host:port")
