"""Snapshots and clones over HTTP, and through the remote client."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator

import httpx
import pytest

from bandsox import BandSox, MicroVM, Progress, errors
from tests.server.servers import Server, as_json


@pytest.fixture(scope="module")
def saved(http: httpx.Client, path: str, vm: MicroVM) -> Iterator[str]:
    vm.run("echo kept > /dev/shm/kept")
    name = f"saved-{secrets.token_hex(4)}"
    answer = http.post(f"{path}/snapshot", json={"name": name, "metadata": {"n": 1}}).json()
    assert (answer["snapshot_id"], vm.status().value) == (name, "running")
    yield name
    assert http.delete(f"/api/snapshots/{name}").json() == {"status": "deleted"}
    assert http.get(f"/api/snapshots/{name}").json()["code"] == "snapshot_not_found"


def test_a_snapshot_is_what_the_library_says(http: httpx.Client, saved: str, bandsox: BandSox, vm: MicroVM) -> None:
    assert http.get(f"/api/snapshots/{saved}").json() == as_json(bandsox.get_snapshot_info(saved))
    assert http.get("/api/snapshots").json() == as_json(bandsox.list_snapshots())
    found = http.get("/api/snapshots", params={"source_vm_id": vm.vm_id, "metadata_equals": json.dumps({"n": 1})}).json()
    assert [each["snapshot_name"] for each in found] == [saved]
    assert http.get("/api/snapshots", params={"metadata_equals": json.dumps({"n": 2})}).json() == []
    assert http.get("/api/snapshots", params={"source_vm_id": "none"}).json() == []


def test_labels_of_a_snapshot_change(http: httpx.Client, saved: str) -> None:
    path = f"/api/snapshots/{saved}"
    assert http.put(f"{path}/name", json={"name": f"{saved}-2"}).json() == {"status": "renamed", "name": f"{saved}-2"}
    assert http.put(f"{path}-2/metadata", json={"metadata": {"n": 1, "x": [None]}}).json() == {"n": 1, "x": [None]}
    assert http.put(f"{path}-2/name", json={"name": saved}).status_code == 200
    assert http.put("/api/snapshots/none/name", json={"name": "x"}).status_code == 404


def test_a_restored_machine_goes_on(http: httpx.Client, saved: str) -> None:
    made = http.post(f"/api/snapshots/{saved}/restore", json={"env_vars": {"OWN": "clone"}, "metadata": {"a": 1}}).json()
    try:
        assert made["status"] == "restored"
        ran = http.post(f"/api/vms/{made['id']}/exec", json={"command": "cat /dev/shm/kept; echo $OWN"}).json()
        assert ran["stdout"] == "kept\nclone\n"
        assert http.get(f"/api/vms/{made['id']}").json()["receipt"]["steps"]
    finally:
        http.delete(f"/api/vms/{made['id']}")


def test_the_steps_of_long_work_are_told(http: httpx.Client, saved: str) -> None:
    request = {"url": f"/api/snapshots/{saved}/restore", "json": {}, "headers": {"accept": "application/x-ndjson"}}
    with http.stream("POST", **request) as answer:  # type: ignore[arg-type]
        said = [json.loads(line) for line in answer.iter_lines() if line]
    http.delete(f"/api/vms/{said[-1]['result']['id']}")
    assert [said[0]["type"], said[-1]["type"]] == ["progress", "result"]
    assert {"task", "label", "done", "total", "unit", "finished"} <= said[0].keys()
    with http.stream("POST", "/api/snapshots/none/restore", json={}, headers=request["headers"]) as answer:  # type: ignore[arg-type]
        assert answer.status_code == 404, "what fails at once has its status"


def test_the_remote_client_takes_restores_and_forks(server: Server, vm: MicroVM, bandsox: BandSox) -> None:
    remote = BandSox(server.url)
    there = remote.get_vm(vm.vm_id)
    assert there is not None
    steps: list[Progress] = []
    name = remote.snapshot_vm(there, f"remote-{secrets.token_hex(4)}", {"by": "client"}, steps.append)
    try:
        assert steps
        assert remote.get_snapshot_info(name) == as_json(bandsox.get_snapshot_info(name))
        assert remote.update_snapshot_metadata(name, {"by": "x"}) == {"by": "x"}
        with remote.restore_vm(name, progress=steps.append) as restored:
            assert restored.run("echo $((6*7))").text == "42\n"
            assert restored.receipt == bandsox.get_vm(restored.vm_id).receipt  # type: ignore[union-attr]
        assert any(step.task == "boot" and step.finished for step in steps)
        clones = there.fork(2, f"fork-{secrets.token_hex(4)}", env_vars={"N": "1"})
        try:
            assert [clone.run("echo $N").text for clone in clones] == ["1\n", "1\n"]
        finally:
            for clone in clones:
                clone.delete()
    finally:
        remote.delete_snapshot(name)
    with pytest.raises(errors.SnapshotNotFound):
        remote.restore_vm(name)
    assert name not in [each["snapshot_name"] for each in remote.list_snapshots()]


def test_a_fork_that_cannot_be_makes_nothing(http: httpx.Client, path: str) -> None:
    before = http.get("/api/vms").json()
    for wrong in ({"count": 0}, {"count": 10_000}, {"name": "", "count": 1}, {"colour": 1}):
        assert http.post(f"{path}/fork", json=wrong).status_code in {400, 422}
    taken = before[0]["name"]
    assert http.post(f"{path}/fork", json={"name": taken}).status_code == 409
    assert len(http.get("/api/vms").json()) == len(before)
