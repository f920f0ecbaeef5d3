"""The password, sessions, quotas and the audit log in the browser."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.dashboard.browsing import barriers, visiting
from tests.server.servers import Server, serving

PASSWORD, OTHER = "correct horse battery", "another horse entirely"
NAME = "<img src=x onerror=document.title='owned'>"


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[tuple[Server, str]]:
    """A server with authentication, of a storage directory without machines, and its first key; it counts logins, so each test has one."""
    command = [sys.executable, "-m", "bandsox.cli", "--json", "--storage", str(tmp_path), "auth", "init", "--password-stdin"]
    done = subprocess.run(command, input=PASSWORD + "\n", text=True, check=True, capture_output=True)
    with serving(tmp_path) as server:
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


def test_quotas_of_a_key_are_changed(page: Page, guarded: tuple[Server, str]) -> None:
    server, key = guarded
    with server.client(key) as http:
        made = http.post("/api/auth/keys", json={"name": NAME, "scopes": ["exec"], "quotas": {"vms": 1}}).json()
        page.goto("/settings")
        row = page.get_by_role("row").filter(has_text=NAME)
        expect(row).to_contain_text("0 of 1 VMs")
        page.get_by_role("button", name=f"Quotas of {NAME}").click()
        page.get_by_label("VMs", exact=True).fill("")
        page.get_by_label("CPUs").fill("4")
        assert barriers(page) == []
        page.get_by_role("button", name="Save").click()
        expect(row).to_contain_text("0 of 4 CPUs")
        listed = next(each for each in http.get("/api/auth/keys").json() if each["id"] == made["key_id"])
        assert (listed["quotas"]["vms"], listed["quotas"]["vcpu"]) == (None, 4)


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
