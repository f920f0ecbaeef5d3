"""What administrators do through the remote client and the command line: keys, sessions, the password, the audit log, webhooks."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bandsox import AsyncBandSox, BandSox, Quotas, errors
from bandsox.core.administration import Authentication, Webhooks
from bandsox.models import NewApiKey, VMSpec
from bandsox.server.auth import keys, sessions
from bandsox.server.auth.file import AuthFile
from bandsox.store import Database, VMs
from tests.server.servers import OTHER, PASSWORD, STOPPED, Server


@pytest.fixture(scope="module")
def key(file: AuthFile) -> NewApiKey:
    return keys.create(file, "administrator")


def client(server: Server, key: str) -> BandSox:
    return BandSox(server.url, headers={"Authorization": f"Bearer {key}"})


@pytest.fixture(scope="module")
def remote(guarded: Server, key: NewApiKey) -> Iterator[BandSox]:
    with client(guarded, key.key) as bandsox:
        yield bandsox


@pytest.fixture
def admin(remote: BandSox) -> Authentication:
    return remote.auth


@pytest.fixture
def hooks(remote: BandSox) -> Iterator[Webhooks]:
    yield remote.webhooks
    for hook in remote.webhooks.list():
        remote.webhooks.delete(hook.id)


def log_in(file: AuthFile) -> str:
    """A session of somebody, and its id."""
    authority = file.read()
    assert authority is not None
    return sessions.begin(file, authority.password, "192.0.2.1", "a browser").removeprefix(sessions.PREFIX).partition(".")[0]


# ── the client ──────────────────────────────────────────────────────────────────────────────────────


def test_a_key_is_made_listed_changed_and_revoked(admin: Authentication, guarded: Server) -> None:
    made = admin.create_key("ci", ["exec"], expires_in=3600, prefix="ci-", quotas=Quotas(vms=2))
    assert made.key not in repr(made)
    with client(guarded, made.key) as theirs:
        assert theirs.list_vms() == []
        known = theirs.auth.check()
        assert known is not None
        assert (known.id, known.scopes, known.prefix, known.quotas, known.session) == (
            made.key_id,
            ("exec", "read"),
            "ci-",
            Quotas(vms=2),
            None,
        )
        listed = {each.id: each for each in admin.list_keys()}[made.key_id]
        assert (listed.name, listed.scopes, listed.prefix, listed.quotas) == ("ci", ("exec",), "ci-", Quotas(vms=2))
        assert listed.expires_at is not None
        edited = admin.edit_key(made.key_id, quotas=Quotas(vms=4), expires_in=None, scopes=["read"])
        assert (edited.quotas, edited.expires_at, edited.scopes, edited.name) == (Quotas(vms=4), None, ("read",), "ci")
        admin.revoke_key(made.key_id)
        with pytest.raises(errors.NotAuthenticated):
            theirs.list_vms()
        assert theirs.auth.check() is None
    with pytest.raises(errors.NotFound):
        admin.revoke_key(made.key_id)


def test_what_its_machines_have_is_counted(admin: Authentication, file: AuthFile) -> None:
    made = admin.create_key("counted", prefix="counted-", scopes=["exec"])
    machines = VMs(Database(file.path.with_name("bandsox.db")))
    machines.insert(dataclasses.replace(STOPPED, id="c" * 16, spec=VMSpec("image", "counted-1", 3, 512, 2048)))
    try:
        used = {each.id: each.used for each in admin.list_keys()}[made.key_id]
    finally:
        machines.delete("c" * 16)
    assert (used.vms, used.vcpu, used.mem_mib, used.disk_mib) == (1, 3, 512, 2048)


@pytest.mark.parametrize(
    "wrong", [{"scopes": ["root"]}, {"scopes": []}, {"expires_in": -1.0}, {"quotas": Quotas(vms=-1)}, {"prefix": "x" * 65}]
)
def test_a_key_that_would_be_of_no_use_is_not_made(admin: Authentication, wrong: dict[str, Any]) -> None:
    before = admin.list_keys()
    with pytest.raises(errors.InvalidRequest):
        admin.create_key("ci", **wrong)
    assert admin.list_keys() == before


@pytest.mark.parametrize(
    "act",
    [
        lambda auth: auth.create_key("more"),
        lambda auth: auth.list_keys(),
        lambda auth: auth.edit_key("bsx_k_00000000", name="x"),
        lambda auth: auth.revoke_key("bsx_k_00000000"),
        lambda auth: auth.change_password(PASSWORD, OTHER),
        lambda auth: auth.list_sessions(),
        lambda auth: auth.end_sessions(),
        lambda auth: next(auth.audit()),
    ],
)
def test_only_administrators_administer(guarded: Server, file: AuthFile, act: Callable[[Authentication], object]) -> None:
    with client(guarded, keys.create(file, "exec", ["exec"]).key) as theirs, pytest.raises(errors.Forbidden):
        act(theirs.auth)


def test_the_password_is_changed_by_who_knows_it_and_sessions_end(admin: Authentication, file: AuthFile) -> None:
    with pytest.raises(errors.NotAuthenticated):
        admin.change_password(OTHER, PASSWORD)
    session = log_in(file)
    [shown] = admin.list_sessions()
    assert (shown.id, shown.client, shown.agent, shown.current) == (session, "192.0.2.1", "a browser", False)
    admin.change_password(PASSWORD, OTHER)
    assert admin.list_sessions() == []
    admin.change_password(OTHER, PASSWORD)
    first, second = log_in(file), log_in(file)
    admin.end_session(first)
    assert [each.id for each in admin.list_sessions()] == [second]
    with pytest.raises(errors.NotFound):
        admin.end_session(first)
    assert (admin.end_sessions(), admin.end_sessions()) == (1, 0)


def test_the_audit_log_is_read_as_far_back_as_it_goes(admin: Authentication, key: NewApiKey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bandsox.client.administration._PAGE", 2)
    made = [admin.create_key(f"audited-{number}", ["read"]) for number in range(5)]
    for each in made:
        admin.revoke_key(each.key_id)
    found = list(admin.audit(caller=key.key_id, method="DELETE", path="/api/auth/keys/", refused=False))
    assert [entry.path for entry in found[:5]] == [f"/api/auth/keys/{each.key_id}" for each in reversed(made)]
    assert len({entry.id for entry in found}) == len(found)
    assert {entry.status for entry in found} == {200}
    assert not [each for each in made if each.key in repr(found)]


def test_the_asynchronous_client_does_the_same(guarded: Server, key: NewApiKey) -> None:
    async def act() -> None:
        async with AsyncBandSox(guarded.url, headers={"Authorization": f"Bearer {key.key}"}) as remote:
            made = await remote.auth.create_key("async", ["read"])
            newest = await anext(aiter(remote.auth.audit(method="POST")))
            assert (newest.path, newest.caller) == ("/api/auth/keys", key.key_id)
            await remote.auth.revoke_key(made.key_id)
            hook = await remote.webhooks.create("https://example.org/hook", ["vm.*"])
            assert hook.id in [each.id for each in await remote.webhooks.list()]
            await remote.webhooks.delete(hook.id)

    asyncio.run(act())


def test_a_storage_directory_says_that_these_are_a_servers(tmp_path: Path) -> None:
    with BandSox(tmp_path) as bandsox:
        for ask in (lambda: bandsox.auth, lambda: bandsox.webhooks):
            with pytest.raises(errors.Unsupported):
                ask()


# ── webhooks ────────────────────────────────────────────────────────────────────────────────────────


def test_a_webhook_is_made_changed_tried_and_deleted(hooks: Webhooks) -> None:
    made = hooks.create("https://10.0.0.1/hook", ["vm.*"])
    assert made.secret.startswith("whsec_")
    assert made.secret not in repr(made)
    [listed] = hooks.list()
    assert listed == hooks.get(made.id)
    assert (listed.id, listed.url, listed.events, listed.enabled) == (made.id, "https://10.0.0.1/hook", ("vm.*",), True)
    tried = hooks.test(made.id)
    assert (tried.kind, tried.outcome, tried.status) == ("webhook.test", "failed", None)
    assert "webhooks may not go" in (tried.error or "")
    assert hooks.deliveries(made.id) == (tried,)
    edited = hooks.edit(made.id, url="https://10.0.0.2/hook", enabled=False)
    assert (edited.url, edited.events, edited.enabled) == ("https://10.0.0.2/hook", ("vm.*",), False)
    hooks.delete(made.id)
    with pytest.raises(errors.NotFound):
        hooks.get(made.id)


def test_a_webhook_that_cannot_be_is_refused(hooks: Webhooks) -> None:
    for url, events in (("ftp://example.org", ["*"]), ("https://example.org", ["nothing at all"])):
        with pytest.raises(errors.InvalidRequest):
            hooks.create(url, events)


# ── the command line ────────────────────────────────────────────────────────────────────────────────


def cli(server: Server, key: str, *words: str, stdin: str | None = None, status: int = 0) -> Any:
    environment = {**os.environ, "BANDSOX_URL": server.url, "BANDSOX_API_KEY": key}
    environment.pop("BANDSOX_STORAGE", None)
    command = [sys.executable, "-m", "bandsox", "--json", *words]
    done = subprocess.run(command, capture_output=True, text=True, input=stdin, check=False, env=environment)
    assert done.returncode == status, done.stderr
    said = done.stdout if status == 0 else done.stderr
    return json.loads(said) if said else None


def test_the_command_line_administers_the_server_that_is_named(
    guarded: Server, key: NewApiKey, file: AuthFile, admin: Authentication
) -> None:
    made = cli(guarded, key.key, "auth", "create-key", "by-hand", "--scope", "read", "--max-vms", "3", "--max-mem", "512")
    listed = {each["id"]: each for each in cli(guarded, key.key, "auth", "list-keys")}[made["key_id"]]
    assert (listed["name"], listed["quotas"]["vms"], listed["quotas"]["mem_mib"]) == ("by-hand", 3, 512)
    cli(guarded, key.key, "auth", "edit-key", made["key_id"], "--max-vms", "5")
    assert {each.id: each.quotas for each in admin.list_keys()}[made["key_id"]] == Quotas(vms=5, mem_mib=512)
    cli(guarded, key.key, "auth", "revoke-key", made["key_id"])
    assert made["key_id"] not in {each.id for each in admin.list_keys()}
    session = log_in(file)
    assert [each["id"] for each in cli(guarded, key.key, "auth", "list-sessions")] == [session]
    cli(guarded, key.key, "auth", "set-password", "--password-stdin", stdin=f"{PASSWORD}\n{OTHER}\n")
    assert admin.list_sessions() == []
    cli(guarded, key.key, "auth", "set-password", "--password-stdin", stdin=f"{OTHER}\n{PASSWORD}\n")
    log_in(file)
    cli(guarded, key.key, "auth", "end-session", "--all")
    assert admin.list_sessions() == []
    entries = cli(guarded, key.key, "auth", "audit", "--caller", key.key_id, "--path", "/api/auth/sessions", "--limit", "1")
    assert [(each["method"], each["path"]) for each in entries] == [("DELETE", "/api/auth/sessions")]
    assert cli(guarded, key.key, "auth", "init", status=1)["error"]["code"] == "unsupported"


def test_the_command_line_has_the_same_for_a_storage_directory(file: AuthFile, admin: Authentication) -> None:
    command = [sys.executable, "-m", "bandsox", "--json", "--storage", str(file.path.parent), "auth"]

    def said(*words: str) -> Any:
        return json.loads(subprocess.run([*command, *words], capture_output=True, text=True, check=True).stdout)

    assert file.read() is not None
    assert {each["id"] for each in said("list-keys")} == {each.id for each in admin.list_keys()}
    [newest] = said("audit", "--limit", "1", "--done")
    assert newest["status"] < 400
    assert said("list-sessions") == []


def test_webhooks_of_the_server_that_is_named(guarded: Server, key: NewApiKey, hooks: Webhooks) -> None:
    made = cli(guarded, key.key, "webhook", "create", "https://10.0.0.1/hook", "--event", "vm.*")
    cli(guarded, key.key, "webhook", "edit", made["id"], "--disable")
    [listed] = cli(guarded, key.key, "webhook", "list")
    assert (listed["id"], listed["enabled"], listed["events"]) == (made["id"], False, ["vm.*"])
    hooks.test(made["id"])
    assert [each["kind"] for each in cli(guarded, key.key, "webhook", "log", made["id"])] == ["webhook.test"]
    cli(guarded, key.key, "webhook", "delete", made["id"])
    assert hooks.list() == []
