"""Files of a machine, from outside."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bandsox.errors import BandSoxError
from tests.faces import Machine

AWKWARD_NAMES = ["a b", "quote'\"", "new\nline", "ünï 🦀", "-rf", "$(id)", "*", "back\\slash", "x" * 255]


@pytest.mark.parametrize("size", [0, 1, 4095, 65536, 3_000_001])
def test_what_is_written_is_read(machine: Machine, size: int) -> None:
    content = os.urandom(size)
    machine.write("/tmp/file", content)
    assert machine.read("/tmp/file") == content


@pytest.mark.parametrize("name", AWKWARD_NAMES)
def test_awkward_names_are_just_names(machine: Machine, name: str) -> None:
    machine.write(f"/tmp/{name}", name.encode())
    assert machine.read(f"/tmp/{name}") == name.encode()


def test_a_file_goes_in_and_comes_out(machine: Machine, tmp_path: Path) -> None:
    local, back = tmp_path / "local", tmp_path / "back"
    local.write_bytes(os.urandom(5_000_000))
    machine.upload(local, "/var/tmp/there")
    machine.download("/var/tmp/there", back)
    assert back.read_bytes() == local.read_bytes()


def test_a_tree_goes_in_and_comes_out(machine: Machine, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "deep/er").mkdir(parents=True)
    (tree / "deep/er/file").write_bytes(b"content")
    (tree / "empty").mkdir()
    (tree / "link").symlink_to("deep/er/file")
    (tree / "run").write_text("#!/bin/sh\n")
    (tree / "run").chmod(0o755)
    machine.upload_tree(tree, "/srv/tree")
    assert machine.run("cd /srv/tree && find . | sort").stdout.decode().split() == [
        ".",
        "./deep",
        "./deep/er",
        "./deep/er/file",
        "./empty",
        "./link",
        "./run",
    ]
    back = tmp_path / "back"
    machine.download_tree("/srv/tree", back)
    assert (back / "link").readlink() == Path("deep/er/file")
    assert (back / "run").stat().st_mode & 0o777 == 0o755
    assert (back / "deep/er/file").read_bytes() == b"content"
    assert (back / "empty").is_dir()


def test_a_missing_file_is_not_found(machine: Machine, tmp_path: Path) -> None:
    try:
        machine.download("/no/such/file", tmp_path / "nothing")
    except (BandSoxError, AssertionError) as error:
        assert "/no/such/file" in str(error)
    else:
        pytest.fail("a missing file was downloaded")
    assert not (tmp_path / "nothing").exists()


def test_a_full_disk_is_an_error_and_leaves_no_half_file(machine: Machine) -> None:
    machine.run("mkdir -p /small && mount -t tmpfs -o size=1m tmpfs /small")
    with pytest.raises((BandSoxError, AssertionError), match=r"(?i)space"):
        machine.write("/small/large", bytes(4_000_000))
    assert machine.run(["ls", "-A", "/small"]).stdout == b""
    machine.run(["umount", "/small"])
