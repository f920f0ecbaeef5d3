"""``python -m tests.server.standing NAME [OPTION…]``: a server for tests that are not Python's, until its standard input ends.

It serves a storage directory of that name beside the one that is prepared, with the options of ``bandsox serve``; with ``--guarded`` in the
place of a name, a new one without machines, to which a key or the password is needed. Its one line of output is
``{"url", "storage", "python"}``, further ``key`` and ``password`` where they are needed. When it ends, there are no machines left.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bandsox import BandSox
from tests.conftest import PREPARED, prepared
from tests.server.servers import PASSWORD, serving


@contextlib.contextmanager
def _open(name: str) -> Iterator[tuple[Path, dict[str, str]]]:
    """The storage directory, emptied of machines at the end."""
    with prepared(PREPARED.with_name(f"{PREPARED.name}-{name}")) as storage:
        yield storage, {}
        with BandSox(storage) as bandsox:
            for info in bandsox.list_vms():
                bandsox.delete_vm(info["id"])


@contextlib.contextmanager
def _guarded() -> Iterator[tuple[Path, dict[str, str]]]:
    """A new storage directory with authentication."""
    with tempfile.TemporaryDirectory() as directory:
        words = ["--json", "--storage", directory, "auth", "init", "--password-stdin"]
        command = [sys.executable, "-m", "bandsox", *words]
        done = subprocess.run(command, input=PASSWORD + "\n", capture_output=True, text=True, check=True)
        yield Path(directory), {"key": json.loads(done.stdout)["key"], "password": PASSWORD}


def main(name: str, *options: str) -> None:
    """Serve until standard input ends."""
    with _guarded() if name == "--guarded" else _open(name) as (storage, secrets), serving(storage, *options) as server:
        sys.stdout.write(json.dumps({"url": server.url, "storage": str(storage), "python": sys.executable, **secrets}) + "\n")
        sys.stdout.flush()
        sys.stdin.read()
        server.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
