"""Snapshots, forks and ports in the browser, and what other processes do, as it is seen there."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from bandsox import BandSox, MicroVM
from tests.dashboard.browsing import barriers, delete_others, menu, visiting
from tests.images.registry import run_registry
from tests.server.servers import Server, serving


@pytest.fixture(autouse=True)
def nothing_is_left(bandsox: BandSox, machine: MicroVM) -> Iterator[None]:
    """What a test makes is gone afterwards, however it ends."""
    yield
    delete_others(bandsox, machine)
    for each in bandsox.list_snapshots():
        bandsox.delete_snapshot(each["id"])


def test_a_snapshot_is_taken_named_noted_restored_and_deleted(page: Page, machine: MicroVM, bandsox: BandSox) -> None:
    page.goto("/vms/shared")
    menu(page, "shared", "Snapshot")
    page.get_by_label("Name", exact=True).fill("ready")
    page.get_by_role("button", name="Take it").click()
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_role("table", name="Snapshots").get_by_role("link", name="shared")).to_be_visible()
    menu(page, "ready", "Rename")
    page.get_by_label("Name", exact=True).fill("<i>steady</i>")
    page.get_by_role("dialog").get_by_role("button", name="Rename").click()
    menu(page, "<i>steady</i>", "Metadata")
    page.get_by_role("button", name="Add").click()
    page.get_by_label("Name of entry 1").fill("kind")
    page.get_by_label("Value of kind").fill("trial")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Metadata saved")).to_be_visible()
    assert barriers(page) == []
    page.get_by_label("Search snapshots").fill("trial")
    menu(page, "<i>steady</i>", "Restore")
    page.get_by_label("Name", exact=True).fill("restored")
    page.get_by_label("Boot from its disk").check()
    page.get_by_label("Network").select_option("no")
    page.get_by_role("dialog").get_by_role("button", name="Restore").click()
    expect(page.get_by_role("heading", name="restored", exact=True)).to_be_visible()
    assert next(each for each in bandsox.list_vms() if each["name"] == "restored")["network_config"] is None
    page.get_by_role("link", name="Family").click()
    family = page.get_by_label("Family of restored")
    expect(family.get_by_role("link", name="<i>steady</i>, snapshot").get_by_text("<i>steady</i>").first).to_be_visible()
    family.get_by_role("link", name="shared, running").get_by_text("running", exact=True).click()
    expect(page.get_by_role("heading", name="shared", exact=True)).to_be_visible()
    page.goto("/snapshots")
    page.get_by_label("Choose <i>steady</i>").check()
    page.get_by_role("toolbar").get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.get_by_text("There are no snapshots yet")).to_be_visible()
    assert bandsox.list_snapshots() == []


def test_a_snapshot_leaves_as_a_file_and_comes_back(page: Page, machine: MicroVM, bandsox: BandSox, tmp_path: Path) -> None:
    machine.snapshot("travels")
    page.goto("/snapshots")
    menu(page, "travels", "Export")
    page.get_by_label("With the root file system").uncheck()
    assert barriers(page) == []
    with page.expect_download() as going:
        page.get_by_role("link", name="Download").click()
    assert going.value.suggested_filename == "travels.tar"
    going.value.save_as(tmp_path / "travels.tar")
    page.get_by_label("Choose travels").check()
    page.get_by_role("toolbar").get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.get_by_text("There are no snapshots yet")).to_be_visible()
    page.get_by_role("button", name="Import").click()
    page.get_by_label("Name", exact=True).fill("<b>came back</b>")
    page.get_by_label("File").set_input_files(tmp_path / "travels.tar")
    page.get_by_role("dialog").get_by_role("button", name="Import").click()
    row = page.get_by_role("row").filter(has_text="<b>came back</b>")
    expect(row).to_be_visible()
    menu(page, "<b>came back</b>", "Compress")
    expect(row).to_contain_text("compressed")
    assert [(each["snapshot_name"], each["compressed"]) for each in bandsox.list_snapshots()] == [("<b>came back</b>", True)]


def test_a_snapshot_is_pushed_to_a_registry_and_pulled_from_it(
    page: Page, machine: MicroVM, bandsox: BandSox, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with run_registry(tmp_path_factory.mktemp("registry")) as registry:
        machine.snapshot("travels")
        page.goto("/snapshots")
        menu(page, "travels", "Push to a registry")
        page.get_by_label("Reference").fill(f"{registry.host}/team/carried:1")
        page.get_by_label("With the root file system").uncheck()
        assert barriers(page) == []
        page.get_by_role("dialog").get_by_role("button", name="Push").click()
        expect(page.get_by_text("Pushed travels: sha256:")).to_be_visible()
        page.get_by_role("button", name="Pull").click()
        page.get_by_label("Reference").fill(f"{registry.host}/team/nothing:1")
        page.get_by_role("dialog").get_by_role("button", name="Pull").click()
        expect(page.get_by_role("dialog").get_by_role("alert")).to_be_visible()
        page.get_by_label("Reference").fill(f"{registry.host}/team/carried:1")
        page.get_by_label("Name", exact=True).fill("<b>pulled</b>")
        page.get_by_role("dialog").get_by_role("button", name="Pull").click()
        expect(page.get_by_role("table", name="Snapshots").get_by_role("row").filter(has_text="<b>pulled</b>")).to_be_visible()
    assert {each["snapshot_name"] for each in bandsox.list_snapshots()} == {"travels", "<b>pulled</b>"}


def test_what_is_no_snapshot_is_refused_with_its_reason(page: Page, machine: MicroVM, tmp_path: Path) -> None:
    (tmp_path / "odd.tar").write_bytes(b"no archive" * 1000)
    page.goto("/snapshots")
    page.get_by_role("button", name="Import").click()
    page.get_by_label("File").set_input_files(tmp_path / "odd.tar")
    page.get_by_role("dialog").get_by_role("button", name="Import").click()
    expect(page.get_by_role("dialog").get_by_role("alert")).to_be_visible()


def test_clones_are_made_and_all_deleted_at_once(page: Page, machine: MicroVM, bandsox: BandSox) -> None:
    page.goto("/?q=clone-of")
    page.goto("/vms/shared")
    menu(page, "shared", "Fork")
    page.get_by_label("Clones").fill("2")
    page.get_by_label("Name", exact=True).fill("clone-of")
    page.get_by_role("button", name="Fork", exact=True).click()
    expect(page.get_by_text("Made 2 clones of shared")).to_be_visible()
    page.goto("/?q=clone-of")
    expect(page.get_by_role("link", name="clone-of-1")).to_be_visible()
    page.get_by_label("Choose all of this page").check()
    page.get_by_role("toolbar").get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.get_by_text("Deleted 2 VMs")).to_be_visible()
    assert [each["name"] for each in bandsox.list_vms()] == ["shared"]


def test_a_port_is_published_used_and_withdrawn(page: Page, browser: Browser, storage: Path, machine: MicroVM) -> None:
    listening = threading.Event()
    machine.start_session("cd /tmp && exec python3 -u -m http.server 8080", on_stdout=lambda _: listening.set())
    assert listening.wait(60)
    page.goto("/vms/shared/ports")
    page.get_by_label("Port of the guest").fill("8080")
    page.get_by_role("button", name="Publish").click()
    link = page.get_by_role("link", name=re.compile("^http:"))
    expect(link).to_have_attribute("rel", "noopener noreferrer")
    assert httpx.get(link.inner_text(), trust_env=False, timeout=60).status_code == 200
    page.get_by_role("button", name="Open port 8080").click()
    expect(page.get_by_role("status").filter(has_text="this server has no proxy")).to_contain_text("--proxy-port")
    with serving(storage, "--proxy-port", "0") as proxied, visiting(browser, proxied.url) as elsewhere:
        other = elsewhere.new_page()
        other.goto("/vms/shared/ports")
        other.get_by_label("Port of the guest").fill("8080")
        with elsewhere.expect_page() as opened:
            other.get_by_role("button", name="Open", exact=True).click()
        expect(opened.value.get_by_role("heading", name="Directory listing for /")).to_be_visible()
        assert opened.value.evaluate("() => window.opener") is None
        assert urlsplit(opened.value.url).port == urlsplit(proxied.proxy_url).port
    page.get_by_role("button", name="Withdraw port 8080").click()
    expect(page.get_by_text("No port is published")).to_be_visible()
    assert machine.ports() == []
    for session in machine.list_sessions():
        if session.running:
            machine.signal_session(session.id, 9)


def test_what_another_process_does_is_seen_without_asking(browser: Browser, server: Server, machine: MicroVM, bandsox: BandSox) -> None:
    with visiting(browser, server.url) as context:
        table, other = context.new_page(), context.new_page()
        table.goto("/")
        other.goto("/vms/shared")
        expect(table.get_by_role("link", name="shared", exact=True)).to_be_visible()
        expect(other.get_by_role("heading", name="shared", exact=True)).to_be_visible()
        (clone,) = machine.fork(name="from-elsewhere")
        row = table.get_by_role("row").filter(has=table.get_by_role("link", name="from-elsewhere"))
        expect(row.get_by_text("running")).to_be_visible()
        clone.pause()
        expect(row.get_by_text("paused")).to_be_visible()
        bandsox.rename_vm(machine.vm_id, "shared-renamed")
        try:
            expect(other.get_by_role("heading", name="shared-renamed")).to_be_visible()
        finally:
            bandsox.rename_vm(machine.vm_id, "shared")
        clone.delete()
        expect(row).to_have_count(0)


def test_a_console_is_followed(page: Page, machine: MicroVM) -> None:
    page.goto("/vms/shared/console")
    expect(page.get_by_text("Live.")).to_be_visible()
    machine.exec_command("echo said-just-now > /dev/console")
    expect(page.get_by_label("Console", exact=True)).to_contain_text("said-just-now")
