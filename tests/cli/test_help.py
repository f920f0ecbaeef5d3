"""What the command line says of itself, and that saying it costs nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import click
import pytest

from bandsox import __version__
from bandsox.cli.app import SECTIONS, app
from bandsox.cli.command import Entry, Invocation
from bandsox.settings import DEFAULT_IMAGE
from tests.cli.conftest import COMMAND, REPOSITORY, Cli

ENTRIES: dict[str, Entry] = {name: entry for section in SECTIONS.values() for name, entry in section.items()}
HEAVY = {"rich", "httpx", "asyncio", "sqlite3", "msgspec", "anyio", "bandsox.core", "bandsox.engine", "bandsox.images", "bandsox.vm"}


def _commands(group: click.Group = app, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        yield (*prefix, name)
        if isinstance(found, click.Group):
            yield from _commands(found, (*prefix, name))


def _imported_by(*arguments: str) -> set[str]:
    traced = subprocess.run(
        [sys.executable, "-X", "importtime", *COMMAND[1:], *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        check=True,
    )
    return {line.rpartition("|")[2].strip() for line in traced.stderr.splitlines() if line.startswith("import time:")}


def test_the_version_needs_not_even_the_parser() -> None:
    assert not _imported_by("--version") & {*HEAVY, "click", "typing", "bandsox.cli.app"}


@pytest.mark.parametrize("arguments", [("--help",), ()], ids=" ".join)
def test_a_command_that_does_nothing_imports_little(arguments: tuple[str, ...]) -> None:
    assert not _imported_by(*arguments) & {*HEAVY, "pathlib", "dataclasses", "json", "tempfile"}


@pytest.mark.parametrize("group", [name for name, entry in ENTRIES.items() if entry.commands])
def test_the_help_of_a_group_imports_nothing_heavy(group: str) -> None:
    assert not _imported_by(group, "--help") & HEAVY


@pytest.mark.parametrize("command", [name for name, entry in ENTRIES.items() if not entry.commands])
def test_the_help_of_every_command_needs_neither_engine_nor_event_loop(command: str) -> None:
    assert not _imported_by(command, "--help") & HEAVY


# What only some commands need, and the others do not pay for.
REGISTRY = {"httpx", "bandsox.images", "bandsox.dockerfile"}
BOOT = {
    "bandsox.engine.boot",
    "bandsox.engine.accelerators",
    "bandsox.engine.doctor",
    "bandsox.vmm.kernel",
    "bandsox.vmm.bzimage",
    "ctypes",
}
GUEST = {"bandsox.guest", "bandsox.vm.handle", "anyio", "xxhash"}


def test_listing_machines_loads_neither_images_nor_hypervisors_nor_the_guests_protocol(empty: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BANDSOX_STORAGE", empty.environment["BANDSOX_STORAGE"])
    assert _imported_by("vm", "list") & {*REGISTRY, *BOOT, *GUEST, "bandsox.vmm.qemu", "rich"} == set()


def test_running_a_command_loads_neither_images_nor_kernels_nor_tables(cli: Cli, machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BANDSOX_STORAGE", cli.environment["BANDSOX_STORAGE"])
    assert _imported_by("exec", machine, "true") & {*REGISTRY, *(BOOT - {"bandsox.engine.boot"}), "rich"} == set()


def test_version(empty: Cli) -> None:
    assert empty("--version").text == f"bandsox {__version__}\n"
    assert empty("--json", "--version").json == {"version": __version__}


def test_without_a_word_the_help_is_shown(empty: Cli) -> None:
    for arguments in ((), ("vm",), ("image",)):
        done = empty(*arguments)
        assert done.status == 0
        assert done.text.startswith("Usage: bandsox")


@pytest.mark.parametrize("command", sorted(_commands()), ids=" ".join)
def test_every_command_explains_itself(command: tuple[str, ...]) -> None:
    context: click.Context = click.Context(app, info_name="bandsox", obj=Invocation())
    found: click.Command = app
    for name in command:
        assert isinstance(found, click.Group)
        context = click.Context(found, parent=context, info_name=name)
        inner = found.get_command(context, name)
        assert inner is not None
        found = inner
    text = found.get_help(click.Context(found, parent=context, info_name=command[-1]))
    assert "--json" in text
    assert all(option.help for option in found.params if isinstance(option, click.Option) and not option.hidden), command
    assert found.get_short_help_str(limit=200).endswith(".")


@pytest.mark.parametrize("name", ENTRIES)
def test_the_table_of_commands_says_what_they_say_themselves(name: str) -> None:
    context = click.Context(app)
    command = app.get_command(context, name)
    assert command is not None
    assert command.get_short_help_str(limit=200) == ENTRIES[name].help
    if isinstance(command, click.Group):
        aliases = getattr(command, "aliases", {})
        assert set(ENTRIES[name].commands) == {*command.list_commands(context), *aliases}


@pytest.mark.parametrize(
    ("typed", "suggested"),
    [
        ("exce", "bandsox exec"),
        ("ls", "bandsox vm ls"),
        ("stop", "bandsox vm stop"),
        ("pull", "bandsox image pull"),
        ("vm lst", "bandsox vm list"),
        ("vm create", "bandsox create"),
        ("vm pull", "bandsox image pull"),
    ],
)
def test_a_command_that_does_not_exist_suggests_one_that_does(empty: Cli, typed: str, suggested: str) -> None:
    done = empty(*typed.split(), "x")
    assert done.status == 2
    assert f"Did you mean `{suggested}`" in done.errors


def test_nothing_is_suggested_for_what_is_near_to_nothing(empty: Cli) -> None:
    assert "Did you mean" not in empty("vm", "zzz").errors


def test_global_options_stand_before_and_behind_the_command(empty: Cli) -> None:
    assert empty("--json", "vm", "list").json == empty("vm", "--json", "list").json == empty("vm", "list", "--json").json == []


def test_storage_is_an_option_too(empty: Cli, tmp_path: Any) -> None:
    done = empty("vm", "list", "--json", "--storage", str(tmp_path / "other"))
    assert done.json == []
    assert (tmp_path / "other/bandsox.db").exists()


# ── completion ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script(empty: Cli, shell: str) -> None:
    assert "_BANDSOX_COMPLETE" in empty("completion", shell, check=True).text


def _completed(cli: Cli, *words: str) -> list[str]:
    environment: Any = {"_BANDSOX_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    return [line.partition(",")[2] for line in cli(**environment).text.splitlines() if line]


def test_commands_and_options_are_completed(empty: Cli) -> None:
    assert _completed(empty, "bandsox", "ter") == ["terminal"]
    assert "--detach-keys" in _completed(empty, "bandsox", "terminal", "--")
    assert "delete" in _completed(empty, "bandsox", "vm", "")


def test_completing_names_makes_no_storage_directory(tmp_path: Any) -> None:
    assert _completed(Cli(tmp_path / "absent"), "bandsox", "inspect", "") == []
    assert not (tmp_path / "absent").exists()


def test_names_of_images_are_completed(cli: Cli) -> None:
    assert "python:3-alpine" in _completed(cli, "bandsox", "run", "pyth")
    assert DEFAULT_IMAGE in json.dumps(_completed(cli, "bandsox", "run", ""))
