"""Timelines over HTTP, through the remote client and from the command line."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from bandsox import BandSox, MicroVM, Progress, errors
from tests.cli.conftest import Cli
from tests.server.servers import Server


@pytest.fixture(scope="module")
def there(server: Server, vm: MicroVM) -> MicroVM:
    found = BandSox(server.url).get_vm(vm.vm_id)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def marked(http: httpx.Client, path: str, vm: MicroVM) -> Iterator[str]:
    """The label of a checkpoint, which has a slash, with which it all begins."""
    vm.run("echo one > /root/file; echo one > /dev/shm/memory; mkdir -p /root/odd; touch /root/gone")
    label = "before/the change"
    made = http.post(f"{path}/checkpoints", json={"label": label}).json()
    assert (made["label"], made["after"]) == (label, None)
    yield label
    assert http.delete(f"{path}/checkpoints/before%2Fthe%20change").json() == {"status": "deleted"}
    assert http.get(f"{path}/checkpoints").json() == []


def test_checkpoints_are_those_of_the_library(http: httpx.Client, path: str, there: MicroVM, vm: MicroVM, marked: str) -> None:
    known = vm.checkpoints()
    assert there.checkpoints() == known
    [listed] = http.get(f"{path}/checkpoints").json()
    among = {each["id"]: each["belongs_to"] for each in http.get("/api/snapshots?belonging=true").json()}
    assert among[listed["snapshot"]] == {"purpose": "checkpoint", "owner": vm.vm_id, "label": marked}
    assert listed["snapshot"] not in [each["id"] for each in http.get("/api/snapshots").json()]
    assert listed == {name: getattr(known[0], name) for name in known[0].__slots__}
    assert http.get(f"/api/snapshots/{listed['snapshot']}").json()["source_vm_id"] == vm.vm_id
    assert http.post(f"{path}/checkpoints", json={"label": marked}).json()["code"] == "conflict"
    for wrong in ({"label": ""}, {"label": "x" * 129}, {"label": "a\nb"}, {"colour": 1}):
        assert http.post(f"{path}/checkpoints", json=wrong).status_code in {400, 422}
    assert [each["label"] for each in http.get(f"{path}/checkpoints").json()] == [marked]


def test_a_checkpoint_is_made_once_however_often_it_is_asked_for(http: httpx.Client, path: str, marked: str) -> None:
    key = {"idempotency-key": secrets.token_hex(8)}
    first = http.post(f"{path}/checkpoints", json={}, headers=key).json()
    assert http.post(f"{path}/checkpoints", json={}, headers=key).json() == first
    assert [each["label"] for each in http.get(f"{path}/checkpoints").json()] == [marked, first["label"]]
    http.delete(f"{path}/checkpoints/{first['label']}")


def test_a_machine_goes_back_and_what_had_changed_is_told(
    server: Server, http: httpx.Client, path: str, there: MicroVM, vm: MicroVM, marked: str, tmp_path: Path
) -> None:
    vm.run("echo two > /root/file; echo two > /dev/shm/memory; rm /root/gone")
    vm.run(["python3", "-c", "open(b'/root/odd/\\xff', 'w').close()"])
    steps: list[Progress] = []
    found = there.diff(marked, progress=steps.append)
    assert {step.task for step in steps} == {"compare"}
    assert {(each.change, each.path) for each in found if each.path.startswith(b"/root")} >= {
        ("modified", b"/root/file"),
        ("removed", b"/root/gone"),
        ("created", b"/root/odd/\xff"),
    }
    answer = http.post(f"{path}/diff", json={"before": marked, "limit": len(found) - 1})
    assert (answer.status_code, answer.json()["code"]) == (413, "limit_exceeded")

    before = there.receipt
    there.rewind(marked, steps.append)
    assert vm.run("cat /root/file /dev/shm/memory; ls /root/odd").text == "one\none\n"
    assert there.receipt is not None and there.receipt != before
    cli = Cli(tmp_path / "unused")
    cli.environment = {**cli.environment, "BANDSOX_URL": server.url, "HOME": str(tmp_path)}
    del cli.environment["BANDSOX_STORAGE"]
    vm.run("echo three > /root/file")
    assert [each["label"] for each in cli("--json", "vm", "checkpoints", vm.vm_id, check=True).json] == [marked]
    assert cli("vm", "checkpoint", vm.vm_id, "later", check=True).text == "later\n"
    cli("vm", "rewind", vm.vm_id, marked, check=True)
    assert vm.run("cat /root/file").text == "one\n"
    cli("vm", "checkpoint", vm.vm_id, "later", "--remove", check=True)
    listed = cli("--json", "vm", "diff", vm.vm_id, marked, check=True).json
    assert "/root/file" not in [each["path"] for each in listed]


def test_a_place_that_is_not_there_is_named(http: httpx.Client, path: str, there: MicroVM) -> None:
    for operation in (there.rewind, there.remove_checkpoint, there.diff):
        with pytest.raises(errors.CheckpointNotFound):
            operation("none")
    for wrong in ({}, {"before": ""}, {"before": "x", "limit": 0}, {"before": "x", "limit": 1 << 20}):
        assert http.post(f"{path}/diff", json=wrong).status_code == 422
    assert http.post(f"{path}/rewind", json={}).status_code == 422
