"""A process behind the API's socket that is not, or no longer, Firecracker."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bandsox.errors import MachineStopped, VMMError
from bandsox.vmm.firecracker.client import Client
from bandsox.vmm.firecracker.requests import InstanceInfo, State

REQUEST = State(state="Paused")


@contextlib.contextmanager
def impostor(path: Path, answer: bytes, *, stays: bool) -> Iterator[None]:
    """Answers whatever comes with `answer`, and then hangs up, or `stays` and says nothing more."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(1)
    over = threading.Event()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(1 << 16)
            connection.sendall(answer)
            if stays:
                over.wait(30)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        listener.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 \r\nContent-Le",
        b"HTTP/1.1 200 \r\nContent-Length: 10\r\n\r\nshort",
    ],
)
def test_one_that_hangs_up_has_ended(tmp_path: Path, answer: bytes) -> None:
    with impostor(tmp_path / "api", answer, stays=False), Client(tmp_path / "api") as client, pytest.raises(MachineStopped, match="ended"):
        client.send(REQUEST)


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-nonsense\r\n\r\n",
        b"x" * 100_000,
        b"HTTP/1.1 200 \r\nContent-Length: 99999999\r\n\r\n",
    ],
)
def test_one_that_speaks_something_else_is_an_error(tmp_path: Path, answer: bytes) -> None:
    with impostor(tmp_path / "api", answer, stays=True), Client(tmp_path / "api") as client, pytest.raises(VMMError, match="not HTTP"):
        client.send(REQUEST)


def test_one_that_is_silent_is_given_up(tmp_path: Path) -> None:
    with impostor(tmp_path / "api", b"", stays=True), Client(tmp_path / "api") as client, pytest.raises(VMMError, match="did not answer"):
        client.send(REQUEST, deadline_s=0.05)


def test_a_refusal_without_a_fault_message_is_still_shown(tmp_path: Path) -> None:
    answer = b"HTTP/1.1 500 \r\nContent-Length: 4\r\n\r\noops"
    with impostor(tmp_path / "api", answer, stays=True), Client(tmp_path / "api") as client, pytest.raises(VMMError, match="oops"):
        client.send(REQUEST)


def test_answers_to_several_requests_are_told_apart(tmp_path: Path) -> None:
    """However they come: here all at once, and the last one is a refusal."""
    answer = b"HTTP/1.1 204 \r\n\r\nHTTP/1.1 200 \r\nContent-Length: 2\r\n\r\n{}HTTP/1.1 400 \r\nContent-Length: 4\r\n\r\noops"
    with impostor(tmp_path / "api", answer, stays=True), Client(tmp_path / "api") as client:
        with pytest.raises(VMMError, match="refused PATCH /vm: oops"):
            client.send_all([REQUEST] * 3)
        with pytest.raises(VMMError, match="did not answer"):
            client.send(REQUEST, deadline_s=0.05)


def test_an_answer_of_another_kind_is_an_error(tmp_path: Path) -> None:
    answer = b'HTTP/1.1 200 \r\ncontent-length: 9\r\n\r\n{"id": 1}'
    with (
        impostor(tmp_path / "api", answer, stays=True),
        Client(tmp_path / "api") as client,
        pytest.raises(VMMError, match="cannot be read"),
    ):
        client.get("/", InstanceInfo)


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(MachineStopped, match="not running"):
        Client(tmp_path / "api")
