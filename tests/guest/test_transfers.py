"""Contents and trees both ways, with the real agent, whose guest is this machine."""

from __future__ import annotations

import asyncio
import os
import resource
import secrets
import socket
import stat
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bandsox.errors import GuestFileError, GuestFileNotFound, InvalidRequest, LimitExceeded
from bandsox.guest import GuestClient
from bandsox.guest.blocking import CHUNK
from bandsox.guest.transfers import INLINE
from bandsox.models import Progress

pytestmark = pytest.mark.anyio

SIZES = [0, 1, INLINE, INLINE + 1, CHUNK - 1, CHUNK, CHUNK + 1, 5_000_001]


@pytest.fixture
def here(tmp_path: Path) -> Path:
    path = tmp_path / "here"
    path.mkdir()
    return path


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """The guest's side."""
    path = tmp_path / "there"
    path.mkdir()
    return path


@pytest.mark.parametrize("size", SIZES)
async def test_bytes_and_files_of_every_size(guest: GuestClient, here: Path, there: Path, size: int) -> None:
    data = secrets.token_bytes(size)
    (here / "up").write_bytes(data)
    assert await guest.upload_file(here / "up", f"{there}/file") == size
    assert (there / "file").read_bytes() == data
    assert await guest.download_file(f"{there}/file", here / "down") == size
    assert (here / "down").read_bytes() == data
    assert await guest.write_bytes(f"{there}/bytes", data) == size
    assert await guest.read_bytes(f"{there}/bytes") == data


async def test_parts_of_a_file(guest: GuestClient, there: Path) -> None:
    path = f"{there}/deep/down/file"
    await guest.write_bytes(path, b"0123456789")
    await guest.write_bytes(path, b"ab", append=True)
    await guest.write_bytes(path, b"XY", offset=2)
    assert await guest.read_bytes(path) == b"01XY456789ab"
    assert await guest.read_bytes(path, offset=3, length=4) == b"Y456"
    with pytest.raises(GuestFileError) as failure:
        await guest.write_bytes(path, b"", exclusive=True)
    assert failure.value.guest_code == "exists"
    with pytest.raises(GuestFileNotFound):
        await guest.write_bytes(f"{there}/missing/file", b"", parents=False)


async def test_modes(guest: GuestClient, here: Path, there: Path) -> None:
    (here / "tool").write_bytes(b"#!/bin/sh\n")
    (here / "tool").chmod(0o4750)
    await guest.upload_file(here / "tool", f"{there}/tool")
    assert stat.S_IMODE((there / "tool").stat().st_mode) == 0o750
    await guest.write_bytes(f"{there}/secret", b"x", mode=0o600)
    assert stat.S_IMODE((there / "secret").stat().st_mode) == 0o600
    before = os.umask(0o077)
    try:
        await guest.download_file(f"{there}/tool", here / "down")
    finally:
        os.umask(before)
    assert stat.S_IMODE((here / "down").stat().st_mode) == 0o600


async def test_a_download_replaces_a_file_whole_or_not_at_all(guest: GuestClient, here: Path, there: Path) -> None:
    (here / "file").write_bytes(b"old")
    (there / "big").write_bytes(bytes(3_000_000))
    with pytest.raises(LimitExceeded):
        await guest.download_file(f"{there}/big", here / "file", max_bytes=1_000_000)
    with pytest.raises(GuestFileNotFound):
        await guest.download_file(f"{there}/missing", here / "file")
    assert (here / "file").read_bytes() == b"old"
    (here / "link").symlink_to("file")
    await guest.download_file(f"{there}/big", here / "link", max_bytes=3_000_000)
    assert (here / "file").read_bytes() == b"old" and not (here / "link").is_symlink()
    assert sorted(path.name for path in here.iterdir()) == ["file", "link"]
    for place in (here, Path("/dev/null")):
        with pytest.raises(InvalidRequest):
            await guest.download_file(f"{there}/big", place)


async def test_an_upload_of_something_else_than_a_file(guest: GuestClient, here: Path, there: Path) -> None:
    os.mkfifo(here / "pipe")
    for path in (here / "pipe", here, Path("/dev/zero")):
        with pytest.raises(InvalidRequest):
            await guest.upload_file(path, f"{there}/file")
    with pytest.raises(FileNotFoundError):
        await guest.upload_file(here / "missing", f"{there}/file")


async def test_streams(guest: GuestClient, there: Path) -> None:
    pieces = [secrets.token_bytes(size) for size in (1, 0, 100_000, 3_000_000, 5)]

    async def source() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    assert await guest.write_stream(f"{there}/file", source()) == 3_100_006
    async with guest.read_stream(f"{there}/file") as received:
        assert b"".join([piece async for piece in received]) == b"".join(pieces)
    async with guest.read_stream(f"{there}/file", offset=1, length=3) as received:
        assert [bytes(piece) async for piece in received] == [pieces[2][:3]]


async def test_a_stream_that_the_guest_refuses_ends_early(guest: GuestClient, there: Path) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(100_000)

    with pytest.raises(GuestFileError):
        await guest.write_stream(str(there), endless())


async def test_a_stream_whose_source_fails_leaves_no_file(guest: GuestClient, there: Path) -> None:
    async def failing() -> AsyncIterator[bytes]:
        yield bytes(100_000)
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError):
        await guest.write_stream(f"{there}/file", failing())
    await guest.ping()
    assert not (there / "file").exists()


async def test_progress(guest: GuestClient, here: Path, there: Path) -> None:
    (here / "up").write_bytes(bytes(5_000_000))
    reports: list[Progress] = []
    await guest.upload_file(here / "up", f"{there}/file", progress=reports.append)
    assert reports[-1].finished and reports[-1].done == 5_000_000
    assert [report.done for report in reports] == sorted(report.done for report in reports)
    assert len({report.task for report in reports}) == 1
    reports.clear()
    await guest.download_file(f"{there}/file", here / "down", progress=reports.append)
    assert reports[-1].finished and reports[-1].done == 5_000_000


async def test_memory_is_constant(guest: GuestClient, here: Path, there: Path) -> None:
    (here / "small").write_bytes(bytes(1 << 20))
    with (here / "big").open("wb") as file:
        file.truncate(300 << 20)
    await guest.upload_file(here / "small", f"{there}/file")
    await guest.download_file(f"{there}/file", here / "down")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    await guest.upload_file(here / "big", "/dev/null", append=True)
    await guest.download_file(str(here / "big"), here / "down")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 << 10  # KiB


async def test_transfers_run_beside_each_other(guest: GuestClient, here: Path, there: Path) -> None:
    (here / "up").write_bytes(data := secrets.token_bytes(1_000_000))
    await asyncio.gather(*(guest.upload_file(here / "up", f"{there}/{number}") for number in range(20)))
    assert all((there / str(number)).read_bytes() == data for number in range(20))


# ── trees ───────────────────────────────────────────────────────────────────────────────────────


def make_tree(root: Path) -> None:
    (root / "src/deep").mkdir(parents=True)
    (root / "empty").mkdir(mode=0o750)
    (root / "src/a.py").write_bytes(b"print()\n")
    (root / "src/b.txt").write_bytes(b"text" * 100_000)
    (root / "src/deep/c.py").write_bytes(b"")
    (root / "src/deep" / os.fsdecode(b"\xff\n" + b"n" * 150)).write_bytes(b"1")
    (root / "tool").write_bytes(b"#!\n")
    (root / "tool").chmod(0o755)
    (root / "link").symlink_to("src/a.py")
    (root / "out").symlink_to("/etc/passwd")
    os.utime(root / "tool", (1_000_000_000, 1_000_000_000))


def look(root: Path) -> dict[str, tuple[str, int, bytes | str]]:
    found: dict[str, tuple[str, int, bytes | str]] = {}
    for path in sorted(root.rglob("*")):
        name, mode = str(path.relative_to(root)), stat.S_IMODE(path.lstat().st_mode)
        if path.is_symlink():
            found[name] = ("link", 0, str(path.readlink()))
        elif path.is_dir():
            found[name] = ("directory", mode, b"")
        else:
            found[name] = ("file", mode, path.read_bytes())
    return found


async def test_a_tree_there_and_back(guest: GuestClient, here: Path, there: Path) -> None:
    make_tree(here)
    sent = await guest.upload_tree(here, f"{there}/tree")
    assert look(there / "tree") == look(here)
    assert sent.entries == len(look(here))
    assert (there / "tree/tool").stat().st_mtime == 1_000_000_000
    received = await guest.download_tree(f"{there}/tree", here.parent / "back")
    expected = {name: what for name, what in look(here).items() if name != "out"}
    assert look(here.parent / "back") == expected
    assert (received.entries, received.refused) == (len(expected) + 1, 1)
    assert (here.parent / "back/tool").stat().st_mtime == 1_000_000_000


@pytest.mark.parametrize(
    ("pattern", "skip_pattern", "expected"),
    [
        ("*.py", None, {"src", "src/a.py", "src/deep", "src/deep/c.py"}),
        (["*.py", "tool"], ["deep"], {"src", "src/a.py", "tool"}),
        ("src/*.txt", None, {"src", "src/b.txt"}),
        (None, ["src", "link", "out"], {"empty", "tool"}),
        ("*.rs", None, set()),
    ],
)
async def test_a_selection_of_a_tree(
    guest: GuestClient, here: Path, there: Path, pattern: str | list[str] | None, skip_pattern: list[str] | None, expected: set[str]
) -> None:
    make_tree(here)
    await guest.upload_tree(here, f"{there}/tree", pattern=pattern, skip_pattern=skip_pattern)
    assert set(look(there / "tree")) == expected


async def test_excluding_parts_of_a_download(guest: GuestClient, here: Path, there: Path) -> None:
    make_tree(there)
    await guest.download_tree(str(there), here / "tree", exclude=["src", "o*"])
    assert set(look(here / "tree")) == {"empty", "link", "tool"}


async def test_a_file_that_shrinks_while_it_is_sent_is_filled_up(guest: GuestClient, here: Path, there: Path) -> None:
    """Its size is in the archive before its contents are read."""
    size = 20_000_000
    (here / "shrinking").write_bytes(b"x" * size)

    def cut(progress: Progress) -> None:
        if progress.done and not progress.finished:
            os.truncate(here / "shrinking", 1)

    await guest.upload_tree(here, f"{there}/tree", progress=cut)
    data = (there / "tree/shrinking").read_bytes()
    assert len(data) == size and not data.lstrip(b"x").strip(b"\0")


async def test_sockets_and_devices_stay_here(guest: GuestClient, here: Path, there: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(here / "s"))
        os.mkfifo(here / "pipe")
        await guest.upload_tree(here, f"{there}/tree")
    assert [path.name for path in (there / "tree").iterdir()] == ["pipe"]


async def test_trees_that_are_no_directories(guest: GuestClient, here: Path, there: Path) -> None:
    (there / "file").touch()
    with pytest.raises(InvalidRequest):
        await guest.upload_tree(here / "missing", f"{there}/tree")
    with pytest.raises(GuestFileError) as failure:
        await guest.download_tree(f"{there}/file", here / "tree")
    assert failure.value.guest_code == "not_a_directory"
    with pytest.raises(GuestFileNotFound):
        await guest.download_tree(f"{there}/missing", here / "tree")


async def test_a_download_within_bounds(guest: GuestClient, here: Path, there: Path) -> None:
    make_tree(there)
    with pytest.raises(LimitExceeded):
        await guest.download_tree(str(there), here / "a", max_bytes=100_000)
    with pytest.raises(LimitExceeded):
        await guest.download_tree(str(there), here / "b", max_entries=3)


async def test_a_file_with_holes_keeps_them(guest: GuestClient, here: Path, there: Path) -> None:
    with (there / "holes").open("wb") as file:
        file.seek(50 << 20)
        file.write(b"data")
        file.truncate(100 << 20)
    await guest.download_tree(str(there), here / "tree")
    assert (here / "tree/holes").stat().st_blocks * 512 < 1 << 20
    assert (here / "tree/holes").read_bytes() == (there / "holes").read_bytes()


async def test_archives(guest: GuestClient, here: Path, there: Path) -> None:
    make_tree(there)
    await guest.download_tar(str(there), here / "tree.tar", base="top", exclude=["src/deep"])
    with tarfile.open(here / "tree.tar") as tar:
        assert "top/src/a.py" in tar.getnames() and "top/src/deep" not in tar.getnames()
    await guest.upload_tar(here / "tree.tar", f"{there}/again")
    assert (there / "again/top/src/a.py").read_bytes() == b"print()\n"
    async with guest.tar_stream(f"{there}/again", base=".") as pieces:
        await guest.upload_tar(pieces, f"{there}/third")
    assert look(there / "third") == look(there / "again")
