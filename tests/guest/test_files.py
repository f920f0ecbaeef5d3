"""Single files, with the real agent, whose guest is this machine."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from bandsox.errors import BandSoxError, GuestError, GuestFileError, GuestFileNotFound, InvalidRequest
from bandsox.guest import GuestClient
from bandsox.guest.answers import MetricsAnswer
from tests.guest.support import SocketLink, wait_for_file

pytestmark = pytest.mark.anyio


async def test_stat(guest: GuestClient, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "file").chmod(0o640)
    (tmp_path / "link").symlink_to("file")
    found = await guest.stat(str(tmp_path / "file"))
    assert (found.type, found.size, found.mode, found.uid) == ("file", 5, 0o640, os.getuid())
    assert found.mtime == pytest.approx((tmp_path / "file").stat().st_mtime, abs=1e-6)
    assert (await guest.stat(str(tmp_path / "link"))).type == "file"
    link = await guest.stat(str(tmp_path / "link"), follow=False)
    assert (link.type, link.target) == ("symlink", b"file")


async def test_names_are_bytes(guest: GuestClient, tmp_path: Path) -> None:
    name = b"\xff \n\x1b'" + "ä".encode()
    await guest.write_bytes(os.fsencode(tmp_path) + b"/" + name, b"x")
    assert [entry.name for entry in await guest.list_directory(str(tmp_path))] == [name]
    await guest.remove(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    assert list(tmp_path.iterdir()) == []


async def test_a_large_directory(guest: GuestClient, tmp_path: Path) -> None:
    for number in range(2000):
        (tmp_path / f"{number:04}").touch()
    entries = await guest.list_directory(str(tmp_path))
    assert sorted(entry.name for entry in entries) == [b"%04d" % number for number in range(2000)]


async def test_errors_of_the_guest(guest: GuestClient, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    with pytest.raises(FileNotFoundError) as missing:
        await guest.stat(str(tmp_path / "missing"))
    assert isinstance(missing.value, GuestFileNotFound) and missing.value.path == str(tmp_path / "missing")
    for operation, code in (
        (guest.list_directory(str(tmp_path / "file")), "not_a_directory"),
        (guest.make_directory(str(tmp_path / "file")), "exists"),
        (guest.remove(str(tmp_path / "full")), "not_empty"),
        (guest.read_bytes(str(tmp_path)), "is_a_directory"),
        (guest.stat(str(tmp_path / ("x" * 300))), "name_too_long"),
    ):
        with pytest.raises(GuestFileError) as failure:
            await operation
        assert failure.value.guest_code == code


async def test_paths_that_can_never_work(guest: GuestClient) -> None:
    for path in ("relative", "", "/a\0b"):
        with pytest.raises(InvalidRequest):
            await guest.stat(path)


async def test_changes(guest: GuestClient, tmp_path: Path) -> None:
    base = str(tmp_path)
    await guest.make_directory(f"{base}/a/b/c", parents=True)
    await guest.make_directory(f"{base}/private", mode=0o700)
    await guest.write_bytes(f"{base}/a/file", b"1")
    await guest.rename(f"{base}/a/file", f"{base}/a/b/renamed")
    await guest.change_mode(f"{base}/a/b/renamed", 0o600)
    await guest.make_symlink(f"{base}/link", b"a/b/renamed")
    assert (tmp_path / "private").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "a/b/renamed").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "link").read_bytes() == b"1"
    await guest.change_owner(f"{base}/a", os.getuid(), -1, recursive=True)
    await guest.remove(f"{base}/a", recursive=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "private"]


async def test_a_window_of_lines(guest: GuestClient, tmp_path: Path) -> None:
    (tmp_path / "lines").write_bytes(b"".join(b"line %d\n" % number for number in range(10)) + b"last")
    window = await guest.read_lines(str(tmp_path / "lines"), 2, 3)
    assert (window.data, window.skipped, window.returned, window.left) == (b"line 2\nline 3\nline 4\n", 2, 3, 6)
    whole = await guest.read_lines(str(tmp_path / "lines"))
    assert whole.data.endswith(b"last") and whole.returned == 11 and not whole.truncated
    assert (await guest.read_lines(str(tmp_path / "lines"), max_bytes=10)).truncated


async def test_a_watch(guest: GuestClient, tmp_path: Path) -> None:
    async with guest.watch(str(tmp_path)) as changes:
        (tmp_path / "new").touch()
        assert (await changes.__anext__()).type == "created"
        (tmp_path / "new").rename(tmp_path / "other")
        async for change in changes:
            if change.type == "moved":
                assert change.to == os.fsencode(tmp_path / "other")
                break
    await guest.ping()


# ── the machine ─────────────────────────────────────────────────────────────────────────────────


async def test_what_the_agent_says_of_itself(guest: GuestClient) -> None:
    info = await guest.info()
    assert info.kernel == os.uname().release and info.arch == os.uname().machine and len(info.boot_id) == 16
    metrics = await guest.metrics(processes=True)
    assert metrics.memory_total > 0 and metrics.cpu_count == os.cpu_count()
    assert os.getpid() in {process.pid for process in metrics.processes}
    for counted in (metrics.disk_read, metrics.disk_written, metrics.network_received, metrics.network_sent):
        assert counted is not None and counted >= 0
    await guest.sync()


def test_an_agent_of_an_earlier_version_does_not_say_what_devices_have_carried() -> None:
    cpu, memory = (
        dict.fromkeys(("user_ms", "system_ms", "idle_ms", "steal_ms", "count"), 1),
        dict.fromkeys(("total", "available", "free", "cached"), 1),
    )
    said = {"uptime_ms": 1, "load": (0.0, 0.0, 0.0), "cpu": cpu, "memory": memory, "disk": {"total": 1, "free": 1}, "processes": 1}
    answer = msgspec.msgpack.decode(msgspec.msgpack.encode(said), type=MetricsAnswer)
    assert (answer.disk.read, answer.disk.written, answer.network.received, answer.network.sent) == (None, None, None, None)


@pytest.fixture
def own_agent(agent_binary: Path, short_path: Path) -> Iterator[tuple[Path, subprocess.Popen[bytes]]]:
    path = short_path / "agent.sock"
    with subprocess.Popen([agent_binary, "--listen", f"unix:{path}"]) as process:
        wait_for_file(path, lambda: process.poll() is None)
        yield path, process
        process.kill()


async def test_only_who_knows_the_token_is_served(own_agent: tuple[Path, subprocess.Popen[bytes]]) -> None:
    path, _ = own_agent
    guest, stranger = GuestClient(SocketLink(path)), GuestClient(SocketLink(path))
    await stranger.ping()
    await guest.setup(token=b"s" * 32, env={"GREETING": "hello"}, workdir="/usr")
    assert (await guest.run(shell="echo $GREETING; pwd")).stdout == b"hello\n/usr\n"
    for operation in (stranger.ping, lambda: stranger.write_bytes("/tmp/never", b"x" * 1_000_000)):
        with pytest.raises(GuestError) as failure:
            await operation()
        assert failure.value.detail["guest_code"] == "unauthorized"
    with pytest.raises(InvalidRequest):
        await guest.setup(token=b"short")
    with pytest.raises(InvalidRequest):
        GuestClient(SocketLink(path), b"short")
    await guest.ping()


async def test_shutdown(own_agent: tuple[Path, subprocess.Popen[bytes]]) -> None:
    path, process = own_agent
    guest = GuestClient(SocketLink(path))
    await guest.shutdown()
    assert await asyncio.to_thread(process.wait) == 0
    with pytest.raises(BandSoxError):
        await guest.ping()
