"""Templates on real machines: made once for each content, by whoever comes first, and gone on from as often as wanted."""

from __future__ import annotations

import concurrent.futures
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bandsox import BandSox, Template
from bandsox.errors import BuildFailed, Conflict, InvalidRequest, TemplateNotFound
from bandsox.settings import Layout
from tests.engine.leaks import Traces

SETUP = (
    "cat /etc/put $(which env) > /dev/null && echo $GREETING > /root/made",
    ["/bin/sh", "-c", "echo x >> /root/runs; sleep 1000 > /dev/null 2>&1 &"],
)
SHAPE: dict[str, Any] = {"mem_mib": 256, "vmm": "qemu", "disk_size_mib": 64, "enable_networking": False}


@pytest.fixture(scope="module")
def put(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of this host that is part of the set-up."""
    path = tmp_path_factory.mktemp("template") / "put"
    path.write_text("put\n")
    path.chmod(0o640)
    return path


@pytest.fixture(scope="module")
def template(bandsox: BandSox, put: Path) -> Iterator[Template]:
    made = make(bandsox, put)
    yield made
    bandsox.prune_templates()


def make(bandsox: BandSox, put: Path, **changes: Any) -> Template:
    options: dict[str, Any] = {"files": {"/etc/put": put, "/etc/given": b"given\n"}, "env_vars": {"GREETING": "hello"}, **SHAPE}
    return bandsox.template(setup=SETUP, **{**options, **changes})


def test_machines_go_on_from_where_the_set_up_ended(bandsox: BandSox, template: Template) -> None:
    with bandsox.create_vm(template, name="of-a-template", env_vars={"OWN": "yes"}, metadata={"team": "web"}, ttl=1000) as vm:
        assert vm.run("cat /root/made /root/runs /etc/put /etc/given; stat -c %a /etc/put /etc/given; echo $GREETING $OWN").text == (
            "hello\nx\nput\ngiven\n640\n644\nhello yes\n"
        )
        assert vm.run("cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -o '[s]leep 1000' | wc -l").text == "1\n"
        info = vm.info()
        assert (vm.name, info["metadata"], info["mem_mib"], info["idle_timeout"]) == ("of-a-template", {"team": "web"}, 256, None)
        assert info["expires_at"] > time.time() + 500
        assert info["image"] == template.image
        assert vm.receipt is not None and vm.receipt.frozen
        with bandsox.create_vm(f"template:{template.id[:6]}") as other:
            assert other.run("cat /etc/hostname; hostname").text != vm.run("cat /etc/hostname; hostname").text
            assert other.info()["expires_at"] is None


def test_the_same_is_made_once_and_anything_else_anew(bandsox: BandSox, template: Template, put: Path) -> None:
    assert make(bandsox, put).snapshot == template.snapshot
    copy = put.with_name("copy")
    copy.write_bytes(put.read_bytes())
    copy.chmod(0o640)
    assert make(bandsox, put, files={"/etc/given": b"given\n", "/etc/put": copy}).id == template.id  # it is contents that count
    copy.write_text("other\n")
    other = make(bandsox, put, files={"/etc/given": b"given\n", "/etc/put": copy})
    assert other.id != template.id
    assert {each.id for each in bandsox.list_templates()} == {template.id, other.id}
    assert bandsox.list_snapshots() == []
    bandsox.remove_template(other.id)
    with pytest.raises(TemplateNotFound):
        bandsox.create_vm(other)


def test_a_template_is_no_snapshot_of_its_own(bandsox: BandSox, template: Template) -> None:
    with pytest.raises(Conflict):
        bandsox.delete_snapshot(template.snapshot)


def test_what_cannot_be(bandsox: BandSox, template: Template, put: Path) -> None:
    for options in ({"mem_mib": 512}, {"vcpu": 2}, {"boot_args": "quiet"}, {"vmm": "firecracker"}):
        with pytest.raises(InvalidRequest):
            bandsox.create_vm(template, **options)
    wrong: tuple[Any, ...] = ("a text", [""], [[]], [["echo", 1]], print)
    for setup in wrong:
        with pytest.raises(InvalidRequest):
            bandsox.template(setup=setup)
    with pytest.raises(FileNotFoundError):
        make(bandsox, put, files={"/etc/put": put.with_name("absent")})
    for unknown in ("template:ffffffff", "template:", "template:../x"):
        with pytest.raises(TemplateNotFound):
            bandsox.create_vm(unknown)


def test_a_set_up_that_fails_leaves_nothing(bandsox: BandSox, template: Template, storage: Path) -> None:
    layout = Layout.open(storage)
    before, snapshots = Traces.of(layout), set(layout.snapshots.iterdir())
    with pytest.raises(BuildFailed) as failure:
        bandsox.template(setup=["echo first", "echo why; yes | head -c 1000000 >&2; echo because >&2; exit 7"], **SHAPE)
    assert "exited with 7" in failure.value.message
    assert (failure.value.cause or "").endswith("because")
    assert len(failure.value.cause or "") <= 4096
    assert set(layout.snapshots.iterdir()) == snapshots
    assert bandsox.list_vms() == []
    assert Traces.of(layout).changes_since(before) == {}


MAKER = """
import sys
from bandsox import BandSox
from bandsox.engine import templates

async def stand_still(*_):
    print("begun", flush=True)
    sys.stdin.read()

if sys.argv[2] == "killed":
    templates._run = stand_still
shape = {"mem_mib": 256, "vmm": "qemu", "disk_size_mib": 64, "enable_networking": False}
print(BandSox(sys.argv[1]).template(setup=["echo made >> /root/made"], **shape).id)
"""


def test_of_several_makers_one_works_and_a_killed_one_leaves_the_work_to_the_next(bandsox: BandSox, storage: Path) -> None:
    def maker(fate: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", MAKER, str(storage), fate]
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    with maker("killed") as killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == "begun\n"
        others = [maker("lives"), maker("lives")]
        killed.kill()
    with concurrent.futures.ThreadPoolExecutor() as threads:
        made = {output.strip() for output, _ in threads.map(lambda process: process.communicate(timeout=300), others)}
    (template,) = [bandsox.get_template(each) for each in made]
    with bandsox.create_vm(template) as vm:
        assert vm.run("cat /root/made").text == "made\n"
    bandsox.remove_template(template.id)
    bandsox.cleanup()
    assert bandsox.list_vms() == []


def test_pruning_spares_what_is_used(bandsox: BandSox, template: Template) -> None:
    with bandsox.create_vm(template):
        assert bandsox.prune_templates(unused_for=1000) == []
    then = time.time() - 2000
    os.utime(bandsox.get_snapshot_info(template.snapshot)["path"], (then, then))
    with bandsox.create_vm(template) as vm:
        then = time.time() - 2000
        os.utime(bandsox.get_snapshot_info(template.snapshot)["path"], (then, then))
        assert [each.id for each in bandsox.prune_templates(unused_for=1000)] == [template.id]
        assert vm.run("cat /root/made").text == "hello\n"  # it goes on
