"""Connecting to a socket, and to nothing else that somebody may have put in its place."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from bandsox import sockets


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Path]:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "listener"))
        server.listen()
        yield tmp_path / "listener"


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
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        place = os.open(directory, os.O_PATH)
        try:
            server.bind(f"/proc/self/fd/{place}/listener")
        finally:
            os.close(place)
        server.listen()
        sockets.connect(client, directory / "listener")
