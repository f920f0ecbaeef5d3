"""The link over the vsock of the host's own kernel: the real agent and this side of it on one host, over loopback."""

from __future__ import annotations

import asyncio
import platform
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import bandsox
from bandsox.errors import MachineStopped, Timeout, VMMError
from bandsox.guest import GuestClient, HostVsockDoorbell, HostVsockLink
from bandsox.guest.link import AGENT_PORT
from bandsox.vmm.qemu import vhost

pytestmark = pytest.mark.anyio

LOOPBACK = 1
_NO_GUEST = 1 << 30
_SILENT_PORT, _CLOSED_PORT = 7777, 9


@pytest.fixture(scope="module")
def agent() -> Iterator[None]:
    program = Path(bandsox.__file__).parent / f"agent/bin/bandsox-agent-{platform.machine()}"
    with subprocess.Popen([program, "--listen", f"vsock:{AGENT_PORT}"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"listening\n"
        yield
        process.kill()


@pytest.fixture
def guest(agent: None) -> GuestClient:
    return GuestClient(HostVsockLink(lambda: LOOPBACK))


async def test_contents_arrive_whole_both_ways(guest: GuestClient, tmp_path: Path) -> None:
    source, there, back = (tmp_path / name for name in ("source", "there", "back"))
    source.write_bytes(bytes(range(256)) * 16384)
    await guest.upload_file(source, str(there))
    assert there.read_bytes() == source.read_bytes()
    await guest.download_file(str(there), back)
    assert back.read_bytes() == source.read_bytes()


async def test_operations_at_once_have_a_connection_each(guest: GuestClient) -> None:
    results = await asyncio.gather(*(guest.run(argv=["echo", str(number)]) for number in range(40)))
    assert [int(result.stdout) for result in results] == list(range(40))


@pytest.mark.parametrize(
    ("cid", "port", "cause"), [(LOOPBACK, _CLOSED_PORT, "Connection reset by peer"), (_NO_GUEST, AGENT_PORT, "No such device")]
)
async def test_where_nobody_listens_the_machine_is_said_to_have_stopped(cid: int, port: int, cause: str) -> None:
    with pytest.raises(MachineStopped) as failure:
        await GuestClient(HostVsockLink(lambda: cid, port)).ping()
    assert failure.value.cause == cause


async def test_a_guest_that_accepts_nothing_is_given_up_in_time() -> None:
    with socket.socket(socket.AF_VSOCK) as silent:
        silent.bind((socket.VMADDR_CID_ANY, _SILENT_PORT))
        silent.listen()
        with pytest.raises(Timeout):
            await GuestClient(HostVsockLink(lambda: LOOPBACK, _SILENT_PORT)).ping(timeout=0.2)


async def test_a_stranger_at_the_door_is_given_no_token() -> None:
    loop = asyncio.get_running_loop()
    with HostVsockDoorbell(lambda: _NO_GUEST) as bell, socket.socket(socket.AF_VSOCK) as stranger:
        port = int(bell.boot_args.removeprefix("bandsox.doorbell="))
        ringing = asyncio.ensure_future(bell.rung())
        stranger.setblocking(False)
        await loop.sock_connect(stranger, (socket.VMADDR_CID_HOST, port))
        assert await loop.sock_recv(stranger, 99) == b""
        assert not ringing.done()
        ringing.cancel()


def test_no_two_machines_get_the_same_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vhost, "_CIDS", 2)  # all but no room
    places = [tmp_path / "one", tmp_path / "other"]
    for place in places:
        place.mkdir()
    with vhost.claimed(places[0]) as one, vhost.claimed(places[1]) as other:
        assert {one.cid, other.cid} == {vhost._FIRST_CID, vhost._FIRST_CID + 1}
        assert [vhost.cid_of(place) for place in places] == [one.cid, other.cid]
        assert "were all in use" in (vhost.unavailable() or "")
        with pytest.raises(VMMError, match="gives no address"), vhost.claimed(tmp_path):
            pass
    assert vhost.unavailable() is None


def test_a_machine_that_does_not_run_has_no_address(tmp_path: Path) -> None:
    with pytest.raises(MachineStopped):
        vhost.cid_of(tmp_path)
