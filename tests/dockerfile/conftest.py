"""What the tests of builds share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.dockerfile.workbench import Workbench


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workbench:
    """A storage directory of its own: for builds that need no machine."""
    monkeypatch.setenv("BANDSOX_RUNTIME", str(tmp_path / "run"))
    context = tmp_path / "context"
    context.mkdir()
    return Workbench(tmp_path / "storage", context)


@pytest.fixture
def machine_bench(storage: Path, tmp_path: Path) -> Workbench:
    """The storage directory that has a kernel and the default image."""
    context = tmp_path / "context"
    context.mkdir()
    return Workbench(storage, context)
