"""The remote client: what it gives beyond the conformance suite, and what it says when things fail."""

from __future__ import annotations

import inspect
import threading
from pathlib import Path

import pytest

from bandsox import AsyncBandSox, AsyncMicroVM, BandSox, MicroVM, errors
from bandsox.client.faults import error_of
from bandsox.client.machine import RemoteMicroVM
from bandsox.core.remote import RemoteBandSox
from tests.server.servers import Server, as_json, serving


@pytest.fixture(scope="module")
def remote(server: Server) -> BandSox:
    return BandSox(server.url)


@pytest.fixture(scope="module")
def there(remote: BandSox, vm: MicroVM) -> MicroVM:
    """The machine `vm`, seen through a server."""
    found = remote.get_vm(vm.vm_id)
    assert found is not None
    return found


def test_what_it_knows_is_what_the_library_knows(remote: BandSox, bandsox: BandSox, there: MicroVM, vm: MicroVM) -> None:
    assert remote.list_vms() == as_json(bandsox.list_vms())
    assert there.info() == as_json(vm.info())
    assert there.stat("/etc/passwd") == vm.stat("/etc/passwd")
    assert there.scan_dir("/etc") == vm.scan_dir("/etc")
    assert there.guest_info().boot_id == vm.guest_info().boot_id
    assert there.get_file_contents("/etc/passwd", 1, 2, True) == vm.get_file_contents("/etc/passwd", 1, 2, True)
    assert remote.list_images() == bandsox.list_images()
    assert remote.get_vm("none") is None


def test_output_comes_while_the_program_runs_and_stopping_ends_it(there: MicroVM, vm: MicroVM) -> None:
    pieces = there.stream("echo $$; exec sleep 1000")
    _, first = next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    assert vm.run(f"while kill -0 {first.decode().strip()} 2>/dev/null; do sleep 0.1; done", timeout=60).exit_code == 0


def test_more_input_than_is_let_through_at_once_arrives(there: MicroVM) -> None:
    data = bytes(range(256)) * 8192
    assert there.run(["cat"], stdin=data).stdout == data


def test_a_file_gets_the_mode_that_is_asked_for_and_keeps_it(there: MicroVM, vm: MicroVM) -> None:
    for machine, path in ((vm, "/root/mode/local"), (there, "/root/mode/remote")):
        machine.write_bytes(path, b"#!/bin/sh\n", mode=0o750)
        assert machine.stat(path).mode & 0o7777 == 0o750
        machine.write_bytes(path, b"#!/bin/sh\necho other content\n")
        assert machine.run([path]).stdout == b"other content\n"


def test_sessions_and_terminals(there: MicroVM) -> None:
    ended, shown = threading.Event(), list[str]()
    session = there.start_pty_session("stty size; read line; echo got $line", 91, 31, shown.append, lambda _: ended.set())
    there.send_session_input(session, "yes\n")
    assert ended.wait(100)
    assert "31 91" in "".join(shown)
    assert "got yes" in "".join(shown)
    assert session in [each.id for each in there.list_sessions()]


def test_failures_are_those_of_the_library(there: MicroVM, tmp_path: Path) -> None:
    with pytest.raises(errors.CommandNotFound):
        there.run(["no-such-program"])
    with pytest.raises(errors.CommandNotFound):
        there.exec_command(["no-such-program"])
    with pytest.raises(errors.GuestFileNotFound) as missing:
        there.read_bytes("/no/such")
    assert (missing.value.path, missing.value.errno_name) == ("/no/such", "ENOENT")
    with pytest.raises(errors.CommandTimeout):
        there.run("sleep 1000", timeout=1)
    with pytest.raises(errors.InvalidRequest):
        there.write_bytes("relative", b"")
    with pytest.raises(errors.SessionNotFound):
        there.attach_session("none")
    with pytest.raises(errors.Unsupported):
        there.keep()
    with pytest.raises(OSError, match="no-such-file"):
        there.upload_file(tmp_path / "no-such-file", "/root/x")


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    with serving(tmp_path) as server:
        gone = BandSox(server.url)
        assert gone.list_vms() == []
        server.kill()
        with pytest.raises(errors.ServerUnavailable):
            gone.list_vms()
        with pytest.raises(errors.ServerUnavailable):
            gone.create_vm()


def test_a_key_goes_with_every_request(tmp_path: Path) -> None:
    from bandsox.server.auth import keys
    from bandsox.server.auth.file import AuthFile

    (tmp_path / "locks").mkdir()
    file = AuthFile(tmp_path)
    file.set_password("long enough")
    with serving(tmp_path) as server:
        with pytest.raises(errors.NotAuthenticated):
            BandSox(server.url).list_vms()
        reader = BandSox(server_url=server.url, headers={"Authorization": f"Bearer {keys.create(file, 'r', ['read']).key}"})
        assert reader.list_vms() == []
        with pytest.raises(errors.Forbidden):
            reader.create_vm()


def test_every_error_comes_back_as_what_it_was() -> None:
    for kind in {type(error_of({"code": code})) for code in ("error", "vm_not_found", "boot_failed", "guest_file_not_found", "conflict")}:
        assert error_of({"code": kind.code, "message": "m", "detail": {}}).to_dict()["code"] == kind.code
    assert isinstance(error_of({"code": "of the future", "message": "m"}), errors.BandSoxError)
    assert "not as a BandSox server" in error_of(None, 500).message


@pytest.mark.parametrize(("local", "far"), [(AsyncBandSox, RemoteBandSox), (AsyncMicroVM, RemoteMicroVM)])
def test_what_takes_its_place_takes_the_same(local: type, far: type) -> None:
    for name, method in vars(far).items():
        if name.startswith("_") or not inspect.isfunction(method) or "arguments" in inspect.signature(method).parameters:
            continue
        assert inspect.signature(method).parameters == inspect.signature(getattr(local, name)).parameters, name
