"""Ports of a machine on this host."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandsox import BandSox, MicroVM
from bandsox.engine import forwarder, ownership, publishing
from bandsox.errors import Conflict, InvalidRequest
from bandsox.models import PublishedPort
from bandsox.process import ProcessId
from tests.faces import CliFace
from tests.ports.conftest import serving

# ── what can be asked for ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "port"),
    [
        ("80", PublishedPort(80)),
        (":80", PublishedPort(80)),
        ("8080:80", PublishedPort(80, 8080)),
        ("127.0.0.2:8080:80", PublishedPort(80, 8080, "127.0.0.2")),
        ("0.0.0.0::80", PublishedPort(80, 0, "0.0.0.0")),
        ("[::1]:8080:80", PublishedPort(80, 8080, "::1")),
    ],
)
def test_a_port_as_text(text: str, port: PublishedPort) -> None:
    assert publishing.parse(text) == port
    publishing.check((port,))


@pytest.mark.parametrize(
    "text", ["", "x", "80/tcp", "1:2:3:4", "99999", "0", "-1", "8080:", "host:80", "::1:8080:80", "[x]:1:2", "70000:80", "8 0"]
)
def test_what_is_no_port(text: str) -> None:
    with pytest.raises(InvalidRequest):
        publishing.check((publishing.parse(text),))


@given(st.text(max_size=30))
def test_any_text_is_a_port_or_an_invalid_request(text: str) -> None:
    with contextlib.suppress(InvalidRequest):
        publishing.check((publishing.parse(text),))


def test_forms_of_the_parameter() -> None:
    assert publishing.taken_from(None) == ()
    ports: dict[int | str, int] = {8080: 80, "127.0.0.2:81": 80}
    assert publishing.taken_from(ports) == (PublishedPort(80, 8080), PublishedPort(80, 81, "127.0.0.2"))
    assert publishing.taken_from(["80", PublishedPort(1, 2)]) == (PublishedPort(80), PublishedPort(1, 2))
    with pytest.raises(InvalidRequest):
        publishing.taken_from("80")
    with pytest.raises(InvalidRequest, match="once"):
        publishing.check((PublishedPort(1, 8080), PublishedPort(2, 8080)))


def test_an_address_is_not_one_of_this_host() -> None:
    with pytest.raises(InvalidRequest, match="not an address of this host"):
        forwarder.listen(PublishedPort(80, 0, "192.0.2.1"))


# ── a machine ───────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def published(bandsox: BandSox) -> Iterator[MicroVM]:
    """A machine that publishes its web server, with the programs of `SERVER`."""
    with bandsox.create_vm(mem_mib=256, publish=["80"]) as vm, serving(vm):
        yield vm


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return bytes(answer.read())


def reach(url: str) -> socket.socket:
    parts = urlsplit(url)
    assert parts.hostname is not None
    return socket.create_connection((parts.hostname, parts.port or 80), timeout=60)


def echoed(url: str, content: bytes) -> bytes:
    """What comes back of `content` from an echo, whose end is told and heard."""
    with reach(url) as client:

        def send() -> None:
            client.sendall(content)
            client.shutdown(socket.SHUT_WR)

        sending = threading.Thread(target=send)
        sending.start()
        back = bytearray()
        while piece := client.recv(1 << 16):
            back += piece
        sending.join()
    return bytes(back)


def forwarder_of(bandsox: BandSox, vm: MicroVM) -> ProcessId:
    with forwarder.running(bandsox._async.engine.layout.vm(vm.vm_id)) as found:
        assert found is not None
        process = found.process()
    assert process is not None
    return process


def test_a_published_port_is_reached_on_loopback_only(published: MicroVM) -> None:
    (port,) = published.info()["ports"]
    assert (port["host"], port["guest_port"]) == ("127.0.0.1", 80)
    assert get(port["url"] + "/page") == b"hello from /page"
    (state,) = published.ports()
    assert state.listening
    assert state.accepted >= 1


def test_exposing_twice_gives_the_same_url(published: MicroVM) -> None:
    url = published.expose(7)
    assert published.expose(7) == url
    assert echoed(url, b"again") == b"again"
    published.unexpose(7)
    with pytest.raises(ConnectionRefusedError):
        reach(url)
    assert [state.port.guest_port for state in published.ports()] == [80]


def test_bytes_arrive_as_they_were_sent(published: MicroVM) -> None:
    content = os.urandom(3 << 20)
    assert hashlib.sha256(echoed(published.expose(7), content)).digest() == hashlib.sha256(content).digest()


def test_a_hundred_connections_at_once(published: MicroVM) -> None:
    url = published.expose(7)
    clients = [reach(url) for _ in range(100)]
    try:
        for number, client in enumerate(clients):
            client.sendall(b"%03d" % number)
        for number, client in reversed(list(enumerate(clients))):
            assert client.recv(3, socket.MSG_WAITALL) == b"%03d" % number
    finally:
        for client in clients:
            client.close()


def test_a_client_that_does_not_read_delays_nobody(published: MicroVM) -> None:
    url = published.info()["ports"][0]["url"]
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            slow = stack.enter_context(reach(url))
            slow.sendall(b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
        assert get(url + "/quick") == b"hello from /quick"
        assert len(get(url + "/big")) == 4 << 20


def test_a_clone_has_ports_of_its_own(published: MicroVM) -> None:
    url = published.info()["ports"][0]["url"]
    (clone,) = published.fork(1)
    with clone, serving(clone):  # a command ends with its client, who is the source's
        theirs = clone.info()["ports"][0]["url"]
        assert theirs != url
        assert get(theirs + "/clone") == b"hello from /clone"
        assert get(url + "/source") == b"hello from /source"
    with pytest.raises(ConnectionRefusedError):
        reach(theirs)


def test_a_port_where_nobody_listens_in_the_guest(published: MicroVM) -> None:
    url = published.expose(4711)
    with reach(url) as client, pytest.raises(ConnectionResetError):
        client.recv(1)
    assert [state.refused for state in published.ports() if state.port.guest_port == 4711] == [1]


def test_a_port_that_is_taken(bandsox: BandSox, published: MicroVM) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        with pytest.raises(Conflict, match=f"port {taken} of 127.0.0.1 is taken"):
            published.expose(7, taken)
        with pytest.raises(Conflict, match="is taken"):
            bandsox.create_vm(mem_mib=192, publish={taken: 80})
        assert all(state.port.host_port != taken for state in published.ports())


def test_a_forwarder_that_was_killed_is_mended_by_the_next_use(bandsox: BandSox, published: MicroVM) -> None:
    url = published.info()["ports"][0]["url"]
    killed = forwarder_of(bandsox, published)
    killed.signal(signal.SIGKILL)
    with ThreadPoolExecutor(4) as pool:  # several at once start one
        list(pool.map(lambda _: published.run("true"), range(4)))
    assert get(url + "/") == b"hello from /"
    assert forwarder_of(bandsox, published) != killed
    directory = bandsox._async.engine.layout.vm(published.vm_id)
    owned = [process for owner, process in ownership.processes_in(directory.parent) if owner == directory.name]
    programs = [Path(f"/proc/{process.pid}/exe").readlink().name for process in owned]
    assert sum(name.startswith("bandsox-forwarder") for name in programs) == 1


def test_the_port_survives_stop_and_start_and_ends_with_the_machine(bandsox: BandSox) -> None:
    vm = bandsox.create_vm(mem_mib=192, publish=["80"])
    try:
        url = vm.info()["ports"][0]["url"]
        process = forwarder_of(bandsox, vm)
        vm.stop()
        assert not process.is_alive()
        with pytest.raises(ConnectionRefusedError):
            reach(url)
        vm.start()
        with serving(vm):
            assert get(url + "/after") == b"hello from /after"
            process = forwarder_of(bandsox, vm)
            with reach(url) as client:
                hypervisor = vm.process
                assert hypervisor is not None
                hypervisor.signal(9)  # a machine that dies takes its connections and its forwarder with it
                with contextlib.suppress(ConnectionResetError):
                    assert client.recv(1) == b""
    finally:
        vm.delete()
    assert not process.is_alive()
    with pytest.raises(ConnectionRefusedError):
        reach(url)


def test_the_command_line(storage: Path, published: MicroVM) -> None:
    def call(*words: str) -> str:
        return CliFace(storage).call(*words).stdout.decode()

    url = call("vm", "expose", published.vm_id, "7").strip()
    assert echoed(url, b"typed") == b"typed"
    listed = json.loads(call("--json", "vm", "ports", published.vm_id))
    assert {state["port"]["guest_port"] for state in listed} >= {7, 80}
    assert "127.0.0.1:" in call("vm", "ports", published.vm_id)
    call("vm", "expose", published.vm_id, "--remove", "7")
    with pytest.raises(ConnectionRefusedError):
        reach(url)
