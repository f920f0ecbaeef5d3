"""``python -m tests.dashboard.screenshots DIRECTORY``: a picture of every page of the dashboard, light and dark.

They are PNG files with a palette (pngquant), since they are kept in git.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from playwright.sync_api import Browser, BrowserContext, Page, expect

from bandsox import BandSox, MicroVM, Policy
from tests.conftest import STORAGE
from tests.dashboard.browsing import browsing, visiting
from tests.server.servers import Server, serving

PAGES = {  # each with an element that says that it has come
    "vms": ("/", ".spark"),
    "vm": ("/vms/web", "figure path.area[d*='L']"),
    "terminal": ("/vms/web/terminal", ".xterm-rows"),
    "files": ("/vms/web/files?path=/srv/app", "tbody tr"),
    "editor": ("/vms/web/files?path=/srv/app&open=/srv/app/main.py", ".cm-content"),
    "preview": ("/vms/web/files?path=/srv/app&open=/srv/app/README.md", "iframe"),
    "processes": ("/vms/web/processes", "tbody tr"),
    "network": ("/vms/web/network", "tbody tr"),
    "ports": ("/vms/web/ports", "form"),
    "timeline": ("/vms/web/timeline", "ol li"),
    "family": ("/vms/web/family", "svg a"),
    "console": ("/vms/web/console", "p"),
    "snapshots": ("/snapshots", "tbody tr"),
    "templates": ("/templates", "tbody tr >> nth=1"),
    "images": ("/images", "tbody tr"),
    "webhooks": ("/settings/webhooks", "tbody tr"),
    "host": ("/settings/host", "button"),
    "about": ("/settings/about", "dl"),
}

GUARDED_PAGES = {
    "keys": ("/settings", "tbody tr"),
    "password": ("/settings/password", "form"),
    "sessions": ("/settings/sessions", "tbody tr"),
    "audit": ("/settings/audit", "tbody tr"),
}

_PASSWORD = "correct horse battery"
_CODE = 'import http.server\n\n\ndef main() -> None:\n    """Serve what is here."""\n    http.server.test(port=8080)\n\n\nmain()\n'
_TEXT = "# The app\n\nServes what is here, on port **8080**.\n\n| File | |\n|---|---|\n| `main.py` | the program |\n"
_CONNECT = "import socket; socket.create_connection(('192.0.2.77', 443), 10)"


def main(directory: Path) -> None:
    """Take the pictures, with machines that are made for them and deleted afterwards."""
    directory.mkdir(parents=True, exist_ok=True)
    with browsing() as browser:
        with serving(STORAGE) as server, _scene(server):
            for scheme in ("light", "dark"):
                with visiting(browser, server.url, scheme=scheme) as visitor:
                    _take(visitor.new_page(), PAGES, directory, scheme)
        with _guarded() as (server, key):
            with server.client(key) as http:
                http.post(
                    "/api/auth/keys", json={"name": "ci", "scopes": ["exec"], "prefix": "ci-", "quotas": {"vms": 20, "mem_mib": 8192}}
                )
                http.post("/api/auth/keys", json={"name": "monitoring", "scopes": ["read"], "expires_in": 90 * 86400})
            for scheme in ("light", "dark"):
                with _logged_in(browser, server, directory, scheme) as visitor:
                    _take(visitor.new_page(), GUARDED_PAGES, directory, scheme)


@contextlib.contextmanager
def _scene(server: Server) -> Iterator[None]:
    """Machines that have something to show, and what was made of them."""
    policy = Policy(allow=("api.example.com", "*.example.org:443"), deny=("telemetry.example.org",), connections=100)
    with contextlib.ExitStack() as undo:
        bandsox = undo.enter_context(BandSox(STORAGE))
        http = undo.enter_context(server.client())
        vm = undo.enter_context(bandsox.create_vm(name="web", mem_mib=256, metadata={"team": "web", "stage": "trial"}, network=policy))
        vm.write_text("/srv/app/main.py", _CODE)
        vm.write_text("/srv/app/README.md", _TEXT)
        _lead_two_lives(vm)
        vm.run(["python3", "-c", _CONNECT])
        template = http.post("/api/templates", json={"setup": ["python3 -m compileall -q /usr/lib/python3"]}).json()
        undo.callback(http.delete, f"/api/templates/{template['id']}")
        pool = http.post("/api/pools", json={"template": template["id"], "size": 1}).json()
        undo.callback(http.delete, f"/api/pools/{pool['id']}")
        undo.callback(bandsox.delete_snapshot, vm.snapshot("web-ready"))
        hook = http.post("/api/webhooks", json={"url": "https://hooks.example.org/bandsox", "events": ["vm.*", "snapshot.created"]}).json()
        undo.callback(http.delete, f"/api/webhooks/{hook['id']}")
        clones = vm.fork(3, "web-clone")
        for clone in clones:
            undo.callback(clone.delete)
        clones[1].hibernate()
        clones[2].pause()
        yield


def _lead_two_lives(vm: MicroVM) -> None:
    """Checkpoints in two lanes: one life, and another one from its beginning on."""
    vm.checkpoint("installed")
    vm.checkpoint("configured")
    vm.rewind("installed")
    vm.checkpoint("configured anew")


@contextlib.contextmanager
def _guarded() -> Iterator[tuple[Server, str]]:
    """A server with authentication, and its first key."""
    with tempfile.TemporaryDirectory() as storage:
        command = [sys.executable, "-m", "bandsox", "--json", "--storage", storage, "auth", "init", "--password-stdin"]
        done = subprocess.run(command, input=_PASSWORD + "\n", text=True, check=True, capture_output=True)
        with serving(Path(storage)) as server:
            yield server, json.loads(done.stdout)["key"]


@contextlib.contextmanager
def _logged_in(browser: Browser, server: Server, directory: Path, scheme: str) -> Iterator[BrowserContext]:
    """A visitor who has given the password; the page that asked for it is taken too."""
    with visiting(browser, server.url, scheme=scheme) as visitor:
        page = visitor.new_page()
        page.goto("/login")
        expect(page.get_by_label("Password")).to_be_visible()
        _write(directory / f"login-{scheme}.png", page.screenshot())
        page.get_by_label("Password").fill(_PASSWORD)
        page.keyboard.press("Enter")
        expect(page.get_by_role("button", name="Log out")).to_be_visible()
        yield visitor


def _take(page: Page, pages: Mapping[str, tuple[str, str]], directory: Path, scheme: str) -> None:
    for name, (address, shown) in pages.items():
        page.goto(address)
        _settle(page, shown)
        _write(directory / f"{name}-{scheme}.png", page.screenshot())


def _write(path: Path, picture: bytes) -> None:
    """A picture with at most 128 colours, without dithering: what there is on a page has few, and letters stay clear."""
    command = ["pngquant", "--speed", "1", "--nofs", "--strip", "128", "-"]
    path.write_bytes(subprocess.run(command, input=picture, capture_output=True, check=True).stdout)


def _settle(page: Page, shown: str) -> None:
    """Wait until a page shows what it is about."""
    expect(page.locator(f"main {shown}").first).to_be_visible()
    for unsettled in ("Loading…", "Connecting…", "measuring…"):
        expect(page.get_by_text(unsettled)).to_have_count(0)
    page.wait_for_function("() => [...document.images].every(image => image.naturalWidth > 0)")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
