"""The table with five hundred VMs: what it costs does not grow with them."""

from __future__ import annotations

import json
import re
from datetime import datetime, timezone
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from bandsox import MicroVM
from tests.server.servers import Server

COUNT = 500
STATUSES = ("running", "paused", "stopped", "dead")


@pytest.fixture
def crowd(page: Page, server: Server, machine: MicroVM) -> list[dict[str, Any]]:
    """A list of VMs as a server told of one, five hundred times over. Only the list is recorded: everything else is the server's."""
    with server.client() as http:
        one = next(each for each in http.get("/api/vms").json() if each["id"] == machine.vm_id)
    crowd = [
        {**one, "id": f"{number:016x}", "name": f"vm-{number}", "status": STATUSES[number % 4], "created_at": one["created_at"] - number}
        for number in range(COUNT)
    ]
    page.route(re.compile("/api/vms$"), lambda route: answer(route, crowd))
    return crowd


def answer(route: Route, value: object) -> None:
    route.fulfill(status=200, content_type="application/json", body=json.dumps(value))


def test_a_page_shows_and_measures_only_what_it_has(page: Page, crowd: list[dict[str, Any]]) -> None:
    measured: set[str] = set()
    page.on("request", lambda request: measured.update(re.findall("/api/vms/([0-9a-f]{16})/stats", request.url)))
    page.goto("/")
    rows = page.get_by_role("row")
    expect(rows).to_have_count(1 + 25)
    expect(page.get_by_role("button", name=f"running {COUNT // 4}")).to_be_visible()
    page.get_by_role("button", name="Next page").click()
    expect(page.get_by_role("link", name="vm-25", exact=True)).to_be_visible()
    shown = {each["id"] for each in crowd[:50] if each["status"] == "running"}
    assert measured <= shown


def test_all_can_be_shown_chosen_searched_and_sorted(page: Page, crowd: list[dict[str, Any]]) -> None:
    page.goto("/?per=500")
    rows = page.get_by_role("row")
    expect(rows).to_have_count(1 + COUNT)
    page.get_by_label("Choose all of this page").check()
    expect(page.get_by_role("toolbar").get_by_role("status")).to_have_text(f"{COUNT} VMs chosen")
    expect(page.get_by_role("toolbar").get_by_role("button", name=f"Pause {COUNT // 4}")).to_be_visible()
    page.get_by_label("Search VMs").press_sequentially("vm-499")
    expect(rows).to_have_count(2)
    page.get_by_label("Search VMs").fill("")
    page.get_by_role("button", name="Name", exact=True).click()
    expect(page.get_by_role("rowheader").first).to_contain_text("vm-0")


def test_one_that_changes_is_the_only_row_that_is_touched(page: Page, crowd: list[dict[str, Any]]) -> None:
    changed = {**crowd[7], "name": "another name"}
    page.route(re.compile(f"/api/vms/{changed['id']}$"), lambda route: answer(route, changed))
    page.route(re.compile(f"/api/vms/{changed['id']}/name$"), lambda route: answer(route, {"status": "renamed", "name": changed["name"]}))
    page.clock.set_fixed_time(datetime.now(timezone.utc))  # or ages that are shown change as well
    page.goto("/?per=500")
    expect(page.get_by_role("row")).to_have_count(1 + COUNT)
    page.get_by_role("button", name="Actions for vm-7", exact=True).click()
    page.get_by_role("menuitem", name="Rename").click()
    page.evaluate(
        """() => {
            window.touched = new Set()
            new MutationObserver(changes => changes.forEach(change => {
                const row = (change.target.closest ? change.target : change.target.parentElement)?.closest('tbody tr')
                const load = (change.target.closest ? change.target : change.target.parentElement)?.closest('.spark')
                if (row && !load) window.touched.add(row)
            })).observe(document.querySelector('tbody'), { subtree: true, childList: true, characterData: true })
        }"""
    )
    page.get_by_label("Name", exact=True).fill("another name")
    page.get_by_role("dialog").get_by_role("button", name="Rename").click()
    expect(page.get_by_role("link", name="another name")).to_be_visible()
    assert page.evaluate("() => window.touched.size") == 1
