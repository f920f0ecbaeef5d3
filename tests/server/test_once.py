"""Requests with a key are carried out once: sent again, side by side, and across servers that are killed in the middle."""

from __future__ import annotations

import contextlib
import json
import secrets
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from bandsox import BandSox, MicroVM
from bandsox.process import ProcessId
from bandsox.server.auth import keys
from bandsox.server.auth.file import AuthFile
from bandsox.settings import DEFAULT_IMAGE, Layout
from bandsox.store import Database, KeyedRequests
from bandsox.store import keyed as table
from tests.server.servers import Server, serving


def keyed(key: str) -> dict[str, str]:
    return {"idempotency-key": key}


@pytest.fixture
def key() -> str:
    return f"test-{secrets.token_hex(8)}"


@contextlib.contextmanager
def sent(server: Server, path: str, body: dict[str, Any], key: str) -> Iterator[None]:
    """A request that is under way while the block runs, and whose answer nobody gets."""

    def send() -> None:
        with contextlib.suppress(httpx.HTTPError), server.client() as client:
            client.post(path, json=body, headers=keyed(key))

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        thread.join(60)


# ── the table ──


def test_outcomes_are_kept_for_a_while_and_so_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "KEPT", 3)
    requests, me = KeyedRequests(Database(tmp_path / "db")), ProcessId.current()
    requests.claim("c", "unfinished", "a", ["1"], me)
    for number in range(9):
        assert requests.claim("c", str(number), "a", [], me).fresh
        requests.settle("c", str(number), "{}")
    requests.claim("other", "0", "a", [], me)
    assert [number for number in range(9) if requests.get("c", str(number))] == [6, 7, 8]
    assert requests.get("c", "unfinished") is not None, "what has no outcome yet is kept"
    monkeypatch.setattr(table, "KEPT_S", -1)
    requests.claim("c", "new", "a", [], me)
    assert requests.get("c", "8") is None


def test_one_of_many_takes_over(tmp_path: Path) -> None:
    requests, dead, me = KeyedRequests(Database(tmp_path / "db")), ProcessId(1, 0), ProcessId.current()
    requests.claim("c", "k", "a", ["1"], dead)
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda number: requests.take_over("c", "k", dead, ProcessId(me.pid, number)), range(2, 10)))
    assert sum(won) == 1


# ── machines ──


def test_a_machine_is_made_once_however_often_it_is_asked_for(http: httpx.Client, key: str) -> None:
    body = {"image": DEFAULT_IMAGE, "mem_mib": 256}
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: http.post("/api/vms", json=body, headers=keyed(key)), range(6)))
    made = answers[0].json()
    try:
        assert [answer.json() for answer in answers] == [made] * 6
        assert http.get(f"/api/requests/{key}").json() == {"status": "done", "result": made, "failure": None}
        other = http.post("/api/vms", json={**body, "mem_mib": 257}, headers=keyed(key))
        assert (other.status_code, other.json()["code"]) == (409, "conflict")
    finally:
        assert http.delete(f"/api/vms/{made['id']}").status_code == 200
    assert http.post("/api/vms", json=body, headers=keyed(key)).json() == made, "it was made, even if it is gone"
    assert http.get(f"/api/vms/{made['id']}").status_code == 404


@pytest.mark.parametrize("moment", ["creating", "running"])
def test_a_server_that_is_killed_makes_a_machine_once(storage: Path, bandsox: BandSox, key: str, moment: str) -> None:
    before = {info["id"] for info in bandsox.list_vms()}
    body = {"image": DEFAULT_IMAGE, "mem_mib": 256, "name": f"once-{key}"}
    changes = bandsox.events(0)
    with serving(storage) as server, sent(server, "/api/vms", body, key):
        while (change := next(changes)).name != body["name"] or change.status != moment:
            pass
        server.kill()
    changes.close()  # type: ignore[attr-defined]
    with serving(storage) as server, server.client() as client:
        made = client.post("/api/vms", json=body, headers=keyed(key)).json()
        try:
            if moment == "running":
                assert made["id"] == change.subject
            assert client.post("/api/vms", json=body, headers=keyed(key)).json() == made
            assert {info["id"] for info in client.get("/api/vms").json()} - before == {made["id"]}
            assert client.post(f"/api/vms/{made['id']}/exec", json={"command": "echo lives"}).json()["stdout"] == "lives\n"
        finally:
            client.delete(f"/api/vms/{made['id']}")


def test_a_snapshot_and_its_clones_are_made_once(http: httpx.Client, path: str, key: str) -> None:
    name = f"snap-{key}"
    try:
        answers = [http.post(f"{path}/snapshot", json={"name": name}, headers=keyed(key)).json() for _ in range(2)]
        assert answers[0] == answers[1]
        restored = [http.post(f"/api/snapshots/{name}/restore", json={}, headers=keyed(f"{key}-r")).json() for _ in range(2)]
        forked = [http.post(f"{path}/fork", json={"count": 2}, headers=keyed(f"{key}-f")).json() for _ in range(2)]
        assert (restored[0], forked[0]) == (restored[1], forked[1])
        for made in (restored[0]["id"], *(each["id"] for each in forked[0]["vms"])):
            assert http.delete(f"/api/vms/{made}").status_code == 200
    finally:
        http.delete(f"/api/snapshots/{name}")


def test_a_request_that_fails_has_made_nothing_and_can_be_sent_again(http: httpx.Client, path: str, key: str) -> None:
    for _ in range(2):
        assert http.post("/api/vms", json={"image": "no-such-file.example/x:y"}, headers=keyed(key)).status_code in {502, 503, 404}
    assert http.get(f"/api/requests/{key}").status_code == 404
    ran = http.post(f"{path}/exec", json={"argv": ["no-such-program"]}, headers=keyed(key))
    assert (ran.status_code, ran.json()["code"]) == (422, "command_not_found")
    assert http.post(f"{path}/exec", json={"argv": ["true"]}, headers=keyed(key)).status_code == 200


@pytest.mark.parametrize("wrong", ["", "a b", "ä", "x" * 256])
def test_what_cannot_be_a_key(http: httpx.Client, path: str, wrong: str) -> None:
    answer = http.post(f"{path}/exec", json={"argv": ["true"]}, headers={b"idempotency-key": wrong.encode()})
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")


# ── commands ──


def test_a_command_runs_once_and_its_outcome_can_be_asked_for(http: httpx.Client, path: str, vm: MicroVM, key: str) -> None:
    body = {"command": f"echo x >> /root/{key}; echo out; echo err >&2; exit 3"}
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: http.post(f"{path}/exec", json=body, headers=keyed(key)).json(), range(4)))
    assert answers == [answers[0]] * 4
    assert (answers[0]["exit_code"], answers[0]["stdout"], answers[0]["stderr"]) == (3, "out\n", "err\n")
    assert vm.read_bytes(f"/root/{key}") == b"x\n"
    assert http.get(f"/api/requests/{key}").json()["result"] == answers[0]
    assert http.post(f"{path}/exec", json={**body, "stdin": "x"}, headers=keyed(key)).status_code == 400


def test_a_command_goes_on_while_its_server_is_killed(storage: Path, path: str, vm: MicroVM, key: str) -> None:
    body = {"command": f"echo x >> /root/{key}; until [ -e /root/{key}.go ]; do sleep 0.1; done; echo done", "timeout": 300}
    with serving(storage) as server, sent(server, f"{path}/exec", body, key):
        assert vm.run(f"until [ -e /root/{key} ]; do sleep 0.1; done", timeout=100).exit_code == 0
        server.kill()
    vm.write_text(f"/root/{key}.go", "")
    with serving(storage) as server, server.client() as client:
        assert client.get(f"/api/requests/{key}").json()["status"] == "unknown"
        ran = client.post(f"{path}/exec", json=body, headers=keyed(key)).json()
        assert (ran["exit_code"], ran["stdout"]) == (0, "done\n")
        assert client.post(f"{path}/exec", json=body, headers=keyed(key)).json() == ran
    assert vm.read_bytes(f"/root/{key}") == b"x\n"


def test_a_timeout_is_an_outcome(http: httpx.Client, path: str, vm: MicroVM, key: str) -> None:
    vm.write_bytes(f"/root/{key}", b"")
    for timeout in (1, 4, 16, 64):  # until the machine had the time to begin
        body = {"command": f"echo x >> /root/{key}; sleep 1000", "timeout": timeout}
        answers = [http.post(f"{path}/exec", json=body, headers=keyed(f"{key}-{timeout}")) for _ in range(2)]
        assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [(504, "command_timeout")] * 2
        if vm.read_bytes(f"/root/{key}"):
            break
    assert vm.read_bytes(f"/root/{key}") == b"x\n"


def test_output_without_end_is_cut_and_told(http: httpx.Client, path: str, key: str) -> None:
    answer = http.post(f"{path}/exec", json={"command": "yes"}, headers=keyed(key))
    assert (answer.status_code, answer.json()["code"]) == (413, "limit_exceeded")
    assert http.get(f"/api/requests/{key}").json()["failure"]["code"] == "limit_exceeded"


def test_a_session_is_started_once(http: httpx.Client, path: str, vm: MicroVM, key: str) -> None:
    answers = [http.post(f"{path}/sessions", json={"command": "cat"}, headers=keyed(key)).json() for _ in range(2)]
    assert answers[0] == answers[1]
    assert [each.id for each in vm.list_sessions()].count(answers[0]["id"]) == 1
    vm.kill_session(answers[0]["id"])


def test_the_keys_of_others_are_others(tmp_path: Path, key: str) -> None:
    with BandSox(tmp_path):
        file = AuthFile(tmp_path)
    file.set_password("long enough")
    made = [keys.create(file, name, ["read"]) for name in ("one", "other")]
    with serving(tmp_path) as server:
        requests = KeyedRequests(Database(Layout.open(tmp_path).database))
        requests.claim(made[0].key_id, key, "asked", [], ProcessId.current())
        requests.settle(made[0].key_id, key, json.dumps({"result": {"secret": 1}}))
        for each, status in zip(made, (200, 404), strict=True):
            with server.client(each.key) as client:
                assert client.get(f"/api/requests/{key}").status_code == status
