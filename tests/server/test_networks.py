"""Where machines may go, over HTTP, through the remote client and from the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx
import pytest

from bandsox import BandSox, MicroVM, Policy, errors
from bandsox.network.plan import POOL4
from bandsox.network.policy import PRESETS, policy_of, private_rules
from bandsox.server.auth import keys
from bandsox.server.auth.file import AuthFile
from bandsox.settings import DEFAULT_IMAGE
from tests.cli.conftest import Cli
from tests.server.servers import Server, as_json, serving

_TRY = """
import socket
try:
    socket.create_connection(("192.0.2.77", 81), 60)
except OSError as error:
    print(type(error).__name__)
"""


@pytest.fixture(scope="module")
def there(server: Server) -> Iterator[MicroVM]:
    """A machine that was made by the remote client, with a policy."""
    with BandSox(server.url).create_vm(mem_mib=256, network=Policy(allow=("api.example.com",), connections=9)) as vm:
        if vm.info()["network_config"] is None:
            pytest.skip("this host gives no network")
        yield vm


@pytest.fixture(scope="module")
def vm(there: MicroVM, bandsox: BandSox) -> MicroVM:
    """The same machine, as the library has it."""
    found = bandsox.get_vm(there.vm_id)
    assert found is not None
    return found


def test_a_policy_is_shown_and_changed(http: httpx.Client, path: str, vm: MicroVM) -> None:
    facts: dict[str, object] = {"deny": [], "learn": False, "upload_mbit": None, "download_mbit": None, "connections": None}
    assert http.get(f"{path}/network/policy").json() == {"policy": {**facts, "allow": ["api.example.com"], "connections": 9}}
    for preset, known in {"none": Policy(allow=()), "learn": Policy(learn=True)}.items():
        assert http.put(f"{path}/network/policy", json={"policy": preset}).json()["policy"] == as_json(as_facts(known))
        assert vm.network_policy() == known
    wanted = {"allow": ["*.example.org:443", "203.0.113.0/24"], "deny": ["203.0.113.7"], "upload_mbit": 8.5}
    assert http.put(f"{path}/network/policy", json={"policy": wanted}).json()["policy"] == {**facts, **wanted}
    assert http.get(path).json()["network_policy"] == {**facts, **wanted}
    assert http.get(path).json() == as_json(vm.info())


def as_facts(policy: Policy) -> dict[str, Any]:
    return {name: getattr(policy, name) for name in policy.__slots__}


def test_presets_are_those_of_the_library(http: httpx.Client) -> None:
    found = http.get("/api/network/presets").json()["presets"]
    assert found == {name: as_json(as_facts(policy)) for name, policy in PRESETS.items()}


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        "nowhere",
        {"allow": "internet"},
        {"allow": ["http://example.com/"]},
        {"allow": ["198.19.0.0/16"]},
        {"allow": ["x" * 513]},
        {"allow": ["internet"] * 513},
        {"upload_mbit": 0},
        {"connections": 0},
        {"colour": "red"},
    ],
)
def test_a_policy_that_cannot_be_changes_nothing(http: httpx.Client, path: str, vm: MicroVM, wrong: object) -> None:
    before = vm.network_policy()
    answer = http.put(f"{path}/network/policy", json={"policy": wrong})
    assert answer.status_code in {400, 422}
    assert answer.json()["code"] == "invalid_request"
    assert vm.network_policy() == before


def test_what_was_refused_is_written_down_and_told(http: httpx.Client, path: str, there: MicroVM, vm: MicroVM) -> None:
    there.set_network_policy("none")
    assert there.network_policy() == vm.network_policy() == Policy(allow=())
    assert there.run(["python3", "-c", _TRY]).text.strip() in {"ConnectionRefusedError", "PermissionError", "OSError"}
    trying, _ = vm.start_session(["sh", "-c", 'while :; do python3 -c "$0"; done', _TRY])
    events = there.follow_network_log()
    event = next(event for event in events if event.port == 81)
    assert (event.event, event.protocol, event.address) == ("refused", "tcp", "192.0.2.77")
    vm.kill_session(trying)
    assert vm.run(["python3", "-c", _TRY.replace("81", "82")]).exit_code == 0
    assert next(event for event in events if event.port == 82).event == "refused", "what came before is written down as well"
    events.close()  # type: ignore[attr-defined]
    assert there.network_log() == vm.network_log()
    found = http.get(f"{path}/network/log").json()
    assert found == as_json([as_facts_of(entry) for entry in vm.network_log()])
    refused = [entry for entry in found if entry["verdict"] == "refused"]
    assert http.get(f"{path}/network/log", params={"limit": 1, "verdict": "refused"}).json() == refused[-1:]
    assert http.get(f"{path}/network/log", params={"limit": 0}).json() == []
    assert there.network_stats().refused >= len([entry for entry in refused if entry["port"] == 81]) > 0
    assert set(http.get(f"{path}/network/stats").json()) == {"sent", "received", "open", "opened", "refused"}
    assert there.learned_policy() == vm.learned_policy()


def as_facts_of(entry: Any) -> dict[str, Any]:
    return {name: getattr(entry, name) for name in entry.__slots__}


def test_the_command_line_has_the_network_of_a_servers_machine(server: Server, vm: MicroVM, tmp_path: Path) -> None:
    cli = Cli(tmp_path / "unused")
    cli.environment = {**cli.environment, "BANDSOX_URL": server.url, "HOME": str(tmp_path)}
    del cli.environment["BANDSOX_STORAGE"]
    set_ = cli("--json", "network", "policy", vm.vm_id, "--policy", "registry-only", "--deny", "evil.test", check=True).json
    assert (set_["deny"], vm.network_policy().deny) == (["evil.test"], ("evil.test",))  # type: ignore[union-attr]
    assert cli("--json", "network", "log", vm.vm_id, check=True).json == as_json([as_facts_of(entry) for entry in vm.network_log()])
    assert cli("--json", "network", "stats", vm.vm_id, check=True).json["opened"] == vm.network_stats().opened
    assert cli("--json", "network", "learned", vm.vm_id, check=True).json == as_json(as_facts(vm.learned_policy()))


def test_a_mistake_in_a_policy_is_named_before_anything_is_sent(there: MicroVM) -> None:
    for wrong in ("nowhere", {"allow": ["http://example.com/"]}, {"colour": "red"}):
        with pytest.raises(errors.InvalidRequest):
            there.set_network_policy(wrong)


@pytest.mark.parametrize(
    ("rule", "private"),
    {
        "internet": False,
        "0.0.0.0/0": False,
        "*:22": False,
        "8.0.0.0/5": False,  # the filter takes it for the Internet's part of it
        "203.0.113.9": False,
        "api.example.com": False,
        "10.0.0.0/8": True,
        "10.1.2.3:80/tcp": True,
        "127.0.0.1": True,
        "169.254.169.254:80": True,
        "[fd00::/8]:80": True,
        "::ffff:10.0.0.1": True,
    }.items(),
)
def test_which_rules_open_a_way_to_what_is_not_the_internets(rule: str, private: bool) -> None:
    policy = policy_of({"allow": ["internet", rule]})
    assert policy is not None
    assert private_rules(policy) == ([rule] if private else [])


def test_only_administrators_open_a_way_to_the_servers_own_network(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "bandsox", "--storage", str(tmp_path), "auth", "init", "--password-stdin"]
    subprocess.run(words, input=b"long enough", check=True)
    ours = json.loads(subprocess.run(["ip", "-j", "-4", "address"], capture_output=True, check=True).stdout)
    local = (ip_address(each["local"]) for device in ours for each in device["addr_info"])
    own = [str(address) for address in local if address not in POOL4]
    with serving(tmp_path) as server, server.client(keys.create(AuthFile(tmp_path), "ci", ["exec"]).key) as client:
        for rule in ("10.0.0.0/8", "169.254.169.254", "[fd00::1]:80", *own):
            policy = {"allow": ["internet", rule]}
            form: Any = {"dockerfile": (None, "FROM x"), "network": (None, json.dumps(policy))}
            for answer in (
                client.post("/api/vms", json={"image": DEFAULT_IMAGE, "network": policy}),
                client.put("/api/vms/any/network/policy", json={"policy": policy}),
                client.post("/api/vms/from-dockerfile", files=form),
            ):
                assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), answer.text
        assert client.put("/api/vms/any/network/policy", json={"policy": "none"}).status_code == 404
        assert client.get("/api/vms").json() == []
