"""CNI networks: root's machines on networks that the plugins of the host make, in a host and a world of the tests.

One of the machines is made, and asked, through a server.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from bandsox.errors import InvalidRequest
from bandsox.network.cni import network_of
from tests.network.attaching import FORBIDDEN4
from tests.network.conftest import runner
from tests.network.lab import HOST4, INTERNET4, Lab, lab
from tests.users import ordinary_user

PLUGINS = Path("/usr/lib/cni")

_HOST = """
    import json
    from tests.network.attaching import outcome
    print(json.dumps(outcome()))
"""


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of configurations: a chain of plugins, a pair of devices in the old form, and what does not work."""
    if not (PLUGINS / "bridge").exists():
        pytest.skip("the plugins of CNI are not installed (containernetworking-plugins)")
    directory = tmp_path_factory.mktemp("cni")

    def addresses(subnet: str) -> dict[str, Any]:
        routes = [{"dst": "0.0.0.0/0"}]
        return {"type": "host-local", "dataDir": str(directory / "leases"), "ranges": [[{"subnet": subnet}]], "routes": routes}

    bridge = {"type": "bridge", "bridge": "labbr0", "isGateway": True, "ipMasq": True, "mtu": 1400, "ipam": addresses("10.88.0.0/24")}
    bridge["dns"] = {"nameservers": ["10.88.0.53", "203.0.113.10"], "domain": "lab.test", "options": ["ndots:2"]}
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    missing = {"type": "no-such-plugin"}
    pair = {"type": "ptp", "ipMasq": True, "ipam": addresses("10.89.0.0/24")}
    only = {"subnet": "10.90.0.0/24", "rangeStart": "10.90.0.9", "rangeEnd": "10.90.0.9"}
    wordy = {**bridge, "bridge": "labbr2", "ipam": addresses("10.91.0.0/24"), "dns": {"search": ["lab.test\nnameserver 10.1.2.3"]}}
    full = {**bridge, "bridge": "labbr1", "ipam": {**addresses("10.90.0.0/24"), "ranges": [[only]]}}
    for name, version, plugins in (
        ("chain", "1.0.0", [bridge, portmap]),
        ("lacking", "1.0.0", [bridge, missing]),
        ("full", "1.0.0", [full]),
        ("wordy", "1.0.0", [wordy]),
    ):
        (directory / f"{name}.conflist").write_text(json.dumps({"cniVersion": version, "name": name, "plugins": plugins}))
    (directory / "pair.conf").write_text(json.dumps({"cniVersion": "0.4.0", "name": "pair", **pair}))
    return directory


@pytest.fixture(scope="module")
def seen(networks: Path, storage: Path) -> Any:
    if os.geteuid() != 0:
        pytest.skip("CNI networks need root")
    with lab() as world:
        done = runner(world, "root", storage)(_HOST, BANDSOX_CNI_CONFIG=str(networks), LEASES=str(networks / "leases"))
        assert done.returncode == 0, done.stderr
        left = world.on_host("ip", "-o", "link")
    return {**json.loads(done.stdout), "devices": left}


def test_a_machine_gets_its_address_from_the_network(seen: Any) -> None:
    assert seen["chain"]["ip"].startswith("10.88.0.")
    assert seen["chain"]["leases"] == {seen["chain"]["ip"]: seen["chain"]["id"]}
    assert seen["chain"]["mtu"] == 1400


@pytest.mark.parametrize("network", ["chain", "pair"])
def test_it_reaches_the_internet_and_what_is_on_its_host_reaches_it(seen: Any, network: str) -> None:
    assert seen[network]["reach"][INTERNET4] == "hello"
    assert seen[network]["from the host"] == "from the guest"


@pytest.mark.parametrize("address", [*FORBIDDEN4, HOST4, "GATEWAY", "NEIGHBOUR"])
def test_it_reaches_nobody_else(seen: Any, address: str) -> None:
    assert seen["chain"]["reach"][address] == "ECONNREFUSED"


def test_a_server_attaches_machines_as_the_library_does(seen: Any) -> None:
    assert seen["pair"]["ip"].startswith("10.89.0.")
    assert seen["pair"]["on"] in seen["pair"]["handle"], "the one with the pair of devices was made through a server"


def test_its_name_servers_are_those_of_the_network(seen: Any) -> None:
    expected = "nameserver 10.88.0.53\nnameserver 203.0.113.10\nsearch lab.test\noptions ndots:2\n"
    assert seen["chain"]["resolv.conf"] == expected
    assert seen["chain"]["dns"] == ["10.88.0.53", "203.0.113.10"]


def test_name_servers_of_a_network_that_says_none_are_the_hosts(seen: Any) -> None:
    assert seen["pair"]["dns"] == seen["pair"]["host's dns"]


def test_what_is_no_word_of_a_resolv_conf_is_refused_and_nothing_stays_attached(seen: Any) -> None:
    assert "is no word of a resolv.conf" in seen["wordy"]["cause"]
    assert seen["wordy"]["leases"] == {}


def test_a_policy_holds_on_it_too(seen: Any) -> None:
    assert seen["policy"] == {INTERNET4: "ECONNREFUSED", "NEIGHBOUR": "from "}


def test_clones_have_addresses_of_their_own_at_which_all_are_reached(seen: Any) -> None:
    assert len(set(seen["clones"])) == 3
    assert list(seen["clones"].values()) == ["from the guest"] * 3


def test_nothing_is_left_of_a_machine_that_has_ended(seen: Any) -> None:
    assert seen["left"] == {"stopped": {}, "deleted": {}, "attachments": []}
    assert "veth" not in seen["devices"]


def test_what_was_killed_is_given_back_by_the_next_start_and_by_cleanup(seen: Any) -> None:
    killed = seen["killed"]
    assert killed["leases before"] == 1
    assert killed["started again"] == "from the guest"
    assert killed["leases then"] == 1
    assert killed["after cleanup"] == {}
    assert killed["attachments"] == []


def test_a_plugin_that_is_missing_is_named_before_anything_is_done(seen: Any) -> None:
    assert 'failed to find plugin "no-such-plugin"' in seen["lacking"]["cause"]
    assert "containernetworking-plugins" in seen["lacking"]["remedy"]
    assert seen["lacking"]["leases"] == {}


def test_a_network_that_is_full_or_not_there_says_so(seen: Any) -> None:
    assert "no IP addresses available" in seen["full"]["cause"]
    assert 'no CNI network is called "nowhere"' in seen["nowhere"]["cause"]
    assert "BANDSOX_CNI_CONFIG" in seen["nowhere"]["remedy"]


def test_an_ordinary_user_is_told_that_it_needs_root(world: Lab, storage: Path) -> None:
    ordinary_user()
    done = runner(world, "user", storage)(
        """
        from bandsox import BandSox, BandSoxError
        with BandSox() as bandsox:
            bandsox.pull_image("debootstrap:bookworm?include=python3", "missing")
            try:
                bandsox.create_vm(network="cni:any").delete()
            except BandSoxError as error:
                print(error.message)
        """
    )
    assert done.stdout == "CNI networks need root\n", done.stderr


@pytest.mark.parametrize("name", ["", "../x", "a/b", "-x", "a b", "x" * 129])
def test_a_name_that_no_network_has_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest):
        network_of(name)
