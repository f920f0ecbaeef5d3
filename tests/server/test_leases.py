"""What is under way for a caller ends when it may call no more, at once and whatever it is; nothing else does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from bandsox import MicroVM, wire
from bandsox.models import NewApiKey, Quotas
from bandsox.server import leases
from bandsox.server.auth import keys, sessions
from bandsox.server.auth.callers import EVERYBODY, Caller
from bandsox.server.auth.file import AuthFile
from bandsox.server.auth.gatekeeper import Gatekeeper
from bandsox.server.leases import Lease, Leases
from bandsox.settings import Layout, write_atomically
from tests.server.servers import PASSWORD, Server, serving
from tests.server.test_events import vm_row

GUEST = r"""
import base64, hashlib, http.server, socketserver

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        key = self.headers.get("Sec-WebSocket-Key")
        self.send_response(200 if key is None else 101)
        if key is not None:
            accept = hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()
            self.send_header("Upgrade", "websocket")
            self.send_header("Connection", "Upgrade")
            self.send_header("Sec-WebSocket-Accept", base64.b64encode(accept).decode())
        self.end_headers()
        self.wfile.write(b"begun" if key is None else b"\x81\x05begun")
        self.wfile.flush()
        self.rfile.read(1)

class Server(socketserver.ThreadingTCPServer, http.server.HTTPServer):
    daemon_threads = allow_reuse_address = True

server = Server(("127.0.0.1", 8080), Handler)
print("ready", flush=True)
server.serve_forever()
"""


def opened(url: str, path: str, key: str) -> ClientConnection:
    headers = {"Authorization": f"Bearer {key}"}
    return connect(url.replace("http", "ws") + path, proxy=None, open_timeout=60, additional_headers=headers)


def close_code(socket: ClientConnection) -> int | None:
    """With which the server closes, after whatever it still had to say."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            socket.recv(timeout=60)
    return socket.close_code


@pytest.fixture
def key(file: AuthFile) -> NewApiKey:
    return keys.create(file, "operator", ["exec"])


# ── what ends it ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "over",
    [
        lambda file, key: keys.revoke(file, key.key_id),
        lambda file, key: keys.edit(file, key.key_id, {"scopes": ["read"]}),
        lambda file, key: keys.edit(file, key.key_id, {"prefix": "ci-"}),
        lambda file, key: keys.edit(file, key.key_id, {"expires_in": 0.001}),
        lambda file, key: write_atomically(file.path, b"{"),
    ],
    ids=["revoked", "fewer rights", "other machines", "over", "nobody is let in"],
)
def test_a_stream_and_a_websocket_end_with_their_key(
    guarded: Server, file: AuthFile, key: NewApiKey, over: Callable[[AuthFile, NewApiKey], object]
) -> None:
    before = file.path.read_bytes()
    with contextlib.ExitStack() as stack:
        stack.callback(write_atomically, file.path, before)
        client = stack.enter_context(guarded.client(key.key))
        lines = stack.enter_context(client.stream("GET", "/api/events")).iter_lines()
        socket = stack.enter_context(opened(guarded.url, "/api/events", key.key))
        assert json.loads(next(lines))["type"] == json.loads(socket.recv(60))["type"] == "hello"
        over(file, key)
        (last,) = filter(None, lines)
        assert json.loads(last)["failure"]["code"] == "not_authenticated"
        assert close_code(socket) == wire.UNKNOWN_CALLER


def test_a_key_that_expires_ends_what_it_opened(guarded: Server, file: AuthFile) -> None:
    short = keys.create(file, "short", ["read"], expires_in=3)
    with opened(guarded.url, "/api/events", short.key) as socket:
        assert close_code(socket) == wire.UNKNOWN_CALLER


@pytest.mark.parametrize("how", ["logged out", "ended", "others ended", "another password"])
def test_what_a_session_opened_ends_with_it(guarded: Server, file: AuthFile, how: str) -> None:
    with guarded.client() as client:
        client.headers["origin"] = guarded.url
        token = client.post("/api/auth/login", json={"password": PASSWORD}).json()["token"]
        with client.stream("GET", "/api/events") as answer, opened(guarded.url, "/api/events", token) as socket:
            lines = answer.iter_lines()
            next(lines)
            if how == "logged out":
                assert client.post("/api/auth/logout").status_code == 200
            elif how == "ended":
                sessions.end(file, token.removeprefix("bss_").partition(".")[0])
            elif how == "others ended":
                sessions.end_others(file, None)
            else:
                assert client.put("/api/auth/password", json={"current": PASSWORD, "new": PASSWORD}).status_code == 200
            assert [json.loads(line)["type"] for line in filter(None, lines)] == ["error"]
            assert close_code(socket) == wire.UNKNOWN_CALLER


def test_what_was_open_to_everybody_ends_when_authentication_is_turned_on(tmp_path: Path) -> None:
    with serving(tmp_path) as server, server.client() as client, client.stream("GET", "/api/events") as answer:
        lines = answer.iter_lines()
        next(lines)
        AuthFile(tmp_path).set_password(PASSWORD)
        assert [json.loads(line)["type"] for line in filter(None, lines)] == ["error"]


def test_what_is_of_others_goes_on(guarded: Server, file: AuthFile, key: NewApiKey) -> None:
    other = keys.create(file, "other", ["read"])
    with opened(guarded.url, "/api/events", key.key) as mine, opened(guarded.url, "/api/events", other.key) as theirs:
        mine.recv(60)
        keys.edit(file, key.key_id, {"name": "another name", "quotas": Quotas(vms=0), "expires_in": 3600})
        sessions.end_others(file, None)
        keys.revoke(file, other.key_id)
        assert close_code(theirs) == wire.UNKNOWN_CALLER
        vm_row(file.path.parent, f"later-{time.time_ns()}")
        assert json.loads(mine.recv(60))["type"] == "vm.created"


# ── what is ended ───────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def in_the_guest(vm: MicroVM) -> Iterator[None]:
    vm.write_text("/root/page.py", GUEST)
    lines = vm.stream(["python3", "/root/page.py"])
    assert next(lines)[1] == b"ready\n"
    yield
    lines.close()  # type: ignore[attr-defined]


@pytest.mark.usefixtures("in_the_guest")
def test_all_that_a_key_has_under_way_ends(storage: Path, vm: MicroVM) -> None:
    file = AuthFile(storage)
    file.set_password(PASSWORD, new=True)
    path = f"/api/vms/{vm.vm_id}"
    vm.run("truncate -s 512M /root/large; rm -f /root/begun")
    try:
        made = keys.create(file, "worker", ["exec"])
        with contextlib.ExitStack() as stack:
            server = stack.enter_context(serving(storage, "--proxy-port", "0"))
            client = stack.enter_context(server.client(made.key))
            proxy = stack.enter_context(httpx.Client(base_url=server.proxy_url, timeout=120, trust_env=False))

            def socket(where: str, *first: object, url: str = server.url) -> ClientConnection:
                opening = stack.enter_context(opened(url, where, made.key))
                for each in first:
                    opening.send(json.dumps(each))
                opening.recv(60)
                return opening

            client.post(f"{path}/sessions", json={"command": "cat", "id": "leased"})
            sockets = [
                socket(f"{path}/exec-stream", {"argv": ["sleep", "1000"], "format": "binary"}),
                socket(f"{path}/exec-stream", {"command": "echo begun; sleep 1000"}),
                socket(f"{path}/terminal"),
                socket(f"{path}/sessions/leased/attach"),
                socket(f"{path}/ports/8080/connect"),
                socket(f"{path}/proxy/8080/", url=server.proxy_url),
            ]
            headers = {"x-bandsox-key": made.key}
            download = stack.enter_context(client.stream("GET", f"{path}/download", params={"path": "/root/large"}))
            page = stack.enter_context(proxy.stream("GET", f"{path}/proxy/8080/", headers=headers))
            bodies = [download.iter_raw(), page.iter_raw()]
            assert all(next(body) for body in bodies)
            pool = stack.enter_context(ThreadPoolExecutor(1))
            command = pool.submit(client.post, f"{path}/exec", json={"command": "touch /root/begun; sleep 1000", "timeout": 2000})
            vm.run("until [ -e /root/begun ]; do sleep 0.1; done", timeout=60)

            keys.revoke(file, made.key_id)
            assert [close_code(each) for each in sockets] == [wire.UNKNOWN_CALLER] * len(sockets)
            for body in bodies:
                with pytest.raises(httpx.RemoteProtocolError):
                    list(body)
            assert (command.result().status_code, command.result().json()["code"]) == (401, "not_authenticated")
        assert [session.id for session in vm.list_sessions() if session.running] == ["leased"], "it is nobody's connection"
    finally:
        file.path.unlink()
        vm.kill_session("leased")


# ── how it is ended ─────────────────────────────────────────────────────────────────────────────────


def known(gatekeeper: Gatekeeper, name: str = "worker") -> tuple[str, Caller]:
    made = keys.create(gatekeeper.file, name, ["exec"])
    authority = gatekeeper.file.read()
    assert authority is not None
    caller = keys.owner(authority, made.key_id)
    assert caller is not None
    return made.key_id, caller


@pytest.fixture
def gatekeeper(tmp_path: Path) -> Gatekeeper:
    gatekeeper = Gatekeeper(Layout.open(tmp_path).root)
    gatekeeper.file.set_password(PASSWORD)
    return gatekeeper


def served(
    gatekeeper: Gatekeeper,
    app: Callable[[Lease], Any],
    *,
    websocket: bool = False,
    over: Callable[[AuthFile, str], object] = keys.revoke,
    before: bool = False,
) -> list[Message]:
    """What is answered when the key is revoked, or whatever `over` does, while `app` serves, or just `before`, when nobody watches."""

    async def run() -> list[Message]:
        sent: list[Message] = []
        key_id, caller = known(gatekeeper)

        async def serving_one(scope: Scope, receive: Receive, send: Send) -> None:
            if not before:
                asyncio.get_running_loop().call_soon(over, gatekeeper.file, key_id)
            await app(scope["lease"])

        async def receive() -> Message:
            raise AssertionError

        async def send(message: Message) -> None:
            sent.append(message)

        held = Leases(gatekeeper)
        if before:
            over(gatekeeper.file, key_id)
        with held.watching():
            await held.serve(caller, serving_one, {"type": "websocket" if websocket else "http"}, receive, send)
        assert asyncio.current_task() is not None
        await asyncio.sleep(0)  # no cancellation is left behind
        return sent

    return asyncio.run(asyncio.wait_for(run(), 60))


async def _for_ever(lease: Lease) -> None:
    await asyncio.get_running_loop().create_future()


def test_what_has_said_nothing_yet_is_refused(gatekeeper: Gatekeeper) -> None:
    assert [each.get("status") for each in served(gatekeeper, _for_ever)] == [401, None]
    assert served(gatekeeper, _for_ever, websocket=True) == [{"type": "websocket.close", "code": 1008}]


def test_a_key_that_is_given_less_time_ends_what_it_opened_when_that_is_over(gatekeeper: Gatekeeper) -> None:
    def shorten(file: AuthFile, key_id: str) -> None:
        keys.edit(file, key_id, {"expires_in": 1.0})

    assert served(gatekeeper, _for_ever, over=shorten)[0]["status"] == 401


def test_what_was_opened_with_a_key_that_is_none_any_more_ends_at_once(gatekeeper: Gatekeeper) -> None:
    assert served(gatekeeper, _for_ever, before=True)[0]["status"] == 401


def test_who_does_not_end_is_told_again(gatekeeper: Gatekeeper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "_POLITE_S", 0.01)
    told: list[Lease] = []

    async def stubborn(lease: Lease) -> None:
        while len(told) < 3:
            try:
                await _for_ever(lease)
            except asyncio.CancelledError:
                told.append(lease)

    async def polite(lease: Lease) -> None:
        lease.polite = True
        await lease.over
        await _for_ever(lease)

    assert served(gatekeeper, stubborn)[0]["status"] == 401
    assert len(told) == 3
    assert served(gatekeeper, polite)[0]["status"] == 401


def test_a_fault_stays_a_fault_and_a_cancellation_by_others_is_theirs(gatekeeper: Gatekeeper) -> None:
    async def faulty(lease: Lease) -> None:
        await lease.over
        raise ZeroDivisionError

    async def cancelled(lease: Lease) -> None:
        raise asyncio.CancelledError

    with pytest.raises(ZeroDivisionError):
        served(gatekeeper, polite_first(faulty))
    with pytest.raises(asyncio.CancelledError):
        served(gatekeeper, cancelled)


def polite_first(app: Callable[[Lease], Any]) -> Callable[[Lease], Any]:
    async def run(lease: Lease) -> None:
        lease.polite = True
        await app(lease)

    return run


def test_what_rights_are_left(gatekeeper: Gatekeeper) -> None:
    key_id, caller = known(gatekeeper)
    assert gatekeeper.still(caller)
    assert not gatekeeper.still(EVERYBODY)
    keys.edit(gatekeeper.file, key_id, {"scopes": ["read"]})
    assert not gatekeeper.still(caller)
    gatekeeper.file.path.unlink()
    assert gatekeeper.still(caller), "nobody is asked any more"
