"""Names on their way into the guest: text or bytes in, the bytes a Linux kernel takes out."""

from __future__ import annotations

import os
from collections.abc import Mapping

from bandsox.errors import InvalidRequest

GuestText = str | bytes
"""A path, argument or name for the guest. Text is encoded as UTF-8, with surrogate escapes as `os.fsencode` has them."""


def encode_text(text: GuestText, what: str) -> bytes:
    """`text` as bytes; `what` names it in the error.

    Raises
    ------
    InvalidRequest: it holds a NUL byte, which no Linux name or argument can.
    """
    encoded = text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
    if b"\0" in encoded:
        raise InvalidRequest(f"{what} holds a NUL byte: {os.fsdecode(encoded)!r}")
    return encoded


def encode_path(path: GuestText) -> bytes:
    """An absolute path of the guest as bytes.

    Raises
    ------
    InvalidRequest: it is not absolute, or holds a NUL byte.
    """
    encoded = encode_text(path, "the path")
    if not encoded.startswith(b"/"):
        raise InvalidRequest(f"a path in the guest must be absolute: {os.fsdecode(encoded)!r}")
    return encoded


def encode_env(env: Mapping[str, str]) -> dict[bytes, bytes]:
    """An environment as bytes.

    Raises
    ------
    InvalidRequest: a name is empty or holds ``=``, or anything holds a NUL byte.
    """
    for name in env:
        if not name or "=" in name:
            raise InvalidRequest(f"not a name of an environment variable: {name!r}")
    return {encode_text(name, "a variable's name"): encode_text(value, f"the variable {name}") for name, value in env.items()}
