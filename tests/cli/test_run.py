"""A VM for one command: nothing of it is left, however it ends."""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from bandsox.settings import DEFAULT_IMAGE
from tests.cli.conftest import Cli
from tests.engine.leaks import processes_with


@pytest.fixture
def nothing_left(cli: Cli, storage: Path) -> Iterator[None]:
    """A check that a test leaves no VM, no directory of one, and no process."""
    before = _machines(storage)
    yield
    assert _machines(storage) == before


def _machines(storage: Path) -> set[str]:
    """Directories of VMs, and the working directories of processes that are in one."""
    found = {entry.name for entry in (storage / "vms").iterdir()}
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            place = (process / "cwd").readlink()
            found |= {str(place)} if place.is_relative_to(storage / "vms") else set()
    return found


pytestmark = pytest.mark.usefixtures("nothing_left")


def test_run_prints_stages_and_then_the_output(cli: Cli) -> None:
    done = cli("run", "--timings", DEFAULT_IMAGE, "--", "python3", "-c", 'print("Hello from VM!")', check=True)
    assert done.text == "Hello from VM!\n"
    stages = [line.split()[0] for line in done.errors.splitlines() if re.fullmatch(r"\w+ +\d+\.\d\d s", line)]
    assert stages == ["image", "kernel", "boot", "command", "total"]


def test_the_status_is_the_commands(cli: Cli) -> None:
    done = cli("run", "--mem", "128M", DEFAULT_IMAGE, "-e", "A=b", "sh", "-c", 'echo "$A"; exit 9')
    assert (done.status, done.stdout, done.stderr) == (9, b"b\n", b"")


def test_a_command_that_is_not_there(cli: Cli) -> None:
    done = cli("--json", "run", DEFAULT_IMAGE, "no-such-command")
    assert (done.status, done.error["code"]) == (127, "command_not_found")


def test_a_timeout(cli: Cli) -> None:
    done = cli("run", "--timeout", "1s", DEFAULT_IMAGE, "sleep", "99")
    assert done.status == 124
    assert "longer than 1 s" in done.errors


@pytest.mark.parametrize(
    ("option", "value"), [("--mem", "1"), ("--vcpu", "1000"), ("--disk-size", "1"), ("--vmm", "none"), ("--name", "a\nb")]
)
def test_what_can_never_be_is_refused(cli: Cli, option: str, value: str) -> None:
    done = cli("--json", "run", option, value, DEFAULT_IMAGE, "true")
    assert (done.status, done.error["code"]) == (2, "invalid_request")


def test_a_file_that_is_no_kernel(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "kernel").write_bytes(b"no kernel at all")
    assert cli("run", "--kernel", str(tmp_path / "kernel"), DEFAULT_IMAGE, "true").status == 1


def test_kept_on_request(cli: Cli) -> None:
    name = f"kept-{secrets.token_hex(4)}"
    assert cli("run", "--keep", "--name", name, DEFAULT_IMAGE, "touch", "/kept").status == 0
    try:
        assert cli("exec", name, "test", "-e", "/kept").status == 0
    finally:
        cli("vm", "delete", name, check=True)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_the_command_and_the_machine(cli: Cli, number: signal.Signals, status: int) -> None:
    with cli.start("run", DEFAULT_IMAGE, "--", "sh", "-c", "echo ready; exec sleep 1000", start_new_session=True) as command:
        assert command.stdout is not None
        assert command.stdout.readline() == b"ready\n"
        command.send_signal(number)
        assert command.wait(60) == status


def test_killed_itself_it_leaves_nothing(cli: Cli, storage: Path) -> None:
    with cli.start("run", DEFAULT_IMAGE, "--", "sh", "-c", "echo ready; exec sleep 1000") as command:
        assert command.stdout is not None
        assert command.stdout.readline() == b"ready\n"
        removers = processes_with("bandsox.engine.cleanup_child", str(storage))
        assert removers
        command.kill()
        assert command.wait() == -signal.SIGKILL
    for remover in removers:
        asyncio.run(remover.wait())


def test_an_interrupt_while_the_machine_boots(cli: Cli, storage: Path) -> None:
    before = _machines(storage)
    with cli.start("run", "--timings", DEFAULT_IMAGE, "true", start_new_session=True) as command:
        assert command.stderr is not None
        assert command.stderr.readline().startswith(b"image")
        assert command.stderr.readline().startswith(b"kernel")
        command.send_signal(signal.SIGINT)
        assert command.wait(60) == 130
    assert _machines(storage) == before


def test_the_reader_of_the_output_goes_away(cli: Cli) -> None:
    with cli.start("run", DEFAULT_IMAGE, "yes") as command:
        assert command.stdout is not None
        command.stdout.readline()
        command.stdout.close()
        assert command.wait(60) == 141
