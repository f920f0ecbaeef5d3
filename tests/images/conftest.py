"""What the tests of images share: storage directories, a real registry, a proxy that breaks connections, a converter."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from bandsox.images import Images
from bandsox.images.flatten import Job, LayerFile, flatten
from bandsox.images.limits import Limits
from bandsox.settings import Layout
from bandsox.store import Database
from tests.images.registry import Registry, run_registry
from tests.images.tars import sha256


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes more than ten seconds")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def own_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No credentials, proxies or settings of whoever runs the tests."""
    monkeypatch.setenv("BANDSOX_RUNTIME", str(tmp_path / "run"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "DOCKER_HOST", "BANDSOX_INSECURE_REGISTRIES"):
        monkeypatch.delenv(name, raising=False)
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout.open(tmp_path / "storage")


@pytest.fixture
def images(layout: Layout) -> Images:
    return Images(layout, Database(layout.database))


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """Debian's docker-registry on a loopback port, open to all."""
    with run_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture
def closed_registry(tmp_path: Path) -> Iterator[Registry]:
    """One that lets in the user ``anna`` with the password ``secret`` only."""
    with run_registry(tmp_path / "closed", password=True) as running:
        yield running


Squash = Callable[..., Path]


@pytest.fixture
def squash(tmp_path: Path) -> Squash:
    """Convert layers, given as bytes, lowest first."""

    def convert(*layers: bytes, limits: Limits | None = None, diff_ids: list[str] | None = None, require_end: bool = False) -> Path:
        files = []
        for number, data in enumerate(layers):
            path = tmp_path / f"layer{number}"
            path.write_bytes(data)
            diff_id = diff_ids[number] if diff_ids else sha256(_plain(data))
            files.append(LayerFile(path, diff_id.removeprefix("sha256:"), f"layer {number}", require_end))
        target = tmp_path / "image.squashfs"
        descriptor = os.open(target, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        try:
            flatten(files, descriptor, Job(limits or Limits()))
        finally:
            os.close(descriptor)
        return target

    return convert


def _plain(data: bytes) -> bytes:
    """What is inside, as the tools of the trade unpack it."""
    for magic, command in ((b"\x1f\x8b", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"\xfd7zXZ", "xz"), (b"BZh", "bzip2")):
        if data.startswith(magic):
            return subprocess.run([command, "-dc"], input=data, capture_output=True, check=False).stdout
    return data


@pytest.fixture
def nothing_left(layout: Layout) -> Iterator[None]:
    """The test leaves no temporary file, child process or descriptor behind."""
    before = set(Path("/proc/self/fd").iterdir())
    yield
    assert [path for path in layout.work.rglob("*") if path.is_file()] == []
    commands = list(_commands_of_children())
    assert not [command for command in commands if "convert_child" in command or "mmdebstrap" in command]
    leaked = [fd for fd in set(Path("/proc/self/fd").iterdir()) - before if "storage" in _target(fd) and "bandsox.db" not in _target(fd)]
    assert leaked == []


def _commands_of_children() -> Iterator[str]:
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (process / "stat").read_text().rpartition(")")[2].split()[1] == str(os.getpid()):
                yield (process / "cmdline").read_text()


def _target(descriptor: Path) -> str:
    try:
        return str(descriptor.readlink())
    except OSError:
        return ""
