"""`bandsox init` from a web server of this host, with what can go wrong there."""

from __future__ import annotations

import hashlib
import io
import os
import platform
import signal
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bandsox import BandSox
from bandsox.errors import DigestMismatch
from bandsox.vmm.firecracker import release
from tests.cli.conftest import Cli
from tests.http.server import Answer, Request, Server, ranged, serve

MACHINE = platform.machine()
PAD = os.urandom(3_000_000)
"""Makes a release large enough to break off in the middle."""


def release_archive(version: str) -> bytes:
    """The archive of a release whose programs say their version, and do nothing else."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as made:
        for name in release.PROGRAMS:
            content = f"#!/bin/sh\necho {name.title()} v{version}\nexit\n".encode() + PAD
            member = tarfile.TarInfo(f"release-v{version}-{MACHINE}/{name}-v{version}-{MACHINE}")
            member.size = len(content)
            made.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


RELEASE = release_archive("1.13.0")


@pytest.fixture
def fresh(tmp_path: Path) -> Cli:
    """The command line with a storage directory of the test's own, on a host without Firecracker."""
    made = Cli(tmp_path / "storage")
    made.environment = {name: value for name, value in made.environment.items() if not name.startswith("BANDSOX_FIRECRACKER")}
    made.environment["PATH"] = "/usr/sbin:/usr/bin:/sbin:/bin"
    return made


@pytest.fixture
def web() -> Iterator[Web]:
    web = Web()
    with serve(web.answer) as web.server:
        yield web


class Web:
    """A server of one release, which does what `faults` say of each answer in turn."""

    server: Server

    def __init__(self) -> None:
        self.content = RELEASE
        self.faults: list[dict[str, Any]] = []
        self.at_request: dict[int, Callable[[], None]] = {}

    def answer(self, request: Request) -> Answer:
        self.at_request.get(len(self.ranges), lambda: None)()
        return ranged(request, self.content, **(self.faults.pop(0) if self.faults else {}))

    @property
    def url(self) -> str:
        return f"{self.server.origin}/firecracker-v1.13.0-{MACHINE}.tgz"

    @property
    def ranges(self) -> list[str | None]:
        return [request.headers.get("range") for request in self.server.requests]


def firecracker(url: str, *further: str) -> tuple[str, ...]:
    return ("--json", "init", "--skip-kernel", "--skip-rootfs", "--firecracker-url", url, *further)


def test_a_release_from_the_web(fresh: Cli, web: Web, tmp_path: Path) -> None:
    answer = fresh(*firecracker(web.url, "--firecracker-sha256", sha256(RELEASE)), check=True).json
    installed = tmp_path / "storage/vmms/firecracker"
    assert answer["firecracker"] == {"path": str((installed / "firecracker").resolve()), "version": "1.13.0", "origin": "bandsox init"}
    assert (answer["kernel"], answer["image"], answer["accelerator"]) == (None, None, None)
    assert sorted(path.name for path in installed.iterdir()) == ["firecracker", "jailer"]
    assert list((tmp_path / "storage/downloads").iterdir()) == []


def test_a_release_from_a_file_of_this_host(fresh: Cli, tmp_path: Path) -> None:
    path = tmp_path / "release.tgz"
    path.write_bytes(RELEASE)
    assert fresh(*firecracker(str(path), "--firecracker-sha256", sha256(RELEASE))).json["firecracker"]["version"] == "1.13.0"
    assert fresh(*firecracker(f"file://{path}", "--firecracker-sha256", sha256(RELEASE)), check=True)
    assert path.exists()


def test_without_a_digest_only_the_pinned_release_will_do(fresh: Cli, web: Web, tmp_path: Path) -> None:
    assert fresh(*firecracker(web.url)).error["code"] == "digest_mismatch"
    path = tmp_path / "release.tgz"
    path.write_bytes(RELEASE)
    done = fresh(*firecracker(str(path)))
    assert (done.status, done.error["code"]) == (1, "digest_mismatch")
    assert release.ARCHIVES[MACHINE] in done.error["cause"]
    assert not (tmp_path / "storage/vmms/firecracker").exists()


def test_a_connection_that_breaks_off_is_gone_on_with(fresh: Cli, web: Web) -> None:
    web.faults = [{"cut": 1_000_000}, {"cut": 500_000}]
    fresh(*firecracker(web.url, "--firecracker-sha256", sha256(RELEASE)), check=True)
    assert web.ranges == [None, "bytes=1000000-", "bytes=1500000-"]


def test_an_init_that_was_killed_is_gone_on_with(fresh: Cli, web: Web, tmp_path: Path) -> None:
    web.faults = [{"cut": 2_000_000}]
    command = firecracker(web.url, "--firecracker-sha256", sha256(RELEASE))

    def kill() -> None:
        killed.kill()

    web.at_request = {2: kill}  # it asks for the rest: what came is on the disk
    killed = fresh.start(*command)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "storage/vmms/firecracker").exists()
    fresh(*command, check=True)
    assert web.ranges == [None, "bytes=2000000-", "bytes=2000000-"]


def test_an_archive_that_ends_too_early_is_refused(fresh: Cli, web: Web, tmp_path: Path) -> None:
    web.content = RELEASE[:1_000_000]
    done = fresh(*firecracker(web.url, "--firecracker-sha256", sha256(web.content)))
    assert (done.status, done.error["code"]) == (1, "corrupt_image")
    assert list((tmp_path / "storage/vmms").iterdir()) == []


def test_a_release_that_is_too_old_is_refused(fresh: Cli, web: Web, tmp_path: Path) -> None:
    web.content = release_archive("1.7.0")
    done = fresh(*firecracker(web.url, "--firecracker-sha256", sha256(web.content)))
    assert (done.status, done.error["code"]) == (1, "unsupported")
    assert list((tmp_path / "storage/vmms").iterdir()) == []


def test_upgrading_leaves_the_old_programs_to_those_that_run(fresh: Cli, web: Web, tmp_path: Path) -> None:
    fresh(*firecracker(web.url, "--firecracker-sha256", sha256(RELEASE)), check=True)
    web.content = release_archive("1.14.1")
    answer = fresh(*firecracker(web.url, "--firecracker-sha256", sha256(web.content)), check=True).json
    assert answer["firecracker"]["version"] == "1.14.1"
    kept = [path.name.rpartition("-")[0] for path in (tmp_path / "storage/vmms").iterdir() if not path.is_symlink()]
    assert sorted(kept) == ["firecracker-1.13.0", "firecracker-1.14.1"]


def test_programs_of_ones_own_are_used_and_nothing_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release.unpack(written(tmp_path / "release.tgz", RELEASE), tmp_path)
    monkeypatch.setenv("BANDSOX_FIRECRACKER", str(tmp_path / "firecracker"))
    monkeypatch.setenv("BANDSOX_JAILER", str(tmp_path / "jailer"))
    with BandSox(tmp_path / "storage") as bandsox:
        program = bandsox.install_firecracker()
        assert (program.version_text, program.origin) == ("1.13.0", "BANDSOX_FIRECRACKER")
    assert list((tmp_path / "storage/vmms").iterdir()) == []


def test_what_was_installed_is_used_again_unless_forced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BANDSOX_FIRECRACKER", raising=False)
    monkeypatch.delenv("BANDSOX_JAILER", raising=False)
    path = str(written(tmp_path / "release.tgz", RELEASE))
    with BandSox(tmp_path / "storage") as bandsox:
        first = bandsox.install_firecracker(path, sha256=sha256(RELEASE))
        written(tmp_path / "release.tgz", b"something else")
        assert bandsox.install_firecracker() == first
        with pytest.raises(DigestMismatch):
            bandsox.install_firecracker(path, sha256=sha256(RELEASE), force=True)
        assert bandsox.install_firecracker() == first


def test_a_kernel_and_an_image_from_the_web(fresh: Cli, storage: Path, tmp_path: Path) -> None:
    kernel = (storage / "kernels/default/vmlinux").read_bytes()
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as made:
        member = tarfile.TarInfo("etc/motd")
        member.size = 5
        made.addfile(member, io.BytesIO(b"hello"))
    files = {"/vmlinux-mine": kernel, "/rootfs.tar": archive.getvalue()}
    with serve(lambda request: ranged(request, files[request.path])) as server:
        options = ("--kernel-url", f"{server.origin}/vmlinux-mine", "--rootfs-url", f"{server.origin}/rootfs.tar")
        refused = fresh("--json", "init", "--skip-firecracker", *options)
        assert (refused.status, refused.error["code"]) == (2, "invalid_request")
        assert "--kernel-sha256" in refused.error["message"]
        outputs = ("--kernel-output", str(tmp_path / "kernel"), "--rootfs-output", str(tmp_path / "rootfs"))
        answer = fresh("--json", "init", "--skip-firecracker", *options, "--kernel-sha256", sha256(kernel), *outputs, check=True).json
    assert answer["kernel"] == "vmlinux-mine"
    assert (tmp_path / "kernel").read_bytes() == kernel
    assert (tmp_path / "rootfs").read_bytes()[:4] == b"hsqs"
    assert answer["firecracker"] is None


def test_an_output_that_cannot_be_written_is_an_error(cli: Cli, tmp_path: Path) -> None:
    done = cli("--json", "init", "--skip-firecracker", "--skip-rootfs", "--kernel-output", str(tmp_path / "nowhere/kernel"))
    assert (done.status, done.error["code"]) == (2, "invalid_request")


def test_options_of_earlier_versions_are_taken_and_change_nothing(fresh: Cli) -> None:
    skipped = [f"--skip-{part}" for part in ("kernel", "rootfs", "firecracker", "cni")]
    done = fresh("init", *skipped, "--cni-url", "http://127.0.0.1:1/cni.tgz", "--cni-dir", "/nowhere")
    assert done.status == 0
    assert "--cni-dir" in done.errors
    assert not Path("/nowhere").exists()
    assert "--cni-dir" not in fresh("init", "--help").text
