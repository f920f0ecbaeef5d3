"""Ports of the guest through a server: published, asked over HTTP, and as connections."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import urllib.request
from collections.abc import Iterator

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from bandsox import BandSox, MicroVM, errors
from tests.ports.conftest import serving
from tests.server.servers import Server


@pytest.fixture(scope="module", autouse=True)
def programs(vm: MicroVM) -> Iterator[None]:
    with serving(vm):
        yield


@pytest.fixture(scope="module")
def there(server: Server, vm: MicroVM) -> MicroVM:
    found = BandSox(server.url).get_vm(vm.vm_id)
    assert found is not None
    return found


def test_a_port_is_published_on_the_servers_host(http: httpx.Client, path: str) -> None:
    url = http.post(f"{path}/ports", json={"guest_port": 80}).json()["url"]
    assert urllib.request.urlopen(f"{url}/x", timeout=60).read() == b"hello from /x"
    [port] = http.get(f"{path}/ports").json()
    assert (port["guest_port"], port["url"], port["listening"], port["accepted"]) == (80, url, True, 1)
    assert http.delete(f"{path}/ports/80").json() == {"status": "withdrawn"}
    assert http.get(f"{path}/ports").json() == []
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(url, timeout=60)
    for wrong in ({"guest_port": 0}, {"guest_port": 80, "host": "evil.example"}, {"guest_port": 80, "host": "192.0.2.1"}):
        assert http.post(f"{path}/ports", json=wrong).status_code in {400, 422}


def test_a_request_to_a_port(http: httpx.Client, path: str) -> None:
    body = bytes(range(256))
    asked = {"port": 80, "method": "POST", "body": base64.b64encode(body).decode(), "encoding": "base64", "headers": {"X-A": "b"}}
    answer = http.post(f"{path}/http", json=asked).json()
    assert (answer["status_code"], answer["body"]) == (200, hashlib.sha256(body).hexdigest())
    assert answer["headers"]["content-length"] == "64"
    got = http.post(f"{path}/http", json={"port": 80, "path": "/y?z=1", "response_encoding": "base64"}).json()
    assert base64.b64decode(got["body"]) == b"hello from /y?z=1"


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        ({"port": 9}, 422),
        ({"port": 80, "path": "http://evil.example/"}, 400),
        ({"port": 80, "headers": {"A": "b\r\nC: d"}}, 400),
        ({"port": 80, "method": "GET /\r\n"}, 400),
        ({"port": 80, "body": "%", "encoding": "base64"}, 400),
        ({"port": 7}, 422),
        ({"port": 70000}, 422),
        ({"port": 80, "timeout": 0}, 422),
    ],
)
def test_a_request_that_cannot_be(http: httpx.Client, path: str, asked: dict[str, object], status: int) -> None:
    assert http.post(f"{path}/http", json=asked).status_code == status


def test_the_remote_client_reaches_ports_as_the_library_does(there: MicroVM, vm: MicroVM) -> None:
    for machine in (vm, there):
        answer = machine.send_http_request(80, "/q", params={"a": "ä"})
        assert (answer.status_code, answer.text, answer.url) == (200, "hello from /q?a=%C3%A4", "http://localhost/q?a=%C3%A4")
        assert machine.send_http_request(80, method="POST", json={"a": 1}).text == hashlib.sha256(b'{"a":1}').hexdigest()
        with pytest.raises(errors.ConnectionRefused):
            machine.send_http_request(9)
        with pytest.raises(errors.LimitExceeded):
            machine.send_http_request(80, "/big", max_bytes=1000)
        url = machine.expose(80)
        assert [each.port.url for each in machine.ports()] == [url]
        machine.unexpose(80)
    assert there.send_http_request(80, "/")["body"] == "hello from /"  # type: ignore[index]  # as earlier versions had it


def test_a_connection_carries_bytes_both_ways_at_their_own_pace(there: MicroVM) -> None:
    data = os.urandom(3 << 20)
    with there.connect(7) as stream:
        back = bytearray()
        for start in range(0, len(data), 1 << 16):
            stream.write(data[start : start + (1 << 16)])
            while len(back) < start:
                back += stream.read()
        stream.write_eof()
        while piece := stream.read():
            back += piece
    assert bytes(back) == data
    with pytest.raises(errors.ConnectionRefused):
        there.connect(9)
    with pytest.raises(errors.InvalidRequest):
        there.connect(80, "no-such-host.example")


def test_a_connection_ends_with_what_it_may_not_say(server: Server, path: str) -> None:
    with connect(f"{server.url.replace('http', 'ws')}{path}/ports/7/connect", proxy=None, open_timeout=60) as socket:
        assert json.loads(socket.recv(timeout=60)) == {"type": "connected"}
        socket.send(b"abc")
        assert socket.recv(timeout=60) == b"abc"
        socket.send("{}")
        assert json.loads(socket.recv(timeout=60))["failure"]["code"] == "invalid_request"
        with pytest.raises(ConnectionClosed):
            socket.recv(timeout=60)


def test_what_changes_in_the_guest_is_told(there: MicroVM, vm: MicroVM) -> None:
    vm.run("mkdir -p /root/watched")
    changes = there.watch("/root/watched", recursive=True)
    writing, _ = vm.start_session("while :; do echo x >> /root/watched/file; sleep 0.1; done")
    assert next(changes).path == b"/root/watched/file"
    vm.kill_session(writing)
    changes.close()  # type: ignore[attr-defined]
    with pytest.raises(errors.GuestFileNotFound):
        next(there.watch("/no/such"))


def test_the_console_is_followed(there: MicroVM, vm: MicroVM) -> None:
    follow = there.follow_console()
    vm.run("echo 'a mark' > /dev/console")
    shown = ""
    while "a mark" not in shown:
        shown += next(follow)
    follow.close()  # type: ignore[attr-defined]
