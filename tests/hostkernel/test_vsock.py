"""The tests of vsock, and those of what goes over it, on a host that has it: one whose kernel is the tests' own."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from bandsox.vmm.qemu import vhost
from tests.conftest import PREPARED, share
from tests.hostkernel import host

_ROOT = Path(__file__).parents[2]
_DEADLINE_S = 1500.0
_COUNT = re.compile(r"\b(\d+) (passed|skipped)\b")

pytestmark = pytest.mark.skipif(vhost.unavailable() is None, reason="this host has vhost-vsock itself")


def _passed(work: Path, tests: str) -> tuple[int, int]:
    """Run tests there, of which none may fail; how many passed, and how many were skipped."""
    storage = work / "storage"
    storage.mkdir(mode=0o700)
    share(PREPARED, storage)
    ended = host.run(
        host.pytest_run(str(_ROOT / tests), "--rootdir", str(_ROOT)),
        work,
        environment={"BANDSOX_TEST_STORAGE": str(storage), "PYTHONPATH": str(_ROOT)},
        timeout_s=_DEADLINE_S,
    )
    assert ended.exit_code == 0, ended.output[-8000:]
    counts = {kind: int(count) for count, kind in _COUNT.findall(ended.output)}
    return counts.get("passed", 0), counts.get("skipped", 0)


def test_machines_are_reached_over_vsock(storage: Path, tmp_path: Path) -> None:
    passed, skipped = _passed(tmp_path, "tests/vsock")
    assert passed and not skipped


@pytest.mark.skipif("BANDSOX_TEST_ROUNDS" not in os.environ, reason="it takes minutes: make soak")
@pytest.mark.parametrize("tests", ["tests/conformance", "tests/engine/test_snapshots.py"])
def test_what_machines_do_they_do_over_vsock_too(storage: Path, tmp_path: Path, tests: str) -> None:
    passed, skipped = _passed(tmp_path, tests)
    assert passed > skipped  # what is for Firecracker alone
