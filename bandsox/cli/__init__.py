"""The command line: `bandsox`, which is also ``python -m bandsox``.

A face over the asynchronous API, and nothing else: no operation is written here. Modules are imported when a command
needs them, so that help, version and completion cost next to nothing.

    app        the root command and the table of all commands
    commands/  one module for each command, or group of commands
    command    what every command has: global options, examples, options around a program's own arguments
    faults     errors on their way to the reader, and the exit status
    operation  running a command's coroutine: the storage directory, signals
    streams    bytes between this process's standard streams and a program in a guest
    terminal   raw mode, the size of the window, detaching
    output     tables, JSON, and text that cannot harm a terminal
"""

from __future__ import annotations

import sys

from bandsox.version import __version__


def main() -> None:
    """Run the command of this process's arguments, and exit with its status."""
    if sys.argv[1:] == ["--version"]:  # scripts ask for it often, and it needs nothing of what follows
        sys.stdout.write(f"bandsox {__version__}\n")
        return
    from bandsox.cli.faults import run

    sys.exit(run(sys.argv[1:]))
