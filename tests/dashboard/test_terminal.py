"""Terminals in the browser: they lose nothing, whatever happens to the page, the connection or the server."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from bandsox import MicroVM
from tests.dashboard.browsing import visiting
from tests.server.servers import Server, free_port, serving


def screen(page: Page) -> Locator:
    return page.get_by_role("tabpanel").filter(visible=True).locator(".xterm-rows")


def type_line(page: Page, text: str) -> None:
    page.get_by_role("tabpanel").filter(visible=True).get_by_label("Terminal input").focus()
    page.keyboard.insert_text(text)
    page.keyboard.press("Enter")


@pytest.fixture(autouse=True)
def nothing_runs_on(machine: MicroVM) -> Iterator[None]:
    yield
    for session in machine.list_sessions():
        if session.running:
            machine.signal_session(session.id, 9)
            machine.exec_command(f"tail --pid={session.pid} -f /dev/null", timeout=60)


def test_a_shell_speaks_unicode_in_colours_and_at_the_size_of_the_page(page: Page, machine: MicroVM) -> None:
    page.goto("/vms/shared/terminal")
    expect(screen(page)).to_contain_text(re.compile("[#$]"))
    type_line(page, "echo grüße $((6*7)) 漢字 🎉; printf '\\033[38;2;1;2;3mtrue\\033[0m colour\\n'; stty size")
    expect(screen(page)).to_contain_text("grüße 42 漢字")
    expect(screen(page).get_by_text("true", exact=True).last).to_have_css("color", "rgb(1, 2, 3)")
    before = screen(page).inner_text()
    page.set_viewport_size({"width": 800, "height": 600})
    type_line(page, "stty size")
    expect(screen(page)).to_contain_text(re.compile(r"\d+ [5-9]\d(?!\d)"))
    assert before != screen(page).inner_text()


def test_a_page_that_is_loaded_again_shows_the_same_terminals(page: Page, machine: MicroVM) -> None:
    page.goto("/vms/shared/terminal")
    expect(screen(page)).to_contain_text(re.compile("[#$]"))
    type_line(page, "printf '\\033[6n'; read -rs -d R answer; echo kept-$((1+1))")
    expect(screen(page)).to_contain_text("kept-2")
    page.get_by_role("button", name="New terminal").click()
    expect(page.get_by_role("tab")).to_have_count(2)
    page.reload()
    expect(page.get_by_role("tab")).to_have_count(2)
    page.get_by_role("tab").first.click()
    expect(screen(page)).to_contain_text("kept-2")
    type_line(page, "echo goes-$((1+1))-on")
    expect(screen(page)).to_contain_text("goes-2-on")
    assert "not found" not in screen(page).inner_text(), "the question was answered a second time, to the shell"
    page.get_by_role("button", name=re.compile("^End")).first.click()
    page.get_by_role("button", name="End it").click()
    expect(page.get_by_role("tab")).to_have_count(1)
    type_line(page, "exit 3")
    expect(page.get_by_text("Ended with 3.")).to_be_visible()


def test_a_server_that_is_killed_and_comes_back_loses_nothing_of_two_tabs(browser: Browser, storage: Path, machine: MicroVM) -> None:
    port = str(free_port())
    with serving(storage, "--port", port) as server, visiting(browser, server.url) as context:
        table, terminal = context.new_page(), context.new_page()
        table.goto("/")
        terminal.goto("/vms/shared/terminal")
        expect(screen(terminal)).to_contain_text(re.compile("[#$]"))
        machine.exec_command("rm -f /srv/gate; mkfifo /srv/gate")
        type_line(terminal, "echo before-$((40+1)); read -t 600 x < /srv/gate; echo after-$((40+2))")
        expect(screen(terminal)).to_contain_text("before-41")
        server.kill()
        expect(terminal.get_by_text("Connecting…")).to_be_visible()
        machine.exec_command("echo > /srv/gate")
        with serving(storage, "--port", port):
            expect(screen(terminal)).to_contain_text("after-42")
            expect(table.get_by_role("link", name="shared")).to_be_visible()
            type_line(terminal, "echo alive")
            expect(screen(terminal)).to_contain_text("alive")


def test_what_is_selected_is_copied_and_what_is_copied_pasted(page: Page, server: Server, machine: MicroVM) -> None:
    page.goto("/vms/shared/terminal")
    expect(screen(page)).to_contain_text(re.compile("[#$]"))
    page.evaluate("() => navigator.clipboard.writeText('echo pasted-$((2*3))')")
    page.keyboard.press("Control+v")
    page.keyboard.press("Enter")
    expect(screen(page)).to_contain_text("pasted-6")
    place = screen(page).get_by_text("pasted-6").last.bounding_box()
    assert place is not None
    page.mouse.dblclick(place["x"] + 20, place["y"] + place["height"] / 2)  # the screen lies over its rows
    page.keyboard.press("Control+c")
    page.wait_for_function("async () => (await navigator.clipboard.readText()).startsWith('pasted')")
