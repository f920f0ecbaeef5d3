"""A real browser on the dashboard: Debian's Chromium, driven over its own protocol."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Locator, Page, expect, sync_playwright

from bandsox import BandSox, MicroVM
from tests.dashboard.elsewhere import CHROMIUM_ELSEWHERE, elsewhere

CHROMIUM = "/usr/bin/chromium"
PATIENCE_MS = 120_000
"""How long to wait for anything; a loaded machine is slow."""

AXE = Path(__file__).parents[2] / "node_modules/axe-core/axe.min.js"

expect.set_options(timeout=PATIENCE_MS)


@contextmanager
def browsing() -> Iterator[Browser]:
    """A browser for the time of the block."""
    if os.geteuid() != 0:  # no test of an ordinary user changes this machine's network
        with sync_playwright() as playwright, playwright.chromium.launch(executable_path=CHROMIUM) as browser:
            yield browser
        return
    with elsewhere() as place, sync_playwright() as playwright:
        environment: dict[str, str | float | bool] = {**os.environ, "PLACE": str(place.holder)}
        with playwright.chromium.launch(
            executable_path=CHROMIUM_ELSEWHERE, args=["--no-sandbox"], proxy={"server": place.proxy}, env=environment
        ) as browser:
            yield browser


class Complaints:
    """What a page has complained of: errors of its programs, refusals by its policy."""

    def __init__(self) -> None:
        self.list: list[str] = []

    def watch(self, page: Page) -> None:
        page.on("pageerror", lambda error: self.list.append(f"error: {error}"))
        page.on("console", self._heard)

    def _heard(self, message: ConsoleMessage) -> None:
        # Requests that fail, and connections that a page leaves, are told here as well; that a page shows them is what tests look at.
        if message.type in {"error", "warning"} and not message.text.startswith(("Failed to load resource", "WebSocket connection")):
            self.list.append(f"{message.type}: {message.text}")


@contextmanager
def visiting(browser: Browser, url: str, *, width: int = 1280, scheme: str = "light") -> Iterator[BrowserContext]:
    """A fresh visitor of the server at `url`, whose pages complain of nothing."""
    context = browser.new_context(base_url=url, viewport={"width": width, "height": 800}, color_scheme=scheme)  # type: ignore[arg-type]
    context.set_default_timeout(PATIENCE_MS)
    context.grant_permissions(["clipboard-read", "clipboard-write"], origin=url)
    complaints = Complaints()
    context.on("page", complaints.watch)
    try:
        yield context
    finally:
        context.close()
    assert complaints.list == [], complaints.list


def barriers(page: Page) -> list[str]:
    """What keeps people who cannot see or use a mouse from using a page, as axe-core finds it."""
    # It is run as the browser's own, since the page's policy lets nobody in; its frames have nothing that could be run.
    page.evaluate(AXE.read_text())
    found = page.evaluate("() => axe.run(document, { iframes: false, resultTypes: ['violations'] })")
    return [f"{each['id']}: {each['help']}: {node['html'][:200]}" for each in found["violations"] for node in each["nodes"]]


def menu(page: Page, name: str, entry: str) -> None:
    """Choose an entry of the menu of what has this name."""
    page.get_by_role("button", name=f"Actions for {name}", exact=True).click()
    page.get_by_role("menuitem", name=entry, exact=True).click()


def drop(onto: Locator, *paths: Path) -> None:
    """Drag files and directories of this machine over an element, and drop them there, as from a file manager."""
    page, box = onto.page, onto.bounding_box()
    assert box is not None
    place = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
    data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
    session = page.context.new_cdp_session(page)
    for kind in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": kind, **place, "data": data})


def delete_others(bandsox: BandSox, machine: MicroVM) -> None:
    """Delete the VMs that a test has made beside the one that all tests share."""
    for each in bandsox.list_vms():
        if each["id"] != machine.vm_id:
            bandsox.delete_vm(each["id"])
