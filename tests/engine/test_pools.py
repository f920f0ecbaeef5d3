"""Warm pools on real machines: ready when they are wanted, of their own each, and gone with their owner."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bandsox import AsyncBandSox, BandSox, Template
from bandsox.errors import Conflict, InvalidRequest, TemplateNotFound
from bandsox.process import ProcessId
from bandsox.settings import Layout
from tests.engine.leaks import Traces, processes_with


@pytest.fixture(scope="module")
def template(bandsox: BandSox) -> Iterator[Template]:
    made = bandsox.template(setup=["echo made > /root/made"], mem_mib=256, vmm="qemu", disk_size_mib=64, enable_networking=False)
    yield made
    bandsox.remove_template(made.id)


def machines(bandsox: BandSox) -> dict[str, str]:
    """The machines of a storage directory, and what they do."""
    return {info["name"]: info["status"] for info in bandsox.list_vms()}


def test_what_is_taken_runs_and_is_replaced(bandsox: BandSox, template: Template, storage: Path) -> None:
    layout = Layout.open(storage)
    before = Traces.of(layout)
    with bandsox.pool(template, size=2) as pool:
        assert pool.ready == 2
        assert list(machines(bandsox).values()) == ["paused", "paused"]
        with (
            pool.take("taken", env_vars={"OWN": "yes"}, metadata={"team": "web"}) as vm,
            pool.take() as other,
            pool.take() as third,  # which the pool had to make meanwhile
        ):
            assert vm.run("cat /root/made; hostname; echo $OWN").text == "made\ntaken\nyes\n"
            assert vm.info()["metadata"] == {"team": "web"}
            numbers = {each.run("od -An -N16 -tx1 /dev/urandom").text for each in (vm, other, third)}
            assert len(numbers) == 3
            early = time.time()
            guests = float(other.run("date +%s.%N").text)
            assert early - 5 < guests < time.time() + 5  # it stood still, and was told the time
    assert machines(bandsox) == {}
    with pytest.raises(Conflict):
        pool.take()
    assert Traces.of(layout).changes_since(before) == {}


def test_a_machine_that_was_taken_outlives_the_pool_and_its_name_is_its_own(bandsox: BandSox, template: Template) -> None:
    with bandsox.pool(template.id, size=1) as pool:
        with pytest.raises(InvalidRequest):
            pool.take("a\nb")
        vm = pool.take("outlives")
        with pytest.raises(Conflict):
            pool.take("outlives")
    assert machines(bandsox) == {"outlives": "running"}
    assert vm.run("cat /root/made").text == "made\n"
    vm.delete()


def test_many_takers_get_one_each(template: Template, storage: Path) -> None:
    async def take_all() -> None:
        async with AsyncBandSox(storage) as bandsox, bandsox.pool(template, size=2) as pool:
            taken = await asyncio.gather(*(pool.take(ephemeral=True) for _ in range(4)))
            assert len({vm.vm_id for vm in taken}) == 4
            assert [(await vm.run("cat /root/made")).text for vm in taken] == ["made\n"] * 4

    asyncio.run(take_all())
    with BandSox(storage) as bandsox:
        assert machines(bandsox) == {}  # they were ephemeral


def test_a_clone_that_was_ended_is_not_handed_out(bandsox: BandSox, template: Template) -> None:
    with bandsox.pool(template, size=2) as pool:
        killed, deleted = bandsox.list_vms()
        process = ProcessId.of(killed["pid"])
        assert process is not None
        process.signal(signal.SIGKILL)
        asyncio.run(process.wait())
        bandsox.delete_vm(deleted["id"])
        with pool.take() as vm:
            assert vm.vm_id not in {killed["id"], deleted["id"]}
            assert vm.run("cat /root/made").text == "made\n"


def test_a_pool_that_cannot_be_filled_says_why(bandsox: BandSox) -> None:
    for size in (0, 257, True):
        with pytest.raises(InvalidRequest):
            bandsox.pool("ffffffff", size=size)
    with pytest.raises(TemplateNotFound), bandsox.pool("ffffffff"):
        pass
    assert machines(bandsox) == {}


OWNER = """
import os, sys
from bandsox import BandSox
bandsox = BandSox(sys.argv[1])
with bandsox.pool(sys.argv[2], size=2) as pool:
    print(*(info["pid"] for info in bandsox.list_vms()), flush=True)
    if sys.argv[3] == "exit":
        os._exit(0)
    sys.stdin.read()
"""


@pytest.mark.parametrize("end", ["exit", "kill"])
def test_nothing_is_left_of_an_owner_that_is_gone(bandsox: BandSox, template: Template, storage: Path, end: str) -> None:
    command = [sys.executable, "-c", OWNER, str(storage), template.id, end]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        clones = [ProcessId.of(int(pid)) for pid in owner.stdout.readline().split()]
        assert len(clones) == 2
        if end == "kill":
            owner.kill()
    for remover in processes_with("bandsox.engine.cleanup_child", str(storage)):  # they have waited for its end all the while
        asyncio.run(asyncio.wait_for(remover.wait(), 60))
    assert not any(clone is not None and clone.is_alive() for clone in clones)
    assert machines(bandsox) == {}
