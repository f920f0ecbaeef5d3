"""A guest that wants the browser to do something: whatever it names, writes or prints is shown as text."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from bandsox import BandSox, MicroVM

MARKUP = "<img src=x onerror=document.title='owned'><script>document.title='owned'</script>"
REORDERED = "\u202egpj.exe"


@pytest.fixture(scope="module")
def den(machine: MicroVM) -> str:
    machine.make_dir("/srv/den")
    name = MARKUP.replace("/", "\u2215")
    for each in (name, f"{name}.md", "\x1b]0;owned\x07.txt", REORDERED, "two\nlines", 'quote".md', "javascript:alert(1)"):
        machine.write_text(f"/srv/den/{each}", each)
    machine.exec_command("cd /srv/den && touch \"$(printf 'not-\\377-utf8')\" && ln -s /etc/shadow link && mkfifo pipe")
    machine.write_text(
        "/srv/den/read.md",
        f"# {MARKUP}\n\n{MARKUP}\n\n[leads](javascript:document.title='owned') ![pixel](http://127.0.0.1:9/pixel.png)\n\n"
        '<style>*{display:none}</style><form action=/api/auth/logout><button>go</button></form>\n\n<a id="title" name="body">clobber</a>\n',
    )
    machine.write_text(
        "/srv/den/picture.svg",
        "<svg xmlns='http://www.w3.org/2000/svg' width='40' height='40' onload=\"parent.document.title='owned'\">"
        "<script>parent.document.title='owned'</script><rect width='40' height='40' fill='red'/></svg>",
    )
    return "/vms/shared/files?path=/srv/den"


def assert_unharmed(page: Page) -> None:
    assert "owned" not in page.title()
    assert page.locator("main img[src=x], dialog img[src=x]").count() == 0


def test_names_of_files_are_text(page: Page, den: str) -> None:
    page.goto(den)
    expect(page.get_by_role("button", name="read.md", exact=True)).to_be_visible()
    expect(page.get_by_role("rowheader", name="not-\ufffd-utf8")).to_be_visible()
    expect(page.get_by_role("button", name="not-\ufffd-utf8")).to_be_disabled()
    names = page.get_by_role("rowheader").all_inner_texts()
    assert any(name.startswith("<img src=x") for name in names)
    assert not any("\u202e" in name or "\x1b" in name or "\n" in name for name in names)
    assert {"\u241b]0;owned\u2407.txt", "two\u240alines", "\ufffdgpj.exe"} <= set(names)
    page.get_by_role("button", name="Actions for two\u240alines").click()
    page.get_by_role("menuitem", name="Delete").click()
    expect(page.get_by_role("dialog", name="Delete two\u240alines?")).to_be_visible()
    assert_unharmed(page)


def test_what_its_processes_call_themselves_is_text(page: Page, machine: MicroVM) -> None:
    called, _ = machine.start_session(["bash", "-c", 'exec -a "$1" sleep 1000000', "bash", f"{MARKUP}\x1b[31m{REORDERED}\n"])
    page.goto("/vms/shared/processes")
    expect(page.get_by_role("table", name="Processes")).to_contain_text(f"{MARKUP}\u241b[31m\ufffdgpj.exe\u240a 1000000")
    assert_unharmed(page)
    machine.kill_session(called)


@pytest.mark.parametrize("file", ["read.md", "picture.svg"])
def test_previews_run_nothing_load_nothing_and_lead_nowhere(page: Page, den: str, file: str) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{den}&open=/srv/den/{file}")
    frame = page.frame_locator("iframe[sandbox='']")
    if file == "read.md":
        expect(frame.get_by_role("heading")).to_have_text(MARKUP)
        expect(frame.get_by_text("leads")).not_to_have_attribute("href", re.compile(""))
        expect(frame.locator("script, img, style:not(head style), form, button, iframe")).to_have_count(0)
        expect(frame.locator("body")).to_have_css("max-width", re.compile(r"px$"))
    else:
        expect(frame.locator("img")).to_be_visible()
        assert frame.locator("img").evaluate("image => image.decode().then(() => image.naturalWidth)") == 40
    assert not [url for url in asked if "pixel" in url]
    assert_unharmed(page)


def test_what_it_prints_on_its_console_is_text(page: Page, machine: MicroVM) -> None:
    machine.exec_command(f"printf '%s\\033]0;owned\\007\\033[2J\\033[31mred\\033[0m\\r\\n\\001end-of-it\\n' \"{MARKUP}\" > /dev/console")
    page.goto("/vms/shared/console")
    log = page.get_by_label("Console", exact=True)
    expect(log).to_contain_text("\u2401end-of-it")
    expect(log).to_contain_text(f"{MARKUP}red")
    assert_unharmed(page)


def test_a_terminals_title_is_a_short_line_of_text(page: Page, machine: MicroVM) -> None:
    page.goto("/vms/shared/terminal")
    shown = page.get_by_role("tabpanel").filter(visible=True).locator(".xterm-rows")
    expect(shown).to_contain_text(re.compile("[#$]"))
    page.keyboard.insert_text(
        f"PROMPT_COMMAND=; printf '\\033]0;%s\\007' \"{MARKUP}\" \"{'long ' * 40}\"; printf '\\033]52;c;b3duZWQ=\\007'; echo do''ne"
    )
    page.keyboard.press("Enter")
    expect(shown).to_contain_text("done")
    expect(page.get_by_role("tab").first).to_contain_text("long long")
    assert len(page.get_by_role("tab").first.inner_text()) <= 60
    assert page.evaluate("() => navigator.clipboard.readText().catch(() => '')") != "owned"
    assert_unharmed(page)
    for session in machine.list_sessions():
        if session.running:
            machine.signal_session(session.id, 9)


def test_metadata_and_names_of_vms_are_text(page: Page, machine: MicroVM, bandsox: BandSox) -> None:
    before = bandsox.get_vm_info(machine.vm_id)
    bandsox.update_vm_metadata(machine.vm_id, {MARKUP: MARKUP, "__proto__": {"polluted": True}})
    try:
        page.goto(f"/vms/{machine.vm_id}")
        expect(page.get_by_label(f"Value of {MARKUP}")).to_have_value(MARKUP)
        assert page.evaluate("() => ({}).polluted") is None
        assert_unharmed(page)
    finally:
        assert before is not None
        bandsox.update_vm_metadata(machine.vm_id, before["metadata"])
