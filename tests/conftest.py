"""What every test may use: a storage directory with kernel and image prepared once, and machines in it.

The storage directory is kept between runs (its artefacts are named by content), so only the first run builds an image. Everything a test
makes in it is gone when the test ends; a test of its own checks that. Where tests run in several processes, each has a storage directory of
its own, which shares the artefacts with that.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from bandsox import BandSox, MicroVM
from bandsox.settings import DEFAULT_IMAGE, Layout
from tests import firecracker

PREPARED = Path(os.environ.get("BANDSOX_TEST_STORAGE") or "~/.cache/bandsox-tests/storage").expanduser()
"""Where kernel and image are prepared."""

# The machine may be busy, and a change is not to fail for an example that nobody had before: `make soak` looks for those.
settings.register_profile(
    "tests", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize="BANDSOX_TEST_ROUNDS" not in os.environ
)
settings.load_profile("tests")

_WORKER = os.environ.get("PYTEST_XDIST_WORKER")
STORAGE = PREPARED if _WORKER is None else PREPARED.with_name(f"{PREPARED.name}-{_WORKER}")


def pytest_report_header() -> str:
    """Whether this machine runs the tests on Firecracker too."""
    return f"firecracker: {firecracker.found()}"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest first, so that no worker is left with one of them when the others are done: the host kernel's, whose one
    test takes minutes, and then those with the most tests."""
    tests = Counter(item.path for item in items)
    items.sort(key=lambda item: (item.path.parent.name != "hostkernel", -tests[item.path], str(item.path)))


@pytest.fixture(scope="session")
def storage() -> Iterator[Path]:
    """A storage directory with the default kernel and the default image, which is also named ``python:3-alpine``."""
    with prepared(STORAGE) as directory:
        yield directory


@contextmanager
def prepared(directory: Path) -> Iterator[Path]:
    """A storage directory with the artefacts of `PREPARED`, for the time of the block.

    Several test runs may share it. The one that has it to itself first removes what earlier, interrupted runs have left.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if directory != PREPARED:
        share(PREPARED, directory)
    os.environ["BANDSOX_STORAGE"] = str(directory)
    with (directory / "test-runs.lock").open("w") as lock, BandSox(directory) as bandsox:
        if _alone(lock.fileno()):
            bandsox.cleanup()
            for info in bandsox.list_vms():
                bandsox.delete_vm(info["id"])
            for template in bandsox.list_templates():
                bandsox.remove_template(template.id)
            for snapshot in bandsox.list_snapshots():
                bandsox.delete_snapshot(snapshot["id"])
        fcntl.flock(lock, fcntl.LOCK_SH)
        bandsox.pull_image(DEFAULT_IMAGE, "missing")
        bandsox.tag_image(DEFAULT_IMAGE, "python:3-alpine")
        yield directory


def share(prepared: Path, own: Path) -> None:
    """Give a storage directory that is new the artefacts of another, and what its registry knows of them."""
    with BandSox(prepared) as bandsox:
        bandsox.pull_image(DEFAULT_IMAGE, "missing")
        bandsox.install_kernel()
        bandsox.doctor()
    source, target = Layout.open(prepared), Layout.open(own)
    if target.database.exists():
        return
    for name in ("images", "kernels", "disks"):
        shutil.copytree(source.root / name, target.root / name, symlinks=True, copy_function=os.link, dirs_exist_ok=True)
    copy = target.database.with_suffix(".new")
    with closing(sqlite3.connect(source.database)) as known, closing(sqlite3.connect(copy)) as mine:
        known.backup(mine)
        with mine:
            mine.execute("DELETE FROM vms")  # they are the other's
    copy.rename(target.database)


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
