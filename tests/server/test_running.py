"""The server as a process: where it may listen, how it ends, what it leaves."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from bandsox import BandSox, MicroVM
from bandsox.server.configuration import Configuration
from bandsox.server.running import _listen
from tests.server.servers import as_json, refused, serving


def test_it_does_not_listen_for_others_without_authentication(tmp_path: Path) -> None:
    for host in ("0.0.0.0", "::", ""):
        error = refused(tmp_path, "--host", host)
        assert (error["code"], "bandsox auth init" in str(error["remedy"])) == ("invalid_request", True)
    with serving(tmp_path, "--host", "0.0.0.0", "--insecure") as server:
        server.url = server.url.replace("0.0.0.0", "127.0.0.1")
        with server.client() as client:
            assert client.get("/healthz").status_code == 200


def test_a_port_in_use_and_a_half_of_a_certificate_are_refused(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        assert refused(tmp_path, "--port", server.url.rpartition(":")[2])["code"] == "host_error"
    (tmp_path / "cert.pem").write_text("nonsense")
    assert refused(tmp_path, "--tls-cert", str(tmp_path / "cert.pem"))["code"] == "invalid_request"
    both = ("--tls-cert", str(tmp_path / "cert.pem"), "--tls-key", str(tmp_path / "cert.pem"))
    assert refused(tmp_path, *both)["code"] == "invalid_request"


@pytest.mark.parametrize("ending", ["stop", "kill"])
def test_machines_outlive_it_and_the_next_one_finds_them(storage: Path, bandsox: BandSox, vm: MicroVM, ending: str) -> None:
    path = f"/api/vms/{vm.vm_id}"
    with serving(storage) as first, first.client() as client:
        client.put(f"{path}/metadata", json={"metadata": {"by": ending}})
        before = client.get(path).json()
        assert getattr(first, ending)() in {0, None}
    assert as_json(bandsox.get_vm_info(vm.vm_id)) == before
    with serving(storage) as second, second.client() as client:
        assert client.get(path).json() == before
        assert client.post(f"{path}/exec", json={"command": "echo on"}).json()["stdout"] == "on\n"


def test_short_answers_are_not_held_back() -> None:
    with _listen(Configuration(), 0) as listener:
        listener.setblocking(True)
        with socket.create_connection(listener.getsockname()), listener.accept()[0] as connection:
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
