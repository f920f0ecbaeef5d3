"""Webhooks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from bandsox.server.shapes.base import ID, Given, Shape

Events = Annotated[
    list[str], Field(min_length=1, max_length=32, examples=[["vm.*"]], description="types of events; `vm.*` are all that begin so, `*` all")
]
Url = Annotated[str, Field(max_length=2048, examples=["https://example.org/hook"])]


class NewWebhook(Shape):
    """An address that is to be told of events."""

    url: Url
    events: Events = Field(default_factory=lambda: ["*"])


class EditedWebhook(Shape):
    """What is to be changed of a webhook; null: it stays."""

    url: Url | None = None
    events: Events | None = None
    enabled: bool | None = None


class WebhookInfo(Given):
    """What is known of a webhook."""

    id: str = Field(examples=[ID])
    url: Url
    events: list[str]
    created_at: float
    enabled: bool
    failing_since: float | None = Field(description="when the first of the attempts failed of which none has succeeded since")
    next_attempt_at: float | None


class CreatedWebhook(WebhookInfo):
    """A webhook with its secret, which is never shown again."""

    secret: str = Field(examples=["whsec_…"])


class DeliveryInfo(Given):
    """An attempt to deliver a message."""

    message: str = Field(description="its id, the same for each attempt")
    kind: str = Field(examples=["vm.created"])
    at: float
    attempt: int
    outcome: Literal["delivered", "failed", "given_up"]
    status: int | None = Field(description="of the answer")
    error: str | None = Field(description="why there was none")
    ms: int
