"""Commands in a running VM: bytes, streams, exit status."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.cli.conftest import Cli


def test_status_and_both_streams(cli: Cli, machine: str) -> None:
    done = cli("exec", machine, "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.status, done.stdout, done.stderr) == (7, b"out\n", b"err\n")


def test_a_signal_is_128_and_its_number(cli: Cli, machine: str) -> None:
    assert cli("exec", machine, "--", "sh", "-c", "kill -TERM $$").status == 128 + 15


@pytest.mark.parametrize(
    ("words", "status", "code"),
    [
        (("no-such-command",), 127, "command_not_found"),
        (("/etc/passwd",), 126, "exec_failed"),
        (("--workdir", "/no/such", "--", "true"), 126, "exec_failed"),
        (("--user", "nobody-has-this-name", "--", "true"), 126, "exec_failed"),
        (("--timeout", "0.5s", "--", "sleep", "60"), 124, "command_timeout"),
    ],
)
def test_what_cannot_run(cli: Cli, machine: str, words: tuple[str, ...], status: int, code: str) -> None:
    done = cli("--json", "exec", machine, *words)
    assert (done.status, done.error["code"]) == (status, code)


def test_arguments_are_not_looked_at(cli: Cli, machine: str) -> None:
    awkward = ["", " ", "a b", "'", '"', "$HOME", "new\nline", "*", "\\", "ünïcödé", "--json", "--", "-n"]
    done = cli("exec", machine, "--", "python3", "-c", "import sys; print(sys.argv[1:])", *awkward)
    assert done.text.strip() == repr(awkward)


def test_variables_directory_and_user(cli: Cli, machine: str, tmp_path: Path) -> None:
    file = tmp_path / "variables"
    file.write_text("FILE=from a file\n")
    script = 'echo "$GREETING|$GIVEN|$FILE|$INHERITED"; pwd; id -un'
    options = ("-e", "GIVEN=a b", "-e", "INHERITED", "--env-file", str(file), "-w", "/usr", "-u", "daemon")
    done = cli("exec", *options, machine, "sh", "-c", script, INHERITED="from here")
    assert done.text.splitlines() == ["grüß dich|a b|from a file|from here", "/usr", "daemon"]


def test_every_byte_comes_out_as_it_is(cli: Cli, machine: str) -> None:
    done = cli("exec", machine, "--", "python3", "-c", "import os; [os.write(1, bytes(range(256)) * 256) for _ in range(48)]")
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(bytes(range(256)) * 256 * 48).digest()


@pytest.mark.parametrize("size", [0, 1, 3_000_001])
def test_every_byte_goes_in_as_it_is(cli: Cli, machine: str, size: int) -> None:
    data = os.urandom(size)
    assert cli("exec", "-i", machine, "sha256sum", stdin=data).text.split()[0] == hashlib.sha256(data).hexdigest()


def test_input_from_a_file(cli: Cli, machine: str, tmp_path: Path) -> None:
    (tmp_path / "input").write_bytes(b"line\n" * 50_000)
    with (tmp_path / "input").open("rb") as file:
        assert cli("exec", "-i", machine, "wc", "-l", stdin=file.fileno()).text.split()[0] == "50000"


def test_without_i_nothing_is_read(cli: Cli, machine: str) -> None:
    assert cli("exec", machine, "cat", stdin=b"unread").stdout == b""


def test_input_streams_line_by_line(cli: Cli, machine: str) -> None:
    with cli.start("exec", "-i", machine, "--", "sh", "-c", 'while read line; do echo "got $line"; done; echo end') as command:
        assert command.stdin is not None
        assert command.stdout is not None
        for word in (b"one", b"two"):
            command.stdin.write(word + b"\n")
            command.stdin.flush()
            assert command.stdout.readline() == b"got " + word + b"\n"
        command.stdin.close()
        assert command.stdout.read() == b"end\n"
        assert command.wait() == 0


def test_a_command_that_does_not_read_its_input_ends(cli: Cli, machine: str) -> None:
    assert cli("exec", "-i", machine, "true", stdin=b"x" * 2_000_000).status == 0


def test_input_that_never_ends_does_not_hold_back_a_command_that_does(cli: Cli, machine: str) -> None:
    with cli.start("exec", "-i", machine, "echo", "done") as command:
        assert command.wait(60) == 0


def test_output_nobody_reads_is_the_end_of_the_command(cli: Cli, machine: str) -> None:
    with cli.start("exec", machine, "yes") as command:
        assert command.stdout is not None
        assert command.stdout.readline() == b"y\n"
        command.stdout.close()
        assert command.wait(60) == 141
        assert command.stderr is not None
        assert command.stderr.read() == b""
    gone = "while cat /proc/[0-9]*/comm | grep -qx yes; do sleep 0.1; done"
    assert cli("exec", "--timeout", "2m", machine, "--", "sh", "-c", gone).status == 0


def test_output_in_one_object(cli: Cli, machine: str) -> None:
    done = cli("exec", "--json", "-i", machine, "--", "sh", "-c", "cat; printf '\\377' >&2; exit 3", stdin="grün".encode())
    assert done.status == 3
    answer = done.json
    assert answer.pop("cpu_ms") >= 0
    assert answer.pop("max_rss") > 0
    assert answer == {"exit_code": 3, "signal": None, "stdout": "grün", "stdout_base64": None, "stderr": None, "stderr_base64": "/w=="}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_reaches_the_command(cli: Cli, machine: str, number: signal.Signals) -> None:
    script = f"trap 'echo caught; exit 5' {number.name.removeprefix('SIG')}; echo ready; while :; do sleep 0.1; done"
    with cli.start("exec", machine, "--", "sh", "-c", script, start_new_session=True) as command:
        assert command.stdout is not None
        assert command.stdout.readline() == b"ready\n"
        command.send_signal(number)
        assert command.stdout.readline() == b"caught\n"
        assert command.wait(60) == 5


def test_a_second_interrupt_ends_a_command_that_ignores_the_first(cli: Cli, machine: str) -> None:
    script = "trap 'echo ignored' INT; echo ready; while :; do sleep 0.1; done"
    with cli.start("exec", machine, "--", "sh", "-c", script, start_new_session=True) as command:
        assert command.stdout is not None
        assert command.stdout.readline() == b"ready\n"
        command.send_signal(signal.SIGINT)
        assert command.stdout.readline() == b"ignored\n"
        command.send_signal(signal.SIGINT)
        assert command.wait(60) == 130


def test_a_paused_machine_says_so(cli: Cli, machine: str) -> None:
    cli("vm", "pause", machine, check=True)
    try:
        done = cli("exec", machine, "true")
        assert (done.status, "remedy: resume it first" in done.errors) == (1, True)
    finally:
        cli("vm", "resume", machine, check=True)
    assert cli("exec", machine, "true").status == 0


def test_closed_standard_streams(cli: Cli, machine: str) -> None:
    """As a service manager may start it: without standard input."""
    script = 'exec 0<&-; exec "$@"'
    words = ["sh", "-c", script, "sh", *cli.start.__globals__["COMMAND"], "exec", "-i", machine, "cat"]
    done = subprocess.run(words, env=cli.environment, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, b"")
