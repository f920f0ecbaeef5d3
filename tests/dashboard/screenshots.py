"""``python -m tests.dashboard.screenshots DIRECTORY``: a picture of every page of the dashboard, light and dark."""

from __future__ import annotations

import sys
from pathlib import Path

from playwright.sync_api import Page, expect

from bandsox import BandSox
from tests.conftest import STORAGE
from tests.dashboard.browsing import browsing, visiting
from tests.server.servers import serving

PAGES = {
    "vms": "/",
    "vm": "/vms/web",
    "terminal": "/vms/web/terminal",
    "files": "/vms/web/files?path=/srv/app",
    "editor": "/vms/web/files?path=/srv/app&open=/srv/app/main.py",
    "preview": "/vms/web/files?path=/srv/app&open=/srv/app/README.md",
    "processes": "/vms/web/processes",
    "ports": "/vms/web/ports",
    "family": "/vms/web/family",
    "console": "/vms/web/console",
    "snapshots": "/snapshots",
    "images": "/images",
    "keys": "/settings",
    "host": "/settings/host",
    "about": "/settings/about",
}

_CODE = 'import http.server\n\n\ndef main() -> None:\n    """Serve what is here."""\n    http.server.test(port=8080)\n\n\nmain()\n'
_TEXT = "# The app\n\nServes what is here, on port **8080**.\n\n| File | |\n|---|---|\n| `main.py` | the program |\n"


def main(directory: Path) -> None:
    """Take the pictures, with machines that are made for them and deleted afterwards."""
    directory.mkdir(parents=True, exist_ok=True)
    with BandSox(STORAGE) as bandsox, bandsox.create_vm(name="web", mem_mib=256, metadata={"team": "web", "stage": "trial"}) as vm:
        vm.write_text("/srv/app/main.py", _CODE)
        vm.write_text("/srv/app/README.md", _TEXT)
        snapshot = vm.snapshot("web-ready")
        clones = vm.fork(3, "web-clone")
        clones[2].pause()
        try:
            with serving(STORAGE) as server, browsing() as browser:
                for scheme in ("light", "dark"):
                    with visiting(browser, server.url, scheme=scheme) as visitor:
                        page = visitor.new_page()
                        for name, address in PAGES.items():
                            page.goto(address)
                            _settle(page)
                            page.screenshot(path=directory / f"{name}-{scheme}.png")
        finally:
            for clone in clones:
                clone.delete()
            bandsox.delete_snapshot(snapshot)


def _settle(page: Page) -> None:
    """Wait until a page shows what it is about, and some of the load of the VMs."""
    expect(page.locator("main h1").first).to_be_attached()
    expect(page.get_by_text("Loading…")).to_have_count(0)
    expect(page.get_by_text("Connecting…")).to_have_count(0)
    expect(page.get_by_text("measuring…")).to_have_count(0)
    expect(page.locator("main").locator(".card, .table, .xterm-rows, p").first).to_be_visible()
    if page.url.endswith("/"):
        expect(page.locator(".spark").first).to_be_visible()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
