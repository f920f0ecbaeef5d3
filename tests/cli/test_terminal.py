"""A real terminal: typing, size, signals, detaching, and how the terminal is left."""

from __future__ import annotations

import os
import re
import secrets
import signal
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest

from bandsox.settings import DEFAULT_IMAGE
from tests.cli.conftest import Cli

PROMPT = b"PROMPT> "
DETACH = b"\x10\x11"


@pytest.fixture
def settings(cli: Cli, tmp_path: Path) -> Iterator[list[Path]]:
    """Where the shell around a command notes the terminal's settings, which must be the same before and after."""
    places = [tmp_path / "before", tmp_path / "after"]
    cli.environment.update(BEFORE=str(places[0]), AFTER=str(places[1]))
    yield places
    assert _stable(places[0]) == _stable(places[1])


def _stable(settings: Path) -> str:
    return re.sub(r"rows \d+; columns \d+;", "", settings.read_text())


def _shell(cli: Cli, *words: str, **size: int) -> pexpect.spawn[bytes]:
    """A shell in a machine, at its prompt."""
    child = cli.on_terminal(*words, **size)
    child.expect_exact(b"# ")
    child.sendline(b"PS1='PROM''PT> '")
    child.expect_exact(PROMPT)
    return child


def _ends(child: pexpect.spawn[bytes]) -> int:
    child.expect(rb"STATUS=(\d+)")
    assert child.match is not None
    status = int(child.match[1])
    child.expect(pexpect.EOF)
    return status


@pytest.mark.usefixtures("settings")
def test_typing_unicode_and_the_exit_status(cli: Cli, machine: str) -> None:
    child = _shell(cli, "terminal", machine)
    child.sendline("printf '<%s>\\n' 'grün 🦀'".encode())
    child.expect_exact("<grün 🦀>".encode())
    child.sendline(b"tty; echo $TERM")
    child.expect(rb"/dev/pts/\d+\r\nxterm\r\n")
    before = cli("terminal", "--list", "-q", machine).text.split()
    child.sendline(b"exit 7")
    assert _ends(child) == 7
    assert len(cli("terminal", "--list", "-q", machine).text.split()) == len(before) - 1


@pytest.mark.usefixtures("settings")
def test_the_size_and_its_changes(cli: Cli, machine: str) -> None:
    child = _shell(cli, "terminal", machine, "--", "sh", cols=101, rows=31)
    child.sendline(b"stty size")
    child.expect_exact(b"31 101")
    # The signal goes to the terminal's foreground process group, which a shell without job control shares with its children.
    child.sendline(b"""sh -c 'trap "echo size: \\$(stty size)" WINCH; echo wait""ing; while :; do sleep 0.1; done'""")
    child.expect_exact(b"waiting\r\n")
    child.setwinsize(45, 123)
    child.expect_exact(b"size: 45 123")
    child.sendintr()
    child.expect_exact(PROMPT)
    child.sendline(b"exit")
    assert _ends(child) == 130


@pytest.mark.usefixtures("settings")
def test_ctrl_c_is_the_programs(cli: Cli, machine: str) -> None:
    child = _shell(cli, "terminal", machine)
    # A shell that is interrupted between reading a line and starting it has troubles of its own: the program says that it runs.
    child.sendline(b"sh -c 'echo run''ning; exec sleep 1000' || echo status: $?")
    child.expect_exact(b"running\r\n")
    child.sendintr()
    child.expect_exact(PROMPT)
    child.sendline(b"echo ali''ve")
    child.expect_exact(b"alive")
    child.sendline(b"exit 0")
    assert _ends(child) == 0


def _left(child: pexpect.spawn[bytes], keys: bytes = DETACH) -> str:
    """Leave a terminal whose program goes on; the session to return to."""
    child.send(keys)
    child.expect(rb"detached; return with: bandsox terminal --session (\w+) ")
    assert child.match is not None
    return child.match[1].decode()


@pytest.mark.usefixtures("settings")
@pytest.mark.parametrize(
    ("before", "after", "keys"),
    [(["terminal"], [], DETACH), (["terminal", "--detach-keys", "ctrl-a,d"], ["--", "sh"], b"\x01d"), (["exec", "-it"], ["sh"], DETACH)],
)
def test_a_terminal_can_be_left_and_returned_to(cli: Cli, machine: str, before: list[str], after: list[str], keys: bytes) -> None:
    child = _shell(cli, *before, machine, *after)
    child.sendline(b"kept=treasure")
    child.expect_exact(PROMPT)
    session = _left(child, keys)
    assert _ends(child) == 0
    listed = cli("--json", "terminal", "--list", machine).json
    assert (session, True) in [(each["id"][:8], each["running"]) for each in listed]
    again = cli.on_terminal("terminal", "--session", session, machine)
    again.sendline(b"echo a $kept")
    again.expect_exact(b"a treasure")
    again.sendline(b"exit 3")
    assert _ends(again) == 3


@pytest.mark.usefixtures("settings")
def test_modes_a_program_left_on_are_switched_off(cli: Cli, machine: str) -> None:
    child = _shell(cli, "terminal", machine, "--", "sh")
    child.sendline(rb"printf '\033[?1049h\033[?1000;1006h\033[?25l'; echo rea''dy")
    child.expect_exact(b"ready")
    child.send(DETACH)
    child.expect_exact(b"\x1b[?1000l\x1b[?1006l\x1b[?1049l\x1b[?25h")
    assert _ends(child) == 0


@pytest.mark.usefixtures("settings")
def test_exec_on_a_terminal(cli: Cli, machine: str) -> None:
    child = cli.on_terminal("exec", "-it", machine, "python3")
    child.expect_exact(b">>> ")
    child.sendline(b"import sys; print(sys.stdin.isatty(), 6 * 7)")
    child.expect_exact(b"True 42")
    child.sendline(b"sys.exit(5)")
    assert _ends(child) == 5


@pytest.mark.usefixtures("settings")
def test_run_on_a_terminal(cli: Cli) -> None:
    before = cli.names()
    child = _shell(cli, "run", "-it", DEFAULT_IMAGE, "--", "bash")
    child.sendline(b"exit 4")
    assert _ends(child) == 4
    assert cli.names() == before


@pytest.mark.usefixtures("settings")
def test_a_machine_that_dies(cli: Cli) -> None:
    name = f"dies-{secrets.token_hex(4)}"
    pid = cli("--json", "create", DEFAULT_IMAGE, "--name", name, check=True).json["pid"]
    try:
        child = _shell(cli, "terminal", name, "--", "sh")
        os.kill(pid, signal.SIGKILL)
        child.expect_exact(b"the machine has stopped")
        assert _ends(child) == 1
    finally:
        cli("vm", "delete", name, check=True)


@pytest.mark.usefixtures("settings")
def test_a_signal_from_outside_leaves_the_terminal_in_order(cli: Cli, machine: str) -> None:
    child = _shell(cli, "terminal", machine, "--", "sh")
    for line in Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split():
        os.kill(int(line), signal.SIGTERM)
    assert _ends(child) == 128 + signal.SIGTERM


@pytest.fixture(params=[signal.SIG_DFL, signal.SIG_IGN], ids=["told", "nohup"])
def hangup(request: pytest.FixtureRequest) -> Iterator[None]:
    """What is started does with SIGHUP what programs do, or ignores it."""
    before = signal.signal(signal.SIGHUP, request.param)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hangup")
def test_a_terminal_that_goes_away_leaves_the_program_running(cli: Cli, machine: str) -> None:
    before = set(cli("terminal", "--list", "-q", machine).text.split())
    cli.environment.update(BEFORE=os.devnull, AFTER=os.devnull)
    child = _shell(cli, "terminal", machine, "--", "sh")
    child.ptyproc.fileobj.close()  # as pexpect does, which then waits no longer than a tenth of a second
    child.ptyproc.wait()
    (session,) = set(cli("terminal", "--list", "-q", machine).text.split()) - before
    again = cli.on_terminal("terminal", "--session", session, machine)
    again.sendline(b"exit 6")
    assert _ends(again) == 6


@pytest.mark.usefixtures("settings")
def test_exec_on_a_terminal_keeps_to_its_time(cli: Cli, machine: str) -> None:
    child = cli.on_terminal("exec", "-it", "--timeout", "1s", machine, "sleep", "99")
    child.expect_exact(b"and was killed")
    assert _ends(child) == 124


@pytest.mark.usefixtures("settings")
def test_leaving_the_terminal_of_run_keeps_the_machine(cli: Cli) -> None:
    name = f"left {secrets.token_hex(4)}"
    child = _shell(cli, "run", "-it", "--name", name, "--detach-keys", "ctrl-a,d", DEFAULT_IMAGE, "sh")
    session = _left(child, b"\x01d")
    child.expect_exact(f"goes on until `bandsox vm delete '{name}'`".encode())
    assert _ends(child) == 0
    again = cli.on_terminal("terminal", "--session", session, name)
    again.sendline(b"exit 5")
    assert _ends(again) == 5
    cli("vm", "delete", name, check=True)
