"""What operators have: figures, readiness, the reserve of disk space, the service of systemd."""

from __future__ import annotations

import configparser
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from bandsox.server.application import ROUTERS
from bandsox.server.auth import keys
from bandsox.server.auth.file import AuthFile
from tests.server.servers import serving


def figures(client: httpx.Client) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain")
    samples = (sample for family in text_string_to_metric_families(answer.text) for sample in family.samples)
    return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in samples}


def labels(**given: str) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(given.items()))


def test_requests_are_counted_by_their_routes_however_many_addresses_there_are(tmp_path: Path) -> None:
    with serving(tmp_path) as server, server.client() as client:
        for number in range(50):
            client.get(f"/api/vms/none-{number}")
            client.request(f"M{number}", f"/nothing-{number}")
        found = figures(client)
    assert found["bandsox_http_requests_total", labels(method="GET", route="/api/vms/{vm}", status="404")] == 50
    assert found["bandsox_http_request_seconds_count", labels(method="GET", route="/api/vms/{vm}")] == 50
    routes = {dict(given).get("route") for name, given in found if name == "bandsox_http_requests_total"}
    assert routes - {"none"} <= {route.path for router in ROUTERS for route in router.routes}
    assert {dict(given).get("method") for name, given in found if name == "bandsox_http_requests_total"} <= {"GET", "other"}
    assert found["bandsox_vms", labels(status="running")] == 0
    assert found["bandsox_storage_free_bytes", ()] > 0


def test_figures_are_for_who_may_look(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "bandsox", "--storage", str(tmp_path), "auth", "init", "--password-stdin"],
        input=b"long enough",
        check=True,
    )
    with serving(tmp_path) as server:
        with server.client() as client:
            assert client.get("/metrics").status_code == 401
        with server.client(keys.create(AuthFile(tmp_path), "prometheus", ["read"]).key) as client:
            assert figures(client)


def test_below_the_reserve_no_machine_is_made(tmp_path: Path) -> None:
    more_than_there_is = shutil.disk_usage(tmp_path).total >> 20
    with serving(tmp_path, "--reserve", str(more_than_there_is)) as server, server.client() as client:
        answer = client.post("/api/vms", json={"image": "python:3-alpine"})
        assert (answer.status_code, answer.json()["code"]) == (507, "storage_full")
        assert "--reserve" in answer.json()["remedy"]
        assert figures(client)["bandsox_vm_failures_total", labels(how="create", code="storage_full")] == 1
        assert client.get("/api/vms").json() == []


def test_the_host_is_described(tmp_path: Path) -> None:
    with serving(tmp_path) as server, server.client() as client:
        found = client.get("/api/host").json()
    assert found["cpus"] >= 1
    assert 0 < found["mem_available"] <= found["mem_total"]
    assert 0 < found["disk_free"] <= found["disk_total"]
    assert found["vms"] == {}


@pytest.mark.parametrize("kind", ["system", "user"])
def test_the_unit_serves_as_this_command_line_would(tmp_path: Path, kind: str) -> None:
    words = [
        "--storage",
        str(tmp_path),
        "serve",
        "--host",
        "::1",
        "--port",
        "81",
        "--allowed-host",
        "a$b%",
        "--allowed-host",
        "c",
        "--insecure",
    ]
    printed = subprocess.run(
        [sys.executable, "-m", "bandsox", *words, "--print-unit", kind], capture_output=True, text=True, check=True
    ).stdout
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string(printed)
    command = [word.replace("$$", "$").replace("%%", "%") for word in shlex.split(unit["Service"]["ExecStart"])]
    assert sorted(command[-len(words) :]) == sorted(words)
    assert unit["Service"]["KillMode"] == "process", "VMs outlive the server"
    assert unit["Install"]["WantedBy"] == {"system": "multi-user.target", "user": "default.target"}[kind]
    if kind == "system" and (check := shutil.which("systemd-analyze")) is not None:
        path = tmp_path / "bandsox.service"
        path.write_text(printed)
        subprocess.run([check, "verify", str(path)], check=True)
