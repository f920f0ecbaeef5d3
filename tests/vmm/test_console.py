"""The bounded console log: bounded, not in the way, and readable after its writer's death."""

from __future__ import annotations

import subprocess
from pathlib import Path

from bandsox.vmm import console


def write(log: Path, shell: str) -> subprocess.CompletedProcess[bytes]:
    command = console.limited(["sh", "-c", f"{{ {shell}; }} >> {log}"])
    return subprocess.run(command, restore_signals=False, capture_output=True, check=False)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    console.create(tmp_path / "log")
    write(tmp_path / "log", "echo one")
    write(tmp_path / "log", "echo two")
    assert console.read(tmp_path / "log") == b"one\ntwo\n"


def test_a_flood_keeps_the_beginning_and_takes_no_more_room(tmp_path: Path) -> None:
    console.create(tmp_path / "log")
    flood = write(tmp_path / "log", "echo first; yes | head -c 3000000; echo survived >&2")
    assert b"survived" in flood.stderr
    kept = console.read(tmp_path / "log")
    assert kept.startswith(b"first\n")
    assert len(kept) == console.CAPACITY
    assert (tmp_path / "log").stat().st_blocks * 512 <= console.CAPACITY + 65536


def test_there_is_nothing_to_read_before_there_is_a_log(tmp_path: Path) -> None:
    assert console.read(tmp_path / "log") == b""


def test_the_log_is_its_owners(tmp_path: Path) -> None:
    console.create(tmp_path / "log")
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600
