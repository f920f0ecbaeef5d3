"""Reading files out of a squashfs, compared with what `unsquashfs` makes of it."""

from __future__ import annotations

import os
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from bandsox.dockerfile.rootfs import RootFS
from bandsox.dockerfile.view import View
from bandsox.errors import CorruptImage
from bandsox.images.tree import Kind
from tests.dockerfile.workbench import Workbench


@pytest.fixture
def squashfs(bench: Workbench) -> Path:
    """An image with everything a reader can meet: large, sparse and many files, fragments, links, devices, attributes."""
    source = bench.context / "src"
    (source / "many").mkdir(parents=True)
    for number in range(1500):
        (source / f"many/file-{number:04}").write_bytes(os.urandom(number % 97))
    (source / "large").write_bytes(os.urandom(300_000) + bytes(400_000) + b"end" * 50_000)
    (source / "zeros").write_bytes(bytes(131072 * 2))
    (source / "exact").write_bytes(os.urandom(131072))
    (source / "empty").touch()
    os.link(source / "large", source / "second-name")
    (source / "link").symlink_to("many/file-0001")
    os.mkfifo(source / "fifo")
    with tarfile.open(bench.context / "t.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        device = tarfile.TarInfo("null")
        device.type, device.devmajor, device.devminor = tarfile.CHRTYPE, 1, 300
        archive.addfile(device)
        capable = tarfile.TarInfo("capable")
        capable.pax_headers = {"SCHILY.xattr.user.x": "value", "SCHILY.xattr.security.capability": "cap"}
        archive.addfile(capable)
    return bench.build("FROM scratch\nCOPY src /\nADD t.tar /\n").rootfs


def test_reads_what_is_there(squashfs: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    subprocess.run(["unsquashfs", "-q", "-n", "-no-xattrs", "-d", target, squashfs], check=os.geteuid() == 0, capture_output=True)
    view = View(RootFS(squashfs))
    found = dict(view.walk(()))
    names = {str(path.relative_to(target)) for path in target.rglob("*")}
    assert {b"/".join(path).decode() for path in found} == names
    for path, node in found.items():
        there = target / b"/".join(path).decode()
        assert oct(node.mode) == oct(there.lstat().st_mode & 0o7777) and node.mtime == int(there.lstat().st_mtime)
        if node.kind is Kind.FILE:
            assert b"".join(node.read()) == there.read_bytes() and node.size == there.stat().st_size
        elif node.kind is Kind.SYMLINK:
            assert os.fsdecode(node.target) == str(there.readlink())
    assert found[(b"large",)].inode == found[(b"second-name",)].inode is not None
    assert found[(b"null",)].device == (1, 300)
    assert dict(found[(b"capable",)].xattrs) == {b"user.x": b"value", b"security.capability": b"cap"}


def test_attributes_and_hard_links_survive_a_copy_between_stages(bench: Workbench, squashfs: Path) -> None:
    image = bench.build("FROM scratch AS a\nCOPY src /\nADD t.tar /\nFROM scratch\nCOPY --from=a / /\n")
    before, after = (dict(View(RootFS(path)).walk(())) for path in (squashfs, image.rootfs))
    assert before.keys() == after.keys()
    for path, node in before.items():
        assert replace(node, inode=None) == replace(after[path], inode=None)
        assert b"".join(node.read()) == b"".join(after[path].read())
    assert after[(b"large",)].inode == after[(b"second-name",)].inode is not None


def test_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x" * 4096)
    with pytest.raises(CorruptImage):
        RootFS(tmp_path / "x")
