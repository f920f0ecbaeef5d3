"""The lab, and code that runs on its host: as root, and as an ordinary user."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.network.lab import Lab, lab
from tests.users import CHECKOUT, furnished_user, script

Runner = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def world() -> Iterator[Lab]:
    """The lab."""
    if os.geteuid() != 0:
        pytest.skip("making network namespaces with a world in them needs root")
    with lab() as made:
        yield made


@pytest.fixture(scope="session", params=["root", "user"])
def on_host(request: pytest.FixtureRequest, world: Lab, storage: Path) -> Runner:
    """Runs Python code on the lab's host, as root or as an ordinary user, in a storage directory of theirs."""
    return runner(world, request.param, storage)


def runner(world: Lab, who: str, storage: Path) -> Runner:
    """What runs Python code on a lab's host as ``root`` or as an ordinary ``user``."""
    if who == "user":
        furnished_user()  # from the lab nothing can be fetched
        return lambda body, **environment: script(body, within=world.within, **environment)

    def as_root(body: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*world.within, sys.executable, "-c", textwrap.dedent(body)],
            env={**os.environ, "PYTHONPATH": str(CHECKOUT), "BANDSOX_STORAGE": str(storage), **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    return as_root
