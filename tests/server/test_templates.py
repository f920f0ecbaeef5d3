"""Templates and warm pools over HTTP and through the remote client."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from bandsox import BandSox, Progress, Template, errors
from bandsox.models import Quotas
from bandsox.server.auth import keys
from bandsox.server.auth.file import AuthFile
from bandsox.settings import DEFAULT_IMAGE
from tests.cli.conftest import Cli
from tests.conftest import share
from tests.server.servers import Server, serving

SHAPE = {"mem_mib": 256, "disk_size_mib": 64, "enable_networking": False, "vmm": "qemu"}


@pytest.fixture(scope="module")
def remote(server: Server) -> BandSox:
    return BandSox(server.url)


@pytest.fixture(scope="module")
def template(remote: BandSox, bandsox: BandSox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Template]:
    script = tmp_path_factory.mktemp("files") / "script"
    script.write_text("#!/bin/sh\necho from the script\n")
    script.chmod(0o755)
    steps: list[Progress] = []
    setup = ["/root/script > /root/made", ["sh", "-c", "echo $0 >> /root/made", "a b"]]
    files = {"/root/script": script, "/root/bytes": b"\xff\x00"}
    made = remote.template(setup=setup, files=files, env_vars={"A": "b"}, progress=steps.append, **SHAPE)  # type: ignore[arg-type]
    assert {"setup", "boot"} <= {step.task for step in steps}
    assert bandsox.template(setup=setup, files=files, env_vars={"A": "b"}, **SHAPE).id == made.id  # type: ignore[arg-type]
    yield made
    remote.remove_template(made.id)
    with pytest.raises(errors.TemplateNotFound):
        remote.get_template(made.id)


def test_templates_are_those_of_the_library(http: httpx.Client, remote: BandSox, bandsox: BandSox, template: Template) -> None:
    assert remote.list_templates() == bandsox.list_templates()
    assert remote.get_template(template.id[:6]) == bandsox.get_template(template.id)
    assert remote.prune_templates(unused_for=1e6) == []
    found = http.get(f"/api/templates/{template.id}").json()
    assert (found["setup"], found["image"]) == (["/root/script > /root/made", "sh -c 'echo $0 >> /root/made' 'a b'"], DEFAULT_IMAGE)


def test_a_machine_goes_on_from_a_template(remote: BandSox, template: Template) -> None:
    with remote.create_vm(template, metadata={"from": "template"}) as vm:
        assert vm.run("cat /root/made; od -An -tx1 /root/bytes; echo $A").text == "from the script\na b\n ff 00\nb\n"
        assert vm.info()["metadata"] == {"from": "template"}
    with pytest.raises(errors.InvalidRequest):
        remote.create_vm(template, vcpu=2)
    with pytest.raises(errors.TemplateNotFound):
        remote.create_vm("template:0000000000000000")


@pytest.mark.parametrize(
    ("wrong", "status"),
    [
        ({"setup": "echo"}, 422),
        ({"setup": [""]}, 422),
        ({"setup": [[]]}, 422),
        ({"files": {"/x": {"content": "%", "encoding": "base64"}}}, 400),
        ({"files": {"/x": {"content": "", "mode": "7777"}}}, 422),
        ({"files": {"/x": "/etc/passwd"}}, 422),
        ({"timeout": 0}, 422),
        ({"kernel_path": "/etc/passwd"}, 422),
    ],
)
def test_a_template_that_cannot_be_is_not_made(http: httpx.Client, wrong: dict[str, object], status: int) -> None:
    before = http.get("/api/templates").json()
    assert http.post("/api/templates", json=wrong).status_code == status
    assert http.get("/api/templates").json() == before


def test_a_command_that_fails_is_told_of(remote: BandSox, bandsox: BandSox) -> None:
    before = bandsox.list_templates(), bandsox.list_vms()
    with pytest.raises(errors.BuildFailed, match="exited with 3") as failure:
        remote.template(setup=["echo something; exit 3"], **SHAPE)  # type: ignore[arg-type]
    assert failure.value.cause == "something"
    assert (bandsox.list_templates(), bandsox.list_vms()) == before


def test_a_pool_of_a_server_hands_machines_out(http: httpx.Client, remote: BandSox, bandsox: BandSox, template: Template) -> None:
    with remote.pool(template, size=1) as pool:
        assert pool.ready == 1
        [listed] = http.get("/api/pools").json()
        assert (listed["template"], listed["size"], listed["failure"]) == (template.id, 1, None)
        path = f"/api/pools/{listed['id']}"
        assert [info["status"] for info in bandsox.list_vms()] == ["paused"]
        [waiting] = http.get("/api/vms").json()
        assert waiting["pool"] == listed["id"] == http.get(f"/api/vms/{waiting['id']}").json()["pool"]
        name = f"taken-{secrets.token_hex(4)}"
        with pool.take(name, env_vars={"OWN": "yes"}, metadata={"n": 1}) as vm:
            assert vm.run("cat /root/made; hostname; echo $OWN").text == f"from the script\na b\n{name}\nyes\n"
            assert vm.info()["metadata"] == {"n": 1}
            assert "pool" not in vm.info()
            with pytest.raises(errors.Conflict):
                pool.take(name)
        key = {"idempotency-key": secrets.token_hex(8)}
        first = http.post(f"{path}/take", json={}, headers=key).json()
        assert http.post(f"{path}/take", json={}, headers=key).json() == first, "the same, and not another"
        http.delete(f"/api/vms/{first['id']}")
        for wrong in ({"size": 0}, {"size": 257}, {}):
            assert http.put(path, json=wrong).status_code == 422
        pool.resize(2)
        with pool.take(), pool.take(), pool.take():  # so that both were made
            assert http.get(path).json()["size"] == 2
    assert http.get(path).status_code == 404
    assert bandsox.list_vms() == []
    with pytest.raises(errors.Conflict):
        pool.take()
    with pytest.raises(errors.TemplateNotFound), remote.pool("0000000000000000"):
        pass


@pytest.fixture(scope="module")
def guarded(storage: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another storage directory, to whose servers keys are needed."""
    own = tmp_path_factory.mktemp("guarded")
    share(storage, own)
    words = [sys.executable, "-m", "bandsox", "--storage", str(own), "auth", "init", "--password-stdin"]
    subprocess.run(words, input=b"long enough", check=True)
    return own


def test_templates_and_pools_are_for_those_who_see_their_machines_and_outlive_their_server(guarded: Path) -> None:
    ours = keys.create(AuthFile(guarded), "ci", ["exec"], prefix="ci-", quotas=Quotas(vms=2)).key
    others = keys.create(AuthFile(guarded), "other", ["exec"], prefix="other-").key
    admin = keys.create(AuthFile(guarded), "admin", ["admin"]).key
    with serving(guarded) as first, serving(guarded) as second:
        with first.client(ours) as client:
            made = client.post("/api/templates", json={**SHAPE, "setup": ["echo made > /root/made"]}).json()["id"]
            assert client.post("/api/pools", json={"template": made, "size": 3}).json()["code"] == "forbidden", "more than its quota"
            pool = client.post("/api/pools", json={"template": made, "size": 1}).json()
            assert [info["name"][:8] for info in client.get("/api/vms").json()] == ["ci-pool-"]
            assert client.put(f"/api/pools/{pool['id']}", json={"size": 3}).json()["code"] == "forbidden"
            assert client.post("/api/vms", json={"image": f"template:{made}"}).status_code == 200
            assert client.post(f"/api/pools/{pool['id']}/take", json={}).json()["code"] == "forbidden", "it and what replaces it"
        with first.client(others) as client:
            assert (client.get("/api/templates").json(), client.get("/api/pools").json()) == ([], [])
            for method, path in (
                ("GET", f"/api/templates/{made}"),
                ("DELETE", f"/api/templates/{made}"),
                ("GET", f"/api/pools/{pool['id']}"),
                ("DELETE", f"/api/pools/{pool['id']}"),
            ):
                assert client.request(method, path).status_code == 404
            assert client.post("/api/vms", json={"image": f"template:{made}"}).json()["code"] == "template_not_found"
            assert client.post("/api/pools", json={"template": made}).json()["code"] == "template_not_found"
        with second.client(admin) as client:
            assert made in [each["id"] for each in client.get("/api/templates").json()]
            assert client.get("/api/pools").json()["code"] == "conflict", "another server has them"
            first.kill()
            assert [each["id"] for each in client.get("/api/pools").json()] == [pool["id"]]
            taken = client.post(f"/api/pools/{pool['id']}/take", json={"name": "ci-taken"}).json()
            assert "id" in taken, taken
            assert client.post(f"/api/vms/{taken['id']}/exec", json={"command": "cat /root/made"}).json()["stdout"] == "made\n"
            for info in client.get("/api/vms").json():
                if not info["name"].startswith("ci-pool-"):
                    client.delete(f"/api/vms/{info['id']}")
        assert second.stop() == 0
    with BandSox(guarded) as library:
        assert library.list_vms() == [], "what nobody took is gone with the server"
    with serving(guarded) as third, third.client(admin) as client:
        assert client.delete(f"/api/pools/{pool['id']}").json() == {"status": "deleted"}
        assert client.delete(f"/api/templates/{made}").json() == {"status": "deleted"}
        with serving(guarded) as fourth, fourth.client(admin) as another:
            assert another.get("/api/pools").json() == [], "who has none does not keep others from having some"
    assert json.loads((guarded / "pools.json").read_text()) == []


def test_the_command_line_has_a_servers_templates(server: Server, template: Template, tmp_path: Path) -> None:
    cli = Cli(tmp_path / "unused")
    cli.environment = {**cli.environment, "BANDSOX_URL": server.url, "HOME": str(tmp_path)}
    del cli.environment["BANDSOX_STORAGE"]
    assert template.id in [each["id"] for each in cli("--json", "template", "list", check=True).json]
    assert cli("run", f"template:{template.id}", "--", "cat", "/root/made", check=True).text == "from the script\na b\n"
    assert cli("template", "prune", "--unused-for", "7d", check=True).text == ""
    assert cli("--json", "template", "remove", "0000").error["code"] == "template_not_found"
