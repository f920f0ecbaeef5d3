"""What a webhook is sent, signed as Standard Webhooks says (https://www.standardwebhooks.com), for which most languages have libraries.

The body is ``{"type", "timestamp", "data"}``. The headers are ``webhook-id``, the same for each attempt, so that a receiver knows what it
has had; ``webhook-timestamp``, by which it can refuse what was recorded and is played again; and ``webhook-signature``.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import msgspec

from bandsox.models import Change, Webhook


@dataclass(frozen=True, slots=True)
class Message:
    """What is sent. `id` is the same however often that is."""

    id: str
    kind: str
    body: bytes

    def headers(self, secret: str, now: float) -> dict[str, str]:
        """Its headers when it is sent at `now`, in seconds since the epoch."""
        stamp = str(int(now))
        signed = f"{self.id}.{stamp}.".encode() + self.body
        signature = hmac.new(base64.b64decode(secret.removeprefix("whsec_")), signed, hashlib.sha256).digest()
        return {
            "content-type": "application/json",
            "webhook-id": self.id,
            "webhook-timestamp": stamp,
            "webhook-signature": f"v1,{base64.b64encode(signature).decode()}",
        }


def of(hook: Webhook, change: Change) -> Message:
    """What a webhook is told of a change."""
    data = {"id": change.id, "at": change.at, "subject": change.subject, "name": change.name, "status": change.status}
    return _message(f"msg_{hook.id}_{change.id}", change.kind, change.at, data)


def of_nothing(hook: Webhook, number: str, now: float) -> Message:
    """A message to try a webhook with."""
    return _message(f"msg_{hook.id}_test_{number}", "webhook.test", now, {})


def _message(message_id: str, kind: str, at: float, data: Mapping[str, Any]) -> Message:
    moment = datetime.fromtimestamp(at, timezone.utc).isoformat().replace("+00:00", "Z")
    return Message(message_id, kind, msgspec.json.encode({"type": kind, "timestamp": moment, "data": data}))
