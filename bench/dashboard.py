"""The dashboard in a browser: what a first visit fetches, and when something is to be seen, against a page of one word."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator

from playwright.async_api import Browser, async_playwright

from bandsox.core import AsyncBandSox
from bench.figures import Samples, table

ROUNDS = 20
LIMIT_KB = 300
"""What a first visit may fetch, compressed, without the terminal and the editor."""

_CHROMIUM = "/usr/bin/chromium"

_FIRST_PAINT = """() => new Promise(resolve => new PerformanceObserver(list => resolve(list.getEntries()[0].startTime))
    .observe({ type: 'paint', buffered: true }))"""
_FETCHED = """() => [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]
    .filter(each => !new URL(each.name).pathname.startsWith('/api/')).map(each => [each.name, each.encodedBodySize])"""


async def measure(bandsox: AsyncBandSox) -> None:
    floor, page = Samples("a page of one word"), Samples("the dashboard")
    async with _serving(bandsox) as url, _browser() as browser:
        for _ in range(ROUNDS):  # in turn, so that both meet the same noise
            floor.values.append((await _visit(browser, f"{url}/healthz"))[0])
            paint, fetched = await _visit(browser, url)
            page.values.append(paint)
    size = sum(fetched.values()) / 1000
    notes = (
        f"A first visit fetches {size:.0f} kB compressed in {len(fetched)} files ({LIMIT_KB} kB are allowed).",
        f"Something is to be seen {(page.median - floor.median) * 1000:.0f} ms after a page of one word would be.",
    )
    table("Dashboard, to the first paint in a fresh browser", [floor, page], *notes)


async def _visit(browser: Browser, url: str) -> tuple[float, dict[str, int]]:
    """Seconds to the first paint of a visitor who was never here, and how many bytes each file took."""
    context = await browser.new_context()
    try:
        page = await context.new_page()
        await page.goto(url, wait_until="load")
        paint = await page.evaluate(_FIRST_PAINT)
        return paint / 1000, dict(await page.evaluate(_FETCHED))
    finally:
        await context.close()


@contextlib.asynccontextmanager
async def _browser() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        root = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = await playwright.chromium.launch(executable_path=_CHROMIUM, args=root)
        try:
            yield browser
        finally:
            await browser.close()


@contextlib.asynccontextmanager
async def _serving(bandsox: AsyncBandSox) -> AsyncIterator[str]:
    command = [sys.executable, "-m", "bandsox", "--json", "--storage", str(bandsox.storage_dir), "serve", "--port", "0"]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    assert process.stdout is not None
    try:
        yield json.loads(await process.stdout.readline())["url"]
    finally:
        process.terminate()
        await process.wait()
