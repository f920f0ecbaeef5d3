"""Errors on their way to the reader, and the exit status of the process.

One place turns every failure into lines for people or, with ``--json``, into an object for programs, both on stderr:

    error: there is no image named nosuch          {"error": {"code": "image_not_found", "message": …,
      cause: …                                                "cause": …, "remedy": …, "retryable": …, "detail": …}}
      remedy: …

Exit status: a command's own from `exec` and `run` (128 + signal), an error's own, 2 for a wrong command line, 128 + signal when
interrupted, 141 (128 + SIGPIPE) when the reader of the output has gone.
"""

from __future__ import annotations

import os
import signal
import sys
from types import TracebackType
from typing import Any

import click

from bandsox.cli.command import Invocation, OutputClosed
from bandsox.errors import BandSoxError

_CONSOLE_LINES = 15


def run(arguments: list[str]) -> int:
    """Run a command line and return its exit status; whatever fails has been reported then."""
    from bandsox.cli.app import app

    state = Invocation()
    sys.excepthook = _unexpected(state)
    try:
        status = app.main(arguments, prog_name="bandsox", standalone_mode=False, obj=state)
        sys.stdout.flush()
    except (KeyboardInterrupt, click.Abort):
        return 128 + signal.SIGINT
    except (OutputClosed, BrokenPipeError):
        return _broken_pipe()
    except click.ClickException as error:
        _complete_options(state, arguments)
        return report(error, state)
    except (BandSoxError, OSError) as error:
        return report(error, state)
    return status if isinstance(status, int) else 0


def report(error: BandSoxError | click.ClickException | OSError, state: Invocation) -> int:
    """Print what went wrong, and return the exit status it amounts to."""
    import json

    if state.debug:
        import traceback

        traceback.print_exception(error)
    if isinstance(error, BandSoxError):
        details, status = error.to_dict(), error.exit_status
    elif isinstance(error, click.ClickException):
        details, status = _usage_details(error), error.exit_code
    else:
        message = error.strerror or str(error)
        details = {"code": "os_error", "message": f"{error.filename}: {message}" if error.filename else message}
        status = 1
    if state.json:
        keys: dict[str, Any] = {"code": "error", "message": "", "cause": None, "remedy": None, "retryable": False, "detail": {}}
        click.echo(json.dumps({"error": {**keys, **details}}, default=str), err=True)
    else:
        if isinstance(error, click.UsageError) and error.ctx is not None:
            click.echo(error.ctx.get_usage(), err=True)
        _print_for_people(details, state)
    return status


def _print_for_people(details: dict[str, Any], state: Invocation) -> None:
    from bandsox.cli.output import paint, visible

    def label(text: str, color: str) -> str:
        return paint(text, color, state, err=True)

    click.echo(f"{label('error:', 'red')} {visible(details['message'])}", err=True)
    for key in ("cause", "remedy"):
        if details.get(key):
            click.echo(f"  {label(f'{key}:', 'yellow' if key == 'cause' else 'green')} {visible(details[key])}", err=True)
    console = str((details.get("detail") or {}).get("console") or "").rstrip()
    if console:
        click.echo("  console:", err=True)
        for line in console.splitlines()[-_CONSOLE_LINES:]:
            click.echo(f"    | {visible(line)}", err=True)


def _usage_details(error: click.ClickException) -> dict[str, Any]:
    details: dict[str, Any] = {"code": "usage", "message": error.format_message()}
    if isinstance(error, click.UsageError) and error.ctx is not None:
        details["remedy"] = f"see `{error.ctx.command_path} --help`"
    return details


def _complete_options(state: Invocation, arguments: list[str]) -> None:
    """Add the options on which the report of an unreadable command line depends, and which may stand behind the mistake."""
    ours = arguments[: arguments.index("--")] if "--" in arguments else arguments
    state.json = state.json or "--json" in ours
    state.color = state.color and "--no-color" not in ours


def _broken_pipe() -> int:
    """The reader of our output has gone: leave quietly, and let Python not complain when it flushes at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 128 + signal.SIGPIPE


def _unexpected(state: Invocation) -> Any:
    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        import json
        import traceback

        if state.debug:
            traceback.print_exception(kind, error, trace)
        details: dict[str, Any] = {
            "code": "internal_error",
            "message": f"this is a fault of BandSox: {kind.__name__}: {error}",
            "remedy": "run the command again with --debug, and report what it prints",
        }
        if state.json:
            click.echo(json.dumps({"error": {**details, "cause": None, "retryable": False, "detail": {}}}), err=True)
        else:
            _print_for_people(details, state)

    return hook
