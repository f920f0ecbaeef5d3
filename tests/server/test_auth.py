"""Who is let in, and to what: keys, the password, sessions, and every route with each of them."""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from bandsox import wire
from bandsox.errors import BandSoxError
from bandsox.server.application import ROUTERS
from bandsox.server.auth.callers import Scope
from bandsox.server.auth.file import AuthFile
from bandsox.server.auth.gatekeeper import SUBPROTOCOL, _subprotocol_token
from bandsox.server.dashboard import pages
from bandsox.server.guard import demand_of
from bandsox.server.live import routes as live
from bandsox.server.routes import commands
from tests.server.servers import PASSWORD, Server, serving

ROUTES = [
    (method, route.path, demand_of(route.endpoint).scope)
    for router in ROUTERS
    for route in router.routes
    if isinstance(route, APIRoute)
    for method in sorted(route.methods or ())
]
GUARDED = [(method, path, scope) for method, path, scope in ROUTES if isinstance(scope, Scope)]
HOT = [("POST", route.path, demand_of(route.endpoint).scope, "application/json") for route in commands.HOT]
"""Those that have a short way, which requests take that say that they are JSON."""

RANKS = list(Scope)


def cli(storage: Path, *words: str, stdin: str = "") -> Any:
    command = [sys.executable, "-m", "bandsox", "--json", "--storage", str(storage), *words]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=True)
    return json.loads(done.stdout) if done.stdout else None


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with authentication, of a storage directory without machines."""
    storage = tmp_path_factory.mktemp("guarded")
    cli(storage, "auth", "init", "--password-stdin", stdin=PASSWORD + "\n")
    with serving(storage, "--host", "0.0.0.0") as server:
        server.url = server.url.replace("0.0.0.0", "127.0.0.1")
        server.storage = storage  # type: ignore[attr-defined]
        yield server


@pytest.fixture(scope="module")
def keys(guarded: Server) -> dict[str, str]:
    """A key of each scope."""
    storage = guarded.storage  # type: ignore[attr-defined]
    return {scope.value: cli(storage, "auth", "create-key", scope.value, "--scope", scope.value)["key"] for scope in Scope}


def called(client: httpx.Client, method: str, path: str, kind: str, **options: Any) -> httpx.Response:
    options["headers"] = {"content-type": kind, **options.get("headers", {})}
    where = re.sub(r"\{(\w+)\}", lambda found: "9" if found[1] == "port" else "none", path)
    with client.stream(method, where, content=b"{ no json", **options) as answer:
        if answer.headers["content-type"] == "application/json":  # else it may go on for ever
            answer.read()
        return answer


def test_every_route_is_known() -> None:
    assert len(GUARDED) > 40
    assert {path for _, path, scope in ROUTES if not isinstance(scope, Scope)} == {
        "/healthz",
        "/readyz",
        "/api/auth/login",
        "/api/auth/logout",
        "/api/auth/check",
        "/assets/{name}",
        "/icon.svg",
        *pages.PAGES,
    }


@pytest.mark.parametrize(("method", "path", "scope", "kind"), [*((*each, "text/plain") for each in GUARDED), *HOT])
def test_every_route_demands_what_it_should(guarded: Server, keys: dict[str, str], method: str, path: str, scope: Scope, kind: str) -> None:
    call = functools.partial(called, kind=kind)
    with guarded.client() as anybody:
        answer = call(anybody, method, path)
        assert (answer.status_code, answer.json()["code"]) == (401, "not_authenticated")
        assert answer.headers["www-authenticate"] == "Bearer"
        for wrong in ("bsx_" + "0" * 64, "bss_x.1.y", "0", "bsx_" + "é" * 9, "x" * 4000):
            headers = {b"authorization": b"Bearer " + wrong.encode()}
            assert call(anybody, method, path, headers=headers).status_code == 401
        assert call(anybody, method, path, params={"token": keys["admin"]}).status_code == 401, "keys do not belong into addresses"
    for held, key in keys.items():
        with guarded.client(key) as client:
            if path == "/api/doctor" and held == "admin":  # it would boot a machine
                continue
            answer = call(client, method, path)
            if RANKS.index(Scope(held)) < RANKS.index(scope):
                assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
            else:
                assert answer.status_code not in {401, 403}
    with guarded.client(keys["admin"]) as client:
        assert call(client, method, path, headers={"origin": "http://evil.example"}).status_code == 403
        assert call(client, method, path, headers={"host": "evil.example"}).status_code == 421


def test_the_password_gives_a_session_that_can_be_ended(guarded: Server) -> None:
    with guarded.client() as client:
        assert client.get("/api/auth/check").json() == {"authenticated": False, "auth_enabled": True, "caller": None}
        answer = client.post("/api/auth/login", json={"password": PASSWORD})
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert client.get("/api/vms").json() == []
        assert client.get("/api/auth/check").json()["authenticated"]
        token = answer.json()["token"]
        client.post("/api/auth/logout", headers={"origin": guarded.url})
    with guarded.client(token) as client:
        assert client.get("/api/vms").status_code == 401


def test_another_page_cannot_use_a_session(guarded: Server) -> None:
    with guarded.client() as client:
        client.post("/api/auth/login", json={"password": PASSWORD})
        assert client.post("/api/cleanup").status_code == 403
        assert client.post("/api/cleanup", headers={"origin": "null"}).status_code == 403
        assert client.post("/api/cleanup", headers={"origin": guarded.url}).status_code == 200


def test_a_password_cannot_be_tried_often(tmp_path: Path) -> None:
    cli(tmp_path, "auth", "init", "--password-stdin", stdin=PASSWORD)
    with serving(tmp_path) as server, server.client() as client:
        answers = [client.post("/api/auth/login", json={"password": "wrong"}) for _ in range(11)]
        assert [answer.status_code for answer in answers] == [401] * 10 + [429]
        assert 0 < int(answers[-1].headers["retry-after"]) <= 60
        assert client.post("/api/auth/login", json={"password": PASSWORD}).status_code == 429


def test_a_new_password_ends_all_sessions(tmp_path: Path) -> None:
    cli(tmp_path, "auth", "init", "--password-stdin", stdin=PASSWORD)
    with serving(tmp_path) as server, server.client() as client:
        client.post("/api/auth/login", json={"password": PASSWORD})
        assert client.get("/api/vms").status_code == 200
        cli(tmp_path, "auth", "set-password", "--password-stdin", stdin="another password")
        assert client.get("/api/vms").status_code == 401
        assert client.post("/api/auth/login", json={"password": PASSWORD}).status_code == 401
        assert client.post("/api/auth/login", json={"password": "another password"}).status_code == 200


def test_keys_are_made_used_and_revoked_over_http(guarded: Server, keys: dict[str, str]) -> None:
    with guarded.client(keys["admin"]) as admin:
        made = admin.post("/api/auth/keys", json={"name": "ci", "scopes": ["exec"], "prefix": "ci-"}).json()
        assert (made["key"][:4], len(made["key"]), made["key_id"][:6]) == ("bsx_", 68, "bsx_k_")
        with guarded.client(made["key"]) as ci:
            assert ci.get("/api/vms").status_code == 200
            listed = {each["id"]: each for each in admin.get("/api/auth/keys").json()}
            assert listed[made["key_id"]]["scopes"] == ["exec"]
            assert "digest" not in str(listed)
            assert admin.delete(f"/api/auth/keys/{made['key_id']}").json() == {"status": "revoked"}
            assert ci.get("/api/vms").status_code == 401
        assert admin.delete(f"/api/auth/keys/{made['key_id']}").status_code == 404
        for wrong in ({"name": ""}, {"name": "x", "scopes": []}, {"name": "x", "prefix": "p"}, {"name": "x\n"}):
            assert admin.post("/api/auth/keys", json=wrong).status_code in {400, 422}


def test_a_key_that_has_expired_lets_nobody_in(guarded: Server, keys: dict[str, str]) -> None:
    storage = guarded.storage  # type: ignore[attr-defined]
    made = cli(storage, "auth", "create-key", "short", "--expires", "3600")
    with AuthFile(storage).changing() as change:
        import dataclasses

        known = change.existing.keys
        over = dataclasses.replace(known[made["key_id"]], expires_at=change.now - 1)
        change.authority = dataclasses.replace(change.existing, keys={**known, made["key_id"]: over})
    with guarded.client(made["key"]) as client:
        assert client.get("/api/vms").status_code == 401


def test_nothing_secret_is_kept_or_logged(guarded: Server, keys: dict[str, str]) -> None:
    storage = guarded.storage  # type: ignore[attr-defined]
    with guarded.client(keys["exec"]) as client:
        client.post("/api/cleanup")
        client.post("/api/auth/login", json={"password": PASSWORD})
    for name in ("auth.json", "audit.log", "auth-usage.json"):
        text = (storage / name).read_text()
        assert (storage / name).stat().st_mode & 0o777 == 0o600
        assert PASSWORD not in text
        assert not any(key in text for key in keys.values())
    lines = [json.loads(line) for line in (storage / "audit.log").read_text().splitlines()]
    refused = [line for line in lines if line["path"] == "/api/cleanup" and line["status"] == 403 and line["name"] == "exec"]
    assert refused
    assert refused[-1]["client"] == "127.0.0.1"


def test_a_file_that_cannot_be_read_lets_nobody_in(tmp_path: Path) -> None:
    cli(tmp_path, "auth", "init", "--password-stdin", stdin=PASSWORD)
    with serving(tmp_path) as server, server.client() as client:
        (tmp_path / "auth.json").write_text("{")
        assert client.get("/api/vms").status_code == 500
    with pytest.raises(BandSoxError, match="nobody is let in"):
        AuthFile(tmp_path).read()


def test_authentication_is_turned_on_once(tmp_path: Path) -> None:
    cli(tmp_path, "auth", "init", "--password-stdin", stdin=PASSWORD)
    for words in (("init",), ("init", "--password-stdin"), ("revoke-key", "none")):
        with pytest.raises(subprocess.CalledProcessError):
            cli(tmp_path, "auth", *words, stdin="another password")
    with pytest.raises(BandSoxError, match="at least 8"):
        AuthFile(tmp_path).set_password("short")


def test_while_it_is_off_there_is_nothing_to_log_in_to(http: httpx.Client) -> None:
    assert http.post("/api/auth/login", json={"password": PASSWORD}).status_code == 404
    assert http.get("/api/auth/keys").status_code == 404
    found = http.get("/api/auth/check").json()
    assert (found["authenticated"], found["auth_enabled"], found["caller"]["name"]) == (True, False, "everybody")


def test_every_websocket_wants_to_know_who_is_calling(guarded: Server, keys: dict[str, str]) -> None:
    def close_code(path: str, **options: Any) -> int | None:
        with connect(guarded.url.replace("http", "ws") + path, proxy=None, open_timeout=60, **options) as socket:
            with contextlib.suppress(ConnectionClosed):
                while socket.recv(timeout=60):
                    pass
            return socket.close_code

    for route in live.router.routes:
        path = re.sub(r"\{(\w+)\}", lambda found: "9" if found[1] == "port" else "none", str(route.path))  # type: ignore[attr-defined]
        of_machine = "{vm}" in str(route.path)  # type: ignore[attr-defined]
        protocol = SUBPROTOCOL + base64.urlsafe_b64encode(keys["exec"].encode()).decode().rstrip("=")
        assert close_code(path) == wire.UNKNOWN_CALLER
        assert close_code(f"{path}?token=bsx_0") == wire.UNKNOWN_CALLER
        if not of_machine:
            continue
        assert close_code(path, additional_headers={"Authorization": f"Bearer {keys['read']}"}) == wire.UNKNOWN_CALLER
        assert close_code(path, subprotocols=["bandsox.exec", protocol]) == wire.NO_SUCH_VM
        assert close_code(f"{path}?token={keys['exec']}") == wire.NO_SUCH_VM


def test_tokens_of_websockets_are_read_from_the_subprotocol() -> None:
    token = "bsx_" + "0f" * 32
    protocol = SUBPROTOCOL + base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")
    assert _subprotocol_token({"sec-websocket-protocol": f"bandsox.terminal, {protocol}"}) == token
    assert _subprotocol_token({"sec-websocket-protocol": f"{SUBPROTOCOL}%%%"}) is None
