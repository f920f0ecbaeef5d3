"""Images carried from one storage directory to another, as files and through pipes."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.cli.conftest import COMMAND, Cli


@pytest.fixture
def here(tmp_path: Path) -> Cli:
    """A storage directory with the image ``mine``."""
    cli = Cli(tmp_path / "here")
    with tarfile.open(tmp_path / "rootfs.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("empty"), io.BytesIO())
    cli("image", "import", str(tmp_path / "rootfs.tar"), "mine", check=True)
    return cli


def test_an_image_goes_through_a_file(here: Cli, tmp_path: Path) -> None:
    there = Cli(tmp_path / "there")
    assert here("image", "save", "mine", "-o", str(tmp_path / "mine.tar"), check=True).stdout == b""
    assert there("image", "load", "-i", str(tmp_path / "mine.tar"), check=True).text == "mine:latest\n"
    assert there("--json", "image", "inspect", "mine").json["id"] == here("--json", "image", "inspect", "mine").json["id"]


def test_an_image_goes_through_a_pipe(here: Cli, tmp_path: Path) -> None:
    there = Cli(tmp_path / "there")
    save = subprocess.Popen([*COMMAND, "image", "save", "mine"], env=here.environment, stdout=subprocess.PIPE)
    load = subprocess.run([*COMMAND, "image", "load"], env=there.environment, stdin=save.stdout, capture_output=True, check=True)
    assert save.wait() == 0
    assert load.stdout == b"mine:latest\n"


def test_an_archive_is_whole_or_absent(here: Cli, tmp_path: Path) -> None:
    target = tmp_path / "out/none.tar"
    target.parent.mkdir()
    failed = here("--json", "image", "save", "unknown", "-o", str(target))
    assert (failed.status, failed.error["code"]) == (1, "image_not_found")
    assert list(target.parent.iterdir()) == []


def test_history_is_a_table_or_json(here: Cli) -> None:
    assert "CREATED BY" in here("image", "history", "mine", check=True).text
    (step,) = here("--json", "image", "history", "mine").json
    assert set(step) == {"created", "created_by", "comment", "size", "layer"}
