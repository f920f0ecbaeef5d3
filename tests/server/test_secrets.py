"""Secrets and networks of the host through a server: who may have them, and that no place but one file ever has a value."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from bandsox import BandSox, MicroVM, Secret, errors
from bandsox.network import vault
from bandsox.server.auth import keys
from bandsox.server.auth.file import AuthFile
from bandsox.settings import DEFAULT_IMAGE, Layout
from tests.cli.conftest import Cli
from tests.server.servers import Server, serving

FIRST, SECOND, THIRD = (f"bsx-test-value-{number}" for number in ("one", "two", "three"))
VALUES = (FIRST, SECOND, THIRD)
KEY = uuid.uuid4().hex
HOSTS = ["api.example.com", "*.example.org:8443"]
WANTED = {"TOKEN": {"value": FIRST, "hosts": HOSTS, "plain_http": True}}


class Listener(httpx.Client):
    """A client that keeps all that a server says."""

    def __init__(self, url: str) -> None:
        self.heard: list[str] = []
        super().__init__(base_url=url, timeout=120, trust_env=False, event_hooks={"response": [self._note]})

    def _note(self, answer: httpx.Response) -> None:
        if answer.headers.get("content-type", "").startswith("application/json"):
            answer.read()
            self.heard.append(f"{answer.headers}{answer.text}")


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("log") / "stderr"


@pytest.fixture(scope="module")
def watched(storage: Path, log: Path) -> Iterator[Server]:
    """A server of whose words nothing is lost."""
    with serving(storage, log=log) as server:
        yield server


@pytest.fixture(scope="module")
def listener(watched: Server) -> Iterator[Listener]:
    with Listener(watched.url) as client:
        yield client


@pytest.fixture(scope="module")
def vm(bandsox: BandSox, listener: Listener) -> Iterator[MicroVM]:
    """A machine that was made over HTTP, asked for twice with one key."""
    wanted = {"image": "python:3-alpine", "mem_mib": 256, "disk_size_mib": 0, "secrets": WANTED}
    made = [listener.post("/api/vms", json=wanted, headers={"Idempotency-Key": KEY}) for _ in range(2)]
    if made[0].status_code >= 500:
        pytest.skip(f"this host gives no network: {made[0].text}")
    assert made[0].json() == made[1].json()
    found = bandsox.get_vm(made[0].json()["id"])
    assert found is not None
    with found:
        yield found


@pytest.fixture
def there(vm: MicroVM, watched: Server) -> Iterator[MicroVM]:
    with BandSox(watched.url) as remote:
        found = remote.get_vm(vm.vm_id)
        assert found is not None
        yield found


def kept(storage: Path, vm: MicroVM) -> dict[str, str]:
    """The values that the filter gets."""
    return vault.read(Layout.open(storage).vm(vm.vm_id)).values


def holds(file: Path, text: bytes) -> bool:
    """Whether a file has this in it. Holes, of which logs have a terabyte, are skipped."""
    rest, end = b"", 0
    with contextlib.suppress(FileNotFoundError), file.open("rb", buffering=0) as opened:  # it was somebody's work under way
        while (start := data_from(opened.fileno(), end)) is not None:
            piece = os.pread(opened.fileno(), 1 << 20, start)
            rest = (rest if start == end else b"") + piece
            if text in rest:
                return True
            rest, end = rest[-len(text) :], start + len(piece)
    return False


def data_from(descriptor: int, offset: int) -> int | None:
    """Where the next data of a file is."""
    try:
        return os.lseek(descriptor, offset, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        raise


def facts(*, has_value: bool) -> dict[str, Any]:
    return {"name": "TOKEN", "hosts": HOSTS, "query": False, "body": False, "plain_http": True, "has_value": has_value}


def test_a_machine_has_a_placeholder_and_the_value_is_kept_for_it(listener: Listener, vm: MicroVM, storage: Path) -> None:
    assert listener.get(f"/api/vms/{vm.vm_id}/secrets").json() == [facts(has_value=True)]
    assert listener.get(f"/api/vms/{vm.vm_id}").json()["secrets"] == {"TOKEN": HOSTS}
    answer = listener.post(f"/api/vms/{vm.vm_id}/exec", json={"command": "echo $TOKEN; env"}).json()
    assert re.match(r"bandsox_[0-9a-f]{40}\n", answer["stdout"])
    assert kept(storage, vm) == {"TOKEN": FIRST}


def test_a_value_is_renewed_and_withdrawn(listener: Listener, vm: MicroVM, there: MicroVM, storage: Path) -> None:
    path = f"/api/vms/{vm.vm_id}/secrets/TOKEN"
    assert listener.put(path, json={"value": SECOND}).json() == facts(has_value=True)
    assert kept(storage, vm) == {"TOKEN": SECOND}
    assert listener.delete(path).json() == facts(has_value=False)
    assert (kept(storage, vm), there.secrets()) == ({}, {"TOKEN": False})
    there.set_secret("TOKEN", THIRD)
    assert (kept(storage, vm), there.secrets()) == ({"TOKEN": THIRD}, {"TOKEN": True})
    there.set_secret("TOKEN", None)
    assert kept(storage, vm) == {}


def test_the_command_line_renews_a_value_of_a_servers_machine(watched: Server, vm: MicroVM, storage: Path, tmp_path: Path) -> None:
    cli = Cli(tmp_path / "unused")
    cli.environment = {**cli.environment, "BANDSOX_URL": watched.url, "HOME": str(tmp_path), "NEW_TOKEN": SECOND}
    del cli.environment["BANDSOX_STORAGE"]
    done = cli("--json", "network", "secret", vm.vm_id, "TOKEN=NEW_TOKEN", check=True)
    assert (done.json, kept(storage, vm)) == ({"TOKEN": True}, {"TOKEN": SECOND})
    assert cli("--json", "network", "secret", vm.vm_id, "TOKEN", "--withdraw", check=True).json == {"TOKEN": False}
    assert "api.example.com" in cli("network", "secret", vm.vm_id, check=True).text


@pytest.mark.parametrize(
    "secret",
    [
        {"value": "short-1", "hosts": HOSTS},
        {"value": f"{FIRST}\n", "hosts": HOSTS},
        {"value": f"{FIRST}\u00e9", "hosts": HOSTS},
        {"value": FIRST * 300, "hosts": HOSTS},
        {"value": [FIRST], "hosts": HOSTS},
        {"value": FIRST, "hosts": []},
        {"value": FIRST, "hosts": ["192.0.2.1"]},
        {"value": FIRST, "hosts": HOSTS, "colour": FIRST},
        FIRST,
    ],
)
def test_what_cannot_be_kept_is_refused_without_being_repeated(listener: Listener, secret: Any) -> None:
    wanted = {"TOKEN": secret}
    form = {"dockerfile": (None, "FROM x"), "secrets": (None, json.dumps(wanted))}
    for answer in (
        listener.post("/api/vms", json={"image": "python:3-alpine", "secrets": wanted}),
        listener.post("/api/vms/from-dockerfile", files=form),
    ):
        assert answer.status_code in {400, 422}, answer.text
        assert answer.json()["code"] == "invalid_request"
        assert "bsx-test-value" not in answer.text
        assert "short-1" not in answer.text


def test_a_machine_has_only_the_secrets_that_it_was_made_with(listener: Listener, vm: MicroVM, there: MicroVM) -> None:
    for answer in (
        listener.put(f"/api/vms/{vm.vm_id}/secrets/OTHER", json={"value": SECOND}),
        listener.delete(f"/api/vms/{vm.vm_id}/secrets/OTHER"),
    ):
        assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    with pytest.raises(errors.Conflict):
        there.set_secret("OTHER", SECOND)


def test_a_mistake_is_named_before_anything_is_sent(watched: Server, there: MicroVM) -> None:
    with BandSox(watched.url) as remote:
        for wrong in ({"TOKEN": Secret("short-1", ("api.example.com",))}, {"PATH TO": Secret(FIRST, ("api.example.com",))}):
            with pytest.raises(errors.InvalidRequest) as caught:
                remote.create_vm(secrets=wrong)
            assert "short-1" not in str(caught.value)
        with pytest.raises(errors.InvalidRequest):
            remote.create_vm(network="cni:../x")
    with pytest.raises(errors.InvalidRequest):
        there.set_secret("TOKEN", f"{SECOND}\n")


def test_no_place_has_a_value_but_the_machines_own_file(watched: Server, listener: Listener, vm: MicroVM, storage: Path, log: Path) -> None:
    """The last of those with this machine: answers, events, what is kept of requests with keys, logs, and all files."""
    assert listener.put(f"/api/vms/{vm.vm_id}/secrets/TOKEN", json={"value": FIRST}).status_code == 200
    assert listener.put(f"/api/vms/{vm.vm_id}/name", json={"name": f"renamed-{vm.vm_id}"}).status_code == 200
    assert listener.get(f"/api/requests/{KEY}").json()["status"] == "done"
    listener.get("/api/auth/audit", params={"path": "/api/vms"})
    with listener.stream("GET", "/api/events", params={"after": 0}) as events:
        for line in events.iter_lines():
            listener.heard.append(line)
            if f'"renamed-{vm.vm_id}"' in line:
                break
    layout = Layout.open(storage)
    found = [
        file
        for root in (storage, layout.runtime)
        for file in root.rglob("*")
        if file.is_file() and not file.is_symlink() and holds(file, b"bsx-test-value")
    ]
    secrets = layout.vm(vm.vm_id) / "secrets.json"
    assert found == [secrets]
    assert (secrets.stat().st_mode & 0o777, secrets.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert watched.process.poll() is None
    assert len(listener.heard) > 10
    assert not [said for said in (*listener.heard, log.read_text()) if any(value in said for value in VALUES)]


# ── who may ─────────────────────────────────────────────────────────────────────────────────────────


def test_scopes_of_secrets_and_of_networks_of_the_host(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "bandsox", "--storage", str(tmp_path), "auth", "init", "--password-stdin"]
    subprocess.run(words, input=b"long enough", check=True, stdout=subprocess.DEVNULL)
    file = AuthFile(tmp_path)
    reader, runner = (keys.create(file, scope, [scope]).key for scope in ("read", "exec"))
    with serving(tmp_path) as server, server.client(reader) as looks, server.client(runner) as runs:
        path = "/api/vms/any/secrets"
        assert looks.get(path).status_code == 404
        assert looks.put(f"{path}/TOKEN", json={"value": FIRST}).status_code == 403
        assert looks.delete(f"{path}/TOKEN").status_code == 403
        assert runs.put(f"{path}/TOKEN", json={"value": FIRST}).status_code == 404
        form: Any = {"dockerfile": (None, "FROM x"), "network": (None, "cni:lab")}
        for answer in (
            runs.post("/api/vms", json={"image": DEFAULT_IMAGE, "network": "cni:lab"}),
            runs.post("/api/vms/from-dockerfile", files=form),
        ):
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), answer.text
        assert runs.put("/api/vms/any/network/policy", json={"policy": "cni:lab"}).status_code == 422
        assert runs.post("/api/vms", json={"image": DEFAULT_IMAGE, "network": "cni:../lab"}).status_code == 422


def test_who_may_is_attached_to_a_network_of_the_host(listener: Listener, watched: Server) -> None:
    """As far as to the host's configuration, in which there is no such network, or to the need for root."""
    failed = listener.post("/api/vms", json={"image": "python:3-alpine", "network": "cni:nowhere-at-all"})
    assert failed.status_code == 500
    assert failed.json()["cause"]
    assert "nowhere-at-all" in failed.text or "need root" in failed.text
    with BandSox(watched.url) as remote, pytest.raises(errors.HostError):
        remote.create_vm(network="cni:nowhere-at-all")
