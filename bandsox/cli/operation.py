"""A coroutine as the function of a command.

This module is all that a command's definition needs; what its work needs is imported when it runs, so that its help costs nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Concatenate, ParamSpec

import click

from bandsox.cli.command import invocation

if TYPE_CHECKING:
    from bandsox.cli.runtime import Call

Parameters = ParamSpec("Parameters")


def operation(function: Callable[Concatenate[Call, Parameters], Awaitable[int | None]], /) -> Callable[Parameters, int]:
    """Run a coroutine with the storage directory open; what it returns is the exit status, None is 0."""

    @functools.wraps(function)
    def run(*arguments: Parameters.args, **options: Parameters.kwargs) -> int:
        from bandsox.cli.runtime import run_supervised

        return run_supervised(invocation(click.get_current_context()), lambda call: function(call, *arguments, **options))

    return run
