"""What listens in a machine without a network is reached through its agent."""

from __future__ import annotations

import hashlib
import os
import threading

import pytest

from bandsox import BandSox, MicroVM
from bandsox.errors import Conflict, ConnectionRefused, MachineStopped
from tests.ports.conftest import serving


def test_a_connection_carries_bytes_both_ways(served: MicroVM) -> None:
    content = os.urandom(2 << 20)
    with served.connect(7) as stream:

        def send() -> None:
            stream.write(content)
            stream.write_eof()

        sending = threading.Thread(target=send)
        sending.start()
        got = hashlib.sha256()
        while piece := stream.read():
            got.update(piece)
        sending.join()
    assert got.digest() == hashlib.sha256(content).digest()


def test_an_http_request_is_answered(served: MicroVM) -> None:
    answer = served.send_http_request(80, "/somewhere")
    assert (answer.status_code, answer.text) == (200, "hello from /somewhere")
    body = os.urandom(1 << 20)
    assert served.send_http_request(80, "/", "POST", data=body).text == hashlib.sha256(body).hexdigest()
    assert len(served.send_http_request(80, "/big").content) == 4 << 20


def test_nobody_listens(served: MicroVM) -> None:
    with pytest.raises(ConnectionRefused, match="nothing listens on port 8080 in the guest"):
        served.connect(8080)
    with pytest.raises(ConnectionRefused):
        served.send_http_request(8080)


def test_a_machine_that_dies_in_the_middle(bandsox: BandSox) -> None:
    with bandsox.create_vm(mem_mib=192) as vm, serving(vm), vm.connect(7) as stream:
        stream.write(b"before")
        assert stream.read() == b"before"
        process = vm.process
        assert process is not None
        process.signal(9)
        with pytest.raises(MachineStopped):
            stream.read()
        with pytest.raises((Conflict, MachineStopped)):
            vm.connect(7)
