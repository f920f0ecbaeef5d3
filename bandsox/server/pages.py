"""Long lists in pages, and lists of what has certain metadata.

A page begins behind a mark, which names a place in the order and not an entry: it holds after the entry was deleted.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

from fastapi import Query

from bandsox.errors import InvalidRequest
from bandsox.models import Image, Snapshot, VMRecord

Listed = TypeVar("Listed", VMRecord, Snapshot, Image)
Labelled = TypeVar("Labelled", VMRecord, Snapshot)

Limit = Annotated[int | None, Query(ge=0, description="only so many")]
After = Annotated[str | None, Query(max_length=256, description="begin behind this: the `X-Next-After` of the page before")]
MetadataEquals = Annotated[str | None, Query(description="a JSON object: only those whose metadata has all these values")]


def page(newest_first: Sequence[Listed], limit: int | None, after: str | None) -> tuple[list[Listed], dict[str, str]]:
    """A page of a list, and the header that tells where the next one begins, if there is one.

    Raises
    ------
    InvalidRequest: `after` is no such place.
    """
    rest = list(newest_first)
    if after is not None:
        created, _, entry = after.partition("_")
        try:
            place = -float(created), entry
        except ValueError:
            raise InvalidRequest("after is no place in the list", remedy="give the X-Next-After of the page before") from None
        rest = [each for each in rest if (-each.created_at, each.id) > place]
    shown = rest if limit is None else rest[:limit]
    more = bool(shown) and len(shown) < len(rest)
    return shown, {"X-Next-After": f"{shown[-1].created_at!r}_{shown[-1].id}"} if more else {}


def having(entries: Sequence[Labelled], metadata_equals: str | None) -> list[Labelled]:
    """Those whose metadata has all the values of a JSON object.

    Raises
    ------
    InvalidRequest: it is none.
    """
    wanted = wanted_metadata(metadata_equals)
    return [each for each in entries if all(_metadata(each).get(key) == value for key, value in wanted.items())]


def wanted_metadata(text: str | None) -> dict[str, Any]:
    """The JSON object in `text`; empty for None. Raises as `having`."""
    try:
        wanted = {} if text is None else json.loads(text)
    except (ValueError, RecursionError):
        wanted = None
    if not isinstance(wanted, dict):
        raise InvalidRequest("metadata_equals is not a JSON object")
    return wanted


def _metadata(entry: VMRecord | Snapshot) -> Any:
    return entry.spec.metadata if isinstance(entry, VMRecord) else entry.metadata
