"""The command line as its users have it: a process of its own, its streams, or a real terminal."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pexpect
import pytest

from bandsox.settings import DEFAULT_IMAGE

REPOSITORY = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "bandsox")


@dataclass(frozen=True)
class Done:
    """How a command line ended."""

    status: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        return self.stdout.decode()

    @property
    def errors(self) -> str:
        return self.stderr.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)

    @property
    def error(self) -> dict[str, Any]:
        details: dict[str, Any] = json.loads(self.stderr)["error"]
        return details


class Cli:
    """Runs `bandsox` with one storage directory."""

    def __init__(self, storage: Path) -> None:
        self.environment = {
            **{name: value for name, value in os.environ.items() if name not in {"NO_COLOR", "COLUMNS"}},
            "BANDSOX_STORAGE": str(storage),
            "PYTHONPATH": str(REPOSITORY),
            "TERM": "xterm",
        }

    def __call__(self, *arguments: str, stdin: bytes | int = b"", check: bool = False, **environment: str) -> Done:
        given: dict[str, Any] = {"input": stdin} if isinstance(stdin, bytes) else {"stdin": stdin}
        done = subprocess.run([*COMMAND, *arguments], capture_output=True, env={**self.environment, **environment}, check=False, **given)
        result = Done(done.returncode, done.stdout, done.stderr)
        assert not check or result.status == 0, f"bandsox {' '.join(arguments)}: {result}"
        return result

    def start(self, *arguments: str, **streams: Any) -> subprocess.Popen[bytes]:
        """Start a command line and leave it running."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **streams}
        return subprocess.Popen([*COMMAND, *arguments], env=self.environment, **pipes)

    def on_terminal(self, *arguments: str, cols: int = 80, rows: int = 24) -> pexpect.spawn[bytes]:
        """Start a command line on a terminal, under a shell that can say how the terminal was left."""
        script = 'stty -a > "$BEFORE"; "$@"; status=$?; stty -a > "$AFTER"; echo "STATUS=$status"'
        words: Sequence[str] = ["-c", script, "sh", *COMMAND, *arguments]
        return pexpect.spawn("/bin/sh", list(words), env=self.environment, dimensions=(rows, cols), timeout=180)

    def names(self) -> list[str]:
        return [info["name"] for info in self("--json", "vm", "list", check=True).json]


@pytest.fixture(scope="session")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """The command line with a storage directory that holds nothing."""
    return Cli(tmp_path_factory.mktemp("storage") / "empty")


@pytest.fixture(scope="session")
def cli(storage: Path) -> Cli:
    """The command line with the tests' storage directory, in which kernel and image are."""
    return Cli(storage)


@pytest.fixture(scope="module")
def machine(cli: Cli) -> Iterator[str]:
    """The name of one running VM for the tests of a module, none of which stops it."""
    name = f"cli {secrets.token_hex(4)}"
    cli("create", DEFAULT_IMAGE, "--name", name, "--mem", "256", "-e", "GREETING=grüß dich", check=True)
    yield name
    cli("vm", "delete", name, check=True)
