"""Templates and warm pools in the browser."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from bandsox import BandSox, MicroVM
from tests.dashboard.browsing import barriers, delete_others
from tests.server.servers import Server

SETUP = "echo '<b>made</b>' > /root/made"


@pytest.fixture(autouse=True)
def nothing_is_left(bandsox: BandSox, server: Server, machine: MicroVM) -> Iterator[None]:
    """What a test makes is gone afterwards, however it ends."""
    yield
    with server.client() as http:
        for pool in http.get("/api/pools").json():
            http.delete(f"/api/pools/{pool['id']}")
        for template in http.get("/api/templates").json():
            http.delete(f"/api/templates/{template['id']}")
    delete_others(bandsox, machine)


def menu(page: Page, label: re.Pattern[str], entry: str) -> None:
    page.get_by_role("button", name=label).click()
    page.get_by_role("menuitem", name=entry, exact=True).click()


def test_a_vm_is_set_up_once_and_others_start_from_there(page: Page, machine: MicroVM, bandsox: BandSox) -> None:
    page.goto("/templates")
    page.get_by_role("button", name="New template").click()
    page.get_by_label("Set-up").fill(f"{SETUP}\nfalse")
    page.get_by_role("button", name="Make it").click()
    expect(page.get_by_role("dialog").get_by_role("alert")).to_be_visible()
    page.get_by_label("Set-up").fill(f"{SETUP}\n\n")
    page.get_by_role("button", name="Make it").click()
    templates = page.get_by_role("table", name="Templates")
    expect(templates.get_by_role("row").filter(has_text=SETUP)).to_be_visible()
    assert barriers(page) == []

    menu(page, re.compile("^Actions for [0-9a-f]+$"), "New pool of it")
    page.get_by_label("VMs", exact=True).fill("1")
    page.get_by_role("button", name="Fill it").click()
    pools = page.get_by_role("table", name="Pools")
    expect(pools.get_by_role("row").filter(has_text="1 of 1")).to_be_visible()
    page.goto("/?q=pool-")
    expect(page.get_by_role("link", name="in a pool")).to_be_visible()
    page.get_by_role("link", name="in a pool").click()
    menu(page, re.compile("^Actions for the pool"), "Resize")
    page.get_by_label("VMs", exact=True).fill("many")
    page.get_by_role("dialog").get_by_role("button", name="Resize").click()
    expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text("number")
    page.get_by_label("VMs", exact=True).fill("2")
    page.get_by_role("dialog").get_by_role("button", name="Resize").click()
    expect(pools.get_by_role("row").filter(has_text="2 of 2")).to_be_visible()
    assert barriers(page) == []

    menu(page, re.compile("^Actions for the pool"), "Take a VM")
    expect(page).to_have_url(re.compile(r"/vms/[0-9a-f]{16}$"))
    taken = bandsox.get_vm(page.url.rpartition("/")[2])
    assert taken is not None
    assert taken.get_file_contents("/root/made") == "<b>made</b>\n"
    page.get_by_role("link", name="Family").click()
    expect(page.get_by_role("link", name=re.compile("^[0-9a-f]{12}, template$"))).to_be_visible()

    page.goto("/templates")
    menu(page, re.compile("^Actions for the pool"), "Delete")
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.get_by_text("There are no pools")).to_be_visible()
    menu(page, re.compile("^Actions for [0-9a-f]+$"), "New VM from it")
    page.get_by_label("Name", exact=True).fill("of-a-template")
    page.get_by_role("dialog").get_by_role("button", name="Start").click()
    expect(page.get_by_role("heading", name="of-a-template", exact=True)).to_be_visible()
    page.goto("/templates")
    menu(page, re.compile("^Actions for [0-9a-f]+$"), "Delete")
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.get_by_text("There are no templates yet")).to_be_visible()
