"""What is known of a host, and for how long."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bandsox.store import Database, ProbeResult, Probes
from bandsox.store.probes import FAILURE_LIFE_S

NOW = 1_000_000.0


@pytest.fixture
def probes(tmp_path: Path) -> Iterator[Probes]:
    database = Database(tmp_path / "bandsox.db")
    yield Probes(database)
    database.close()


def test_what_works_stays_known(probes: Probes) -> None:
    found = ProbeResult(True, "it runs the guest kernel", "vsock")
    probes.put("kvm", found, NOW)
    assert probes.get("kvm", NOW + 100 * FAILURE_LIFE_S) == found


def test_a_failure_is_tried_again_after_a_day(probes: Probes) -> None:
    found = ProbeResult(False, "it did not run the guest kernel", "vsock")
    probes.put("kvm", found, NOW)
    assert probes.get("kvm", NOW + FAILURE_LIFE_S - 1) == found
    assert probes.get("kvm", NOW + FAILURE_LIFE_S + 1) is None


def test_all_can_be_forgotten(probes: Probes) -> None:
    probes.put("kvm", ProbeResult(True, "it runs", "vsock"), NOW)
    probes.clear()
    assert probes.get("kvm", NOW) is None
