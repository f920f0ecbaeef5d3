"""Which Firecracker is used, and what is taken out of a release's archive."""

from __future__ import annotations

import io
import platform
import re
import tarfile
from pathlib import Path

import pytest

from bandsox.errors import CorruptImage, MissingTool, Unsupported
from bandsox.vmm.firecracker import release

MACHINE = platform.machine()


def program(path: Path, says: str) -> Path:
    """A program that answers `--version` and does nothing else."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


def archive(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as made:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            made.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place in which nothing is installed, on a host that has nothing either."""
    monkeypatch.delenv("BANDSOX_FIRECRACKER", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path / "installed"


def test_the_table_has_a_digest_for_every_machine() -> None:
    for machine in ("x86_64", "aarch64"):
        found = release.archive(machine)
        assert found.url.startswith("https://")
        assert found.url.endswith(f"/v{release.VERSION}/firecracker-v{release.VERSION}-{machine}.tgz")
        assert re.fullmatch("[0-9a-f]{64}", found.sha256)


def test_a_machine_without_a_digest_is_refused() -> None:
    with pytest.raises(Unsupported, match="BANDSOX_FIRECRACKER"):
        release.archive("riscv64")


def test_the_setting_wins_over_what_is_installed_and_that_over_path(nothing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingTool, match="bandsox init"):
        release.find("firecracker", nothing)
    program(nothing.parent / "bin/firecracker", "Firecracker v1.8.0")
    assert (release.find("firecracker", nothing).version_text, release.find("firecracker", nothing).origin) == ("1.8.0", "PATH")
    program(nothing / "firecracker", "Firecracker v1.12.1")
    assert (release.find("firecracker", nothing).version, release.find("firecracker", nothing).origin) == ((1, 12, 1), "bandsox init")
    monkeypatch.setenv("BANDSOX_FIRECRACKER", str(program(nothing.parent / "mine", "Firecracker v1.13.0")))
    assert release.find("firecracker", nothing).origin == "BANDSOX_FIRECRACKER"
    monkeypatch.setenv("BANDSOX_FIRECRACKER", str(nothing / "nowhere"))
    with pytest.raises(MissingTool, match="BANDSOX_FIRECRACKER names"):
        release.find("firecracker", nothing)


def test_a_version_that_is_too_old_is_refused(nothing: Path) -> None:
    program(nothing.parent / "bin/firecracker", "Firecracker v1.7.0")
    with pytest.raises(Unsupported, match=r"1\.7\.0, and 1\.8 is the oldest"):
        release.find("firecracker", nothing)


def test_another_program_under_that_name_is_refused(nothing: Path) -> None:
    program(nothing.parent / "bin/firecracker", "something else")
    with pytest.raises(MissingTool, match="does not say its version"):
        release.find("firecracker", nothing)


def test_a_program_that_was_replaced_is_asked_again(nothing: Path) -> None:
    path = program(nothing / "firecracker", "Firecracker v1.8.0")
    assert release.find("firecracker", nothing).version_text == "1.8.0"
    path.unlink()
    program(path, "Firecracker v1.12.1")
    assert release.find("firecracker", nothing).version_text == "1.12.1"


def test_only_the_programs_are_unpacked(tmp_path: Path) -> None:
    members = {
        f"release-v1.12.1-{MACHINE}/firecracker-v1.12.1-{MACHINE}": b"vmm",
        f"release-v1.12.1-{MACHINE}/firecracker-v1.12.1-{MACHINE}.debug": b"symbols",
        f"release-v1.12.1-{MACHINE}/jailer-v1.12.1-{MACHINE}": b"jailer",
        "../../evil": b"outside",
        "firecracker-v1.12.1-other": b"for another machine",
    }
    (tmp_path / "out").mkdir()
    release.unpack(archive(tmp_path / "release.tgz", members), tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == {"firecracker": b"vmm", "jailer": b"jailer"}
    assert (tmp_path / "out/jailer").stat().st_mode & 0o777 == 0o755
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "release.tgz"]


def test_what_is_no_release_is_refused(tmp_path: Path) -> None:
    (tmp_path / "noise").write_bytes(b"nothing like an archive" * 100)
    with pytest.raises(CorruptImage, match="cannot be unpacked"):
        release.unpack(tmp_path / "noise", tmp_path)
    half = archive(tmp_path / "half.tgz", {f"release/firecracker-v1.12.1-{MACHINE}": b"vmm"})
    with pytest.raises(CorruptImage, match="holds no jailer"):
        release.unpack(half, tmp_path)
    cut = tmp_path / "cut.tgz"
    cut.write_bytes(half.read_bytes()[:40])
    with pytest.raises(CorruptImage):
        release.unpack(cut, tmp_path)
