"""This process's terminal, lent to a session of a machine until it ends or the detach keys are typed."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable
from typing import TYPE_CHECKING

from bandsox.cli.output import visible
from bandsox.errors import BandSoxError

if TYPE_CHECKING:
    from bandsox.guest import Execution
    from bandsox.models import ExecResult
    from bandsox.vm import AsyncMicroVM

Attending = Callable[["Execution"], contextlib.AbstractAsyncContextManager[None]]


async def visit(machine: AsyncMicroVM, session: str, keys: bytes, attending: Attending | None = None) -> ExecResult | None:
    """Work in a session. How it ended, or None when the detach `keys` were typed and it goes on.

    Parameters
    ----------
    attending: a context for the time of the visit.

    Raises
    ------
    CommandTimeout: it ran too long and was killed. Else as `interact`.
    """
    from bandsox.cli.terminal import Detached, interact, window_size

    try:
        async with await machine.guest.attach_session(session) as execution:
            await execution.resize(*window_size())
            async with attending(execution) if attending is not None else contextlib.nullcontext():
                result = await interact(execution, keys)
    except Detached:
        return None
    with contextlib.suppress(BandSoxError):  # it is remembered a while longer then
        await machine.guest.forget_session(session)
    return result


def way_back(machine: AsyncMicroVM, session: str) -> str:
    """The command line that returns to a session."""
    return f"bandsox terminal --session {session[:8]} {quoted(machine)}"


def quoted(machine: AsyncMicroVM) -> str:
    """The name of a machine as a word of a command line."""
    return shlex.quote(visible(machine.name))
