"""What a guest reaches, and what it does not: from one machine of root's and one of an ordinary user's, in a world made for the purpose."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.network.conftest import Runner
from tests.network.lab import FORBIDDEN, HOST4, HOST6, INTERNET4, INTERNET6

_GUEST = """
import errno, json, socket, sys
from pathlib import Path

def tcp(address, port=80):
    try:
        with socket.create_connection((address, port), 60) as connection:
            connection.sendall(b"x" * 100_000)
            return connection.recv(5).decode()
    except OSError as error:
        return errno.errorcode.get(error.errno, repr(error))

def udp(address):
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(60)
        try:
            sock.connect((address, 7))
            sock.send(b"ping")
            return sock.recv(4).decode()
        except OSError as error:
            return errno.errorcode.get(error.errno, repr(error))

def text(path):
    return Path(path).read_text()

targets = json.loads(sys.argv[1])
print(json.dumps({
    "tcp": {address: tcp(address) for address in targets},
    "udp": {address: udp(address) for address in targets},
    "files": {path: text(path) for path in ("/etc/resolv.conf", "/etc/hosts")},
    "devices": sorted(path.name for path in Path("/sys/class/net").iterdir()),
    "mac": text("/sys/class/net/eth0/address").strip(),
    "mtu": int(text("/sys/class/net/eth0/mtu")),
    "tentative": [line for line in text("/proc/net/if_inet6").splitlines() if int(line.split()[4], 16) & 0x40],
}))
"""

_HOST = r"""
    import asyncio, json, os
    from bandsox import BandSox
    from bandsox.engine.networking import guest_side
    with BandSox() as bandsox:
        bandsox.pull_image("debootstrap:bookworm?include=python3", "missing")
        options = {"enable_networking": True, "dns": ["203.0.113.10"], "name": "reacher"}
        with bandsox.create_vm(mem_mib=256, **options) as vm, bandsox.create_vm(mem_mib=256, enable_networking=True) as other:
            vm.write_bytes("/root/probe.py", os.environ["PROBE"].encode())
            config = vm.info()["network_config"]
            targets = [*json.loads(os.environ["TARGETS"]), config["host_ip"], config["host_ipv6"], other.get_guest_ip()]
            found = json.loads(vm.run(["python3", "/root/probe.py", json.dumps(targets)], timeout=250).text)
            before = vm.get_guest_ip()
            place = guest_side(vm._async._record.network)
            asyncio.run(vm._async.guest.setup(network={**place, "mac": b"\2\0\0\0\0\7", "addresses": [], "gateways": []}))
            bare = [vm.run("cat /sys/class/net/eth0/address").text.strip(), vm.run("grep -c eth0 /proc/net/route").text.strip()]
            asyncio.run(vm._async.guest.setup(network=place))
            renewed = json.loads(vm.run(["python3", "/root/probe.py", '["203.0.113.10", "2001:db8:80::10"]'], timeout=250).text)
            vm.stop()
            vm.start()
            again = json.loads(vm.run(["python3", "/root/probe.py", '["203.0.113.10"]'], timeout=250).text)
            print(json.dumps({
                "found": found, "again": again, "bare": bare, "renewed": renewed, "config": config, "reason": vm.info()["network_reason"],
                "ips": [before, vm.get_guest_ip(), other.get_guest_ip()], "root": os.geteuid() == 0,
            }))
"""


@pytest.fixture(scope="module")
def seen(on_host: Runner) -> Any:
    targets = [INTERNET4, INTERNET6, *FORBIDDEN, HOST4, HOST6, "127.0.0.2"]
    done = on_host(_HOST, PROBE=_GUEST, TARGETS=json.dumps(targets))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("address", [INTERNET4, INTERNET6])
def test_the_internet_is_reached(seen: Any, address: str) -> None:
    assert seen["found"]["tcp"][address] == "hello"
    assert seen["found"]["udp"][address] == "ping"


@pytest.mark.parametrize("address", [*FORBIDDEN, HOST4, HOST6])
def test_what_is_not_the_internet_is_refused_at_once(seen: Any, address: str) -> None:
    assert seen["found"]["tcp"][address] == "ECONNREFUSED"
    assert seen["found"]["udp"][address] in {"EACCES", "ECONNREFUSED", "EHOSTUNREACH"}


def test_neither_the_gateway_nor_another_machine_answers(seen: Any) -> None:
    for address in (seen["config"]["host_ip"], seen["config"]["host_ipv6"], seen["ips"][2]):
        assert seen["found"]["tcp"][address] == "ECONNREFUSED"


def test_the_guest_is_what_the_host_says(seen: Any) -> None:
    found, config = seen["found"], seen["config"]
    assert found["devices"] == ["eth0", "lo"]
    assert found["mac"] == config["guest_mac"]
    assert found["mtu"] == config["mtu"]
    assert found["files"]["/etc/resolv.conf"] == "nameserver 203.0.113.10\n"
    assert f"{config['guest_ip']}\treacher\n" in found["files"]["/etc/hosts"]
    assert found["tentative"] == []
    assert config["uplink"] == ("veth" if seen["root"] else "pasta")
    assert seen["reason"]


def test_machines_have_different_addresses_and_keep_them(seen: Any) -> None:
    first, restarted, other = seen["ips"]
    assert first == restarted != other
    assert seen["again"]["tcp"] == {INTERNET4: "hello"}


def test_a_running_guest_takes_another_place(seen: Any) -> None:
    assert seen["bare"] == ["02:00:00:00:00:07", "0"]
    assert seen["renewed"]["mac"] == seen["config"]["guest_mac"]
    assert seen["renewed"]["tcp"] == {INTERNET4: "hello", INTERNET6: "hello"}
    assert seen["renewed"]["tentative"] == []
