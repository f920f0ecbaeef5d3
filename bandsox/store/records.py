"""Records as JSON columns: the dataclasses of `bandsox.models`, validated on the way back."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import msgspec

from bandsox.decoding import ready

Record = TypeVar("Record")


def encode(record: object) -> str:
    """A record as JSON text."""
    return msgspec.json.encode(record, enc_hook=_encode_path).decode()


def decode(kind: type[Record], text: str) -> Record:
    """The record of type `kind` that `encode` made `text` from."""
    return msgspec.json.decode(text, type=ready(kind), dec_hook=_decode_path)


def _encode_path(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError(f"{type(value)} has no place in a record")


def _decode_path(kind: type, value: Any) -> Any:
    if kind is Path:
        return Path(value)
    raise NotImplementedError(f"{kind} has no place in a record")
