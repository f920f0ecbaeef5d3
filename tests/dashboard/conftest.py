"""A server of the shared storage directory, and for each module a machine and a browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from bandsox import BandSox, MicroVM
from bandsox.server.dashboard.assets import built
from tests.dashboard.browsing import CHROMIUM, browsing, visiting
from tests.server.servers import Server, serving


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser for the tests of a module. While it is there, an event loop runs in this thread: other tests could not run theirs."""
    assert Path(CHROMIUM).exists(), "run `scripts/system-packages test`"
    assert built(), "run `make dashboard`"
    with browsing() as opened:
        yield opened


@pytest.fixture(scope="session")
def server(storage: Path) -> Iterator[Server]:
    with serving(storage) as running:
        yield running


@pytest.fixture(scope="module")
def machine(bandsox: BandSox) -> Iterator[MicroVM]:
    """A running machine that the tests of a module share; none of them stops it."""
    with bandsox.create_vm(name="shared", mem_mib=256, metadata={"team": "web", "size": 3}) as vm:
        yield vm


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    with visiting(browser, server.url) as context:
        yield context.new_page()
