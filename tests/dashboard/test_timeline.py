"""The timeline of a VM in the browser: places to go back to, and what has changed since."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from bandsox import BandSox, MicroVM
from tests.dashboard.browsing import barriers, delete_others, menu

LABEL = "<b>first</b> & last"


@pytest.fixture(autouse=True)
def nothing_is_left(bandsox: BandSox, machine: MicroVM) -> Iterator[None]:
    """What a test makes is gone afterwards, however it ends."""
    yield
    delete_others(bandsox, machine)
    for checkpoint in machine.checkpoints():
        machine.remove_checkpoint(checkpoint.label)


def test_a_vm_goes_back_to_where_it_was_and_what_had_changed_is_shown(page: Page, machine: MicroVM) -> None:
    machine.write_text("/root/kept", "then")
    page.goto("/vms/shared/timeline")
    expect(page.get_by_text("There are no checkpoints yet")).to_be_visible()
    page.get_by_role("button", name="Checkpoint").click()
    page.get_by_label("Label", exact=True).fill(LABEL)
    page.get_by_role("button", name="Keep it").click()
    places = page.get_by_role("list", name="Timeline of shared").get_by_role("listitem")
    expect(places).to_contain_text([LABEL, "Now"])
    machine.write_text("/root/kept", "now")
    machine.exec_command("touch '/root/<img src=x onerror=document.title=1>'")
    menu(page, LABEL, "What has changed")
    page.get_by_role("button", name="Compare").click()
    table = page.get_by_role("table", name="Files that differ")
    expect(table.get_by_role("row").filter(has_text="/root/kept")).to_contain_text("modified")
    expect(table.get_by_role("row").filter(has_text="/root/<img src=x onerror=document.title=1>")).to_contain_text("created")
    assert barriers(page) == []
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    menu(page, LABEL, "Rewind")
    dialog = page.get_by_role("dialog", name=f"Rewind to {LABEL}?")
    dialog.get_by_role("button", name="Rewind").click()
    expect(page.get_by_text(f"shared is back at {LABEL}")).to_be_visible()
    assert machine.get_file_contents("/root/kept") == "then"
    assert machine.run("ls /root").text == "kept\n"
    page.get_by_role("link", name="Family").click()
    family = page.get_by_label("Family of shared")
    expect(family.get_by_role("link")).to_have_count(1)
    expect(family.get_by_role("link", name="shared, running")).to_be_visible()
    page.get_by_role("link", name="Timeline").click()
    menu(page, LABEL, "Delete")
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.get_by_text("There are no checkpoints yet")).to_be_visible()
    assert machine.checkpoints() == []
    page.get_by_role("link", name="Family").click()
    expect(family.get_by_role("link", name="shared, running")).to_be_visible()
    expect(family.get_by_text("deleted")).to_have_count(0)


def test_another_vm_goes_on_from_a_checkpoint_that_somebody_else_has_made(page: Page, machine: MicroVM) -> None:
    page.goto("/vms/shared/timeline")
    expect(page.get_by_text("There are no checkpoints yet")).to_be_visible()
    machine.checkpoint("elsewhere")
    menu(page, "elsewhere", "New VM from it")
    page.get_by_label("Name", exact=True).fill("from-a-checkpoint")
    page.get_by_role("dialog").get_by_role("button", name="Restore").click()
    expect(page.get_by_role("heading", name="from-a-checkpoint", exact=True)).to_be_visible()
    machine.rewind("elsewhere")
    page.get_by_role("link", name="Family").click()
    family = page.get_by_label("Family of from-a-checkpoint")
    expect(family.get_by_role("link", name="shared, running")).to_be_visible()
    expect(family.get_by_role("link", name="from-a-checkpoint, running")).to_be_visible()
    family.get_by_role("link", name="elsewhere, checkpoint").get_by_text("elsewhere").first.click()
    expect(page.get_by_role("list", name="Timeline of shared")).to_be_visible()


def test_what_cannot_be_kept_says_why(page: Page, machine: MicroVM) -> None:
    machine.checkpoint("taken")
    page.goto("/vms/shared/timeline")
    page.get_by_role("button", name=re.compile("^Checkpoint$")).click()
    page.get_by_label("Label", exact=True).fill("taken")
    page.get_by_role("button", name="Keep it").click()
    expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text("taken")
