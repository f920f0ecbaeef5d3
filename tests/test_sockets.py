"""Listening at a socket of this user alone; connecting to one, and to nothing else that somebody may have put in its place."""

from __future__ import annotations

import os
import select
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from bandsox import sockets
from bandsox.vmm import inotify


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Path]:
    with sockets.listen(tmp_path / "listener", queue=1):
        yield tmp_path / "listener"


def test_a_socket_is_its_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    for umask in (0o000, 0o022, 0o777):
        previous = os.umask(umask)
        try:
            with sockets.listen(tmp_path / "listener", queue=1):
                mode = (tmp_path / "listener").lstat().st_mode
        finally:
            os.umask(previous)
        assert stat.S_IMODE(mode) == 0o600 & ~umask


def test_no_moment_has_a_socket_that_others_may_use(tmp_path: Path) -> None:
    """Linux tells of each change of a mode, and there is none."""
    with inotify.Watch({tmp_path: inotify.ATTRIB}) as watch, sockets.listen(tmp_path / "listener", queue=1):
        assert select.select([watch.fileno()], [], [], 0)[0] == []
        (tmp_path / "listener").chmod(0o600)
        assert select.select([watch.fileno()], [], [], 0)[0] == [watch.fileno()]


def test_what_stood_there_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "listener").write_text("of a machine before")
    with sockets.listen(tmp_path / "listener", queue=1), socket.socket(socket.AF_UNIX) as client:
        sockets.connect(client, tmp_path / "listener")


def test_where_nothing_can_be_made_nothing_stays_open(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(FileNotFoundError):
        sockets.listen(tmp_path / "no such directory" / "listener", queue=1)
    with pytest.raises(OSError, match="path too long"):
        sockets.listen(tmp_path / ("long" * 40), queue=1)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_socket_is_connected_to(listener: Path) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        sockets.connect(client, listener)
        assert client.getpeername() == str(listener)


def test_a_link_to_a_socket_is_nobody(listener: Path) -> None:
    link = listener.with_name("link")
    link.symlink_to(listener)
    with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
        sockets.connect(client, link)


def test_what_is_not_there_is_not_found(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as client, pytest.raises(FileNotFoundError):
        sockets.connect(client, tmp_path / "nothing")


def test_no_descriptor_stays_open(listener: Path) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        before = len(list(Path("/proc/self/fd").iterdir()))
        sockets.connect(client, listener)
        assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_name_may_be_longer_than_a_socket_address(tmp_path: Path) -> None:
    directory = tmp_path.joinpath(*["long" * 20] * 3)
    directory.mkdir(parents=True)
    with sockets.listen(directory / "listener", queue=1), socket.socket(socket.AF_UNIX) as client:
        sockets.connect(client, directory / "listener")
