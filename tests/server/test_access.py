"""What people can see and change of who gets in: the password, sessions, and what keys may do."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from bandsox.errors import BandSoxError, NotAuthenticated
from bandsox.models import Quotas, VMSpec
from bandsox.server.auth import keys, sessions
from bandsox.server.auth.callers import NO_QUOTAS, Caller, Scope
from bandsox.server.auth.file import AuthFile, Session
from bandsox.server.auth.gatekeeper import Gatekeeper
from bandsox.server.proxy import passes
from bandsox.settings import Layout
from bandsox.store import Database, VMs
from tests.server.servers import OTHER, PASSWORD, STOPPED, Server, serving


def cli(file: AuthFile, *words: str) -> Any:
    command = [sys.executable, "-m", "bandsox", "--json", "--storage", str(file.path.parent), "auth", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout) if done.stdout else None


@pytest.fixture
def admin(guarded: Server, file: AuthFile) -> Iterator[httpx.Client]:
    """A program with a key of the scope admin."""
    with guarded.client(keys.create(file, "admin").key) as client:
        yield client


@pytest.fixture
def person(guarded: Server, file: AuthFile) -> Iterator[httpx.Client]:
    """A browser that is logged in. There is no other session."""
    sessions.end_others(file, None)
    with guarded.client() as client:
        client.headers.update({"origin": guarded.url, "user-agent": "a browser"})
        log_in(client, file, "a browser")
        yield client


def log_in(client: httpx.Client, file: AuthFile, agent: str = "") -> str:
    """Give a client a session, without counting as a try."""
    authority = file.read()
    assert authority is not None
    token = sessions.begin(file, authority.password, "127.0.0.1", agent)
    client.cookies.set(sessions.COOKIE, token, domain="127.0.0.1")
    return token


def open_to(client: httpx.Client) -> bool:
    status = client.get("/api/vms").status_code
    assert status in {200, 401}
    return status == 200


# ── the password ────────────────────────────────────────────────────────────────────────────────────


def test_who_shows_the_password_changes_it_and_stays_logged_in(
    person: httpx.Client, guarded: Server, admin: httpx.Client, file: AuthFile
) -> None:
    with guarded.client() as other:
        token = log_in(other, file)
        before = person.cookies["bandsox_session"]
        answer = person.put("/api/auth/password", json={"current": PASSWORD, "new": OTHER})
        assert (answer.status_code, answer.json()["status"]) == (200, "changed")
        assert person.cookies["bandsox_session"] == answer.json()["token"] != before
        assert open_to(person)
        assert not open_to(other)
        assert open_to(admin), "keys are not the password's"
    for stale in (before, token):
        with guarded.client(stale) as client:
            assert not open_to(client)
    with guarded.client() as again:
        assert again.post("/api/auth/login", json={"password": PASSWORD}).status_code == 401
    assert person.put("/api/auth/password", json={"current": OTHER, "new": PASSWORD}).status_code == 200


@pytest.mark.parametrize(
    ("current", "new", "status", "code"),
    [
        ("wrong", OTHER, 401, "not_authenticated"),
        (PASSWORD, "short", 422, "invalid_request"),
        (PASSWORD, "x" * 1025, 422, "invalid_request"),
    ],
)
def test_a_password_that_is_not_changed(admin: httpx.Client, file: AuthFile, current: str, new: str, status: int, code: str) -> None:
    before = file.read()
    answer = admin.put("/api/auth/password", json={"current": current, "new": new})
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert file.read() == before


def test_a_program_changes_it_only_with_the_password_and_gets_no_session(admin: httpx.Client) -> None:
    assert admin.put("/api/auth/password", json={"new": OTHER}).status_code == 422
    assert admin.put("/api/auth/password", json={"current": PASSWORD, "new": PASSWORD}).json()["token"] is None


def test_tries_to_change_it_count_as_logins(tmp_path: Path) -> None:
    file = AuthFile(Layout.open(tmp_path).root)
    file.set_password(PASSWORD)
    with serving(tmp_path) as server, server.client(keys.create(file, "admin").key) as client:
        answers = [client.put("/api/auth/password", json={"current": "wrong", "new": OTHER}).status_code for _ in range(11)]
        assert answers == [401] * 10 + [429]
        assert client.post("/api/auth/login", json={"password": PASSWORD}).status_code == 429


def test_a_password_that_was_changed_meanwhile_is_the_password_no_more(tmp_path: Path) -> None:
    file = AuthFile(Layout.open(tmp_path).root)
    file.set_password(PASSWORD)
    authority = file.read()
    assert authority is not None
    file.set_password(OTHER)
    with pytest.raises(NotAuthenticated):
        sessions.begin(file, authority.password, "192.0.2.1", "")
    with pytest.raises(NotAuthenticated):
        file.set_password("yet another one", before=authority.password)


# ── sessions ────────────────────────────────────────────────────────────────────────────────────────


def test_sessions_are_listed_and_ended(person: httpx.Client, guarded: Server, file: AuthFile) -> None:
    with guarded.client() as other:
        log_in(other, file, "x\x07" * 1000)
        theirs, own = person.get("/api/auth/sessions").json()
        assert (own["current"], own["client"], own["agent"]) == (True, "127.0.0.1", "a browser")
        assert (theirs["current"], theirs["agent"]) == (False, "x" * 100)
        assert own["created_at"] < own["expires_at"] == own["created_at"] + sessions.LIFETIME_S
        assert person.get("/api/auth/check").json()["caller"]["session"] == own["id"]
        assert not {each["id"] for each in (own, theirs)} & {person.cookies["bandsox_session"], other.cookies["bandsox_session"]}
        with guarded.client(f"bss_{theirs['id']}.{theirs['created_at']:.3f}.{'0' * 64}") as forger:
            assert not open_to(forger), "what the list shows opens nothing"
        assert person.delete(f"/api/auth/sessions/{theirs['id']}").json() == {"status": "ended"}
        assert not open_to(other)
    assert person.delete(f"/api/auth/sessions/{theirs['id']}").status_code == 404
    assert [each["id"] for each in person.get("/api/auth/sessions").json()] == [own["id"]]
    assert person.delete(f"/api/auth/sessions/{own['id']}").json() == {"status": "ended"}
    assert not open_to(person)


def test_all_sessions_but_ones_own_are_ended_at_once(person: httpx.Client, guarded: Server, admin: httpx.Client, file: AuthFile) -> None:
    with guarded.client() as other:
        log_in(other, file)
        assert person.delete("/api/auth/sessions").json() == {"status": "ended", "count": 1}
        assert open_to(person)
        assert not open_to(other)
    assert admin.delete("/api/auth/sessions").json()["count"] == 1
    assert not open_to(person)


def test_a_session_is_over_after_a_day_and_there_are_so_many(file: AuthFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 3)
    sessions.end_others(file, None)
    authority = file.read()
    assert authority is not None
    tokens = [sessions.begin(file, authority.password, "192.0.2.1", "") for _ in range(4)]
    with file.changing() as change:
        (youngest,) = [session for session in change.existing.sessions if session in tokens[3]]
        assert len(change.existing.sessions) == 3
        over = Session(time.time() - sessions.LIFETIME_S, "192.0.2.1", "")
        change.authority = dataclasses.replace(change.existing, sessions={**change.existing.sessions, youngest: over})
    now = file.read()
    assert now is not None
    assert [sessions.caller(now, token) is not None for token in tokens] == [False, True, True, False]


def test_a_pass_for_a_port_ends_with_the_session_it_was_got_by(file: AuthFile) -> None:
    authority = file.read()
    assert authority is not None
    token = sessions.begin(file, authority.password, "192.0.2.1", "")
    during = file.read()
    assert during is not None
    caller = sessions.caller(during, token)
    assert caller is not None
    assert caller.session is not None
    shown = passes.new(during, caller, "9f86d081884c7d65", 80)
    holder = passes.holder(during, shown, "9f86d081884c7d65", 80)
    assert holder is not None
    assert dataclasses.replace(holder, until=caller.until) == caller
    assert holder.until is not None
    assert holder.until < time.time() + passes.LIFETIME_S, "nor is it good for longer than a pass is"
    sessions.end(file, caller.session)
    after = file.read()
    assert after is not None
    assert passes.holder(after, shown, "9f86d081884c7d65", 80) is None


async def _used(gatekeeper: Gatekeeper, *ids: str) -> None:
    import asyncio

    for each in ids:
        gatekeeper.usage.note(each)
    await asyncio.get_running_loop().shutdown_default_executor()


def test_of_what_is_no_more_no_use_is_kept(file: AuthFile) -> None:
    import asyncio

    made = [keys.create(file, name, ["read"]).key_id for name in ("one", "two")]
    asyncio.run(_used(Gatekeeper(file.path.parent), *made))
    keys.revoke(file, made[0])
    later = keys.create(file, "three", ["read"]).key_id
    asyncio.run(_used(Gatekeeper(file.path.parent), later))
    assert Gatekeeper(file.path.parent).usage.read().keys() & {*made, later} == {made[1], later}


# ── keys ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_key_is_changed_and_it_holds_at_once(admin: httpx.Client, guarded: Server) -> None:
    made = admin.post("/api/auth/keys", json={"name": "ci", "scopes": ["exec"], "quotas": {"vms": 1, "vcpu": 2}}).json()
    where = f"/api/auth/keys/{made['key_id']}"
    with guarded.client(made["key"]) as client:
        edited = admin.patch(where, json={"quotas": {"vms": 0}}).json()
        assert edited["quotas"] == {"vms": 0, "vcpu": None, "mem_mib": None, "disk_mib": None, "creates_per_minute": None}
        assert (edited["name"], edited["scopes"], edited["expires_at"]) == ("ci", ["exec"], None)
        refused = client.post("/api/vms", json={"image": "python:3-alpine"})
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
        assert "this key may have 0" in refused.json()["message"]
        assert client.get("/api/auth/check").json()["caller"]["quotas"]["vms"] == 0
        admin.patch(where, json={"scopes": ["read"], "name": "looker", "prefix": "ci-", "expires_in": 3600})
        assert client.post("/api/vms", json={"image": "python:3-alpine"}).json()["message"] == "looker may not do this"
        caller = client.get("/api/auth/check").json()["caller"]
        assert (caller["id"], caller["scopes"], caller["prefix"]) == (made["key_id"], ["read"], "ci-")
    listed = next(each for each in admin.get("/api/auth/keys").json() if each["id"] == made["key_id"])
    assert listed["expires_at"] > time.time()
    assert admin.patch(where, json={"expires_in": None}).json()["expires_at"] is None
    assert admin.patch(where, json={}).status_code == 200


@pytest.mark.parametrize(
    "wanted",
    [
        {"name": ""},
        {"name": " \n"},
        {"name": None},
        {"scopes": []},
        {"scopes": ["root"]},
        {"scopes": ["admin"]},
        {"expires_in": -1},
        {"quotas": {"vms": -1}},
        {"digest": "0"},
    ],
)
def test_a_key_that_would_be_of_no_use_stays_as_it_is(admin: httpx.Client, file: AuthFile, wanted: dict[str, object]) -> None:
    made = keys.create(file, "ci", ["exec"], prefix="ci-")
    before = file.read()
    assert admin.patch(f"/api/auth/keys/{made.key_id}", json=wanted).status_code in {400, 422}
    assert file.read() == before
    assert admin.patch("/api/auth/keys/bsx_k_00000000", json={"name": "x"}).status_code == 404


def test_a_key_revokes_itself_and_is_told_so(guarded: Server, file: AuthFile) -> None:
    own = keys.create(file, "own")
    with guarded.client(own.key) as client:
        assert client.patch(f"/api/auth/keys/{own.key_id}", json={"name": "mine"}).json()["name"] == "mine"
        assert client.delete(f"/api/auth/keys/{own.key_id}").json() == {"status": "revoked"}
        assert not open_to(client)


def test_what_machines_have_is_shown_beside_what_they_may_have(admin: httpx.Client, file: AuthFile) -> None:
    known = {keys.create(file, prefix or "all", ["exec"], prefix=prefix).key_id: prefix for prefix in ("", "ci-", "dev-")}
    machines = VMs(Database(Layout.open(file.path.parent).database))
    for number, name in enumerate(("ci-1", "ci-2", "other")):
        machines.insert(dataclasses.replace(STOPPED, id=f"{number:016x}", spec=VMSpec("image", name, 2, 256, 1024)))
    try:
        used = {known[each["id"]]: each["used"] for each in admin.get("/api/auth/keys").json() if each["id"] in known}
    finally:
        for number in range(3):
            machines.delete(f"{number:016x}")
    assert used["ci-"] == {"vms": 2, "vcpu": 4, "mem_mib": 512, "disk_mib": 2048}
    assert [used[prefix]["vms"] for prefix in ("", "dev-")] == [3, 0]


# ── the command line ────────────────────────────────────────────────────────────────────────────────


def test_the_command_line_does_the_same(person: httpx.Client, file: AuthFile) -> None:
    made = keys.create(file, "ci", ["exec"], quotas=Quotas(vms=1, vcpu=2))

    def key() -> Caller:
        authority = file.read()
        assert authority is not None
        found = keys.owner(authority, made.key_id)
        assert found is not None
        return found

    cli(file, "edit-key", made.key_id, "--max-vms", "8", "--name", "builds", "--scope", "read", "--prefix", "b-")
    assert key() == Caller(made.key_id, "builds", frozenset({Scope.READ}), "b-", Quotas(vms=8, vcpu=2))
    cli(file, "edit-key", made.key_id, "--no-quotas", "--no-expiry")
    assert key().quotas == NO_QUOTAS
    with pytest.raises(BandSoxError, match="no key"):
        keys.edit(file, "none", {})

    (listed,) = cli(file, "list-sessions")
    assert (listed["agent"], listed["client"]) == ("a browser", "127.0.0.1")
    cli(file, "end-session", listed["id"])
    assert not open_to(person)
    for words in (("end-session",), ("end-session", listed["id"]), ("end-session", "--all", "x")):
        with pytest.raises(subprocess.CalledProcessError):
            cli(file, *words)
    cli(file, "end-session", "--all")
    assert cli(file, "list-sessions") == []
