"""``mcp=``: servers for an agent in the machine, and what is shown of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bandsox import BandSox, MicroVM
from bandsox.core.mcpservers import HIDDEN, PLACE, servers
from bandsox.errors import InvalidRequest
from tests.server.servers import Server, serving

ASKED = {
    "github": {"token": "ghp_hush"},
    "own": {"spec": {"command": "serve", "args": ["-v"], "env": {"KEY": "own_hush"}}},
    "fetch": None,
}


def test_known_servers_and_others() -> None:
    found = servers(ASKED)
    file = json.loads(found.file)["mcpServers"]
    assert file["github"]["env"] == {"GITHUB_PERSONAL_ACCESS_TOKEN": "ghp_hush"}
    assert file["own"] == {"command": "serve", "args": ["-v"], "env": {"KEY": "own_hush"}}
    assert file["fetch"]["command"] == "uvx"
    assert found.env == {"GITHUB_PERSONAL_ACCESS_TOKEN": "ghp_hush", "KEY": "own_hush"}
    assert "hush" not in str(found.shown)


@pytest.mark.parametrize(
    "wrong",
    [
        {"nobody": {}},
        {"": {}},
        {"github": {"password": "x"}},
        {"github": {"token": 1}},
        {"github": "token"},
        {"x": {"spec": {}}},
        {"x": {"spec": {"command": "a", "colour": 1}}},
        {"x": {"spec": {"command": "a"}, "more": 1}},
        {"x": {"spec": {"command": "a" * 100_000}}},
    ],
)
def test_what_is_no_server_is_a_value_error(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".") as error:
        servers(wrong)
    assert isinstance(error.value, InvalidRequest)


@pytest.fixture(params=["library", "server"])
def face(request: pytest.FixtureRequest, bandsox: BandSox) -> Any:
    if request.param == "library":
        yield bandsox
        return
    server: Server
    with serving(bandsox.storage_dir) as server:
        yield BandSox(server.url)


def test_a_machine_has_its_servers_and_tells_no_secret(face: BandSox) -> None:
    vm: MicroVM
    with face.create_vm(mem_mib=256, mcp=ASKED, env_vars={"KEY": "given"}) as vm:
        assert json.loads(vm.read_bytes(PLACE)) == json.loads(servers(ASKED).file)
        assert vm.run("stat -c %a " + PLACE).text == "600\n"
        assert vm.run("echo $GITHUB_PERSONAL_ACCESS_TOKEN $KEY").text == "ghp_hush given\n"
        info = vm.info()
        assert "hush" not in json.dumps(info)
        assert info["mcp"]["github"]["env"] == {"GITHUB_PERSONAL_ACCESS_TOKEN": HIDDEN}
    before = len(face.list_vms())
    with pytest.raises(InvalidRequest):
        face.create_vm(mcp={"nobody": {}})
    assert len(face.list_vms()) == before
