"""Programs over WebSockets: as earlier versions spoke, and byte for byte."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from bandsox import MicroVM, wire
from tests.server.servers import Server, serving


def opened(server: Server, path: str, **options: Any) -> ClientConnection:
    return connect(server.url.replace("http", "ws") + path, proxy=None, open_timeout=60, **options)


def frames(socket: ClientConnection) -> list[Any]:
    """All that the server says until it closes."""
    said = []
    try:
        while True:
            frame = socket.recv(timeout=100)
            said.append(json.loads(frame) if isinstance(frame, str) else frame)
    except ConnectionClosed:
        return said


def test_a_command_as_text(server: Server, path: str) -> None:
    with opened(server, f"{path}/exec-stream") as socket:
        # A character in two writes arrives as one.
        script = r"printf '\303'; sleep 0.2; printf '\244\n'; echo err >&2; exit 3"
        socket.send(json.dumps({"command": script, "timeout": 60}))
        said = frames(socket)
    assert "".join(each["data"] for each in said if each["type"] == "stdout") == "ä\n"
    assert "".join(each["data"] for each in said if each["type"] == "stderr") == "err\n"
    assert said[-1] == {"type": "exit", "exit_code": 3}
    assert socket.close_code == 1000


def test_a_command_byte_for_byte_with_input_and_a_signal(server: Server, path: str) -> None:
    with opened(server, f"{path}/exec-stream") as socket:
        socket.send(json.dumps({"argv": ["cat"], "format": "binary", "stdin": True}))
        assert json.loads(socket.recv())["type"] == "started"
        every = bytes(range(256)) * 16
        socket.send(wire.STDIN + every)
        socket.send(json.dumps({"type": "close_stdin"}))
        said = frames(socket)
    assert b"".join(each[1:] for each in said if isinstance(each, bytes)) == every
    assert [each["bytes"] for each in said if isinstance(each, dict) and each["type"] == "window"] == [len(every)]
    assert said[-1]["exit_code"] == 0
    with opened(server, f"{path}/exec-stream") as socket:
        socket.send(json.dumps({"argv": ["sleep", "1000"], "format": "binary"}))
        socket.recv()
        socket.send(json.dumps({"type": "signal", "signal": 15}))
        assert frames(socket)[-1]["signal"] == 15


def test_a_terminal_as_text(server: Server, path: str) -> None:
    with opened(server, f"{path}/terminal?cols=91&rows=31", subprotocols=["bandsox.terminal"]) as socket:
        assert socket.subprotocol == "bandsox.terminal"

        def typed(text: str) -> None:
            socket.send(json.dumps({"type": "input", "data": base64.b64encode(text.encode()).decode()}))

        typed("stty size; exit\n")
        shown = ""
        try:
            while True:
                shown += str(socket.recv(timeout=100))
        except ConnectionClosed:
            assert "31 91" in shown


def test_a_session_is_followed_again_from_where_it_was_left(server: Server, path: str, http: httpx.Client) -> None:
    script = "echo first; read line; echo second"
    session = http.post(f"{path}/sessions", json={"command": script}).json()["id"]
    with opened(server, f"{path}/sessions/{session}/attach") as socket:
        started = json.loads(socket.recv())
        assert (started["type"], started["stdout"]) == ("started", 0)
        assert socket.recv() == wire.STDOUT + b"first\n"
    with opened(server, f"{path}/sessions/{session}/attach?stdout=6") as socket:
        assert json.loads(socket.recv())["stdout"] == 6
        socket.send(wire.STDIN + b"\n")
        said = frames(socket)
    assert b"".join(each[1:] for each in said if isinstance(each, bytes)) == b"second\n"


def test_a_command_ends_with_its_connection(server: Server, path: str, vm: MicroVM) -> None:
    with opened(server, f"{path}/exec-stream") as socket:
        socket.send(json.dumps({"command": "echo $$; exec sleep 1000"}))
        pid = json.loads(socket.recv())["data"].strip()
    assert vm.run(f"while kill -0 {pid} 2>/dev/null; do sleep 0.1; done", timeout=60).exit_code == 0


@pytest.mark.parametrize(
    ("address", "first", "code"),
    [
        ("/api/vms/none/exec-stream", None, wire.NO_SUCH_VM),
        ("{path}/exec-stream", "no json", wire.FAILED),
        ("{path}/exec-stream", b"bytes", wire.FAILED),
        ("{path}/exec-stream", "[]", wire.FAILED),
        ("{path}/exec-stream", "{}", wire.FAILED),
        ("{path}/exec-stream", '{"argv": ["no-such-program"]}', wire.FAILED),
        ("{path}/exec-stream", '{"command": "true", "colour": 1}', wire.FAILED),
        ("{path}/sessions/none/attach", None, wire.NO_SUCH_VM),
        ("{path}/terminal?cols=0", None, wire.FAILED),
    ],
)
def test_what_cannot_be_is_said_before_the_end(server: Server, path: str, address: str, first: str | bytes | None, code: int) -> None:
    with opened(server, address.replace("{path}", path)) as socket:
        if first is not None:
            socket.send(first)
        said = frames(socket)
    assert said[-1]["type"] == "error"
    assert said[-1]["error"] == said[-1]["failure"]["message"]
    assert socket.close_code == code


def test_messages_that_are_none_end_the_program(server: Server, path: str) -> None:
    for wrong in ("x", "{}", json.dumps({"type": "signal", "signal": "9"}), json.dumps({"type": "input", "data": "%"}), b"\x07x"):
        with opened(server, f"{path}/exec-stream") as socket:
            socket.send(json.dumps({"argv": ["sleep", "1000"], "format": "binary"}))
            assert json.loads(socket.recv())["type"] == "started"
            socket.send(wrong)
            assert frames(socket)[-1]["failure"]["code"] == "invalid_request"


def test_a_client_is_sent_no_more_than_it_takes(server: Server, path: str) -> None:
    wanted, window = 1_000_000, 3000
    with opened(server, f"{path}/exec-stream") as socket:
        socket.send(json.dumps({"argv": ["head", "-c", str(wanted), "/dev/zero"], "format": "binary", "window": window}))
        assert json.loads(socket.recv())["type"] == "started"
        received = granted = 0
        while isinstance(frame := socket.recv(timeout=100), bytes):
            received += len(frame) - 1
            assert received <= window + granted
            if received == window + granted:  # no sooner than it has to
                granted += window
                socket.send(json.dumps({"type": "window", "bytes": window}))
        assert (received, json.loads(frame)["exit_code"]) == (wanted, 0)


def test_a_session_waits_for_a_client_that_takes_nothing_and_takes_its_signals(server: Server, path: str, http: httpx.Client) -> None:
    session = http.post(f"{path}/sessions", json={"command": "yes"}).json()["id"]
    with opened(server, f"{path}/sessions/{session}/attach?window=5") as socket:
        assert json.loads(socket.recv())["type"] == "started"
        assert len(socket.recv(timeout=100)) == 1 + 5
        socket.send(json.dumps({"type": "signal", "signal": 9}))
        socket.send(json.dumps({"type": "window", "bytes": 5}))
        assert len(socket.recv(timeout=100)) == 1 + 5


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({"window": 0}, None),
        ({"window": wire.LARGEST_WINDOW + 1}, None),
        ({"window": 10, "format": "text"}, None),
        ({"window": 10}, {"type": "window", "bytes": 1}),
        ({"window": 10}, {"type": "window", "bytes": -1}),
        ({"window": 10}, {"type": "window"}),
        ({}, {"type": "window", "bytes": 1}),
    ],
)
def test_windows_that_are_none_end_the_program(server: Server, path: str, first: dict[str, Any], then: dict[str, Any] | None) -> None:
    with opened(server, f"{path}/exec-stream") as socket:
        socket.send(json.dumps({"argv": ["sleep", "1000"], "format": "binary", **first}))
        if then is not None:
            assert json.loads(socket.recv())["type"] == "started"
            socket.send(json.dumps(then))
        assert frames(socket)[-1]["failure"]["code"] == "invalid_request"


def test_pages_of_others_get_no_websocket(server: Server, path: str) -> None:
    for header in ({"Origin": "http://evil.example"}, {"Host": "evil.example"}):
        with pytest.raises(InvalidStatus) as refused, opened(server, f"{path}/terminal", additional_headers=header):
            pass
        assert refused.value.response.status_code == 403


def test_one_who_is_refused_is_told_and_leaves_no_fault_in_the_log(storage: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with serving(storage) as server:
        with opened(server, "/api/vms/nobody/terminal") as socket:
            told = frames(socket)
        assert socket.close_code == 4004
        assert told[0]["failure"]["code"] == "vm_not_found"
        assert server.stop() == 0
    assert "Traceback" not in capfd.readouterr().err
