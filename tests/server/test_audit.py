"""Who did what can be read: the newest first, in pages, chosen by what they have, and never a secret."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandsox.errors import InvalidRequest
from bandsox.server import audit
from bandsox.server.audit import Wanted, page
from bandsox.server.auth import keys
from bandsox.server.auth.file import AuthFile
from bandsox.settings import Layout
from tests.server.servers import Server, serving

ALL = Wanted()


def line(number: int, **facts: object) -> bytes:
    known = {"time": f"{number}", "level": "info", "caller": "bsx_k_0", "session": None, "name": "ci", "client": "192.0.2.1"}
    entry = {**known, "method": "POST", "path": f"/api/{number}", "status": 200, "ms": 1, **facts}
    return json.dumps(entry, ensure_ascii=False).encode() + b"\n"


def write(log: Path, *lines: bytes) -> None:
    with log.open("ab") as file:
        file.write(b"".join(lines))


def numbers(log: Path, wanted: Wanted = ALL, limit: int = 2) -> list[int]:
    """Those of all entries, read page by page."""
    found: list[int] = []
    after = None
    while True:
        got = page(log, wanted, limit, after)
        assert len(got.entries) <= limit
        found += [int(entry.time) for _, entry in got.entries]
        if got.next is None:
            return found
        after = got.next


def test_pages_lead_through_all_files_from_the_newest_entry_to_the_oldest(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    assert numbers(log) == []
    write(log.with_name("audit.log.2"), *map(line, range(5)))
    write(log.with_name("audit.log.1"), *map(line, range(5, 6)))
    assert numbers(log) == [5, 4, 3, 2, 1, 0], "between the rotation and the first entry after it"
    write(log, *map(line, range(6, 9)))
    assert [numbers(log, limit=limit) for limit in (1, 3, 100)] == [[8, 7, 6, 5, 4, 3, 2, 1, 0]] * 3


def test_a_page_goes_on_where_the_last_one_ended_though_the_log_was_rotated_and_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    write(log, *map(line, range(4)))
    first = page(log, ALL, 2)
    assert [entry.time for _, entry in first.entries] == ["3", "2"]
    log.rename(log.with_name("audit.log.1"))
    write(log, line(4))
    second = page(log, ALL, 2, first.next)
    assert [entry.time for _, entry in second.entries] == ["1", "0"]
    log.with_name("audit.log.1").unlink()
    assert page(log, ALL, 2, first.next) == audit.Page((), None), "it is no more"


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=300), max_size=40), st.integers(1, 50))
def test_entries_of_any_length_lie_across_blocks(tmp_path_factory: pytest.TempPathFactory, paths: list[str], block: int) -> None:
    log = tmp_path_factory.mktemp("log") / "audit.log"
    write(log, *(line(number, path=path) for number, path in enumerate(paths)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audit, "_BLOCK", block)
        assert numbers(log, limit=3) == list(reversed(range(len(paths))))


def test_what_is_chosen(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    write(log, line(0, status=401, caller=None), line(1, method="DELETE"), line(2, client="::1"), line(3, session="s", caller="session"))
    chosen = {
        Wanted(caller="bsx_k_0"): [2, 1],
        Wanted(caller="s"): [3],
        Wanted(client="::1"): [2],
        Wanted(method="DELETE"): [1],
        Wanted(path="/api/3"): [3],
        Wanted(status=401): [0],
        Wanted(refused=True): [0],
        Wanted(refused=False): [3, 2, 1],
        Wanted(caller="bsx_k_0", method="POST"): [2],
    }
    assert {wanted: numbers(log, wanted) for wanted in chosen} == chosen


def test_what_is_damaged_is_passed_over(tmp_path: Path) -> None:
    log = tmp_path / "audit.log"
    write(
        log, line(0), b'{"time": "cut of', b"\n\n", b"\xff\n", line(1), line(2, status="200"), b"x" * 200_000 + b"\n", line(3), line(4)[:-9]
    )
    assert numbers(log) == [3, 1, 0]


def test_a_page_looks_at_so_much_and_the_next_one_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "audit.log"
    write(log, line(0, method="PUT"), *map(line, range(1, 100)))
    monkeypatch.setattr(audit, "LOOKED_AT", 5000)
    first = page(log, Wanted(method="PUT"), 10)
    assert first.entries == ()
    assert first.next is not None
    assert numbers(log, Wanted(method="PUT")) == [0]


@pytest.mark.parametrize("wrong", ["", "x", "0123456789abcdef", "0123456789abcdef-", "0123456789abcdef-x", "0123456789abcdef-٣", "-1"])
def test_what_is_no_place(tmp_path: Path, wrong: str) -> None:
    with pytest.raises(InvalidRequest):
        page(tmp_path / "audit.log", ALL, 1, wrong)
    write(tmp_path / "audit.log", line(0))
    assert page(tmp_path / "audit.log", ALL, 1, "0123456789abcdef-" + "9" * 15) == audit.Page((), None)


# ── over HTTP ───────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, AuthFile]]:
    file = AuthFile(Layout.open(tmp_path_factory.mktemp("audited")).root)
    file.set_password("long enough")
    with serving(file.path.parent) as server:
        yield server, file


def test_what_was_answered_is_in_the_log_and_no_secret_is(guarded: tuple[Server, AuthFile]) -> None:
    server, file = guarded
    made = keys.create(file, "operator")
    with server.client(made.key) as client, server.client() as person:
        person.post("/api/auth/login", json={"password": "a wrong password"})
        token = person.post("/api/auth/login", json={"password": "long enough"}).json()["token"]
        assert person.post("/api/cleanup").status_code == 403, "it names no Origin"
        for number in range(3):
            client.delete(f"/api/vms/none-{number}", params={"token": "secret in a query"})
        answer = client.get("/api/auth/audit", params={"limit": 5})
        entries = answer.json()["entries"]
        paths = [*(f"/api/vms/none-{number}" for number in (2, 1, 0)), "/api/cleanup", "/api/auth/login"]
        assert [each["path"] for each in entries] == paths
        assert [each["status"] for each in entries] == [404, 404, 404, 403, 200]
        assert (entries[0]["caller"], entries[0]["name"], entries[3]["caller"]) == (made.key_id, "operator", None)
        rest = client.get("/api/auth/audit", params={"after": answer.json()["next"]}).json()
        assert [(each["path"], each["status"]) for each in rest["entries"]] == [("/api/auth/login", 401)]
        everything = client.get("/api/auth/audit").text
        assert not any(secret in everything for secret in (made.key, token, "long enough", "wrong password", "secret in a query"))
        session = person.get("/api/auth/check").json()["caller"]["session"]
        person.post("/api/auth/logout", headers={"origin": server.url})
        ended = client.get("/api/auth/audit", params={"caller": session}).json()["entries"]
        assert [(each["path"], each["status"]) for each in ended] == [("/api/auth/logout", 200)]


def test_a_long_path_is_shown_in_part(guarded: tuple[Server, AuthFile]) -> None:
    server, file = guarded
    with server.client(keys.create(file, "operator").key) as client:
        client.delete(f"/api/vms/{'x' * 30_000}")
        (entry,) = client.get("/api/auth/audit", params={"limit": 1}).json()["entries"]
        assert entry["path"].startswith("/api/vms/xxx")
        assert len(entry["path"]) == 2048


def test_who_may_not_read_it(guarded: tuple[Server, AuthFile]) -> None:
    server, file = guarded
    with server.client(keys.create(file, "worker", ["exec"]).key) as client:
        assert client.get("/api/auth/audit").status_code == 403
    with server.client(keys.create(file, "operator").key) as client:
        for wrong in ({"limit": 0}, {"limit": 1001}, {"after": "x"}):
            assert client.get("/api/auth/audit", params=wrong).status_code in {400, 422}


def test_a_server_without_authentication_shows_it_too(tmp_path: Path) -> None:
    with serving(tmp_path) as server, httpx.Client(base_url=server.url, trust_env=False, timeout=120) as client:
        assert client.get("/api/auth/audit").json() == {"entries": [], "next": None}
        client.delete("/api/vms/none")
        (entry,) = client.get("/api/auth/audit").json()["entries"]
        assert (entry["caller"], entry["status"]) == ("everybody", 404)
        assert (tmp_path / "audit.log").stat().st_mode & 0o777 == 0o600
