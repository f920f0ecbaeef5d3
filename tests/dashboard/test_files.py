"""Files of a VM in the browser."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from playwright.sync_api import Page, expect

from bandsox import MicroVM
from tests.dashboard.browsing import drop


def menu(page: Page, name: str, entry: str) -> None:
    page.get_by_role("button", name=f"Actions for {name}", exact=True).click()
    page.get_by_role("menuitem", name=entry).click()


def test_files_are_made_edited_renamed_and_removed(page: Page, machine: MicroVM) -> None:
    machine.make_dir("/srv/edit")
    page.goto("/vms/shared/files?path=/srv/edit")
    expect(page.get_by_text("This directory is empty")).to_be_visible()
    page.get_by_role("button", name="New file").click()
    page.get_by_label("Name", exact=True).fill("a/b")
    page.get_by_role("button", name="Create", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("slash")
    page.get_by_label("Name", exact=True).fill("hello.py")
    page.get_by_role("button", name="Create", exact=True).click()
    page.get_by_label("Content of /srv/edit/hello.py").click()
    page.keyboard.type("print('grüße 🎉')\n")
    page.keyboard.press("Control+s")
    expect(page.get_by_text("Saved hello.py")).to_be_visible()
    assert machine.get_file_contents("/srv/edit/hello.py") == "print('grüße 🎉')\n"
    assert page.get_by_label("Content of").locator("span").count() > 0, "the syntax has colours"
    page.get_by_role("button", name="Close", exact=True).click()
    menu(page, "hello.py", "Rename")
    page.get_by_label("Name", exact=True).fill("other.py")
    page.get_by_role("dialog").get_by_role("button", name="Rename").click()
    expect(page.get_by_role("button", name="other.py", exact=True)).to_be_visible()
    page.get_by_role("button", name="New folder").click()
    page.get_by_label("Name", exact=True).fill("below")
    page.get_by_role("button", name="Create", exact=True).click()
    expect(page.get_by_role("navigation", name="Directories").get_by_role("button", name="below", exact=True)).to_be_visible()
    for name in ("other.py", "below"):
        menu(page, name, "Delete")
        page.get_by_role("dialog").get_by_role("button", name="Delete").click()
        expect(page.get_by_role("button", name=f"Actions for {name}")).to_have_count(0)
    assert machine.list_dir("/srv/edit") == []


def test_what_was_changed_is_not_left_without_asking(page: Page, machine: MicroVM) -> None:
    machine.write_text("/srv/keep.txt", "as it was")
    page.goto("/vms/shared/files?path=/srv&open=/srv/keep.txt")
    page.get_by_label("Content of /srv/keep.txt").click()
    page.keyboard.type("changed ")
    page.get_by_role("button", name="Close", exact=True).click()
    page.get_by_role("dialog", name="Leave without saving?").get_by_role("button", name="Cancel").click()
    expect(page.get_by_label("Content of /srv/keep.txt")).to_contain_text("changed")
    page.get_by_role("button", name="Close", exact=True).click()
    page.get_by_role("button", name="Leave").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert machine.get_file_contents("/srv/keep.txt") == "as it was"


def test_files_come_in_by_choosing_and_by_dropping_and_go_home_byte_for_byte(page: Page, machine: MicroVM, tmp_path: Path) -> None:
    content = bytes(range(256)) * 40_000
    (tmp_path / "large file.bin").write_bytes(content)
    machine.make_dir("/srv/in")
    page.goto("/vms/shared/files?path=/srv/in")
    page.evaluate(
        """() => {
            window.progress = new Set()
            new MutationObserver(() => document.querySelectorAll('progress').forEach(each => window.progress.add(each.ariaLabel)))
                .observe(document.body, { subtree: true, childList: true })
        }"""
    )
    page.locator("input[type=file]").set_input_files(tmp_path / "large file.bin")
    expect(page.get_by_text("1 of 1 uploaded")).to_be_visible()
    assert page.evaluate("() => [...window.progress]") == ["large file.bin"]
    (tmp_path / "d.txt").write_text("dropped")
    (tmp_path / "folder/below").mkdir(parents=True)
    (tmp_path / "folder/below/e.txt").write_text("in a folder")
    drop(page.get_by_label("Files of /srv/in"), tmp_path / "d.txt", tmp_path / "folder")
    expect(page.get_by_text("3 of 3 uploaded")).to_be_visible()
    assert machine.get_file_contents("/srv/in/d.txt") == "dropped"
    assert machine.get_file_contents("/srv/in/folder/below/e.txt") == "in a folder"
    with page.expect_download() as one:
        menu(page, "large file.bin", "Download")
    assert one.value.suggested_filename == "large file.bin"
    assert Path(one.value.path()).read_bytes() == content
    with page.expect_download() as all_of_them:
        page.get_by_role("link", name="Download all").click()
    with tarfile.open(fileobj=io.BytesIO(Path(all_of_them.value.path()).read_bytes())) as archive:
        assert {"in/d.txt", "in/large file.bin", "in/folder/below/e.txt"} <= set(archive.getnames())


def test_an_upload_that_fails_says_why(page: Page, machine: MicroVM, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    page.goto("/vms/shared/files?path=/proc")
    page.locator("input[type=file]").set_input_files(tmp_path / "x")
    uploads = page.get_by_role("region", name="Uploads")
    expect(uploads).to_contain_text("0 of 1 uploaded")
    expect(uploads.locator(".bad")).not_to_be_empty()


def test_what_is_no_text_and_what_is_too_much_is_not_opened_as_text(page: Page, machine: MicroVM) -> None:
    machine.write_bytes("/srv/binary", b"\x00\xff" * 100)
    machine.exec_command("truncate -s 3M /srv/much.txt")
    page.goto("/vms/shared/files?path=/srv&open=/srv/binary")
    expect(page.get_by_role("dialog")).to_contain_text("It is no text")
    page.goto("/vms/shared/files?path=/srv&open=/srv/much.txt")
    expect(page.get_by_role("dialog")).to_contain_text("larger than")
    page.goto("/vms/shared/files?path=/srv&open=/srv/nothing")
    expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text("nothing")
