"""The addresses of the dashboard. Everybody may fetch it: it holds nothing, and its requests are guarded as any other's."""

from __future__ import annotations

import fnmatch
import functools

from fastapi import APIRouter, Request, Response
from starlette.responses import FileResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from bandsox.errors import NotFound
from bandsox.server.dashboard.assets import Asset, built
from bandsox.server.guard import GuardedRoute, Open, demands

router = APIRouter(route_class=GuardedRoute, include_in_schema=False)

PAGES = (
    *("/", "/login", "/vms", "/vms/{vm}", "/vms/{vm}/{page}", "/snapshots", "/templates", "/images", "/settings", "/settings/{page}"),
    *("/vm_details", "/terminal", "/markdown_viewer"),  # of earlier versions
)

_PREVIEW_STYLE = "assets/preview-*.css"
_FOR_EVER = "public, max-age=31536000, immutable"


@functools.cache
def policy() -> str:
    """What the page may do: run and show what comes from here, and nothing inline but the style of previews, known by its digest.

    Text becomes markup in two places only: templates of the page itself, and what DOMPurify has cleaned for the frame of a preview.
    """
    styles = [asset.integrity() for name, asset in built().items() if fnmatch.fnmatchcase(name, _PREVIEW_STYLE)]
    return "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            f"style-src 'self' {' '.join(styles)}",
            "img-src 'self' data: blob:",
            "connect-src 'self'",
            "frame-src 'none'",
            "frame-ancestors 'none'",
            "base-uri 'none'",
            "form-action 'none'",
            "require-trusted-types-for 'script'",
            "trusted-types svelte-trusted-html dompurify preview",
        )
    )


async def page(request: Request) -> Response:
    """The one page that all addresses lead to."""
    headers = {
        "Cache-Control": "no-cache",
        "Content-Security-Policy": policy(),
        "Cross-Origin-Opener-Policy": "same-origin",
        "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    }
    return _file(_asset("index.html"), request, headers)


for address in PAGES:
    router.get(address)(demands(Open.TO_EVERYBODY)(page))


def or_page(elsewhere: ASGIApp) -> ASGIApp:
    """For addresses that nothing is at: a browser's window gets the page, which says so, and everybody else what `elsewhere` answers."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope) if scope["type"] == "http" else None
        if request is None or request.method != "GET" or not _is_for_a_window(request):
            await elsewhere(scope, receive, send)
            return
        found = await page(request)
        if found.status_code == 200:  # a browser that has it already is told so
            found.status_code = 404
        await found(scope, receive, send)

    return answer


def _is_for_a_window(request: Request) -> bool:
    return "text/html" in request.headers.get("accept", "") and not request.url.path.startswith(("/api/", "/assets/"))


@router.get("/icon.svg")
@demands(Open.TO_EVERYBODY)
async def icon(request: Request) -> Response:
    """The icon of the page."""
    return _file(_asset("icon.svg"), request, {"Cache-Control": "no-cache"})


@router.get("/assets/{name}")
@demands(Open.TO_EVERYBODY)
async def asset(request: Request, name: str) -> Response:
    """A file whose name changes with its content."""
    return _file(_asset(f"assets/{name}"), request, {"Cache-Control": _FOR_EVER})


def _asset(name: str) -> Asset:
    """A built file.

    Raises
    ------
    NotFound: there is none of this name, perhaps because nothing was built.
    """
    found = built().get(name)
    if found is not None:
        return found
    if not built():
        raise NotFound(
            "this server has no dashboard",
            cause="it runs from a source checkout in which the dashboard was not built",
            remedy="run `make dashboard`, and start the server again",
        )
    raise NotFound(f"the dashboard has no file {name!r}", remedy="load the page again: it may be from before an upgrade")


def _file(found: Asset, request: Request, headers: dict[str, str]) -> Response:
    path, coding = found.form_for(request.headers.get("accept-encoding", ""))
    encoded = {} if coding is None else {"Content-Encoding": coding}
    answer = FileResponse(path, headers={**headers, **encoded, "Vary": "Accept-Encoding"}, media_type=found.media_type)
    answer.set_stat_headers(path.stat())
    if request.headers.get("if-none-match") == answer.headers["etag"]:
        kept = {name: value for name, value in answer.headers.items() if name not in {"content-length", "content-type"}}
        return Response(status_code=304, headers=kept)
    return answer
