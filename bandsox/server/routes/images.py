"""``/api/images``: the images of this storage directory."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from bandsox.models import Image, ProgressCallback
from bandsox.server import shapes
from bandsox.server.auth.callers import Scope
from bandsox.server.guard import GuardedRoute, demands
from bandsox.server.pages import After, Limit, page
from bandsox.server.replies import json_reply
from bandsox.server.service import TheCaller, TheService
from bandsox.server.streams import with_progress

router = APIRouter(prefix="/api/images", tags=["Images"], route_class=GuardedRoute)

Reference = Annotated[str, Query(min_length=1, examples=["python:3-alpine"])]


@router.get("", response_model=list[shapes.ImageInfo])
@demands(Scope.READ)
async def list_images(service: TheService, limit: Limit = None, after: After = None) -> Response:
    """List the images, newest first. The header `X-Next-After` is there when there are more, and is the `after` of the next page."""
    shown, headers = page(await service.bandsox.list_images(), limit, after)
    return json_reply([_info(image) for image in shown], headers=headers)


@router.post("/pull", response_model=shapes.ImageInfo)
@demands(Scope.EXEC)
async def pull(service: TheService, caller: TheCaller, request: Request, body: shapes.Pull) -> Response:
    """Fetch an image; with the policy `missing` only when it is not here."""
    await service.check_image(caller, body.reference)

    async def work(progress: ProgressCallback) -> dict[str, Any]:
        return _info(await service.bandsox.pull_image(body.reference, body.policy, progress))

    return await with_progress(request, work)


@router.post("/tag", response_model=shapes.ImageInfo)
@demands(Scope.ADMIN)
async def tag(service: TheService, body: shapes.Tag) -> Response:
    """Give an image that is here a further name."""
    return json_reply(_info(await service.bandsox.tag_image(body.reference, body.name)))


@router.delete("", response_model=shapes.Status)
@demands(Scope.ADMIN)
async def remove(service: TheService, reference: Reference, force: bool = False) -> Response:
    """Remove a name of an image, and the image with its last name."""
    await service.bandsox.remove_image(reference, force)
    return json_reply({"status": "deleted"})


def _info(image: Image) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in dataclasses.asdict(image).items()}
