"""Machines whose memory goes to the disk, and how long machines may run, over HTTP and through the remote client."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import pytest

from bandsox import BandSox, MicroVM, Progress, errors
from tests.server.servers import Server


@pytest.fixture(scope="module")
def vm(bandsox: BandSox) -> Iterator[MicroVM]:
    with bandsox.create_vm(mem_mib=256, vmm="qemu", disk_size_mib=64, enable_networking=False) as machine:
        yield machine


@pytest.fixture(scope="module")
def there(server: Server, vm: MicroVM) -> MicroVM:
    found = BandSox(server.url).get_vm(vm.vm_id)
    assert found is not None
    return found


def test_a_saved_machine_goes_on_when_it_is_wanted(http: httpx.Client, path: str, there: MicroVM, vm: MicroVM) -> None:
    vm.run("echo in memory > /dev/shm/kept")
    steps: list[Progress] = []
    there.hibernate(steps.append)
    assert {step.task for step in steps} == {"save"}
    assert (there.status().value, vm.status().value, http.get(path).json()["pid"]) == ("saved", "saved", None)
    assert http.post(f"{path}/hibernate").json() == {"status": "saved"}, "once more is no mistake"
    with pytest.raises(errors.Conflict):
        there.run("true")
    there.set_deadlines(auto_resume=True)
    assert there.run("cat /dev/shm/kept").text == "in memory\n"
    assert there.status().value == "running"
    there.hibernate()
    there.resume()
    assert vm.run("cat /dev/shm/kept").text == "in memory\n"


@pytest.mark.parametrize("face", ["vm", "there"])
def test_deadlines_change_one_by_one(face: str, request: pytest.FixtureRequest) -> None:
    machine: MicroVM = request.getfixturevalue(face)

    def known() -> tuple[object, ...]:
        info = machine.info()
        return info["expires_at"], info["idle_timeout"], info["on_expiry"]

    machine.set_deadlines(idle_timeout=3600, on_expiry="stop")
    assert known() == (None, 3600, "stop")
    machine.set_deadlines(ttl=7200)
    expires_at, *others = known()
    assert isinstance(expires_at, float) and time.time() + 3600 < expires_at <= time.time() + 7200
    assert others == [3600, "stop"]
    machine.set_deadlines(ttl=None, idle_timeout=None)
    assert known() == (None, None, "stop")
    for wrong in ({"ttl": 0}, {"idle_timeout": -1}, {"on_expiry": "explode"}, {"on_expiry": None}, {"colour": 1}):
        with pytest.raises(errors.InvalidRequest):
            machine.set_deadlines(**wrong)
    assert known() == (None, None, "stop")
    machine.set_deadlines(ttl=1e-6, on_expiry="pause")
    assert machine.status().value == "paused"
    machine.set_deadlines(ttl=None)
    machine.resume()
