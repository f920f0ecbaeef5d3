"""Lists of VMs: what was encoded once is shown as long as it is true, and by whichever way a list is asked for it is the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from bandsox.models import VMStatus
from bandsox.server import rows
from bandsox.server.rows import Rows
from bandsox.store import Database, VMs
from tests.server.servers import STOPPED, serving


@pytest.fixture
def vms(tmp_path: Path) -> VMs:
    """The registry of three machines of which there is nothing else."""
    vms = VMs(Database(tmp_path / "bandsox.db"))
    for number in range(3):
        spec = replace(STOPPED.spec, name=f"vm-{number}")
        vms.insert(replace(STOPPED, id=f"{number:016x}", spec=spec, created_at=float(number)))
    return vms


@pytest.fixture
def http(tmp_path: Path, vms: VMs) -> Iterator[httpx.Client]:
    del vms
    with serving(tmp_path) as server, server.client() as client:
        yield client


def test_each_change_is_shown(http: httpx.Client, vms: VMs) -> None:
    def listed() -> list[tuple[str, str, object]]:
        return [(each["name"], each["status"], each["metadata"]) for each in http.get("/api/vms").json()]

    untouched: list[tuple[str, str, object]] = [("vm-2", "stopped", {}), ("vm-0", "stopped", {})]
    assert listed() == [untouched[0], ("vm-1", "stopped", {}), untouched[1]]
    changed = f"{1:016x}"
    vms.update(changed, spec_metadata={"team": "web"})
    assert listed()[1] == ("vm-1", "stopped", {"team": "web"})
    vms.update(changed, spec_name="other")
    assert listed()[1] == ("other", "stopped", {"team": "web"})
    vms.update(changed, status=VMStatus.RUNNING)
    assert listed()[1] == ("other", "dead", {"team": "web"}), "it has no process"
    vms.delete(changed)
    assert listed() == untouched


def test_a_list_is_the_same_with_a_query_that_leaves_nothing_out(http: httpx.Client) -> None:
    plain, asked = http.get("/api/vms"), http.get("/api/vms", params={"limit": 3})
    assert plain.json() == asked.json()
    assert set(plain.headers) == set(asked.headers)
    assert plain.json()[1] == http.get("/api/vms/vm-1").json() == http.get("/api/vms/vm-1", params={"x": ""}).json()


@pytest.mark.parametrize("query", ["limit=-1", "limit=x", "metadata_equals=[]"])
def test_a_query_that_does_not_fit_is_refused(http: httpx.Client, query: str) -> None:
    assert http.get(f"/api/vms?{query}").status_code in {400, 422}


def test_no_more_than_so_many_are_kept_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "_MOST", 2)
    encoded, records = Rows(), [replace(STOPPED, id=str(number)) for number in range(3)]
    first = encoded.of(records[0])
    assert encoded.of(records[0]) is first
    for record in records[1:]:
        encoded.of(record)
    assert encoded.of(records[0]) is not first
