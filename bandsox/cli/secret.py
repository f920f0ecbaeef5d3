"""Secrets on the command line: where a value comes from, and never the value."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from bandsox.models import Secret

_LARGEST_FILE = 64 << 10
_FLAGS = {"query": "query", "body": "body", "http": "plain_http"}


def secrets_of(settings: Iterable[str]) -> dict[str, Secret]:
    """The secrets of ``--secret NAME[=SOURCE]@HOST[,HOST…][+FLAG…]``; `value_from` says what a source is, which by default is `NAME`.

    Raises
    ------
    click.BadParameter: one of them cannot be read.
    """
    from bandsox.models import Secret

    found: dict[str, Secret] = {}
    for setting in settings:
        named, at, places = setting.rpartition("@")
        name, _, source = named.partition("=")
        hosts, *flags = places.split("+")
        if not at or not name or not hosts or not set(flags) <= set(_FLAGS):
            raise click.BadParameter(f"{setting!r} is not NAME=VARIABLE@HOST; flags are +query, +body and +http", param_hint="--secret")
        found[name] = Secret(value_from(source or name), hosts=tuple(hosts.split(",")), **{_FLAGS[flag]: True for flag in flags})
    return found


def value_from(source: str) -> str:
    """The value of a variable of this command, or of a file, whose name has a slash, without the newline at its end.

    Raises
    ------
    click.BadParameter: there is none.
    """
    if "/" not in source:
        if source not in os.environ:
            raise click.BadParameter(f"the variable {source} is not set here", param_hint="secret")
        return os.environ[source]
    try:
        with Path(source).expanduser().open(encoding="utf-8") as file:
            return file.read(_LARGEST_FILE).removesuffix("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"the file {source} cannot be read: {error}", param_hint="secret") from error
