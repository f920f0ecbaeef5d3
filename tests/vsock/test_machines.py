"""QEMU's machines over vhost-vsock: how they are reached, and that copies are reached apart."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bandsox import BandSox, MicroVM
from bandsox.engine.doctor_vmms import vhost_vsock
from bandsox.engine.findings import Finding
from bandsox.errors import GuestError, MachineStopped
from bandsox.guest import GuestClient, HostVsockLink
from bandsox.settings import Layout
from bandsox.vmm.qemu import vhost

_NOBODY = 65534


@pytest.fixture(scope="module")
def machine(bandsox: BandSox) -> Iterator[MicroVM]:
    with bandsox.create_vm(vmm="qemu", mem_mib=192) as machine:
        yield machine


@pytest.fixture
def cid(storage: Path) -> Callable[[MicroVM], int]:
    """Tells a machine's address."""
    layout = Layout.open(storage)
    return lambda machine: vhost.cid_of(layout.sockets(machine.vm_id))


def test_it_is_what_a_machine_gets_where_nothing_is_asked_for(machine: MicroVM) -> None:
    assert machine.info()["transport"] == "vsock"


def test_operations_at_once_have_a_connection_each(machine: MicroVM) -> None:
    with ThreadPoolExecutor(20) as pool:
        assert list(pool.map(lambda number: int(machine.run(["echo", str(number)]).stdout), range(20))) == list(range(20))


def test_contents_arrive_whole_both_ways(machine: MicroVM) -> None:
    content = os.urandom(1 << 20) * 8
    machine.write_bytes("/dev/shm/content", content)
    assert machine.read_bytes("/dev/shm/content") == content
    machine.remove("/dev/shm/content")


def test_others_of_this_host_reach_the_agent_but_are_not_served(machine: MicroVM, cid: Callable[[MicroVM], int]) -> None:
    stranger = GuestClient(HostVsockLink(lambda: cid(machine)))
    with pytest.raises(GuestError, match="wrong token"):
        asyncio.run(stranger.ping())
    assert machine.run(["echo", "mine"]).stdout == b"mine\n"


def test_copies_have_addresses_of_their_own_and_what_was_open_in_their_source_ends_in_them(
    machine: MicroVM, cid: Callable[[MicroVM], int]
) -> None:
    shown, said = threading.Event(), []

    def heard(text: str) -> None:
        said.append(text)
        if "goes on" in "".join(said):
            shown.set()

    session, _ = machine.start_session("read line; echo $line", heard)
    copies = machine.fork(3, "copy")
    try:
        assert len({cid(each) for each in (machine, *copies)}) == 4
        assert [copy.run("hostname").text for copy in copies] == ["copy-1\n", "copy-2\n", "copy-3\n"]
        assert all(copy.receipt is not None and copy.receipt.frozen and not copy.receipt.failures for copy in copies)
        machine.send_session_input(session, "the source goes on\n")
        assert shown.wait(100)
        (grandchild,) = copies[0].fork(name="grandchild")
        with grandchild:
            assert grandchild.run("hostname").text == "grandchild\n"
    finally:
        for copy in copies:
            copy.delete()


def test_an_address_ends_with_its_machine_and_is_another_one_next_time(
    bandsox: BandSox, machine: MicroVM, cid: Callable[[MicroVM], int]
) -> None:
    with bandsox.create_vm(vmm="qemu", disk_size_mib=64) as own:
        first = cid(own)
        own.stop()
        with pytest.raises(MachineStopped):
            cid(own)
        with pytest.raises(MachineStopped):
            asyncio.run(GuestClient(HostVsockLink(lambda: first)).ping())
        own.start()
        assert cid(own) != first
        assert own.run(["echo", "again"]).stdout == b"again\n"
    assert machine.run(["true"]).exit_code == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_who_may_not_open_the_device_is_told_what_mends_it() -> None:
    with multiprocessing.get_context("fork").Pool(1, os.setuid, (_NOBODY,)) as pool:
        finding = pool.apply(vhost_vsock)
    assert finding.state == "note"
    assert finding.text.startswith("this user may not open /dev/vhost-vsock")
    assert finding.remedy is not None and finding.remedy.startswith("sudo ")


def test_who_may_open_it_has_nothing_to_mend() -> None:
    assert vhost_vsock() == Finding("vhost-vsock", "ok", "QEMU's guests are reached over vsock where their kernel has it")
