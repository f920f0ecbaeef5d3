"""Running Python code in a guest: the image's interpreter, a script file, and packages on request.

The code goes through a file rather than through ``-c``, so that its size has no bound, tracebacks show its lines, and
``multiprocessing`` can import it again.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from bandsox.errors import BandSoxError, CommandNotFound, ExecFailed, PythonNotFound, Unsupported
from bandsox.guest import GuestClient
from bandsox.guest.faults import printable

Answer = TypeVar("Answer")

INTERPRETERS = ("python3", "python")

_INSTALL_TIMEOUT_S = 600.0


async def run(
    guest: GuestClient,
    code: str,
    execute: Callable[[list[str]], Awaitable[int]],
    *,
    packages: Sequence[str] = (),
    cleanup_venv: bool = True,
    timeout: float | None = None,
) -> int:
    """Have `execute` run the command that runs `code`, and return what it returns.

    The code's file, and its virtual environment if asked, are removed afterwards.

    Raises
    ------
    PythonNotFound: the image has no interpreter.
    Unsupported: `packages` needs a network and the machine has none.
    ExecFailed: the packages could not be installed; the message ends with what pip said.
    """
    place = f"/tmp/.bandsox-{secrets.token_hex(8)}"  # noqa: S108 — the guest's
    try:
        await guest.write_bytes(f"{place}.py", code.encode())
        if packages:
            interpreter = await _environment(guest, f"{place}.venv", packages, timeout)
            return await execute([interpreter, f"{place}.py"])
        return await _with_interpreter(lambda interpreter: execute([interpreter, f"{place}.py"]))
    finally:
        # A machine that has stopped meanwhile has nothing left to tidy.
        with contextlib.suppress(BandSoxError):
            await guest.remove(f"{place}.py")
            if packages and cleanup_venv:
                await guest.remove(f"{place}.venv", recursive=True)


async def _with_interpreter(attempt: Callable[[str], Awaitable[Answer]]) -> Answer:
    """`attempt` with the first interpreter that the image has: trying costs nothing, where asking costs a start of Python."""
    for name in INTERPRETERS:
        try:
            return await attempt(name)
        except CommandNotFound:
            continue
    raise PythonNotFound(
        "this image has no Python",
        cause=f"neither {' nor '.join(INTERPRETERS)} is on its PATH",
        remedy="use an image with Python, such as python:3-alpine",
    )


async def _environment(guest: GuestClient, place: str, packages: Sequence[str], timeout: float | None) -> str:
    """Make a virtual environment with `packages`, and return its interpreter."""
    if not all(package.startswith(("/", "./")) for package in packages):
        raise Unsupported("packages cannot be fetched", cause="this VM has no network", remedy="install them into the image")
    limit = timeout if timeout is not None else _INSTALL_TIMEOUT_S
    made = await _with_interpreter(
        lambda interpreter: guest.run(argv=[interpreter, "-m", "venv", "--system-site-packages", place], timeout=limit)
    )
    if made.exit_code == 0:
        pip = [f"{place}/bin/python", "-m", "pip", "install", "--quiet", "--no-index", "--disable-pip-version-check", *packages]
        made = await guest.run(argv=pip, timeout=limit)
    if made.exit_code != 0:
        said = (made.stderr or made.stdout).decode(errors="replace").strip()[-2000:]
        raise ExecFailed(f"installing {', '.join(packages)} failed: " + "\n".join(map(printable, said.splitlines())))
    return f"{place}/bin/python"
