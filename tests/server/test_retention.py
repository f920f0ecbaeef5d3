"""Which snapshots a server keeps, over HTTP and through the remote client."""

from __future__ import annotations

from pathlib import Path

import pytest

from bandsox import BandSox, Retention, errors
from bandsox.engine import retention
from bandsox.server.auth import keys
from bandsox.server.auth.file import AuthFile
from bandsox.settings import Layout
from tests.engine.test_retention import DAY, Keeping, keeping
from tests.server.servers import serving

__all__ = ["keeping"]


def test_administrators_say_what_is_kept_and_the_rest_goes(keeping: Keeping) -> None:
    file = AuthFile(keeping.root)
    file.set_password("long enough")
    admin, runner = (keys.create(file, scope, [scope]).key for scope in ("admin", "exec"))
    for number in range(3):
        keeping.saved(f"{number}", (3 - number) * DAY - 60)
    with serving(keeping.root) as server, server.client(admin) as http, server.client(runner) as other:
        remote = BandSox(server.url, headers={"Authorization": f"Bearer {admin}"})
        assert http.get("/api/retention").json() == {"max_age": None, "max_count": None, "protected": []}
        dry = http.post("/api/snapshots/prune", json={"kept": {"max_count": 2}, "dry_run": True}).json()
        assert [(each["snapshot_name"], each["source_vm_id"]) for each in dry] == [("0", "a" * 16)]
        assert remote.prune_snapshots(Retention(max_count=2)) == ["0"]
        kept = Retention(max_age=DAY, protected=("release-*",))
        remote.set_snapshot_retention(kept)
        assert remote.snapshot_retention() == retention.read(keeping.root) == kept
        keeping.wait_for("2")
        assert other.get("/api/retention").json()["max_age"] == DAY
        for refused in (
            other.put("/api/retention", json={}),
            other.post("/api/snapshots/prune", json={}),
        ):
            assert refused.status_code == 403
        for wrong in ({"max_age": 0}, {"max_count": 0}, {"protected": [""]}, {"max_age": "old"}, {"colour": "red"}):
            assert http.put("/api/retention", json=wrong).status_code == 422
        with pytest.raises(errors.InvalidRequest):
            remote.set_snapshot_retention(Retention(max_count=-1))
        assert retention.read(keeping.root) == kept
        remote.set_snapshot_retention(Retention())
        remote.close()


def test_a_server_that_begins_sees_to_it(keeping: Keeping, tmp_path: Path) -> None:
    """As after a start of the host: what is to be kept was said, and nobody looks after it."""
    keeping.saved("old", 2 * DAY)
    (Layout.open(tmp_path).root / retention.FILE).write_text('{"max_age": 86400, "max_count": null, "protected": []}')
    with serving(tmp_path):
        keeping.wait_for()
