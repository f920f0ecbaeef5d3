"""Files and trees, both ways, and through standard streams."""

from __future__ import annotations

import io
import os
import secrets
import tarfile
from pathlib import Path

import pytest

from tests.cli.conftest import Cli

ODD_NAMES = ["a b", "quote'\"", "new\nline", "ünï 🦀", "-rf", "$(id)", "*", "back\\slash", "co:lon"]


@pytest.fixture
def place() -> str:
    """A directory in the machine, which does not exist yet."""
    return f"/tmp/{secrets.token_hex(8)}"


def _in(cli: Cli, machine: str, script: str) -> bytes:
    return cli("exec", machine, "--", "sh", "-c", script, check=True).stdout


@pytest.mark.parametrize("size", [0, 1, 3_000_001])
def test_a_file_goes_and_comes(cli: Cli, machine: str, place: str, tmp_path: Path, size: int) -> None:
    (tmp_path / "there").write_bytes(os.urandom(size))
    (tmp_path / "there").chmod(0o750)
    cli("cp", str(tmp_path / "there"), f"{machine}:{place}/named", check=True)
    assert _in(cli, machine, f"stat -c %a {place}/named") == b"750\n"
    cli("cp", f"{machine}:{place}/named", str(tmp_path / "back"), check=True)
    assert (tmp_path / "back").read_bytes() == (tmp_path / "there").read_bytes()


def test_into_a_directory_it_keeps_its_name(cli: Cli, machine: str, place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    _in(cli, machine, f"mkdir {place}")
    cli("cp", str(tmp_path / "file"), f"{machine}:{place}", check=True)
    cli("cp", str(tmp_path / "file"), f"{machine}:{place}/new/", check=True)
    assert _in(cli, machine, f"cd {place} && find . -type f | sort") == b"./file\n./new/file\n"
    (tmp_path / "local").mkdir()
    cli("cp", f"{machine}:{place}/file", str(tmp_path / "local"), check=True)
    assert (tmp_path / "local/file").read_text() == "x"


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names(cli: Cli, machine: str, place: str, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(name)
    cli("cp", str(tmp_path / name), f"{machine}:{place}/", check=True)
    cli("cp", f"{machine}:{place}/{name}", str(tmp_path / "back"), check=True)
    assert (tmp_path / "back").read_text() == name


def test_standard_streams(cli: Cli, machine: str, place: str) -> None:
    data = os.urandom(1_500_000)
    cli("cp", "-", f"{machine}:{place}/piped", stdin=data, check=True)
    assert cli("cp", f"{machine}:{place}/piped", "-", check=True).stdout == data
    cli("cp", "--append", "-", f"{machine}:{place}/piped", stdin=b"tail", check=True)
    assert cli("cp", f"{machine}:{place}/piped", "-", check=True).stdout == data + b"tail"


def _make_tree(at: Path) -> None:
    (at / "deep/er").mkdir(parents=True)
    (at / "deep/er/file").write_bytes(b"content")
    (at / "empty").mkdir()
    (at / "link").symlink_to("deep/er/file")
    (at / "run").write_text("#!/bin/sh\n")
    (at / "run").chmod(0o755)


def _tree(at: Path) -> dict[str, object]:
    return {
        str(path.relative_to(at)): path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else None
        for path in at.rglob("*")
    }


def test_a_tree_goes_and_comes(cli: Cli, machine: str, place: str, tmp_path: Path) -> None:
    _make_tree(tmp_path / "tree")
    cli("cp", str(tmp_path / "tree"), f"{machine}:{place}/new", check=True)
    cli("cp", f"{machine}:{place}/new", str(tmp_path / "back"), check=True)
    assert _tree(tmp_path / "back") == _tree(tmp_path / "tree")
    assert (tmp_path / "back/run").stat().st_mode & 0o777 == 0o755


def test_a_tree_into_a_directory_keeps_its_name_unless_it_ends_in_a_dot(cli: Cli, machine: str, place: str, tmp_path: Path) -> None:
    _make_tree(tmp_path / "tree")
    _in(cli, machine, f"mkdir {place}")
    cli("cp", str(tmp_path / "tree"), f"{machine}:{place}", check=True)
    assert _in(cli, machine, f"ls {place}") == b"tree\n"
    cli("cp", f"{tmp_path}/tree/.", f"{machine}:{place}", check=True)
    assert _in(cli, machine, f"ls {place}").split() == [b"deep", b"empty", b"link", b"run", b"tree"]
    (tmp_path / "here").mkdir()
    cli("cp", f"{machine}:{place}/tree", str(tmp_path / "here"), check=True)
    cli("cp", f"{machine}:{place}/tree/.", str(tmp_path / "here"), check=True)
    assert _tree(tmp_path / "here/tree") == _tree(tmp_path / "tree")
    assert (tmp_path / "here/run").is_file()


def test_trees_as_tar_streams(cli: Cli, machine: str, place: str, tmp_path: Path) -> None:
    _make_tree(tmp_path / "tree")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.add(tmp_path / "tree", arcname=".")
    cli("cp", "--tar", "-", f"{machine}:{place}/unpacked", stdin=packed.getvalue(), check=True)
    assert _in(cli, machine, f"cat {place}/unpacked/link") == b"content"
    back = cli("cp", "--tar", f"{machine}:{place}/unpacked", "-", check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(back)) as archive:
        assert {"unpacked/deep/er/file", "unpacked/link", "unpacked/empty"} <= set(archive.getnames())


@pytest.mark.parametrize(
    ("source", "destination", "status", "text"),
    [
        ("{vm}:/no/such", "{here}/x", 1, "/no/such"),
        ("{here}/no-such", "{vm}:/tmp/x", 1, "no-such"),
        ("{vm}:/etc", "-", 2, "--tar"),
        ("-", "{vm}:/etc", 2, "directory"),
        ("{vm}:/etc/passwd", "{here}/absent/", 2, "no directory"),
        ("{here}/.", "{vm}:/etc/passwd", 2, "is a file"),
        ("{here}", "{vm}:/etc/passwd/x", 1, "not a directory"),
        ("{vm}:", "{here}", 2, "names no path"),
        ("--append", "{vm}:/etc/passwd", 2, ""),
    ],
)
def test_what_cannot_be_copied(cli: Cli, machine: str, tmp_path: Path, source: str, destination: str, status: int, text: str) -> None:
    places = {"vm": machine, "here": str(tmp_path)}
    done = cli("cp", source.format_map(places), destination.format_map(places))
    assert done.status == status
    assert text in done.errors
    assert list(tmp_path.iterdir()) == []


def test_a_guest_that_stops_in_the_middle_leaves_no_half_file(cli: Cli, machine: str, place: str, tmp_path: Path) -> None:
    done = cli("cp", f"{machine}:/proc/self/mem", str(tmp_path / "memory"))
    assert done.status == 1
    assert list(tmp_path.iterdir()) == []
    assert cli("exec", machine, "true").status == 0
