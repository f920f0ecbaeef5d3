"""Webhooks: signed, in order, at least once each, whoever is killed; and never to where only this host can go."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.server
import ipaddress
import json
import queue
import secrets
import socket
import sqlite3
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandsox.errors import InvalidRequest, NotFound
from bandsox.models import Change, Delivery, Webhook
from bandsox.server.webhooks import dispatcher, message
from bandsox.server.webhooks.target import is_permitted
from bandsox.settings import Layout
from bandsox.store import Database, Webhooks
from bandsox.store import webhooks as table
from tests.server.servers import Server, serving
from tests.server.test_events import vm_row

LOOPBACK = ("--webhook-network", "127.0.0.0/8")


@dataclass
class Received:
    """A request that came to a receiver."""

    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def said(self) -> Any:
        return json.loads(self.body)

    def is_signed_with(self, secret: str) -> bool:
        """Whether it is as Standard Webhooks says: ``webhook-signature`` is of id, timestamp and body."""
        signed = b".".join([self.id.encode(), self.headers["webhook-timestamp"].encode(), self.body])
        digest = hmac.new(base64.b64decode(secret.removeprefix("whsec_")), signed, hashlib.sha256).digest()
        return self.headers["webhook-signature"] == f"v1,{base64.b64encode(digest).decode()}"


class Receiver:
    """A server that somebody runs to be told. What it is to answer with is put into `answers`: else 204."""

    def __init__(self) -> None:
        self.came: queue.Queue[Received] = queue.Queue()
        self.answers: queue.Queue[int | threading.Event] = queue.Queue()
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.came.put(Received({name.lower(): value for name, value in self.headers.items()}, body))
                answer = receiver.answers.get() if not receiver.answers.empty() else 204
                if isinstance(answer, threading.Event):
                    answer.wait(60)
                    self.close_connection = True
                    return
                self.send_response(answer)
                self.send_header("location", "/elsewhere")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook?from=bandsox"

    def next(self) -> Received:
        return self.came.get(timeout=60)

    def names(self, count: int) -> list[str]:
        """The names in the next messages."""
        return [self.next().said["data"]["name"] for _ in range(count)]


@contextmanager
def receiving(context: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    receiver = Receiver()
    if context is not None:
        receiver.server.socket = context.wrap_socket(receiver.server.socket, server_side=True)
        receiver.url = receiver.url.replace("http:", "https:")
    thread = threading.Thread(target=receiver.server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield receiver
    finally:
        receiver.server.shutdown()
        receiver.server.server_close()
        thread.join()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Layout.open(tmp_path_factory.mktemp("webhooks")).root


@pytest.fixture(scope="module")
def server(storage: Path) -> Iterator[Server]:
    with serving(storage, *LOOPBACK) as server:
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client
        for hook in client.get("/api/webhooks").json():
            client.delete(f"/api/webhooks/{hook['id']}")


@pytest.fixture
def hooks(tmp_path: Path) -> Webhooks:
    layout = Layout.open(tmp_path)
    return Webhooks(Database(layout.database), layout.locks)


def made(client: httpx.Client, url: str, *events: str) -> dict[str, Any]:
    answer = client.post("/api/webhooks", json={"url": url, "events": events or ["*"]})
    assert answer.status_code == 200, answer.text
    hook: dict[str, Any] = answer.json()
    return hook


def unique(name: str) -> str:
    return f"{secrets.token_hex(4)}-{name}"


def settled(client: httpx.Client, hook: dict[str, Any], attempts: int) -> list[dict[str, Any]]:
    """What became of so many attempts, the newest first: the receiver knows of the last one before it is written down."""
    while True:
        found: list[dict[str, Any]] = client.get(f"/api/webhooks/{hook['id']}/deliveries").json()
        if len(found) >= attempts:
            return found


# ── what is told ────────────────────────────────────────────────────────────────────────────────────


def test_what_happens_is_told_signed_and_in_order(client: httpx.Client, receiver: Receiver, storage: Path) -> None:
    hook = made(client, receiver.url, "vm.*")
    names = [unique("told") for _ in range(5)]
    with sqlite3.connect(Layout.open(storage).database) as connection:
        connection.execute("INSERT INTO images VALUES (?, 'a', 'b', 1, 1, '{}')", (names[0],))
    for name in names:
        vm_row(storage, name)
    came = [receiver.next() for _ in names]
    assert [each.said["data"]["name"] for each in came] == names
    assert {each.said["type"] for each in came} == {"vm.created"}, "of images it wanted to hear nothing"
    assert all(each.is_signed_with(hook["secret"]) for each in came)
    assert not any(each.is_signed_with("whsec_" + base64.b64encode(b"0" * 32).decode()) for each in came)
    assert len({each.id for each in came}) == len(names)
    assert came[0].headers["host"] == receiver.url.split("/")[2]
    assert came[0].said["timestamp"].endswith("Z")
    assert abs(int(came[0].headers["webhook-timestamp"]) - time.time()) < 3600
    assert {(each["outcome"], each["status"], each["attempt"]) for each in settled(client, hook, 5)} == {("delivered", 204, 1)}


def test_one_who_fails_is_told_again_with_the_same_id_and_then_of_the_rest(client: httpx.Client, receiver: Receiver, storage: Path) -> None:
    for status in (500, 302):
        receiver.answers.put(status)
    hook = made(client, receiver.url)
    first, second = unique("first"), unique("second")
    vm_row(storage, first)
    vm_row(storage, second)
    came = [receiver.next() for _ in range(4)]
    assert [each.said["data"]["name"] for each in came] == [first, first, first, second]
    assert len({each.id for each in came[:3]}) == 1
    assert all(each.is_signed_with(hook["secret"]) for each in came)
    outcomes = [(each["outcome"], each["status"], each["attempt"]) for each in reversed(settled(client, hook, 4))]
    assert outcomes == [("failed", 500, 1), ("failed", 302, 2), ("delivered", 204, 3), ("delivered", 204, 1)]
    assert client.get(f"/api/webhooks/{hook['id']}").json()["failing_since"] is None


def test_one_who_does_not_answer_does_not_hold_up_others(client: httpx.Client, receiver: Receiver, storage: Path) -> None:
    never = threading.Event()
    try:
        with receiving() as silent:
            silent.answers.put(never)
            made(client, silent.url)
            made(client, receiver.url)
            name = unique("both")
            vm_row(storage, name)
            assert receiver.names(1) == silent.names(1) == [name]
            never.set()
    finally:
        never.set()


# ── whoever is killed ───────────────────────────────────────────────────────────────────────────────


def test_what_happened_while_no_server_ran_is_told_by_the_next_one(tmp_path: Path, receiver: Receiver, hooks: Webhooks) -> None:
    hook = hooks.add(receiver.url, ["vm.*"])
    for name in ("one", "two"):
        vm_row(tmp_path, name)
    with serving(tmp_path, *LOOPBACK) as server:
        assert receiver.names(2) == ["one", "two"]
        held = threading.Event()
        receiver.answers.put(held)
        vm_row(tmp_path, "three")
        taken = receiver.next()  # and not yet answered
        server.kill()
        held.set()
    vm_row(tmp_path, "four")
    with serving(tmp_path, *LOOPBACK):
        again = receiver.next()
        assert (again.id, again.said) == (taken.id, taken.said)
        assert receiver.names(1) == ["four"]
    assert hooks.get(hook.id).secret == hook.secret


def test_of_two_servers_one_tells_and_the_other_goes_on_when_it_is_killed(tmp_path: Path, receiver: Receiver, hooks: Webhooks) -> None:
    hooks.add(receiver.url, ["*"])
    with serving(tmp_path, *LOOPBACK) as first:
        vm_row(tmp_path, "one")
        assert receiver.names(1) == ["one"]
        with serving(tmp_path, *LOOPBACK):
            vm_row(tmp_path, "two")
            vm_row(tmp_path, "three")
            assert receiver.names(2) == ["two", "three"]
            first.kill()
            vm_row(tmp_path, "four")
            again = receiver.names(1)
            assert (again if again == ["four"] else receiver.names(1)) == ["four"], "three may come twice"
    assert receiver.came.empty()


def test_a_wait_goes_on_in_the_next_server_and_ends_when_the_webhook_is_changed(
    tmp_path: Path, receiver: Receiver, hooks: Webhooks
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        hook = hooks.add(f"http://127.0.0.1:{closed.getsockname()[1]}/", ["*"])
    vm_row(tmp_path, "one")
    failed = Delivery("m", "vm.created", time.time(), 7, "failed", None, "refused", 1)
    hooks.settle(hook, Change(1, 0.0, "vm.created", "", ""), failed, time.time() + 3000)
    with serving(tmp_path, *LOOPBACK) as server, server.client() as client:
        where = f"/api/webhooks/{hook.id}"
        assert client.get(where).json()["next_attempt_at"] > time.time() + 1000
        edited = client.patch(where, json={"url": receiver.url}).json()
        assert (edited["url"], edited["failing_since"], edited["next_attempt_at"]) == (receiver.url, None, None)
        assert receiver.names(1) == ["one"]


def test_one_that_has_fallen_out_of_the_journal_is_told_so(tmp_path: Path, receiver: Receiver, hooks: Webhooks) -> None:
    hooks.add(receiver.url, ["snapshot.*"])
    with sqlite3.connect(Layout.open(tmp_path).database) as connection:
        rows = [(str(number),) for number in range(10_010)]
        connection.executemany("INSERT INTO images VALUES (?, 'a', 'b', 1, 1, '{}')", rows)
    with serving(tmp_path, *LOOPBACK):
        assert receiver.next().said["type"] == "lost"


# ── changed while a server runs ─────────────────────────────────────────────────────────────────────


def test_one_that_is_disabled_is_told_of_what_happens_when_it_is_enabled_again(
    client: httpx.Client, receiver: Receiver, storage: Path
) -> None:
    hook = made(client, receiver.url)
    where = f"/api/webhooks/{hook['id']}"
    assert client.patch(where, json={"enabled": False}).json()["enabled"] is False
    vm_row(storage, unique("unheard"))
    client.patch(where, json={"enabled": True, "events": ["vm.created"]})
    name = unique("heard")
    vm_row(storage, name)
    assert receiver.names(1) == [name]
    assert client.delete(where).json() == {"status": "deleted"}
    assert client.get(where).status_code == client.patch(where, json={}).status_code == client.delete(where).status_code == 404


def test_the_secret_is_shown_once(client: httpx.Client, receiver: Receiver) -> None:
    hook = made(client, receiver.url)
    shown = client.get("/api/webhooks").text + client.get(f"/api/webhooks/{hook['id']}").text
    assert hook["secret"] not in shown
    assert "secret" not in shown


def test_one_can_be_tried(client: httpx.Client, receiver: Receiver) -> None:
    hook = made(client, receiver.url, "vm.deleted")
    tried = client.post(f"/api/webhooks/{hook['id']}/test").json()
    assert (tried["outcome"], tried["status"], tried["kind"]) == ("delivered", 204, "webhook.test")
    came = receiver.next()
    assert came.id == tried["message"]
    assert came.is_signed_with(hook["secret"])
    assert client.get(f"/api/webhooks/{hook['id']}/deliveries").json() == [tried]


def test_the_command_line_sets_them_for_a_server_that_runs(server: Server, storage: Path, receiver: Receiver) -> None:
    def cli(*words: str) -> Any:
        command = [sys.executable, "-m", "bandsox", "--json", "--storage", str(storage), "webhook", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return json.loads(done.stdout) if done.stdout else None

    hook = cli("create", receiver.url, "--event", "vm.created", "--event", "vm.deleted")
    try:
        assert [each["events"] for each in cli("list")] == [["vm.created", "vm.deleted"]]
        assert "secret" not in cli("list")[0]
        name = unique("cli")
        vm_row(storage, name)
        came = receiver.next()
        assert came.said["data"]["name"] == name
        assert came.is_signed_with(hook["secret"])
        cli("edit", hook["id"], "--event", "*", "--disable")
        assert [(each["events"], each["enabled"]) for each in cli("list")] == [(["*"], False)]
        assert {each["kind"] for each in cli("log", hook["id"])} <= {"vm.created"}
    finally:
        cli("delete", hook["id"])
    assert cli("list") == []


# ── where it may go ─────────────────────────────────────────────────────────────────────────────────


def own_address() -> str:
    """An address of this host that is not loopback, if it has one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A server whose operator has allowed no network."""
    with serving(tmp_path_factory.mktemp("strict")) as server, server.client() as client:
        yield client


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0", "[::]", own_address()]
)
def test_nothing_goes_to_this_host(strict: httpx.Client, receiver: Receiver, host: str) -> None:
    hook = made(strict, receiver.url.replace("127.0.0.1", host))
    tried = strict.post(f"/api/webhooks/{hook['id']}/test").json()
    strict.delete(f"/api/webhooks/{hook['id']}")
    assert (tried["outcome"], tried["status"]) == ("failed", None)
    assert "may not go" in tried["error"] or "leads nowhere" in tried["error"]
    assert receiver.came.empty()


def test_what_an_operator_allows_is_that_network_alone(client: httpx.Client) -> None:
    hook = made(client, "http://10.0.0.1/")
    tried = client.post(f"/api/webhooks/{hook['id']}/test").json()
    assert "10.0.0.1, where webhooks may not go" in tried["error"]


@pytest.mark.parametrize(
    ("address", "permitted"),
    [
        ("192.0.2.1", False),
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("fe80::1", False),
        ("fd00::1", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("64:ff9b::10.0.0.1", False),
        ("64:ff9b::93.184.216.34", True),
        ("2002:7f00:1::", False),
        ("::ffff:169.254.169.254", False),
    ],
)
def test_which_addresses_are_on_the_internet(address: str, permitted: bool) -> None:
    assert is_permitted(ipaddress.ip_address(address), ()) is permitted
    assert is_permitted(ipaddress.ip_address(address), [ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0")])


def test_who_cannot_show_that_it_is_who_it_should_be_gets_nothing(client: httpx.Client, certificate: tuple[Path, Path]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with receiving(context) as receiver:
        hook = made(client, receiver.url)
        tried = client.post(f"/api/webhooks/{hook['id']}/test").json()
        assert (tried["outcome"], tried["status"]) == ("failed", None)
        assert "CERTIFICATE" in tried["error"].upper()
        assert receiver.came.empty()


# ── when ────────────────────────────────────────────────────────────────────────────────────────────


def hook_of(**facts: Any) -> Webhook:
    return Webhook("0" * 16, "https://example.org/", ("*",), "whsec_AAAA", 0.0, True, 0, **facts)


@given(st.integers(1, 1000))
def test_each_wait_is_longer_and_none_is_longer_than_an_hour(attempt: int) -> None:
    failed = Delivery("m", "vm.created", time.time(), attempt, "failed", 500, None, 1)
    longest = min(2.0 ** (attempt - 1), dispatcher.LONGEST_S)
    due = dispatcher._next_at(hook_of(failing_since=failed.at), failed)
    assert due is not None
    assert longest / 2 <= due - failed.at <= longest + 60
    assert dispatcher._next_at(hook_of(failing_since=failed.at - dispatcher.GIVEN_UP_S), failed) is None


def test_what_is_given_up_is_done_with(hooks: Webhooks) -> None:
    hook = hooks.add("https://example.org/", ["*"])
    failed = Delivery("m", "vm.created", 5.0, 1, "failed", 500, None, 1)
    change = Change(7, 0.0, "vm.created", "", "")
    hooks.settle(hook, change, failed, 9.0)
    again = hooks.get(hook.id)
    assert (again.position, again.attempts, again.failing_since, again.next_at) == (0, 1, 5.0, 9.0)
    hooks.settle(again, change, replace(failed, at=9.0, attempt=2), 19.0)
    assert hooks.get(hook.id).failing_since == 5.0
    hooks.settle(hooks.get(hook.id), change, replace(failed, outcome="given_up", attempt=3), None)
    done = hooks.get(hook.id)
    assert (done.position, done.attempts, done.failing_since) == (7, 0, None)
    assert [each.outcome for each in hooks.deliveries(hook.id)] == ["given_up", "failed", "failed"]
    hooks.delete(hook.id)
    hooks.settle(hook, change, failed, None)
    assert hooks.deliveries(hook.id) == []


# ── what is kept ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "url",
    ["", "x", "ftp://example.org/", "https://", "https://u:p@example.org/", "https://e.org/#x", "https://e.org:0/", "https://e.org/ x"],
)
def test_what_is_no_address(hooks: Webhooks, url: str) -> None:
    with pytest.raises(InvalidRequest):
        hooks.add(url, ["*"])
    hook = hooks.add("https://example.org/", ["*"])
    with pytest.raises(InvalidRequest):
        hooks.edit(hook.id, url=url)
    assert hooks.get(hook.id).url == "https://example.org/"


@pytest.mark.parametrize("kinds", [[], ["vm"], ["vm.*.*"], [""], ["VM.*"], ["vm.[a]"], ["*"] * 33])
def test_what_is_no_kind(hooks: Webhooks, kinds: list[str]) -> None:
    with pytest.raises(InvalidRequest):
        hooks.add("https://example.org/", kinds)


@pytest.mark.parametrize(
    ("kinds", "kind", "wanted"),
    [
        ("*", "vm.created", True),
        ("vm.*", "vm.created", True),
        ("vm.*", "image.named", False),
        ("vm.created", "vm.status", False),
        ("vm.*", "lost", True),
    ],
)
def test_what_it_is_told_of(kinds: str, kind: str, wanted: bool) -> None:
    assert dispatcher.wants(replace(hook_of(), kinds=(kinds,)), kind) is wanted


def test_both_tables_are_bounded(hooks: Webhooks, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "MOST", 2)
    monkeypatch.setattr(table, "KEPT", 3)
    one, two = (hooks.add("https://example.org/", ["*"]) for _ in range(2))
    with pytest.raises(InvalidRequest, match="already"):
        hooks.add("https://example.org/", ["*"])
    for number in range(5):
        for hook in (one, two):
            hooks.note(hook.id, Delivery(str(number), "webhook.test", 0.0, 1, "delivered", 200, None, 1))
    assert [each.message for each in hooks.deliveries(one.id)] == [each.message for each in hooks.deliveries(two.id)] == ["4", "3", "2"]
    with pytest.raises(NotFound):
        hooks.edit("none")
    assert "whsec" not in repr(one)


def test_a_message_is_the_same_however_often_it_is_made() -> None:
    change = Change(7, 1767225600.25, "vm.status", "9f86d081884c7d65", "dev", "dev", "running")
    made = message.of(hook_of(), change)
    assert made == message.of(hook_of(), change)
    assert json.loads(made.body) == {
        "type": "vm.status",
        "timestamp": "2026-01-01T00:00:00.250000Z",
        "data": {"id": 7, "at": 1767225600.25, "subject": "9f86d081884c7d65", "name": "dev", "status": "running"},
    }
