"""How failures are told, to people and to programs, and the exit status they amount to."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from bandsox.cli.command import Invocation
from bandsox.cli.faults import report
from bandsox.errors import BootFailed, CommandNotFound, CommandTimeout, InvalidRequest, VMNotFound
from tests.cli.conftest import COMMAND, Cli


def test_an_error_says_cause_remedy_and_console(capsys: pytest.CaptureFixture[str]) -> None:
    error = BootFailed("it did not come up", stage="root", console="one\n\x1b[31mtwo\n", cause="the disk\nis bad", remedy="another disk")
    assert report(error, Invocation()) == 1
    assert capsys.readouterr().err.splitlines() == [
        "error: it did not come up",
        "  cause: the disk\\nis bad",
        "  remedy: another disk",
        "  console:",
        "    | one",
        "    | \\x1b[31mtwo",
    ]


@pytest.mark.parametrize(
    ("error", "status"),
    [(VMNotFound("x"), 1), (InvalidRequest("x"), 2), (CommandNotFound("x"), 127), (CommandTimeout("x"), 124), (OSError(28, "No space"), 1)],
)
def test_exit_status(error: OSError, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert report(error, Invocation(json=True)) == status
    assert '"error": {"code":' in capsys.readouterr().err


KEYS = {"code", "message", "cause", "remedy", "retryable", "detail"}


def test_errors_as_json(empty: Cli) -> None:
    done = empty("--json", "inspect", "--type", "vm", "nobody")
    assert (done.status, done.stdout) == (1, b"")
    assert set(done.error) == KEYS
    assert done.error["code"] == "vm_not_found"


def test_a_wrong_command_line_is_status_2_also_as_json(empty: Cli) -> None:
    done = empty("vm", "list", "--nonsense", "--json")
    assert done.status == 2
    assert set(done.error) == KEYS
    assert done.error["code"] == "usage"
    done = empty("exec", "vm")
    assert done.status == 2
    assert done.errors.startswith("Usage: bandsox exec")


def test_what_belongs_to_the_program_is_not_ours(empty: Cli) -> None:
    assert not empty("exec", "nobody", "--", "x", "--json").errors.startswith("{")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("exec", "nobody", "true"), "vm_not_found"),
        (("terminal", "--list", "nobody"), "vm_not_found"),
        (("vm", "stop", "nobody"), "vm_not_found"),
        (("logs", "nobody"), "vm_not_found"),
        (("cp", "nobody:/x", "-"), "vm_not_found"),
        (("cp", "/a", "/b"), "invalid_request"),
        (("cp", "a:/a", "b:/b"), "invalid_request"),
        (("inspect", "nobody"), "not_found"),
        (("image", "inspect", "nobody"), "image_not_found"),
        (("image", "tag", "nobody", "x"), "image_not_found"),
        (("run", "nobody", "--pull", "never", "true"), "image_not_found"),
        (("run", "UPPER CASE"), "invalid_reference"),
        (("run", "rootfs:/no/such.tar"), "image_not_found"),
        (("init", "--kernel-url", "/no/such/kernel"), "invalid_request"),
        (("init", "--kernel-url", "http://127.0.0.1:9/k"), "invalid_request"),
        (("cp", "--tar", "a", "b:/x"), "usage"),
        (("run", "-it", "nobody"), "usage"),
        (("terminal", "nobody"), "usage"),
        (("vm", "delete"), "usage"),
    ],
    ids=" ".join,
)
def test_each_mistake_has_its_code(empty: Cli, arguments: tuple[str, ...], code: str) -> None:
    done = empty("--json", *arguments)
    assert done.error["code"] == code
    assert done.status == (2 if code in {"usage", "invalid_request", "invalid_reference"} else 1)


def test_several_machines_fail_one_by_one(empty: Cli) -> None:
    done = empty("vm", "stop", "one", "two")
    assert done.status == 1
    assert done.errors.count("error: no VM has") == 2


def test_no_traceback_but_with_debug(empty: Cli) -> None:
    assert "Traceback" not in empty("vm", "stop", "nobody").errors
    assert "Traceback" in empty("--debug", "vm", "stop", "nobody").errors


def test_a_storage_directory_that_cannot_be(empty: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = empty("--json", "--storage", str(tmp_path / "file/below"), "vm", "list")
    assert done.status == 1
    assert str(tmp_path) in done.error["message"]


def test_nobody_reads_the_output(empty: Cli) -> None:
    command = subprocess.Popen([*COMMAND, "--help"], env=empty.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert command.stdout is not None
    command.stdout.close()
    _, errors = command.communicate()
    assert (command.returncode, errors) == (141, b"")


def test_colours_are_for_terminals_only(empty: Cli) -> None:
    assert b"\x1b" not in empty("vm", "stop", "nobody").stderr
    coloured = empty.on_terminal("vm", "stop", "nobody").read()
    assert b"\x1b[31merror:" in coloured
    assert b"\x1b" not in empty.on_terminal("--no-color", "vm", "stop", "nobody").read()
