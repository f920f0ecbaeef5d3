"""What a hostile guest prints, answers and names, on its way to a terminal."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from bandsox import BandSox, MicroVM
from tests.cli.conftest import Cli
from tests.hostile.conftest import told


@pytest.fixture(scope="module")
def machine(hostile: BandSox, image: str, options: Mapping[str, Any]) -> Iterator[MicroVM]:
    """A machine whose messages and answers are ugly."""
    with hostile.create_vm(image, mem_mib=256, **told(options, "hostile.boot=chatter hostile.link=ugly-error")) as vm:
        yield vm


@pytest.fixture(scope="module")
def cli(hostile: BandSox) -> Cli:
    return Cli(hostile.storage_dir)


COMMANDS = {
    "logs": ("logs", "{}"),
    "exec": ("exec", "{}", "ls"),
    "cp a file": ("cp", "{}:/file", "-"),
    "cp a tree": ("cp", "{}:/root", "{}"),
    "stats": ("stats", "{}"),
    "sessions": ("terminal", "--list", "{}"),
}


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_nothing_that_a_terminal_obeys_reaches_it(cli: Cli, machine: MicroVM, words: tuple[str, ...]) -> None:
    done = cli(*(word.format(machine.vm_id) for word in words))
    assert (done.status == 0) == (words[0] == "logs")
    shown = (done.stdout + done.stderr).decode()
    assert shown
    controls = {character for character in shown if unicodedata.category(character) in {"Cc", "Cf"}}
    assert controls <= {"\n", "\t"}
