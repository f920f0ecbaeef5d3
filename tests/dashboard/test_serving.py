"""How the dashboard is served: what is sent with it, and what is said where it is not there."""

from __future__ import annotations

import re
from collections import Counter
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import Page, Route, expect

from bandsox.server.dashboard import assets
from bandsox.server.dashboard.assets import Asset, built
from tests.server.servers import Server


@pytest.fixture(scope="module")
def http(server: Server) -> httpx.Client:
    return server.client()


@pytest.mark.parametrize("path", ["/", "/vms/some/files", "/settings/host", "/login", "/vm_details?id=x", "/terminal?id=x"])
def test_every_address_leads_to_the_page_which_is_asked_for_anew(http: httpx.Client, path: str) -> None:
    answer = http.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["cache-control"] == "no-cache"
    again = http.get(path, headers={"if-none-match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["content-security-policy"] == answer.headers["content-security-policy"]


def test_an_address_that_nothing_is_at_is_said_to_be_none_in_the_form_of_whoever_asks(http: httpx.Client, page: Page) -> None:
    assert http.get("/nowhere/else").json()["code"] == "not_found"
    assert http.get("/api/nowhere", headers={"accept": "text/html"}).json()["code"] == "not_found"
    assert http.post("/nowhere", headers={"accept": "text/html"}).json()["code"] == "not_found"
    shown = page.goto("/nowhere/else")
    assert shown is not None and shown.status == 404
    expect(page.get_by_text("There is no page at this address")).to_be_visible()
    page.get_by_role("main").get_by_role("link").click()
    expect(page.get_by_role("heading", name="VMs", exact=True)).to_be_visible()


def test_its_files_are_kept_for_ever_and_sent_compressed(http: httpx.Client) -> None:
    found = re.findall(r"/assets/[^\"]+", http.get("/").text)
    assert any(each.endswith(".js") for each in found)
    for each in found:
        answer = http.get(each, headers={"accept-encoding": "br;q=0, gzip"})
        assert "immutable" in answer.headers["cache-control"]
        assert answer.headers["content-type"].startswith(("text/javascript", "text/css"))
        assert http.get(each, headers={"accept-encoding": "identity"}).content == answer.content
    assert http.get(max(found, key=len)).headers["vary"] == "Accept-Encoding"


def test_the_smallest_form_that_a_browser_takes_is_sent() -> None:
    script = next(asset for name, asset in built().items() if name.startswith("assets/index-") and name.endswith(".js"))
    assert script.form_for("gzip, deflate, br, zstd") == (script.encoded["br"], "br")
    assert script.form_for("gzip, br;q=0") == (script.encoded["gzip"], "gzip")
    assert script.form_for("") == (script.path, None)


def test_its_policy_takes_nothing_inline_and_nothing_from_elsewhere(http: httpx.Client) -> None:
    answer = http.get("/")
    policy = dict(each.strip().split(" ", 1) for each in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == "'self'"
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert policy["require-trusted-types-for"] == "'script'"
    assert not re.search(r"<script(?![^>]*src=)|<style|style=|https?://", answer.text)


@pytest.mark.parametrize("name", ["nothing.js", "..%2findex.html", "%2e%2e%2f%2e%2e%2f__init__.py", "index.html"])
def test_other_files_are_not_there(http: httpx.Client, name: str) -> None:
    assert http.get(f"/assets/{name}").status_code == 404


def test_a_server_without_it_says_how_to_build_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from bandsox.errors import NotFound
    from bandsox.server.dashboard import pages

    monkeypatch.setattr(pages, "built", dict[str, Asset])
    with pytest.raises(NotFound, match="no dashboard") as told:
        pages._asset("index.html")
    assert "make dashboard" in str(told.value.remedy)
    assert assets.BUILT.parent.name == "dashboard"


def test_a_page_whose_program_does_not_come_says_so_and_can_be_loaded_again(page: Page) -> None:
    page.route(re.compile("/assets/index-.*js$"), lambda route: route.abort("connectionreset"))
    page.goto("/images")
    again = page.get_by_role("link", name="load it again")
    expect(again).to_be_visible()
    page.unroute_all()
    again.click()
    expect(page.get_by_role("heading", name="Images", exact=True)).to_be_visible()
    expect(again).to_have_count(0)


def test_what_a_browser_gives_up_when_the_addresses_of_its_host_change_is_fetched_again(page: Page) -> None:
    page.goto("/")
    expect(page.get_by_role("heading", name="VMs", exact=True)).to_be_visible()
    given_up: Counter[str] = Counter()

    def cut(route: Route) -> None:
        path = urlsplit(route.request.url).path
        given_up[path] += 1
        if given_up[path] > 2:
            route.continue_()
        else:
            route.abort("connectionreset")

    page.route("**/*", cut)
    page.get_by_role("link", name="Images").click()
    expect(page.get_by_role("table")).to_be_visible()
    page.get_by_role("link", name="Settings").click()
    page.get_by_role("link", name="About").click()
    expect(page.get_by_text("Apache-2.0")).to_be_visible()
    assert given_up >= Counter({"/api/images": 3, "/api/version": 3})
    assert [path for path, times in given_up.items() if "/Settings-" in path and times > 2]
