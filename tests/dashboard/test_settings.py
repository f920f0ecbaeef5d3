"""The password, sessions, quotas and the audit log in the browser."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.dashboard.browsing import barriers, visiting
from tests.server.servers import Server, serving
from tests.server.test_webhooks import receiving

PASSWORD, OTHER = "correct horse battery", "another horse entirely"
NAME = "<img src=x onerror=document.title='owned'>"


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[tuple[Server, str]]:
    """A server with authentication, of a storage directory without machines, and its first key; it counts logins, so each test has one."""
    command = [sys.executable, "-m", "bandsox", "--json", "--storage", str(tmp_path), "auth", "init", "--password-stdin"]
    done = subprocess.run(command, input=PASSWORD + "\n", text=True, check=True, capture_output=True)
    with serving(tmp_path, "--webhook-network", "127.0.0.0/8") as server:
        yield server, json.loads(done.stdout)["key"]


@pytest.fixture
def page(browser: Browser, guarded: tuple[Server, str]) -> Iterator[Page]:
    """A page of somebody who is logged in."""
    with visiting(browser, guarded[0].url) as context:
        page = context.new_page()
        login(page, PASSWORD)
        yield page


def login(page: Page, password: str) -> None:
    page.goto("/login")
    page.get_by_label("Password").fill(password)
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Log out")).to_be_visible()


def test_sessions_are_shown_and_ended(page: Page, browser: Browser, guarded: tuple[Server, str]) -> None:
    with visiting(browser, guarded[0].url) as elsewhere:
        other = elsewhere.new_page()
        login(other, PASSWORD)
        page.goto("/settings/sessions")
        table = page.get_by_role("table", name="Sessions")
        expect(table.get_by_role("row").filter(has_text="this one")).to_have_count(1)
        assert barriers(page) == []
        page.get_by_role("button", name="End all others").click()
        page.get_by_role("dialog").get_by_role("button", name="End", exact=True).click()
        expect(table.get_by_role("row")).to_have_count(2)
        other.goto("/images")
        expect(other.get_by_label("Password")).to_be_visible()


def test_the_password_is_changed_by_who_knows_it(page: Page) -> None:
    def change(current: str, wanted: str, again: str) -> None:
        page.get_by_label("The password as it is").fill(current)
        page.get_by_label("New password").fill(wanted)
        page.get_by_label("Once more").fill(again)
        page.get_by_role("button", name="Change it").click()

    page.goto("/settings/password")
    change(PASSWORD, OTHER, OTHER + "s")
    expect(page.get_by_role("alert")).to_contain_text("not the same")
    change("wrong password", OTHER, OTHER)
    expect(page.get_by_role("alert")).to_contain_text("that is not the password")
    assert barriers(page) == []
    change(PASSWORD, OTHER, OTHER)
    expect(page.get_by_text("The password was changed")).to_be_visible()
    page.goto("/images")
    expect(page.get_by_role("heading", name="Images", exact=True)).to_be_visible()
    page.get_by_role("button", name="Log out").click()
    login(page, OTHER)
    page.goto("/settings/password")
    change(OTHER, PASSWORD, PASSWORD)
    expect(page.get_by_text("The password was changed")).to_be_visible()


def test_a_key_is_changed(page: Page, guarded: tuple[Server, str]) -> None:
    server, key = guarded
    with server.client(key) as http:
        made = http.post("/api/auth/keys", json={"name": NAME, "scopes": ["exec"], "quotas": {"vms": 1}}).json()
        page.goto("/settings")
        row = page.get_by_role("row").filter(has_text=NAME)
        expect(row).to_contain_text("0 of 1 VMs")
        page.get_by_role("button", name=f"Edit {NAME}").click()
        expect(page.get_by_label("Scope")).to_have_value("exec")
        page.get_by_label("Name", exact=True).fill("renamed")
        page.get_by_label("Scope").select_option("read")
        page.get_by_label("Expires").select_option("in days")
        page.get_by_label("Days").fill("3")
        page.get_by_label("VMs", exact=True).fill("")
        page.get_by_label("CPUs").fill("4")
        assert barriers(page) == []
        page.get_by_role("button", name="Save").click()
        row = page.get_by_role("row").filter(has_text="renamed")
        expect(row).to_contain_text("0 of 4 CPUs")
        expect(row).to_contain_text("in 2 d")

        def listed() -> dict[str, Any]:
            found: dict[str, Any] = next(each for each in http.get("/api/auth/keys").json() if each["id"] == made["key_id"])
            return found

        assert (listed()["quotas"]["vms"], listed()["quotas"]["vcpu"], listed()["scopes"]) == (None, 4, ["read"])
        ends = listed()["expires_at"]
        page.get_by_role("button", name="Edit renamed").click()
        page.get_by_label("CPUs").fill("5")
        page.get_by_role("button", name="Save").click()
        expect(row).to_contain_text("0 of 5 CPUs")
        assert listed()["expires_at"] == ends
        page.get_by_role("button", name="Edit renamed").click()
        page.get_by_label("Expires").select_option("never")
        page.get_by_role("button", name="Save").click()
        expect(row).not_to_contain_text("in 2 d")
        assert listed()["expires_at"] is None


def test_a_webhook_is_set_tried_changed_and_deleted_from_the_keyboard(page: Page) -> None:
    with receiving() as receiver:
        page.goto("/settings/webhooks")
        expect(page.get_by_text("There are no webhooks")).to_be_visible()
        page.get_by_role("button", name="New webhook").press("Enter")
        page.keyboard.press("Tab")
        expect(page.get_by_label("Address")).to_be_focused()
        page.keyboard.insert_text(receiver.url)
        page.keyboard.press("Tab")
        page.keyboard.insert_text("no event")
        page.keyboard.press("Enter")
        expect(page.get_by_role("dialog").get_by_role("alert")).to_be_visible()
        page.get_by_label("Told of").fill("vm.*, snapshot.created")
        page.get_by_label("Told of").press("Enter")
        shown = page.get_by_role("dialog", name="The secret of the webhook").locator("code")
        secret = shown.inner_text()
        page.keyboard.press("Escape")
        row = page.get_by_role("table", name="Webhooks").get_by_role("row").nth(1)
        expect(row).to_contain_text("snapshot.created, vm.*")
        assert secret.startswith("whsec_")
        assert secret not in page.content()

        def choose(number: int) -> None:
            row.get_by_role("button").press("Enter")
            expect(page.get_by_role("menuitem").first).to_be_focused()
            for _ in range(number):
                page.keyboard.press("ArrowDown")
            page.keyboard.press("Enter")

        choose(0)
        expect(page.get_by_text("The test was delivered: status 204")).to_be_visible()
        assert receiver.next().is_signed_with(secret)
        receiver.answers.put(500)
        choose(0)
        expect(page.get_by_text("The test was not delivered: status 500")).to_be_visible()
        choose(1)
        expect(page.get_by_role("table", name="Deliveries").get_by_role("row").filter(has_text="webhook.test")).to_have_count(2)
        assert barriers(page) == []
        page.keyboard.press("Escape")
        choose(3)
        expect(row.get_by_role("cell", name="off", exact=True)).to_be_visible()
        choose(2)
        page.get_by_label("Told of").fill("image.*")
        page.get_by_label("Told of").press("Enter")
        expect(row).to_contain_text("image.*")
        choose(4)
        page.get_by_role("dialog").get_by_role("button", name="Delete").press("Enter")
        expect(page.get_by_text("There are no webhooks")).to_be_visible()


def test_the_audit_log_tells_who_did_what_and_runs_none_of_it(page: Page, guarded: tuple[Server, str]) -> None:
    server, key = guarded
    with server.client(key) as http:
        stranger = http.post("/api/auth/keys", json={"name": NAME, "scopes": ["read"]}).json()["key"]
    with server.client(stranger) as http:
        for number in range(3):
            assert http.delete(f"/api/vms/%3Cimg%20src=x%20onerror=alert({number})%3E").status_code == 403
    page.goto("/settings/audit")
    table = page.get_by_role("table", name="Audit log")
    refused = table.get_by_role("row").filter(has_text="DELETE").filter(has_text=NAME)
    expect(refused).to_have_count(3)
    expect(refused.first).to_contain_text("403")
    assert barriers(page) == []
    page.get_by_label("Method").select_option("POST")
    page.get_by_label("Outcome").select_option("done")
    page.get_by_role("button", name="Search").click()
    expect(refused).to_have_count(0)
    expect(table.get_by_role("row").filter(has_text="/api/auth/keys").first).to_be_visible()
    page.get_by_label("Path begins with").fill("/api/nothing")
    page.get_by_role("button", name="Search").click()
    expect(page.get_by_text("Nothing like that was done")).to_be_visible()
    assert "owned" not in page.title()
    assert page.locator("main img").count() == 0
