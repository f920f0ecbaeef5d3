"""``/api/webhooks``: who is told of changes over HTTP."""

from __future__ import annotations

import asyncio
import dataclasses
from functools import partial
from typing import Any

from fastapi import APIRouter, Response

from bandsox.models import Webhook
from bandsox.server import shapes
from bandsox.server.auth.callers import Scope
from bandsox.server.guard import GuardedRoute, demands
from bandsox.server.replies import json_reply
from bandsox.server.service import TheService

router = APIRouter(prefix="/api/webhooks", tags=["Webhooks"], route_class=GuardedRoute)


@router.get("", response_model=list[shapes.WebhookInfo])
@demands(Scope.ADMIN)
async def list_webhooks(service: TheService) -> Response:
    """List the webhooks, the oldest first."""
    return json_reply([_info(hook) for hook in await asyncio.to_thread(service.webhooks.list)])


@router.post("", response_model=shapes.CreatedWebhook)
@demands(Scope.ADMIN)
async def create_webhook(service: TheService, body: shapes.NewWebhook) -> Response:
    """Have an address told of what happens from now on. This answer is the only place where its secret ever appears.

    Each change is a POST of `{"type", "timestamp", "data"}` with the headers `webhook-id`, `webhook-timestamp` and `webhook-signature`, as
    Standard Webhooks has them. It is sent until the answer has a status of 2xx, for a day; so it may arrive twice, with the same id.
    """
    hook = await asyncio.to_thread(service.webhooks.add, body.url, body.events)
    return json_reply({**_info(hook), "secret": hook.secret})


@router.get("/{webhook}", response_model=shapes.WebhookInfo)
@demands(Scope.ADMIN)
async def get_webhook(service: TheService, webhook: str) -> Response:
    """What is known of a webhook."""
    return json_reply(_info(await asyncio.to_thread(service.webhooks.get, webhook)))


@router.patch("/{webhook}", response_model=shapes.WebhookInfo)
@demands(Scope.ADMIN)
async def edit_webhook(service: TheService, webhook: str, body: shapes.EditedWebhook) -> Response:
    """Change a webhook; what is not named stays. One that is enabled is told of what happens from then on."""
    change = partial(service.webhooks.edit, webhook, url=body.url, kinds=body.events, enabled=body.enabled)
    return json_reply(_info(await asyncio.to_thread(change)))


@router.delete("/{webhook}", response_model=shapes.Status)
@demands(Scope.ADMIN)
async def delete_webhook(service: TheService, webhook: str) -> Response:
    """Tell it no more."""
    await asyncio.to_thread(service.webhooks.delete, webhook)
    return json_reply({"status": "deleted"})


@router.get("/{webhook}/deliveries", response_model=list[shapes.DeliveryInfo])
@demands(Scope.ADMIN)
async def list_deliveries(service: TheService, webhook: str) -> Response:
    """What became of the last 200 attempts, the newest first."""
    hook = await asyncio.to_thread(service.webhooks.get, webhook)
    return json_reply([dataclasses.asdict(each) for each in await asyncio.to_thread(service.webhooks.deliveries, hook.id)])


@router.post("/{webhook}/test", response_model=shapes.DeliveryInfo)
@demands(Scope.ADMIN)
async def test_webhook(service: TheService, webhook: str) -> Response:
    """Send it a message of the type `webhook.test`, once, and tell what became of it."""
    hook = await asyncio.to_thread(service.webhooks.get, webhook)
    return json_reply(dataclasses.asdict(await service.dispatcher.attempt(hook)))


def _info(hook: Webhook) -> dict[str, Any]:
    return dataclasses.asdict(hook.info)
