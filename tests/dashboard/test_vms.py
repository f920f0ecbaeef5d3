"""The table of VMs, the page of one, and what is done with them."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from bandsox import BandSox, MicroVM


@pytest.fixture
def spare(bandsox: BandSox) -> MicroVM:  # type: ignore[misc]
    with bandsox.create_vm(name="spare") as vm:
        yield vm


def row(page: Page, name: str):  # type: ignore[no-untyped-def]
    return page.get_by_role("row").filter(has=page.get_by_role("link", name=name, exact=True))


def menu(page: Page, name: str, entry: str) -> None:
    page.get_by_role("button", name=f"Actions for {name}").click()
    page.get_by_role("menuitem", name=entry).click()


def test_a_vm_is_made_used_and_deleted(page: Page, machine: MicroVM, bandsox: BandSox) -> None:
    page.goto("/")
    page.get_by_role("button", name="New VM").click()
    page.get_by_label("Name", exact=True).fill("from-a-browser")
    page.get_by_text("Environment and end").click()
    page.get_by_label("Environment", exact=True).fill("no variable")
    page.get_by_role("button", name="Create", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("NAME=value")
    page.get_by_label("Environment", exact=True).fill("A=1\nB=x=y\n")
    page.get_by_role("button", name="Create", exact=True).click()
    try:
        expect(page).to_have_url(re.compile(r"/vms/[0-9a-f]{16}$"))
        expect(page.get_by_role("heading", name="from-a-browser")).to_be_visible()
        made = next(each for each in bandsox.list_vms() if each["name"] == "from-a-browser")
        assert made["env_vars"] == {"A": "1", "B": "x=y"}
        menu(page, "from-a-browser", "Stop")
        expect(page.get_by_text("stopped", exact=True)).to_be_visible()
        menu(page, "from-a-browser", "Start")
        expect(page.get_by_text("running", exact=True)).to_be_visible()
        menu(page, "from-a-browser", "Delete")
        page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        expect(page.get_by_role("link", name="shared", exact=True)).to_be_visible()
        expect(row(page, "from-a-browser")).to_have_count(0)
    finally:
        for each in bandsox.list_vms():
            if each["name"] == "from-a-browser":
                bandsox.delete_vm(each["id"])


def test_what_fails_says_why_and_what_to_do(page: Page, machine: MicroVM) -> None:
    page.goto("/")
    page.get_by_role("button", name="New VM").click()
    page.get_by_label("Name", exact=True).fill("shared")
    page.get_by_role("button", name="Create", exact=True).click()
    expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text("shared")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_search_filters_and_addresses_agree(page: Page, machine: MicroVM, spare: MicroVM) -> None:
    spare.pause()
    page.goto("/")
    expect(row(page, "spare")).to_be_visible()
    page.get_by_role("button", name="paused 1").click()
    expect(row(page, "shared")).to_have_count(0)
    expect(page).to_have_url(re.compile(r"\?status=paused"))
    page.get_by_role("button", name=re.compile("^All")).click()
    page.get_by_label("Search VMs").fill("web")
    expect(row(page, "spare")).to_have_count(0)
    expect(row(page, "shared")).to_be_visible()
    page.reload()
    expect(page.get_by_label("Search VMs")).to_have_value("web")
    page.get_by_label("Search VMs").fill("no such thing")
    page.get_by_role("button", name="Show all").click()
    page.get_by_role("button", name="Name", exact=True).click()
    expect(page.get_by_role("columnheader", name="Name")).to_have_attribute("aria-sort", "ascending")
    assert page.get_by_role("rowheader").all_text_contents()[0].strip().startswith("shared")


def test_one_whose_memory_is_on_the_disk_is_found_and_woken(page: Page, machine: MicroVM, spare: MicroVM) -> None:
    spare.exec_command("echo remembered > /run/note")
    page.goto("/")
    expect(row(page, "spare").get_by_text("running")).to_be_visible()
    menu(page, "spare", "Hibernate")
    expect(page.get_by_text("Hibernated spare")).to_be_visible()
    expect(row(page, "spare").get_by_text("saved")).to_be_visible()
    page.get_by_role("button", name="saved 1").click()
    expect(row(page, "shared")).to_have_count(0)
    page.get_by_role("link", name="spare", exact=True).click()
    expect(page.get_by_text("saved", exact=True)).to_be_visible()
    menu(page, "spare", "Wake")
    expect(page.get_by_text("Woke spare")).to_be_visible()
    expect(page.get_by_text("running", exact=True)).to_be_visible()
    assert spare.get_file_contents("/run/note") == "remembered\n"


def test_many_are_changed_at_once_each_as_it_fits(page: Page, machine: MicroVM, spare: MicroVM) -> None:
    page.goto("/?q=spare")
    page.get_by_label("Choose spare").check()
    toolbar = page.get_by_role("toolbar")
    expect(toolbar.get_by_role("button", name="Resume")).to_have_count(0)
    toolbar.get_by_role("button", name="Pause").click()
    expect(row(page, "spare").get_by_text("paused")).to_be_visible()
    page.get_by_label("Choose all of this page").check()
    toolbar.get_by_role("button", name="Resume").click()
    expect(row(page, "spare").get_by_text("running")).to_be_visible()


def test_another_name_can_be_taken_back(page: Page, spare: MicroVM) -> None:
    page.goto(f"/vms/{spare.vm_id}")
    menu(page, "spare", "Rename")
    page.get_by_label("Name", exact=True).fill("renamed")
    page.get_by_role("button", name="Rename").click()
    expect(page.get_by_role("heading", name="renamed", exact=True)).to_be_visible()
    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_role("heading", name="spare", exact=True)).to_be_visible()


def test_metadata_keeps_its_types(page: Page, spare: MicroVM, bandsox: BandSox) -> None:
    bandsox.update_vm_metadata(spare.vm_id, {"text": "5", "number": 5, "list": [1]})
    page.goto("/vms/spare")
    expect(page).to_have_url(re.compile(spare.vm_id))
    page.get_by_role("button", name="Add").click()
    page.get_by_label("Name of entry 4").fill("more")
    page.get_by_label("Value of more").fill("words")
    page.get_by_role("button", name="Remove list").click()
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Metadata saved")).to_be_visible()
    assert bandsox.get_vm_info(spare.vm_id)["metadata"] == {"text": "5", "number": 5, "more": "words"}  # type: ignore[index]


_BUSY = """
import os, socket, time
written, wire = os.open("/srv/written", os.O_CREAT | os.O_WRONLY), socket.socket(type=socket.SOCK_DGRAM)
while True:
    os.pwrite(written, os.urandom(1 << 18), 0)
    os.fsync(written)
    if CONNECTED:
        wire.sendto(bytes(1000), ("192.0.2.1", 9))
    time.sleep(0.1)
"""


def test_load_and_processes_are_shown(page: Page, machine: MicroVM) -> None:
    connected = machine.info()["network_config"] is not None
    busy, _ = machine.start_session(["python3", "-c", _BUSY.replace("CONNECTED", str(connected))])
    page.goto("/vms/shared")
    now = "{}, over the last minutes: now {}"
    expect(page.get_by_role("img", name=re.compile(now.format("CPU", "[0-9]+ %")))).to_be_visible()
    expect(page.get_by_role("img", name=re.compile(now.format("Disk traffic", "read .*, written [1-9].* [KM]iB")))).to_be_visible()
    if connected:
        expect(page.get_by_role("img", name=re.compile(now.format("Network", "received .*, sent [1-9].*")))).to_be_visible()
    machine.kill_session(busy)
    page.get_by_role("link", name="Processes").click()
    expect(page.get_by_role("table", name="Processes").get_by_role("row").nth(1)).to_be_visible()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("/vm_details?id={}", "/vms/{}$"),
        ("/terminal?id={}", "/vms/{}/terminal"),
        ("/markdown_viewer?vm_id={}&path=/etc/motd", "/vms/{}/files.*motd"),
    ],
)
def test_addresses_of_earlier_versions_lead_to_the_right_place(page: Page, machine: MicroVM, old: str, new: str) -> None:
    page.goto(old.format(machine.vm_id))
    expect(page).to_have_url(re.compile(new.format(machine.vm_id)))


def test_what_is_not_there_is_said_not_to_be(page: Page, machine: MicroVM) -> None:
    page.goto("/vms/nobody")
    expect(page.get_by_role("alert")).to_contain_text("nobody")
    page.goto("/settings/nothing")
    expect(page.get_by_text("There is no page at this address")).to_be_visible()
