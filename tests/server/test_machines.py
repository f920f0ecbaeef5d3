"""The life of machines over HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from websockets.sync.client import connect

from bandsox import BandSox, MicroVM
from bandsox.errors import InvalidRequest
from bandsox.server.pages import page
from bandsox.settings import DEFAULT_IMAGE
from tests.server.servers import Server, as_json


def test_a_machine_lives_through_everything(http: httpx.Client, bandsox: BandSox) -> None:
    made = http.post("/api/vms", json={"image": DEFAULT_IMAGE, "name": "by http", "mem_mib": 256, "metadata": {"team": "web"}})
    assert made.status_code == 200
    assert made.json()["status"] == "created"
    path = f"/api/vms/{made.json()['id']}"
    try:
        assert http.get(path).json() == as_json(bandsox.get_vm_info("by http"))
        assert http.post(f"{path}/pause").json() == {"status": "paused"}
        assert http.get(path).json()["status"] == "paused"
        assert http.post(f"{path}/exec", json={"command": "true"}).status_code == 409
        assert http.post(f"{path}/resume").json() == {"status": "resumed"}
        assert http.put(f"{path}/name", json={"name": "other"}).json() == {"status": "renamed", "name": "other"}
        assert http.put(f"{path}/metadata", json={"metadata": {"a": [1]}}).status_code == 200
        assert http.get("/api/vms/other").json()["metadata"] == {"a": [1]}
        assert "Linux version" in http.get(f"{path}/console").json()["console"] or http.get(f"{path}/console").status_code == 200
        assert http.post(f"{path}/stop").json() == {"status": "stopped"}
        assert http.post(f"{path}/pause").status_code == 409
        assert http.post(f"{path}/start").json() == {"status": "started"}
        assert http.get(f"{path}/agent").json()["kernel"]
    finally:
        assert http.delete(path).json() == {"status": "deleted"}
    assert http.get(path).json()["code"] == "vm_not_found"
    assert http.delete(path).status_code == 404


def test_the_list_is_that_of_the_library(http: httpx.Client, bandsox: BandSox, vm: MicroVM) -> None:
    assert http.get("/api/vms").json() == as_json(bandsox.list_vms())
    assert http.get("/api/projects").json() == as_json(bandsox.list_vms())
    bandsox.update_vm_metadata(vm.vm_id, {"colour": "red", "n": 1})
    found = http.get("/api/vms", params={"metadata_equals": json.dumps({"colour": "red"})}).json()
    assert [each["id"] for each in found] == [vm.vm_id]
    assert http.get("/api/vms", params={"metadata_equals": json.dumps({"colour": "blue"})}).json() == []
    assert http.get("/api/vms", params={"limit": 0}).json() == []
    assert http.get("/api/vms", params={"status": "dead", "name": vm.name}).json() == []
    assert [each["id"] for each in http.get("/api/vms", params={"name": vm.name[2:]}).json()] == [vm.vm_id]
    assert vm.vm_id in [each["id"] for each in http.get("/api/vms", params={"image": DEFAULT_IMAGE}).json()]
    assert http.get("/api/vms", params={"image": "other"}).json() == []


def test_of_a_machine_without_a_policy_nothing_is_written_down(http: httpx.Client, vm: MicroVM) -> None:
    path = f"/api/vms/{vm.vm_id}/network"
    assert http.get(f"{path}/policy").json() == {"policy": None}
    for what in ("log", "log/follow", "stats", "learned"):
        assert http.get(f"{path}/{what}").json()["code"] == "conflict"


def test_pages_are_the_whole_list_even_where_their_last_entry_was_deleted() -> None:
    def snapshot(number: int) -> Any:
        return SimpleNamespace(id=f"{number:016x}", created_at=1e9 - number // 2)  # two at each time

    everything = [snapshot(number) for number in range(9)]
    rest, found, after = everything, [], None
    while True:
        shown, headers = page(rest, 2, after)
        found += shown
        if not headers:
            break
        after = headers["X-Next-After"]
        rest = [each for each in everything if each is not shown[-1]]
    assert found == everything
    with pytest.raises(InvalidRequest):
        page(everything, 2, "9f86d081884c7d65")


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/api/vms/no-such-vm", None, 404, "vm_not_found"),
        ("GET", "/api/nothing", None, 404, "not_found"),
        ("PATCH", "/api/vms", None, 405, "method_not_allowed"),
        ("GET", "/api/vms?metadata_equals=[]", None, 400, "invalid_request"),
        ("GET", "/api/vms?limit=-1", None, 422, "invalid_request"),
        ("GET", "/api/vms?after=nowhere", None, 400, "invalid_request"),
        ("POST", "/api/vms", {"image": "NOT A REFERENCE"}, 400, "invalid_reference"),
        ("POST", "/api/vms", {"image": DEFAULT_IMAGE, "vcpu": 0}, 422, "invalid_request"),
        ("POST", "/api/vms", {"image": DEFAULT_IMAGE, "enable_networking": "maybe"}, 422, "invalid_request"),
        ("POST", "/api/vms", {"image": DEFAULT_IMAGE, "colour": "red"}, 422, "invalid_request"),
        ("POST", "/api/vms", {"image": DEFAULT_IMAGE, "mcp": {"x": {}}}, 400, "invalid_request"),
        ("GET", "/api/vms/%2e%2e%2f%2e%2e", None, 404, "vm_not_found"),
        ("GET", "/api/vms/%252f", None, 404, "vm_not_found"),
        ("GET", "/api/vms/a/b", None, 404, "not_found"),
    ],
)
def test_a_mistake_is_named(http: httpx.Client, method: str, path: str, body: object, status: int, code: str) -> None:
    answer = http.request(method, path, json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert set(answer.json()) == {"code", "message", "cause", "remedy", "retryable", "detail"}


def test_a_slash_is_a_part_of_a_name_where_it_is_encoded(http: httpx.Client, server: Server, bandsox: BandSox, vm: MicroVM) -> None:
    before = vm.name
    remote = BandSox(server.url)
    try:
        for name in (f"{before}/files", f"{before}/../x", "..", "."):
            bandsox.rename_vm(vm.vm_id, name)
            assert remote.get_vm_info(name) == as_json(bandsox.get_vm_info(vm.vm_id))
        bandsox.rename_vm(vm.vm_id, f"{before}/files")
        path = f"/api/vms/{before}%2Ffiles"
        assert http.put(f"{path}/metadata", json={"metadata": {"by": "name"}}).json()["metadata"] == {"by": "name"}
        assert http.post(f"{path}%2Fexec", json={"command": "true"}).status_code == 405, "it is a name, and no route of that machine"
        assert http.post(f"{path.replace('%2F', '%2f')}/exec", json={"command": "echo a"}).json()["stdout"] == "a\n"
        with connect(f"{server.url.replace('http', 'ws')}{path}/exec-stream", proxy=None, open_timeout=60) as socket:
            socket.send('{"command": "exit 3"}')
            assert json.loads(socket.recv(timeout=60)) == {"type": "exit", "exit_code": 3}
        assert json.loads((bandsox.storage_dir / "audit.log").read_text().splitlines()[-1])["path"].startswith(path)
    finally:
        bandsox.rename_vm(vm.vm_id, before)


def test_a_body_that_is_no_json_is_a_mistake_of_the_caller(http: httpx.Client) -> None:
    for body in (b"{", b"\xff", b"[" * 10_000):
        answer = http.post("/api/vms", content=body, headers={"content-type": "application/json"})
        assert answer.status_code in {400, 422}
        assert answer.json()["code"] == "invalid_request"


def test_a_body_that_is_too_large_is_not_read(http: httpx.Client) -> None:
    answer = http.post("/api/vms", content=b" " * (2 << 20), headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (413, "request_too_large")

    def unannounced() -> Iterator[bytes]:
        for _ in range(64):
            yield b" " * (64 << 10)

    answer = http.post("/api/vms", content=unannounced(), headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (413, "request_too_large")


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "", "a b", "localhost.evil.example", "localhost@evil.example"])
def test_a_name_that_is_not_ours_is_refused(http: httpx.Client, host: str) -> None:
    assert http.get("/api/vms", headers={"host": host}).status_code in {400, 421}


def test_pages_of_others_are_refused(http: httpx.Client, server: Server) -> None:
    for origin in ("http://evil.example", "null", "https://127.0.0.1:1", server.url + ".evil.example", "http://x@" + server.url[7:]):
        for method in ("GET", "POST", "DELETE"):
            answer = http.request(method, "/api/vms", headers={"origin": origin}, json={})
            assert (answer.status_code, answer.json()["code"]) == (403, "foreign_origin")
    assert http.get("/api/vms", headers={"origin": server.url}).status_code == 200


def test_browsers_are_told_to_be_careful(http: httpx.Client) -> None:
    for answer in (http.get("/healthz"), http.get("/api/nothing"), http.get("/api/vms", headers={"host": "evil.example"})):
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in answer.headers
