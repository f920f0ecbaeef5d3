"""Who gets in, and for whom the pages can be used."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from bandsox import MicroVM
from tests.dashboard.browsing import barriers, visiting
from tests.server.servers import Server, serving

PASSWORD = "correct horse battery"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with authentication, of a storage directory without machines."""
    storage = tmp_path_factory.mktemp("guarded")
    command = [sys.executable, "-m", "bandsox", "--json", "--storage", str(storage), "auth", "init", "--password-stdin"]
    subprocess.run(command, input=PASSWORD + "\n", text=True, check=True, capture_output=True)
    with serving(storage) as server:
        yield server


def test_nobody_gets_in_without_the_password(browser: Browser, guarded: Server) -> None:
    with visiting(browser, guarded.url) as context:
        page = context.new_page()
        page.goto("/images")
        page.get_by_label("Password").fill("wrong")
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("alert")).to_contain_text("that is not the password")
        assert barriers(page) == []
        page.get_by_label("Password").fill(PASSWORD)
        page.keyboard.press("Enter")
        expect(page.get_by_role("heading", name="Images", exact=True)).to_be_visible()
        page.get_by_role("link", name="VMs").click()
        expect(page.get_by_text("There are no VMs yet")).to_be_visible()
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_label("Password")).to_be_visible()
        assert page.evaluate("async () => (await fetch('/api/vms')).status") == 401


def test_keys_are_made_shown_once_and_revoked(browser: Browser, guarded: Server) -> None:
    with visiting(browser, guarded.url) as context:
        page = context.new_page()
        page.goto("/login")
        page.get_by_label("Password").fill(PASSWORD)
        page.keyboard.press("Enter")
        page.get_by_role("link", name="Settings").click()
        page.get_by_role("button", name="New key").click()
        page.get_by_label("Name", exact=True).fill("<b>ci</b>")
        page.get_by_label("Scope").select_option("read")
        page.get_by_label("Expires").select_option("in days")
        page.get_by_label("Days").fill("7")
        page.get_by_label("VMs", exact=True).fill("2")
        page.get_by_role("button", name="Create").click()
        key = page.get_by_text(re.compile("^bsx_[0-9a-f]{64}$")).inner_text()
        with guarded.client(key) as client:
            assert client.get("/api/vms").status_code == 200
            assert client.delete("/api/vms/x").status_code == 403
            page.get_by_role("button", name="Done").click()
            expect(page.get_by_role("row").filter(has_text="<b>ci</b>")).to_contain_text("2 VMs")
            assert key not in page.content()
            page.get_by_role("button", name="Revoke <b>ci</b>").click()
            page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
            expect(page.get_by_text("Revoked <b>ci</b>")).to_be_visible()
            assert client.get("/api/vms").status_code == 401


ADDRESSES = [
    "/",
    "/vms/shared",
    "/vms/shared/terminal",
    "/vms/shared/files?path=/etc",
    "/vms/shared/files?path=/etc&open=/etc/passwd",
    "/vms/shared/processes",
    "/vms/shared/network",
    "/vms/shared/ports",
    "/vms/shared/timeline",
    "/vms/shared/family",
    "/vms/shared/console",
    "/snapshots",
    "/templates",
    "/images",
    "/settings",
    "/settings/password",
    "/settings/sessions",
    "/settings/webhooks",
    "/settings/audit",
    "/settings/host",
    "/settings/about",
    "/settings/nothing",
]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_have_no_barriers(browser: Browser, server: Server, machine: MicroVM, scheme: str) -> None:
    found = {}
    with visiting(browser, server.url, scheme=scheme) as context:
        page = context.new_page()
        for address in ADDRESSES:
            page.goto(address)
            settle(page)
            found[address] = barriers(page)
    assert found == {address: [] for address in ADDRESSES}, json.dumps(found, indent=1)


def test_nothing_is_wider_than_a_phone(browser: Browser, server: Server, machine: MicroVM) -> None:
    with visiting(browser, server.url, width=390) as context:
        page = context.new_page()
        for address in ADDRESSES:
            page.goto(address)
            settle(page)
            assert page.evaluate("() => document.documentElement.scrollWidth") <= 390, address


def test_everything_can_be_done_from_the_keyboard(page: Page, machine: MicroVM) -> None:
    page.goto("/")
    expect(page.get_by_role("link", name="shared")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    button = page.get_by_role("button", name="Actions for shared")
    button.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("menuitem").first).to_be_focused()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Escape")
    expect(button).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("menuitem").first).to_be_focused()
    for _ in range(2):
        page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog", name="Rename shared")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)


_NEXT = """() => {
    const at = document.activeElement
    if (at === document.body || at.dataset.reached) return false
    at.dataset.reached = at.matches(':focus-visible') && getComputedStyle(at).outlineStyle !== 'none' ? 'shown' : 'hidden'
    return true
}"""
_MISSED = """() => [...document.querySelectorAll('a[href], button, input, select, textarea, [tabindex="0"]')]
    .filter(each => each.tabIndex >= 0 && !each.disabled && each.checkVisibility() && each.dataset.reached !== 'shown')
    .map(each => each.outerHTML.slice(0, 200))"""


def test_whatever_can_be_clicked_is_reached_from_the_keyboard_and_shown_to_be(page: Page, machine: MicroVM) -> None:
    missed = {}
    for address in ADDRESSES:
        if "/terminal" in address or "open=" in address:
            continue  # there the key belongs to the guest, and to the text
        page.goto(address)
        settle(page)
        page.keyboard.press("Tab")
        while page.evaluate(_NEXT):
            page.keyboard.press("Tab")
        if found := page.evaluate(_MISSED):
            missed[address] = found
    assert missed == {}, json.dumps(missed, indent=1)


def test_colours_are_chosen_and_kept(page: Page, machine: MicroVM) -> None:
    page.goto("/settings/about")
    light = page.evaluate("() => getComputedStyle(document.documentElement).backgroundColor")
    page.get_by_role("button", name="Colours as the system has them").click()
    page.get_by_role("button", name="Light colours").click()
    page.reload()
    expect(page.get_by_role("button", name="Dark colours")).to_be_visible()
    assert page.evaluate("() => getComputedStyle(document.documentElement).backgroundColor") != light


def settle(page: Page) -> None:
    """Wait until a page shows what it is about."""
    expect(page.locator("main h1, main h2").first).to_be_attached()
    expect(page.get_by_text("Loading…")).to_have_count(0)
