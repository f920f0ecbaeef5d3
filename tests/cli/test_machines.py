"""The life of VMs, what is known of them, and the shapes of the answers."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from typing import Any

import pytest

from bandsox.settings import DEFAULT_IMAGE
from tests.cli.conftest import Cli

VM_KEYS = {
    "id", "name", "image", "vcpu", "mem_mib", "disk_size_mib", "rootfs_path", "network_config", "vsock_config", "created_at", "status",
    "pid", "env_vars", "mcp", "metadata", "agent_ready", "restored_from", "receipt", "image_id", "vmm", "vmm_version", "accelerator",
    "accelerator_reason", "isolation", "transport", "expires_at",
}  # fmt: skip


@pytest.fixture
def own(cli: Cli) -> Iterator[str]:
    """The id of a VM of the test's own."""
    vm_id = cli("create", DEFAULT_IMAGE, "-q", check=True).text.strip()
    yield vm_id
    if any(info["id"] == vm_id for info in cli("--json", "vm", "list").json):
        cli("vm", "delete", vm_id, check=True)


def test_stop_start_and_delete(cli: Cli, own: str) -> None:
    cli("exec", own, "touch", "/kept", check=True)
    assert cli("vm", "stop", own).text == f"{own}\n"
    assert cli("--json", "inspect", own).json["status"] == "stopped"
    assert cli("exec", own, "true").status == 1
    (info,) = cli("--json", "vm", "start", own).json
    assert (info["id"], info["status"]) == (own, "running")
    assert cli("exec", own[:6], "test", "-e", "/kept").status == 0
    assert cli("--json", "vm", "delete", own).json == [{"id": own, "name": info["name"], "deleted": True}]
    assert cli("vm", "delete", own).status == 1


def test_pause_and_resume(cli: Cli, machine: str) -> None:
    assert cli("--json", "vm", "pause", machine).json[0]["status"] == "paused"
    assert cli("--json", "vm", "resume", machine).json[0]["status"] == "running"


def test_inspect_and_list_have_the_interfaces_keys(cli: Cli, machine: str) -> None:
    info = cli("--json", "inspect", machine).json
    assert set(info) >= VM_KEYS
    assert info["env_vars"] == {"GREETING": "grüß dich"}
    assert info in cli("--json", "vm", "list").json
    assert f"name:               {machine}" in cli("inspect", machine).text


def test_list_for_people(cli: Cli, machine: str) -> None:
    lines = cli("vm", "list").text.splitlines()
    assert lines[0].split() == ["ID", "NAME", "STATUS", "IMAGE", "CPUS", "MEMORY", "VMM", "CREATED"]
    assert any(machine in line and " running " in line for line in lines)
    assert set(cli("vm", "ls", "-q").text.split()) == {info["id"] for info in cli("--json", "vm", "list").json}


def test_rename(cli: Cli, machine: str) -> None:
    other = f"renamed {secrets.token_hex(4)} 🦀"
    cli("vm", "rename", machine, other, check=True)
    assert cli("--json", "inspect", other).json["name"] == other
    cli("vm", "rename", other, machine, check=True)
    assert cli("vm", "rename", machine, "a\x1b[2Jb").status == 2


def test_metadata_and_filters(cli: Cli, machine: str) -> None:
    assert cli("--json", "vm", "metadata", machine, "team=web", '{"n": [1]}').json == {"team": "web", "n": [1]}
    assert cli("--json", "vm", "metadata", machine, "--unset", "n", "x=").json == {"team": "web", "x": ""}
    assert [info["name"] for info in cli("--json", "vm", "list", "--filter", "team=web").json] == [machine]
    assert cli("--json", "vm", "list", "--filter", "team=other").json == []
    assert cli("vm", "metadata", machine).text.splitlines() == ["team: web", "x:    -"]
    assert cli("vm", "metadata", machine, "--unset", "absent").status == 2
    assert cli("--json", "vm", "metadata", machine, "--replace").json == {}


def test_logs_show_no_control_characters(cli: Cli, machine: str) -> None:
    cli("exec", machine, "--", "sh", "-c", "printf 'a\\033[2Jb\\tc\\n' > /dev/console", check=True)
    assert b"a\\x1b[2Jb\tc\n" in cli("logs", machine).stdout
    assert b"a\x1b[2Jb\tc" in cli("logs", "--raw", machine).stdout
    assert len(cli("logs", "-n", "1", machine).text.splitlines()) == 1
    assert "bandsox-agent: stage: ready" in cli("--json", "logs", machine).json["console"]


def test_logs_are_followed_until_the_machine_stops(cli: Cli) -> None:
    vm_id = cli("create", DEFAULT_IMAGE, check=True).text.strip()
    try:
        with cli.start("logs", "--follow", "--tail", "1", vm_id) as follower, cli.start("--json", "logs", "-f", vm_id) as programs:
            assert follower.stdout is not None and programs.stdout is not None
            assert follower.stdout.readline() == b"bandsox-agent: stage: ready\n"
            cli("exec", vm_id, "--", "sh", "-c", "printf 'grown\\r\\n' > /dev/console", check=True)
            assert follower.stdout.readline() == b"grown\n"
            cli("vm", "stop", vm_id, check=True)
            assert follower.wait(60) == programs.wait(60) == 0
            assert b"grown" not in follower.stdout.read()
            assert {"line": "grown"} in [json.loads(line) for line in programs.stdout]
        assert cli("logs", "-f", vm_id).text == cli("logs", vm_id).text
    finally:
        cli("vm", "delete", vm_id, check=True)


def test_stats(cli: Cli, machine: str) -> None:
    (reading,) = cli("--json", "stats", machine).json
    info = cli("--json", "inspect", machine).json
    shown = ("vmm", "vmm_version", "accelerator", "isolation", "transport")
    assert {key: reading[key] for key in shown} == {key: info[key] for key in shown}
    assert reading["name"] == machine
    assert reading["memory_total"] > reading["memory_available"] > 0
    assert reading["host_rss"] > 0
    assert "processes" not in reading
    assert machine in cli("stats").text


_DATAGRAMS = "import socket; wire = socket.socket(type=socket.SOCK_DGRAM); [wire.sendto(bytes(1000), ('192.0.2.1', 9)) for _ in range(50)]"


def test_stats_count_what_disks_and_network_carry(cli: Cli, machine: str) -> None:
    (before,) = cli("--json", "stats", machine).json
    assert before["disk_read"] > 0, "it was started from one"
    cli("exec", machine, "--", "dd", "if=/dev/zero", "of=/srv/written", "bs=1M", "count=8", "conv=fsync", check=True)
    connected = cli("--json", "inspect", machine).json["network_config"] is not None
    if connected:
        cli("exec", machine, "--", "python3", "-c", _DATAGRAMS, check=True)
    (after,) = cli("--json", "stats", machine).json
    assert after["disk_written"] - before["disk_written"] >= 8 << 20
    assert after["network_sent"] - before["network_sent"] >= 50_000 * connected
    assert after["network_received"] >= before["network_received"]


def test_processes(cli: Cli, machine: str) -> None:
    found = cli("--json", "ps", machine).json
    assert any(process["pid"] == 1 for process in found)
    assert {"pid", "ppid", "uid", "name", "argv", "state", "rss", "cpu_ms"} == set(found[0])
    assert cli("ps", machine).text.splitlines()[0].split()[:2] == ["PID", "PARENT"]
    assert all(process["argv"] for process in found)
    assert any(process["name"] == "kthreadd" for process in cli("--json", "ps", "-a", machine).json)


def test_names_of_machines_are_completed(cli: Cli, own: str) -> None:
    name = f"complete-{secrets.token_hex(4)}"
    cli("vm", "rename", own, name, check=True)
    words: dict[str, Any] = {"_BANDSOX_COMPLETE": "bash_complete", "COMP_WORDS": "bandsox exec comp", "COMP_CWORD": "2"}
    assert cli(**words).text == f"plain,{name}\n"
    words = {"_BANDSOX_COMPLETE": "bash_complete", "COMP_WORDS": "bandsox cp comp", "COMP_CWORD": "2"}
    assert cli(**words).text == f"plain,{name}:/\n"


def _check_deadlines(cli: Cli, machine: str) -> None:
    assert "on_expiry:    delete" in cli("vm", "deadlines", machine).text
    changed = ("--ttl", "none", "--idle-timeout", "1h", "--on-expiry", "snapshot", "--auto-resume")
    kept = {"expires_at": None, "idle_timeout": 3600, "on_expiry": "snapshot", "auto_resume": True}
    assert cli("--json", "vm", "deadlines", machine, *changed, check=True).json == kept
    assert cli("--json", "vm", "deadlines", machine, "--no-auto-resume", check=True).json == {**kept, "auto_resume": False}
    assert cli("vm", "deadlines", machine, "--ttl", "soon").status == 2


def test_create_says_what_it_made(cli: Cli) -> None:
    info = cli("--json", "create", DEFAULT_IMAGE, "--metadata", "made=here", "--ttl", "1h", "--disk-size", "0", check=True).json
    try:
        assert set(info) >= VM_KEYS
        assert (info["status"], info["metadata"], info["disk_size_mib"]) == ("running", {"made": "here"}, 0)
        assert 3590 < info["expires_at"] - info["created_at"] < 3610
        _check_deadlines(cli, info["id"])
        taken = cli("--json", "create", DEFAULT_IMAGE, "--name", info["name"])
        assert (taken.status, taken.error["code"]) == (1, "conflict")
    finally:
        cli("vm", "delete", info["id"], check=True)
    assert info["id"] not in cli("vm", "list", "-q").text


def test_cleanup(cli: Cli, machine: str) -> None:
    assert set(cli("--json", "cleanup").json) == {"machines", "processes", "files"}
    assert cli("exec", machine, "true").status == 0
