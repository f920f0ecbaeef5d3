"""Snapshots that travel through a server: as a file of any size at constant memory, and to and from registries."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from bandsox import BandSox, MicroVM, Progress, errors
from bandsox.server.auth import keys
from bandsox.server.auth.file import AuthFile
from bandsox.settings import Layout
from tests.images.registry import PASSWORD, USER, run_registry
from tests.server.servers import Server, as_json, serving


@pytest.fixture(scope="module")
def source(bandsox: BandSox) -> Iterator[MicroVM]:
    with bandsox.create_vm(mem_mib=128, disk_size_mib=256, network={"allow": ["internet", "10.9.0.0/16"]}) as vm:  # type: ignore[arg-type]
        vm.run("echo in memory > /dev/shm/kept; echo on disk > /root/kept; sync")
        yield vm


@pytest.fixture(scope="module")
def saved(bandsox: BandSox, source: MicroVM) -> Iterator[str]:
    name = source.snapshot(f"carried/{os.urandom(4).hex()}", {"purpose": "travel"})
    yield name
    bandsox.delete_snapshot(name)


@pytest.fixture(scope="module")
def remote(server: Server) -> BandSox:
    return BandSox(server.url)


@pytest.fixture(scope="module")
def archive(remote: BandSox, saved: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exported") / "snapshot.tar"
    remote.export_snapshot(saved, path)
    return path


def work_files(storage: Path) -> list[Path]:
    """What is in the making."""
    return [file for owner in Layout.open(storage).work.iterdir() for file in owner.iterdir()]


def test_an_export_is_that_of_the_library(remote: BandSox, bandsox: BandSox, saved: str, archive: Path, tmp_path: Path) -> None:
    steps: list[Progress] = []
    stream = io.BytesIO()
    digest = remote.export_snapshot(saved, stream, progress=steps.append)
    assert bandsox.export_snapshot(saved, tmp_path / "ours.tar") == digest
    assert stream.getvalue() == archive.read_bytes() == (tmp_path / "ours.tar").read_bytes()
    assert archive.stat().st_mode & 0o777 == 0o600
    assert (steps[-1].done, steps[-1].total, steps[-1].finished) == (len(stream.getvalue()), len(stream.getvalue()), True)
    small = io.BytesIO()
    remote.export_snapshot(saved, small, base=saved, image=False)
    assert len(small.getvalue()) < len(stream.getvalue()) / 5


def test_what_cannot_be_exported_is_named(remote: BandSox, saved: str, tmp_path: Path) -> None:
    with pytest.raises(errors.SnapshotNotFound):
        remote.export_snapshot("none", tmp_path / "none.tar")
    with pytest.raises(errors.SnapshotNotFound):
        remote.export_snapshot(saved, tmp_path / "none.tar", base="none")
    with pytest.raises(errors.Unsupported):
        remote.export_snapshot(saved, f"oci:{tmp_path}/layout")
    with pytest.raises(errors.SnapshotNotFound):
        remote.import_snapshot(tmp_path / "none.tar")
    assert list(tmp_path.iterdir()) == []


def test_a_compressed_snapshot_is_smaller(remote: BandSox, bandsox: BandSox, saved: str) -> None:
    before = remote.get_snapshot_info(saved)
    remote.compress_snapshot(saved)
    after = remote.get_snapshot_info(saved)
    assert after["compressed"] and not before["compressed"] and after["size"] < before["size"]
    assert after == as_json(bandsox.get_snapshot_info(saved))


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    """A server of another storage directory, to which a key is needed."""
    storage = tmp_path_factory.mktemp("elsewhere")
    words = [sys.executable, "-m", "bandsox", "--storage", str(storage), "auth", "init", "--password-stdin"]
    subprocess.run(words, input=b"long enough", check=True)
    with serving(storage) as running:
        yield running, storage
        assert running.stop() == 0
        assert work_files(storage) == []


def key_for(storage: Path, *scopes: str, prefix: str = "") -> dict[str, str]:
    made = keys.create(AuthFile(storage), "key", scopes, prefix=prefix)
    return {"authorization": f"Bearer {made.key}"}


def test_a_snapshot_is_taken_in_once(elsewhere: tuple[Server, Path], archive: Path, saved: str) -> None:
    server, storage = elsewhere
    other = BandSox(server.url, headers=key_for(storage, "admin"))
    steps: list[Progress] = []
    assert other.import_snapshot(archive, progress=steps.append) == saved
    assert {"import"} < {step.task for step in steps}
    assert other.import_snapshot(archive) == saved, "the same once more"
    assert other.import_snapshot(archive, "another name") == "another name"
    assert {info["snapshot_name"] for info in other.list_snapshots()} == {saved, "another name"}
    with pytest.raises(errors.Conflict):
        other.rename_snapshot("another name", saved)
    with other.restore_vm(saved) as vm:
        assert vm.run("cat /dev/shm/kept /root/kept").text == "in memory\non disk\n"
    for name in (saved, "another name"):
        other.delete_snapshot(name)


def test_what_is_not_for_a_caller_is_not_taken_in(elsewhere: tuple[Server, Path], archive: Path) -> None:
    server, storage = elsewhere
    with pytest.raises(errors.Forbidden):
        BandSox(server.url, headers=key_for(storage, "exec", prefix="ci-")).import_snapshot(archive)
    assert BandSox(server.url, headers=key_for(storage, "admin")).list_snapshots() == []


def test_what_is_no_snapshot_leaves_nothing(elsewhere: tuple[Server, Path], archive: Path) -> None:
    server, storage = elsewhere
    whole = archive.read_bytes()
    with httpx.Client(base_url=server.url, headers=key_for(storage, "exec"), timeout=120, trust_env=False) as client:
        for wrong in (b"", b"no archive", whole[: len(whole) // 2], whole[:5000] + b"\xff" * 5000 + whole[10_000:]):
            answer = client.post("/api/snapshots/import", content=wrong)
            assert 400 <= answer.status_code < 500, answer.text
        assert client.post("/api/snapshots/import", params={"name": "a\nb"}, content=whole).json()["code"] == "invalid_request"
        assert client.get("/api/snapshots").json() == []
        for path, body in (("/api/snapshots/pull", {"reference": "h/n:1"}), ("/api/snapshots/none/push", {"reference": "h/n:1"})):
            assert client.post(path, json=body).json()["code"] == "forbidden", "the server's credentials are the administrator's"


def test_an_import_of_any_size_takes_no_memory_and_one_that_breaks_off_leaves_nothing(elsewhere: tuple[Server, Path]) -> None:
    server, storage = elsewhere
    headers = key_for(storage, "exec")
    status = Path(f"/proc/{server.process.pid}/status")

    def peak_mib() -> int:
        return int(re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())[0]) >> 10

    def zeros() -> Iterator[bytes]:
        for _ in range(384):
            yield bytes(1 << 20)

    before = peak_mib()
    with httpx.Client(base_url=server.url, headers=headers, timeout=120, trust_env=False) as client:
        assert client.post("/api/snapshots/import", content=zeros()).status_code == 422
    assert peak_mib() - before < 100
    place = urlsplit(server.url)
    with socket.create_connection((place.hostname, place.port or 80), 60) as broken:
        head = f"POST /api/snapshots/import HTTP/1.1\r\nhost: {place.netloc}\r\nauthorization: {headers['authorization']}\r\n"
        broken.sendall(f"{head}content-length: 100000000\r\n\r\n".encode() + bytes(3 << 20))


def test_a_full_disk_is_told_before_anything_is_written(storage: Path, saved: str, archive: Path) -> None:
    with serving(storage, "--reserve", str(1 << 40)) as full:
        remote = BandSox(full.url)
        with pytest.raises(errors.StorageFull):
            remote.export_snapshot(saved, io.BytesIO())
        with pytest.raises(errors.StorageFull):
            remote.import_snapshot(archive, "x")


def test_a_download_that_is_not_waited_for_leaves_nothing(storage: Path, saved: str, tmp_path: Path) -> None:
    with serving(storage) as own:
        before = work_files(storage)
        with own.client() as client, client.stream("GET", f"/api/snapshots/{saved.replace('/', '%2F')}/export") as answer:
            assert answer.headers["content-disposition"].startswith("attachment")
            assert next(answer.iter_raw())
        remote = BandSox(own.url)
        with pytest.raises(errors.ServerUnavailable):
            remote.export_snapshot(saved, _Killing(own))
        subprocess.run([sys.executable, "-m", "bandsox", "--storage", str(storage), "cleanup"], check=True, capture_output=True)
        assert work_files(storage) == before


class _Killing(io.BytesIO):
    """A stream that kills the server when it gets its first bytes."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self._server = server

    def write(self, data: object) -> int:
        self._server.kill()
        return super().write(data)  # type: ignore[arg-type]


def test_a_registry_gets_and_gives_it_with_the_servers_credentials(
    storage: Path, saved: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with run_registry(tmp_path, password=True) as registry:
        login = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        (tmp_path / "config.json").write_text(json.dumps({"auths": {registry.host: {"auth": login}}}))
        monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
        with serving(storage) as own:
            remote = BandSox(own.url)
            place = f"registry:{registry.host}/team/carried:1"
            steps: list[Progress] = []
            digest = remote.export_snapshot(saved, place, progress=steps.append)
            assert steps
            assert remote.import_snapshot(place, "from the registry") == "from the registry"
            assert remote.import_snapshot(f"{place[:-2]}@{digest}") == saved
            remote.delete_snapshot("from the registry")
            with pytest.raises(errors.BandSoxError):
                remote.import_snapshot("registry:oci-archive:/etc/passwd")
