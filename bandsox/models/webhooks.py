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

    @property
    def info(self) -> WebhookInfo:
        """What may be shown of it."""
        failing = self.failing_since is not None
        return WebhookInfo(
            self.id, self.url, self.kinds, self.created_at, self.enabled, self.failing_since, self.next_at if failing else None
        )


@dataclass(frozen=True, slots=True)
class WebhookInfo:
    """What is known of a webhook, without its secret; ``events`` are the ``kinds`` of `Webhook`, and so are the others.

    ``next_attempt_at`` is None while nothing has failed.
    """

    id: str
    url: str
    events: tuple[str, ...]
    created_at: float
    enabled: bool
    failing_since: float | None
    next_attempt_at: float | None


@dataclass(frozen=True, slots=True)
class NewWebhook(WebhookInfo):
    """A webhook that was made. Its secret, the key of its signatures, is never shown again."""

    secret: str = field(repr=False)


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
