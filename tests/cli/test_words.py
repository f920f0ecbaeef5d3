"""How words of the command line are understood, and how text is made safe to print."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import click
import pytest
from hypothesis import given
from hypothesis import strategies as some

from bandsox.cli.command import Invocation
from bandsox.cli.commands.exec import execute
from bandsox.cli.detaching import DetachKeys, parse_detach_keys
from bandsox.cli.machines import program_of
from bandsox.cli.output import print_table, size, visible
from bandsox.cli.parameters import ON_EXPIRY, mebibytes, metadata_of, seconds, variables
from bandsox.errors import InvalidRequest
from bandsox.models import ImageConfig, OnExpiry


@pytest.mark.parametrize(
    ("text", "value"), [("128", 128), ("512M", 512), ("2G", 2048), ("2GiB", 2048), ("1t", 1048576), ("2048K", 2), ("0", 0)]
)
def test_sizes(text: str, value: int) -> None:
    assert mebibytes(text) == value


@pytest.mark.parametrize("text", ["", "1.5G", "-1", "G", "1X", "512K", "1 2", "0x10"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(click.BadParameter):
        mebibytes(text)


@pytest.mark.parametrize(("text", "value"), [("90", 90), ("90s", 90), ("1.5m", 90), ("5min", 300), ("2h", 7200), ("1d", 86400)])
def test_times(text: str, value: float) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "0", "-1", "soon", "1w"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(click.BadParameter):
        seconds(text)


def test_whatever_may_become_of_a_machine_can_be_asked_for() -> None:
    assert tuple(ON_EXPIRY.choices) == get_args(OnExpiry)


def test_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "env"
    file.write_text("# a comment\n\nA=from file\nB=b=c\n")
    monkeypatch.setenv("HERE", "value")
    monkeypatch.delenv("NOWHERE", raising=False)
    assert variables(("A=given", "HERE", "NOWHERE", "EMPTY="), (file,)) == {"A": "given", "B": "b=c", "HERE": "value", "EMPTY": ""}


def test_metadata() -> None:
    assert metadata_of(("a=1", '{"b": [2], "a": 3}', "c=x=y")) == {"a": 3, "b": [2], "c": "x=y"}
    for wrong in ("word", "=x", "{no json"):
        with pytest.raises(click.BadParameter):
            metadata_of((wrong,))


@pytest.mark.parametrize(
    ("words", "options", "command"),
    [
        (["vm", "--", "ls", "-l"], {}, ("ls", "-l")),
        (["vm", "ls", "-l"], {}, ("ls", "-l")),
        (["-i", "vm", "ls"], {"interactive": True}, ("ls",)),
        (["vm", "-it", "-w", "/x", "--", "-odd", "--"], {"interactive": True, "tty": True, "workdir": "/x"}, ("-odd", "--")),
        (["vm", "-i", "git", "checkout", "--", "file"], {"interactive": True}, ("git", "checkout", "--", "file")),
        (["-e", "A=1", "vm", "-e", "B=2", "sh", "-e", "C"], {"env": ("A=1", "B=2")}, ("sh", "-e", "C")),
        (["--", "vm", "-i"], {"interactive": False}, ("-i",)),
        (["vm", "--json", "--", "--json"], {}, ("--json",)),
    ],
    ids=str,
)
def test_a_program_begins_behind_the_options(words: list[str], options: dict[str, object], command: tuple[str, ...]) -> None:
    context = execute.make_context("exec", list(words), obj=Invocation())
    assert context.params["command"] == command
    assert context.params["vm"] == "vm"
    assert {name: context.params[name] for name in options} == options


CONFIG = ImageConfig(entrypoint=("python3",), cmd=("-V",))


@pytest.mark.parametrize(
    ("config", "entrypoint", "words", "program"),
    [
        (CONFIG, None, (), ["python3", "-V"]),
        (CONFIG, None, ("-c", "1"), ["python3", "-c", "1"]),
        (CONFIG, "", ("ls",), ["ls"]),
        (CONFIG, "sh", (), ["sh"]),
        (CONFIG, '["sh", "-c"]', ("ls",), ["sh", "-c", "ls"]),
        (ImageConfig(cmd=("bash",)), None, (), ["bash"]),
        (ImageConfig(cmd=("bash",)), None, ("ls",), ["ls"]),
    ],
)
def test_entrypoint_and_command_are_put_together_as_in_docker(
    config: ImageConfig, entrypoint: str | None, words: tuple[str, ...], program: list[str]
) -> None:
    assert program_of(config, entrypoint, words, interactive=False) == program


def test_an_image_without_a_command() -> None:
    with pytest.raises(InvalidRequest, match="no command"):
        program_of(ImageConfig(), None, (), interactive=False)
    assert program_of(ImageConfig(), None, (), interactive=True) == ["/bin/sh"]
    with pytest.raises(InvalidRequest, match="entrypoint"):
        program_of(ImageConfig(), "[1]", (), interactive=False)


# ── the detach keys ─────────────────────────────────────────────────────────────────────────────


def test_detach_keys_are_written_as_in_docker() -> None:
    assert parse_detach_keys("ctrl-p,ctrl-q") == b"\x10\x11"
    assert parse_detach_keys("ctrl-a,d") == b"\x01d"
    assert parse_detach_keys("ctrl-],ctrl-@") == b"\x1d\x00"
    assert parse_detach_keys("") == b""
    for wrong in ("ctrl-", "ctrl-1", "shift-a", "ab", "é"):
        with pytest.raises(click.BadParameter):
            parse_detach_keys(wrong)


@given(
    some.lists(some.binary(max_size=6).map(lambda data: bytes(byte % 3 for byte in data)), max_size=20),
    some.sampled_from([b"\0\1", b"\0\0\1", b"\1"]),
)
def test_detach_keys_are_found_however_they_arrive(pieces: list[bytes], keys: bytes) -> None:
    text = b"".join(pieces)
    watcher, passed, found = DetachKeys(keys), b"", False
    for piece in pieces:
        typed, found = watcher.feed(piece)
        passed += typed
        if found:
            break
    if keys in text:
        assert found
        assert passed == text[: text.index(keys)]
    else:
        assert not found
        assert text.startswith(passed)
        assert keys.startswith(text[len(passed) :])


# ── text that is printed ────────────────────────────────────────────────────────────────────────


@given(some.one_of(some.text(), some.binary()))
def test_printed_text_never_commands_a_terminal(text: str | bytes) -> None:
    shown = visible(text)
    assert all(character.isprintable() for character in shown)
    shown.encode()


def test_visible_text() -> None:
    assert visible("grün 🦀 \x1b[2J\n\u202e\x07") == "grün 🦀 \\x1b[2J\\n\\u202e\\x07"
    assert visible(b"\xff") == "\\udcff"


def test_a_table_is_as_wide_as_it_needs_to_be(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("NAME", "STATE", "N"), [("漢字", "\x1b[2J", "7"), ("a", "running", "100")], Invocation(), right=("N",))
    assert capsys.readouterr().out == "NAME  STATE      N\n漢字  \\x1b[2J    7\na     running  100\n"


def test_an_empty_table_has_its_titles(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("NAME", "STATE"), [], Invocation())
    assert capsys.readouterr().out == "NAME  STATE\n"


def test_sizes_for_people() -> None:
    assert [size(count) for count in (0, 1023, 1024, 1536, 150 << 20, 5 << 30, 3 << 40)] == [
        "0 B",
        "1023 B",
        "1 KiB",
        "1.5 KiB",
        "150 MiB",
        "5 GiB",
        "3.0 TiB",
    ]
