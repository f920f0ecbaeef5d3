"""The library's errors, out of a server's answers: a failure has the same class here as it had there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from bandsox import errors
from bandsox.errors import BandSoxError


def error_of(failure: object, status: int | None = None) -> BandSoxError:
    """The error that a server has described. A code that this version does not know is a plain BandSoxError."""
    if not isinstance(failure, Mapping):
        return BandSoxError(f"the server answered {status}, and not as a BandSox server does", remedy="check its address")
    message, detail = str(failure.get("message")), failure.get("detail")
    facts: dict[str, Any] = dict(detail) if isinstance(detail, Mapping) else {}
    cause, remedy = _text(failure.get("cause")), _text(failure.get("remedy"))
    kind = _CLASSES.get(str(failure.get("code")), BandSoxError)
    if issubclass(kind, errors.BootFailed):
        return kind(message, stage=str(facts.get("stage")), console=str(facts.get("console")), cause=cause, remedy=remedy)
    if issubclass(kind, errors.GuestFileError):
        path, errno = _text(facts.get("path")), _text(facts.get("errno"))
        return kind(message, guest_code=str(facts.get("guest_code")), errno_name=errno, path=path, remedy=remedy)
    return kind(message, cause=cause, remedy=remedy, detail=facts)


def message_of(said: bytes | str) -> bytes | dict[str, Any]:
    """What a frame of the server's WebSocket brought: bytes of a stream, or a message.

    Raises
    ------
    BandSoxError: the error that the message tells of.
    """
    if isinstance(said, bytes):
        return said
    message = msgspec.json.decode(said, type=dict[str, Any])
    if message.get("type") == "error":
        raise error_of(message.get("failure"))
    return message


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _subclasses(kind: type[BandSoxError]) -> Iterator[type[BandSoxError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _subclasses(below)


_CLASSES = {kind.code: kind for kind in _subclasses(BandSoxError)}
