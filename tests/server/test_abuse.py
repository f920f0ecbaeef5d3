"""Clients that mean no good: slow ones, long ones, and such as speak no HTTP."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.sync.client import connect

from bandsox import BandSox, errors
from bandsox.server.protocol import client_of
from tests.server.servers import Server, serving


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that waits for the head of a request half a second."""
    with serving(tmp_path_factory.mktemp("hasty"), "--head-timeout", "0.5") as server:
        yield server


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that waits as long as usual: this machine may take half a second to ask."""
    with serving(tmp_path_factory.mktemp("patient")) as server:
        yield server


def connected(server: Server) -> socket.socket:
    host, _, port = server.url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=60)


def everything(connection: socket.socket) -> bytes:
    data = b""
    while piece := connection.recv(65536):
        data += piece
    return data


@pytest.mark.parametrize("begun", [b"", b"G", b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\nHost: localhost\r\nX-A: b\r\n"])
def test_a_head_that_does_not_end_is_not_waited_for(hasty: Server, begun: bytes) -> None:
    with connected(hasty) as connection:
        connection.sendall(begun)
        assert everything(connection).startswith(b"HTTP/1.1 408 ")


def test_a_second_head_that_does_not_end_is_not_waited_for_either(hasty: Server) -> None:
    with connected(hasty) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /heal")
        said = everything(connection)
        assert said.startswith(b"HTTP/1.1 200 ")
        assert b"HTTP/1.1 408 " in said


def test_who_is_slow_to_read_headers_is_served_beside_others(patient: Server) -> None:
    slow = [connected(patient) for _ in range(200)]
    try:
        for each in slow:
            each.sendall(b"GET / HT")
        with patient.client() as client:
            assert client.get("/healthz").status_code == 200
    finally:
        for each in slow:
            each.close()


def test_a_head_without_end_is_refused(patient: Server) -> None:
    for head in (b"GET /" + b"x" * (80 << 10), b"GET / HTTP/1.1\r\n" + b"X-A: bbbbbbbb\r\n" * 8000):
        with connected(patient) as connection:
            connection.sendall(head)
            assert everything(connection).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    "request_text",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n X-Folded: yes\r\nConnection: close\r\n\r\n",
        b"POST /api/vms HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_what_is_no_proper_request_is_refused(patient: Server, request_text: bytes) -> None:
    with connected(patient) as connection:
        connection.sendall(request_text)
        assert everything(connection)[:12] in {b"HTTP/1.1 400", b"HTTP/1.1 421", b"HTTP/1.1 404", b"HTTP/1.1 408", b"HTTP/1.1 501", b""}
    with patient.client() as client:
        assert client.get("/healthz").status_code == 200


def test_a_long_body_does_not_stop_others(patient: Server) -> None:
    deep = b"[" * 100_000
    with patient.client() as client:
        for body in (b'{"code": "' + b"x" * (15 << 20), b'{"code": ' + deep, json.dumps({"code": ["x"] * 1_000_000}).encode()):
            answer = client.post("/api/vms/none/exec-python", content=body, headers={"content-type": "application/json"})
            assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


def test_bodies_that_stop_coming_are_given_up_when_the_client_goes(patient: Server) -> None:
    with connected(patient) as connection:
        connection.sendall(b"PUT /api/vms/none/file?path=/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nabc")
    with patient.client() as client:
        assert client.get("/healthz").status_code == 200


def test_tls(tmp_path: Path, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    cert, key = certificate
    with serving(tmp_path, "--tls-cert", str(cert), "--tls-key", str(key), "--head-timeout", "0.5") as server:
        assert server.url.startswith("https://")
        with server.client() as client:
            answer = client.get("/healthz")
            assert answer.headers["strict-transport-security"] == "max-age=31536000"
        with pytest.raises(errors.ServerUnavailable):
            BandSox(server.url).list_vms()  # nobody vouches for it
        monkeypatch.setenv("SSL_CERT_FILE", str(cert))
        assert BandSox(server.url).list_vms() == []
        host, _, port = server.url.removeprefix("https://").partition(":")
        with socket.create_connection((host, int(port)), timeout=60) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert b"200" not in everything(plain)
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.check_hostname, old.verify_mode, old.maximum_version = False, ssl.CERT_NONE, ssl.TLSVersion.TLSv1_1
        with socket.create_connection((host, int(port)), timeout=60) as raw, pytest.raises(OSError):
            old.wrap_socket(raw, server_hostname="localhost")


def test_a_client_has_so_many_connections_and_gets_others_back(tmp_path: Path) -> None:
    with serving(tmp_path, "--client-connections", "4") as server, contextlib.ExitStack() as stack:
        held = [stack.enter_context(connected(server)) for _ in range(3)]
        for each in held:
            each.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert each.recv(65536).startswith(b"HTTP/1.1 200 ")
        with connect(server.url.replace("http", "ws") + "/api/events", proxy=None, open_timeout=60) as websocket:
            websocket.recv(60)
            with connected(server) as refused:
                answer = everything(refused)
                assert answer.startswith(b"HTTP/1.1 429 ")
                assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "too_many_requests"
        allowed(server)  # as the WebSocket has ended
        held.append(stack.enter_context(connected(server)))
        held[0].close()
        allowed(server)


def allowed(server: Server) -> None:
    """Return once the server takes a connection: that another one has ended it hears a moment after we do."""
    while True:
        with connected(server) as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            with contextlib.suppress(ConnectionResetError):  # refused while it was still sending
                if everything(connection).startswith(b"HTTP/1.1 200 "):
                    return


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8::1", "2001:db8::ffff:0:0:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("fe80::1%eth0", "fe80::2%eth0", True),
    ],
)
def test_who_is_one_client(one: str, other: str, same: bool) -> None:
    assert (client_of((one, 1)) == client_of((other, 2))) == same


def test_two_hundred_clients_at_once(patient: Server) -> None:
    statuses: list[int] = []

    def ask() -> None:
        with patient.client() as client:
            statuses.append(client.get("/api/vms").status_code)

    threads = [threading.Thread(target=ask) for _ in range(200)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 200
