"""The same Dockerfiles through buildah and through this builder: the same files."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.dockerfile.workbench import Files, Workbench, tree_of, write_files

pytestmark = pytest.mark.skipif(shutil.which("buildah") is None or os.geteuid() != 0, reason="needs buildah, as root")

FILES: Files = {
    "a.txt": "A", "b.txt": "B", "b.md": "M", "d/x": "X", "d/e/y": "Y", "d/e/z.md": "Z", "d/l": "->x", "link": "->a.txt", "dlink": "->d",
    "keep/one": "1", "keep/two": "2", "sp ace": "S",
}  # fmt: skip


@pytest.fixture
def buildah(tmp_path: Path) -> Callable[[Path], str]:
    """Build a context with buildah; return a reference to the image."""

    def build(context: Path) -> str:
        places = ["--root", str(tmp_path / "root"), "--runroot", str(tmp_path / "runroot"), "--storage-driver", "vfs"]
        image = f"oci:{tmp_path}/oci:it"
        for command in (["bud", "--isolation", "chroot", "-t", "it", str(context)], ["push", "it", image]):
            subprocess.run(["buildah", *places, *command], check=True, capture_output=True, timeout=120)
        return image

    return build


@pytest.mark.parametrize(
    ("dockerfile", "ignore"),
    [
        ("FROM scratch\nCOPY a.txt /f\nCOPY a.txt b.txt /g/\nCOPY d /h\nCOPY d/. /i/\nCOPY *.txt /j/\n", ""),
        ("FROM scratch\nWORKDIR /w/x\nCOPY a.txt .\nCOPY d ./\nCOPY d/e sub\nCOPY link /l\nCOPY dlink /m\nCOPY d*/e /n/\n", ""),
        ('FROM scratch\nCOPY ["sp ace", "/x y"]\nCOPY --chmod=640 a.txt b.txt /c/\nCOPY --chown=7:8 d /o\n', ""),
        ("FROM scratch AS one\nCOPY d /d\nCOPY --chown=5:6 a.txt /a\nFROM scratch\nCOPY --from=one /d /e/\nCOPY --from=0 /a /b\n", ""),
        ("FROM scratch\nARG N=a\nENV D=/dir\nCOPY ${N}.txt $D/\nCOPY ${M:-b}.txt ${D}2/${N:+x}\n", ""),
        ("FROM scratch\nCOPY . /\n", "*.md\nDockerfile\n.dockerignore\n"),
        ("FROM scratch\nCOPY . /\n", "*\n!keep\nkeep/two\n!d/e\n"),
        ("FROM scratch\nCOPY . /\n", "**/*.md\nd/l\n/keep/\n!keep/one\nDockerfile\n.dockerignore"),
        ("FROM scratch\nCOPY . /\n", "# c\n\n  d/*  \n!d/e\nd/e/z*\n[bk]*\nDockerfile\n.dockerignore"),
    ],
)
def test_the_files_are_the_same(bench: Workbench, buildah: Callable[[Path], str], dockerfile: str, ignore: str) -> None:
    write_files(bench.context, {**FILES, ".dockerignore": ignore})
    ours = tree_of(bench.build(dockerfile))
    reference = buildah(bench.context)
    theirs = bench.tree(f"FROM {reference}\n")
    assert ours == theirs
