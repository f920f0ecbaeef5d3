"""Webhooks: who is told of changes over HTTP, and how that went."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class Webhook:
    """An address that is told of changes.

    ``kinds`` are those of `Change` that it is told of, where ``vm.*`` are all that begin so and ``*`` are all. ``secret`` is the key of
    its signatures, as ``whsec_`` and base64. ``position`` is the number of the last change that it needs to be told of no more; of
    the next one ``attempts`` have failed since ``failing_since``, and another one is due at ``next_at`` (seconds since the epoch).
    """

    id: str
    url: str
    kinds: tuple[str, ...]
    secret: str = field(repr=False)
    created_at: float
    enabled: bool
    position: int
    attempts: int = 0
    failing_since: float | None = None
    next_at: float = 0.0


Outcome = Literal["delivered", "failed", "given_up"]


@dataclass(frozen=True, slots=True)
class Delivery:
    """An attempt to tell a webhook of a change: of which message, at what time, how long it took, and what came of it.

    ``status`` is that of the answer, None where there was none, and ``error`` then says why.
    """

    message: str
    kind: str
    at: float
    attempt: int
    outcome: Outcome
    status: int | None
    error: str | None
    ms: int
