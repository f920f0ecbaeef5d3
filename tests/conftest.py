"""What every test may use: a storage directory with kernel and image prepared once, and machines in it.

The storage directory is kept between runs (its artefacts are named by content), so only the first run builds an image. Everything a test
makes in it is gone when the test ends; a test of its own checks that.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bandsox import BandSox, MicroVM
from bandsox.settings import DEFAULT_IMAGE
from tests import firecracker

STORAGE = Path(os.environ.get("BANDSOX_TEST_STORAGE", "~/.cache/bandsox-tests/storage")).expanduser()


def pytest_report_header() -> str:
    """Whether this machine runs the tests on Firecracker too."""
    return f"firecracker: {firecracker.found()}"


@pytest.fixture(scope="session")
def storage() -> Iterator[Path]:
    """A storage directory with the default kernel and the default image, which is also named ``python:3-alpine``.

    Several test runs may share it. The one that has it to itself first removes what earlier, interrupted runs have left.
    """
    STORAGE.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.environ["BANDSOX_STORAGE"] = str(STORAGE)
    with (STORAGE / "test-runs.lock").open("w") as lock, BandSox(STORAGE) as bandsox:
        if _alone(lock.fileno()):
            bandsox.cleanup()
            for info in bandsox.list_vms():
                bandsox.delete_vm(info["id"])
        fcntl.flock(lock, fcntl.LOCK_SH)
        bandsox.pull_image(DEFAULT_IMAGE, "missing")
        bandsox.tag_image(DEFAULT_IMAGE, "python:3-alpine")
        yield STORAGE


def _alone(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@pytest.fixture(scope="session")
def bandsox(storage: Path) -> Iterator[BandSox]:
    with BandSox(storage) as opened:
        yield opened


@pytest.fixture(scope="module")
def vm(bandsox: BandSox) -> Iterator[MicroVM]:
    """One running machine for the tests of a module, none of which stops it."""
    with bandsox.create_vm(mem_mib=256) as machine:
        yield machine
