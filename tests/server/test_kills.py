"""A server that is killed in the middle of something: what was answered is there, what was not is whole or is not there, and nothing
of it is left."""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from bandsox import BandSox, MicroVM
from bandsox.process import ProcessId
from bandsox.settings import DEFAULT_IMAGE, Layout
from tests.server.servers import Server, serving

_PIECE = 1 << 20


def left_behind(storage: Path) -> list[str]:
    """Work of processes that have died, and directories of snapshots and machines that nobody knows."""
    layout = Layout.open(storage)
    with BandSox(storage) as bandsox:
        vms = {info["id"] for info in bandsox.list_vms()}
        snapshots = {info["id"] for info in bandsox.list_snapshots()}
    found = [entry.name for entry in layout.work.iterdir() if not ProcessId(*map(int, entry.name.split("-"))).is_alive()]
    return (
        found
        + [entry.name for entry in layout.snapshots.iterdir() if entry.name not in snapshots]
        + [entry.name for entry in layout.vms.iterdir() if entry.name not in vms]
    )


@contextlib.contextmanager
def under_way(server: Server, path: str, body: dict[str, Any], **headers: str) -> Iterator[Iterator[str]]:
    """The steps of a request whose answer nobody gets."""
    with server.client() as client, client.stream("POST", path, json=body, headers={"accept": "application/x-ndjson", **headers}) as answer:
        yield answer.iter_lines()


def killed_by_itself(server: Server, after: int) -> Iterator[bytes]:
    """An upload without end, whose server dies when it has so many bytes."""
    sent = 0
    while True:
        yield os.urandom(_PIECE)
        sent += _PIECE
        if sent == after:
            threading.Thread(target=server.kill).start()


@pytest.mark.parametrize("old", [None, b"as it was before"], ids=["new", "there"])
def test_an_upload(storage: Path, vm: MicroVM, path: str, old: bytes | None) -> None:
    directory = f"/root/{secrets.token_hex(4)}"
    where = {"path": f"{directory}/file"}
    with serving(storage) as server, server.client() as client:
        assert client.put(f"{path}/file", params={"path": f"{directory}/answered"}, content=b"kept").status_code == 200
        if old is not None:
            client.put(f"{path}/file", params=where, content=old)
        with pytest.raises(httpx.TransportError):
            client.put(f"{path}/file", params=where, content=killed_by_itself(server, 16 * _PIECE))
    names = ["answered"] if old is None else ["answered", "file"]
    gone = vm.run(f'until [ "$(ls -A {directory} | tr "\\n" " ")" = "{" ".join(names)} " ]; do sleep 0.05; done', timeout=60)
    assert gone.exit_code == 0, "the agent removes what it cannot finish"
    with serving(storage) as server, server.client() as client:
        found = client.get(f"{path}/download", params=where)
        assert (found.status_code, found.content) == ((404, found.content) if old is None else (200, old))
        assert client.get(f"{path}/download", params={"path": f"{directory}/answered"}).content == b"kept"
        assert client.put(f"{path}/file", params=where, content=b"again").json()["size"] == 5


def test_a_snapshot_is_taken_once_by_who_asks_again(storage: Path, vm: MicroVM, path: str, bandsox: BandSox) -> None:
    name = f"killed-{secrets.token_hex(4)}"
    key = {"idempotency-key": name}
    wanted = {"name": name}
    with (
        contextlib.suppress(httpx.TransportError),
        serving(storage) as server,
        under_way(server, f"{path}/snapshot", wanted, **key) as steps,
    ):
        next(steps, None)
        server.kill()
    assert vm.run(["echo", "lives"], timeout=120).text == "lives\n", "the machine goes on"
    try:
        with serving(storage) as server, server.client() as client:
            taken = client.post(f"{path}/snapshot", json={"name": name}, headers=key).json()
            assert taken["snapshot_id"] == name
            assert client.post(f"{path}/snapshot", json={"name": name}, headers=key).json() == taken
            assert [each["id"] for each in client.get("/api/snapshots").json() if each["snapshot_name"] == name] == [taken["id"]]
            restored = client.post(f"/api/snapshots/{name}/restore", json={}).json()["id"]
            assert client.post(f"/api/vms/{restored}/exec", json={"command": "echo too", "timeout": 120}).json()["stdout"] == "too\n"
            client.delete(f"/api/vms/{restored}")
            client.post("/api/cleanup")
            assert left_behind(storage) == []
    finally:
        bandsox.delete_snapshot(name)


def test_the_next_server_removes_what_is_half_made(storage: Path, bandsox: BandSox) -> None:
    name = f"killed-{secrets.token_hex(4)}"
    changes = bandsox.events(0)
    wanted = {"image": DEFAULT_IMAGE, "mem_mib": 256, "name": name}
    with contextlib.suppress(httpx.TransportError), serving(storage) as server, under_way(server, "/api/vms", wanted) as steps:
        while (change := next(changes)).name != name:
            pass
        server.kill()
        list(steps)
    assert change.status == "creating"
    assert bandsox.get_vm_info(name) is not None
    with serving(storage):
        while (change := next(changes)).name != name or change.kind != "vm.deleted":
            pass
        assert bandsox.get_vm_info(name) is None
    changes.close()  # type: ignore[attr-defined]
