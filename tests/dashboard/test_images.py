"""Images in the browser, and the health of the host that has them."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from bandsox import BandSox, MicroVM
from tests.dashboard.browsing import barriers, delete_others, menu
from tests.images.registry import Registry, run_registry
from tests.images.tars import Tar
from tests.server.servers import Server

# What is shown of long work may be gone again at once: all that is ever said of a step is written down.
_WRITE_DOWN = """() => {
    window.steps = new Set()
    new MutationObserver(() => document.querySelectorAll('dialog progress').forEach(each => window.steps.add(each.ariaLabel)))
        .observe(document.body, { subtree: true, childList: true })
}"""


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with run_registry(tmp_path_factory.mktemp("registry")) as running:
        running.push("team/app:1", [Tar().file("hello", b"first" * 100_000).bytes()])
        running.push("team/other:1", [Tar().file("hello", b"other").bytes()])
        yield running


@pytest.fixture(autouse=True)
def nothing_is_left(bandsox: BandSox, machine: MicroVM, registry: Registry) -> Iterator[None]:
    """What a test makes is gone afterwards, however it ends."""
    yield
    delete_others(bandsox, machine)
    for image in bandsox.list_images():
        for reference in image.references:
            if reference.startswith((registry.host, "example.org/")):
                bandsox.remove_image(reference)


def test_an_image_is_pulled_named_and_removed_name_by_name(page: Page, registry: Registry, bandsox: BandSox) -> None:
    reference = f"{registry.host}/team/app:1"
    page.goto("/images")
    page.get_by_role("button", name="Pull").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Reference").fill(f"{registry.host}/team/nothing:1")
    dialog.get_by_role("button", name="Pull").click()
    expect(dialog.get_by_role("alert")).to_contain_text("team/nothing")
    assert barriers(page) == []
    page.evaluate(_WRITE_DOWN)
    dialog.get_by_label("Reference").fill(reference)
    dialog.get_by_role("button", name="Pull").click()
    expect(page.get_by_text(f"Pulled {reference}")).to_be_visible()
    assert page.evaluate("() => window.steps.size") > 0
    row = page.get_by_role("table", name="Images").get_by_role("row").filter(has_text=reference)
    menu(page, reference, "Give it a name")
    dialog.get_by_label("Name", exact=True).fill("example.org/mine:2")
    dialog.get_by_role("button", name="Give").click()
    expect(row).to_contain_text("example.org/mine:2")
    first = row.get_by_role("button").get_attribute("aria-label")
    menu(page, (first or "").removeprefix("Actions for "), f"Remove {reference}")
    expect(dialog).to_contain_text("stays under its other names")
    dialog.get_by_role("button", name="Remove").click()
    expect(row).to_have_count(0)
    menu(page, "example.org/mine:2", "Remove example.org/mine:2")
    expect(dialog).to_contain_text("its last one")
    dialog.get_by_role("button", name="Remove").click()
    expect(page.get_by_text("example.org/mine:2", exact=True)).to_have_count(0)
    assert not [each for each in bandsox.list_images() if "example.org/mine:2" in each.references]


def test_a_vm_is_made_of_an_image_that_is_pulled_for_it_step_by_step(page: Page, registry: Registry, bandsox: BandSox) -> None:
    reference = f"{registry.host}/team/other:1"
    page.goto("/")
    page.get_by_role("button", name="New VM").click()
    page.evaluate(_WRITE_DOWN)
    page.get_by_label("Image", exact=True).fill(reference)
    page.get_by_label("Name", exact=True).fill("of-another-image")
    page.get_by_label("Memory (MiB)").fill("128")
    page.get_by_label("It may reach").select_option("none")
    page.get_by_text("Environment and end").click()
    page.get_by_label("May run (minutes)").fill("30")
    page.get_by_label("Then").select_option("stop it")
    assert barriers(page) == []
    page.get_by_role("button", name="Create", exact=True).click()
    expect(page.get_by_role("heading", name="of-another-image", exact=True)).to_be_visible()
    steps = [each.split(" ")[0] for each in page.evaluate("() => [...window.steps]")]
    assert {"layer", "converting", "booting"} <= set(steps), steps
    made = next(each for each in bandsox.list_vms() if each["name"] == "of-another-image")
    assert (made["image"], made["mem_mib"], made["on_expiry"]) == (reference, 128, "stop")
    assert 0 < made["expires_at"] - made["created_at"] <= 1800 + 60


def test_the_host_says_what_it_has_what_it_lacks_and_what_mends_that(page: Page, server: Server, machine: MicroVM) -> None:
    page.goto("/settings/host")
    expect(page.get_by_text(re.compile("free of")).first).to_be_visible()
    page.get_by_role("button", name="Examine this host").click()
    findings = page.locator("main li")
    expect(findings.first).to_be_visible()
    with server.client() as http:
        expected = http.get("/api/doctor").json()
    expect(findings).to_have_count(len(expected))
    for shown, finding in zip(findings.all(), expected, strict=True):
        expect(shown).to_contain_text(finding["subject"])
        expect(shown).to_contain_text(finding["remedy"] or "")
    assert barriers(page) == []
    page.get_by_role("button", name="Clean up").click()
    expect(page.get_by_role("status").get_by_text(re.compile("^(There was nothing to remove|Removed: .*)$"))).to_be_visible()
