"""A process behind the API's socket that is not, or no longer, Firecracker."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bandsox.errors import MachineStopped, VMMError
from bandsox.vmm.firecracker import client as module
from bandsox.vmm.firecracker.client import Client, send
from bandsox.vmm.firecracker.requests import InstanceInfo, State

REQUEST = State(state="Paused")


def blocking(api: Path) -> None:
    with Client(api) as client:
        client.send(REQUEST)


def in_event_loop(api: Path) -> None:
    asyncio.run(send(api, REQUEST))


Way = Callable[[Path], None]
both_ways = pytest.mark.parametrize("ask", [blocking, in_event_loop])


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
@both_ways
def test_one_that_hangs_up_has_ended(tmp_path: Path, ask: Way, answer: bytes) -> None:
    with impostor(tmp_path / "api", answer, stays=False), pytest.raises(MachineStopped, match="ended"):
        ask(tmp_path / "api")


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-nonsense\r\n\r\n",
        b"x" * 100_000,
        b"HTTP/1.1 200 \r\nContent-Length: 99999999\r\n\r\n",
    ],
)
@both_ways
def test_one_that_speaks_something_else_is_an_error(tmp_path: Path, ask: Way, answer: bytes) -> None:
    with impostor(tmp_path / "api", answer, stays=True), pytest.raises(VMMError, match="not HTTP"):
        ask(tmp_path / "api")


def test_one_that_is_silent_is_given_up(tmp_path: Path) -> None:
    with impostor(tmp_path / "api", b"", stays=True), Client(tmp_path / "api") as client, pytest.raises(VMMError, match="did not answer"):
        client.send(REQUEST, deadline_s=0.05)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 204 \r\n"])
def test_one_that_is_silent_is_given_up_in_an_event_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    monkeypatch.setattr(module, "DEADLINE_S", 0.05)
    with impostor(tmp_path / "api", answer, stays=True), pytest.raises(VMMError, match=r"did not answer PATCH /vm within 0\.05 s"):
        in_event_loop(tmp_path / "api")


def test_an_event_loop_goes_on_while_one_is_silent_and_stops_waiting_when_it_is_told_to(tmp_path: Path) -> None:
    async def ask_and_give_up() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(send(tmp_path / "api", REQUEST), 0.05)

    with impostor(tmp_path / "api", b"", stays=True):
        asyncio.run(ask_and_give_up())


@both_ways
def test_a_request_that_was_carried_out(tmp_path: Path, ask: Way) -> None:
    with impostor(tmp_path / "api", b"HTTP/1.1 204 \r\n\r\n", stays=True):
        ask(tmp_path / "api")


@both_ways
def test_a_refusal_without_a_fault_message_is_still_shown(tmp_path: Path, ask: Way) -> None:
    answer = b"HTTP/1.1 500 \r\nContent-Length: 4\r\n\r\noops"
    with impostor(tmp_path / "api", answer, stays=True), pytest.raises(VMMError, match="oops"):
        ask(tmp_path / "api")


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


@both_ways
def test_nobody_there(tmp_path: Path, ask: Way) -> None:
    with pytest.raises(MachineStopped, match="not running"):
        ask(tmp_path / "api")
