"""Running commands: bytes in, bytes out, exit codes, limits."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from bandsox.errors import BandSoxError, CommandNotFound, CommandTimeout
from bandsox.settings import DEFAULT_IMAGE
from tests.faces import Face, Machine


def command_lines(machine: Machine) -> str:
    """The command lines of all processes of the guest."""
    script = "import glob; print([open(p, 'rb').read().replace(b'\\0', b' ') for p in glob.glob('/proc/[0-9]*/cmdline')])"
    return machine.run(["python3", "-c", script]).stdout.decode()


def test_exit_code_and_both_streams_come_apart(machine: Machine) -> None:
    result = machine.run("echo out; echo err >&2; exit 7")
    assert (result.exit_code, result.stdout, result.stderr) == (7, b"out\n", b"err\n")


def test_arguments_reach_the_program_unchanged(machine: Machine) -> None:
    awkward = ["", " ", "a b", "'", '"', "$HOME", "`id`", "new\nline", "tab\t", "*", "\\", "ünïcödé", "-n"]
    result = machine.run(["python3", "-c", "import sys; print(sys.argv[1:])", *awkward])
    assert result.stdout.decode().strip() == repr(awkward)


def test_output_of_every_byte_is_exact(machine: Machine) -> None:
    result = machine.run(["python3", "-c", "import sys; sys.stdout.buffer.write(bytes(range(256)) * 300)"])
    assert result.stdout == bytes(range(256)) * 300


def test_ten_megabytes_of_output_arrive_whole(machine: Machine) -> None:
    result = machine.run(["python3", "-c", "import os\nfor i in range(160): os.write(1, bytes([i]) * 65536)"])
    expected = b"".join(bytes([i]) * 65536 for i in range(160))
    assert hashlib.sha256(result.stdout).digest() == hashlib.sha256(expected).digest()


def test_fast_commands_lose_no_output(machine: Machine) -> None:
    assert [machine.run(["echo", str(i)]).stdout for i in range(10)] == [b"%d\n" % i for i in range(10)]


def test_stdin_reaches_the_command_and_ends(machine: Machine) -> None:
    data = bytes(range(256)) * 4096
    result = machine.run(["sha256sum"], stdin=data)
    assert result.stdout.split()[0].decode() == hashlib.sha256(data).hexdigest()


def test_without_stdin_a_command_reads_nothing(machine: Machine) -> None:
    assert machine.run(["cat"]).stdout == b""


def test_a_command_that_ignores_its_stdin_ends(machine: Machine) -> None:
    assert machine.run(["true"], stdin=b"x" * 2_000_000).exit_code == 0


def test_environment_of_image_machine_and_command(machine: Machine) -> None:
    result = machine.run('printf "%s|%s|%s" "$GREETING" "$EXTRA" "${PATH:+set}"', env={"EXTRA": "a b\nc"})
    assert result.stdout.decode() == "grüß dich|a b\nc|set"


def test_working_directory(machine: Machine) -> None:
    assert machine.run(["pwd"], cwd="/usr/lib").stdout == b"/usr/lib\n"


@pytest.mark.parametrize(
    ("user", "ids"), [("daemon", "1:1"), ("1", "1:1"), ("daemon:adm", "1:4"), ("4242:4343", "4242:4343"), ("root", "0:0")]
)
def test_user_by_name_and_number(machine: Machine, user: str, ids: str) -> None:
    assert machine.run('echo "$(id -u):$(id -g)"', user=user).stdout.decode().strip() == ids


def test_a_signal_gives_128_and_its_number(machine: Machine) -> None:
    assert machine.run("kill -TERM $$").exit_code == 128 + 15


_HARMLESS_SIGNALS = [number for number in range(1, 65) if number not in {2, 10, 12, 15}]
"""All but INT, USR1, USR2 and TERM, by which a machine is ended."""


def test_no_signal_to_the_first_process_harms_the_machine(machine: Machine) -> None:
    each = " ".join(map(str, _HARMLESS_SIGNALS))
    assert machine.run(f"for number in {each}; do kill -$number 1 2>/dev/null; done; sleep 0.2; echo alive").text == "alive\n"
    assert machine.run("true").exit_code == 0


def test_no_signal_harms_the_machine_while_another_is_handled(face: Face) -> None:
    """The second processor sends one while the first handles SEGV, with all signals blocked: to Linux that is another case."""
    machine = face.create(DEFAULT_IMAGE, mem_mib=160, vcpu=2)
    try:
        each = " ".join(map(str, _HARMLESS_SIGNALS))
        rounds = f"for round in 1 2 3 4 5; do for number in {each}; do kill -SEGV 1; kill -$number 1 2>/dev/null; done; done"
        assert machine.run(f"{rounds}; sleep 0.2; echo alive").text == "alive\n"
        assert machine.run("true").exit_code == 0
    finally:
        machine.delete()


def test_a_program_begins_with_no_signal_blocked_ignored_or_caught(machine: Machine) -> None:
    status = dict(line.split(":\t") for line in machine.run(["cat", "/proc/self/status"]).text.splitlines())
    assert {status[mask] for mask in ("SigBlk", "SigIgn", "SigCgt")} == {"0" * 16}


def test_a_missing_command_says_so(machine: Machine) -> None:
    try:
        exit_code = machine.run(["no-such-command"]).exit_code
    except CommandNotFound as error:
        exit_code = error.exit_status
    assert exit_code == 127


@pytest.mark.parametrize("options", [{"cwd": "/no/such/place"}, {"user": "nobody-has-this-name"}])
def test_a_command_that_cannot_start_is_an_error_of_its_own(machine: Machine, options: dict[str, Any]) -> None:
    try:
        exit_code = machine.run(["true"], **options).exit_code
    except BandSoxError as error:
        exit_code = error.exit_status
    assert exit_code != 0


def test_a_timeout_kills_all_that_was_started(machine: Machine) -> None:
    try:
        exit_code = machine.run("sleep 1234 & setsid sleep 1234 & sleep 1234", timeout=2).exit_code
    except CommandTimeout as error:
        exit_code = error.exit_status
    assert exit_code == 124
    assert "sleep 1234" not in command_lines(machine)


def test_background_children_do_not_hold_a_command_back(machine: Machine) -> None:
    assert machine.run("sleep 300 & echo started", timeout=60).stdout == b"started\n"
