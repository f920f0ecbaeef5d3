"""Where a guest may go: one machine of root's and one of an ordinary user's, in an Internet of the tests, under one policy after the other.

Each scenario is a policy and what the guest tries under it; the policy is changed while the machine runs. All are played twice: as they are
written, mostly over IPv4, and with the names, addresses and networks of the other version of IP in their places.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.network.conftest import runner
from tests.network.internet import (
    ADDRESSES,
    API4,
    API6,
    DIRECT,
    DIRECT6,
    METADATA,
    METADATA6,
    PRIVATE,
    PRIVATE6,
    RESOLVER,
    SHARED,
    SHARED6,
)
from tests.network.lab import HOST4, HOST6, lab

GATEWAY, NEIGHBOUR = "GATEWAY", "NEIGHBOUR"
"""Stand for addresses that are known when the machine is there; so do they with a 6."""

NAMES = {"allow": ["api.example.com", "*.example.org", "other.example.com:2222", "time.example.net:123/udp", "many.example.com"]}
SCENARIOS: dict[str, tuple[Any, list[list[Any]]]] = {
    "names": (
        {"allow": [*NAMES["allow"], "rebind.example.com", "rebind6.example.com", "metadata.example.com", "mixed.example.com"]},
        [
            ["resolve", "api.example.com"],
            ["resolve", "www.example.org"],
            ["resolve", "evil.test"],
            ["resolve", "example.org"],
            ["dns", "8.8.8.8", "evil.test"],
            ["dns", DIRECT, "evil.test", 1, "tcp"],
            ["dns", DIRECT, "api.example.com", 1, "tcp"],
            ["dns", API6, "evil.test"],
            ["dns", RESOLVER, "api.example.com", 65],
            ["dns", RESOLVER, "many.example.com", 1, "tcp"],
            ["resolve", "rebind.example.com"],
            ["resolve", "rebind6.example.com"],
            ["resolve", "metadata.example.com"],
            ["resolve", "mixed.example.com"],
            ["web", "api.example.com", 80, "api.example.com"],
            ["web", API6, 80, "api.example.com"],
            ["web", API4, 80, "api.example.com", "evil.test"],
            ["web", SHARED, 80, "www.example.org"],
            ["web", SHARED, 80, "evil.test"],
            ["web", "api.example.com", 80, "api.example.com"],
            ["tls", "api.example.com", 443, "api.example.com"],
            ["tls", API6, 443, "api.example.com"],
            ["tls", SHARED, 443, "www.example.org"],
            ["tls", SHARED, 443, "evil.test"],
            ["tls", SHARED, 443, ""],
            ["resolve", "other.example.com"],
            ["greeting", SHARED, 2222],
            ["greeting", API4, 2222],
            ["resolve", "time.example.net"],
            ["udp", DIRECT, 123],
            ["udp", API4, 123],
            ["udp", API4, 443],
            ["tcp", DIRECT, 80],
            ["tcp", PRIVATE, 80],
            ["tcp", METADATA, 80],
            ["tcp", PRIVATE6, 80],
            ["tcp", HOST4, 80],
            ["tcp", GATEWAY, 80],
            ["tcp", NEIGHBOUR, 80],
            ["scan", ["192.0.2.0/28", "10.1.2.0/27", "198.19.0.0/26", "169.254.169.240/28", "2001:db8:1::/124"], [22, 80, 443]],
            ["parallel", 100, "api.example.com", "api.example.com"],
        ],
    ),
    "none": (
        "none",
        [["resolve", "api.example.com"], ["tcp", API4, 80], ["tcp", API6, 443], ["udp", API4, 123], ["web", SHARED, 80, "www.example.org"]],
    ),
    "internet": (
        "internet",
        [
            ["resolve", "evil.test"],
            ["resolve", "rebind.example.com"],
            ["web", API4, 80, "whoever"],
            ["greeting", API6, 2222],
            ["udp", API4, 443],
            ["tcp", PRIVATE, 80],
            ["tcp", METADATA, 80],
            ["tcp", PRIVATE6, 80],
            ["tcp", HOST4, 80],
            ["tcp", NEIGHBOUR, 80],
        ],
    ),
    "denied": (
        {"allow": ["internet", f"{PRIVATE}:80"], "deny": ["evil.test", f"{DIRECT}:80"]},
        [
            ["resolve", "evil.test"],
            ["resolve", "api.example.com"],
            ["web", SHARED, 80, "evil.test"],
            ["web", SHARED, 80, "www.example.org"],
            ["tls", SHARED, 443, "evil.test"],
            ["tls", SHARED, 443, "www.example.org"],
            ["tls", SHARED, 443, ""],
            ["udp", SHARED, 443],
            ["tcp", DIRECT, 80],
            ["greeting", DIRECT, 2222],
            ["web", PRIVATE, 80, "anybody"],
            ["tcp", PRIVATE, 2222],
            ["resolve", "rebind.example.com"],
        ],
    ),
    "addresses": (
        {"allow": ["203.0.113.0/28:2222/tcp", "0.0.0.0/0:123/udp", "[2001:db8:80::/64]:80", "169.254.169.254/32:80"]},
        [
            ["greeting", API4, 2222],
            ["tcp", API4, 80],
            ["udp", API4, 123],
            ["udp", PRIVATE, 123],
            ["web", API6, 80, "whoever"],
            ["tcp", API6, 443],
            ["web", METADATA, 80, "metadata"],
            ["tcp", METADATA, 443],
        ],
    ),
}

SIX = {
    **{API4: API6, API6: API4, SHARED: SHARED6, DIRECT: DIRECT6, PRIVATE: PRIVATE6, METADATA: METADATA6, HOST4: HOST6},
    **{GATEWAY: f"{GATEWAY}6", NEIGHBOUR: f"{NEIGHBOUR}6", "8.8.8.8": "2001:4860:4860::8888"},
    **{"www.example.org": "www6.example.org", "other.example.com": "other6.example.com", "evil.test": "evil6.test"},
    **{"rebind.example.com": "rebind6.example.com", "metadata.example.com": "metadata6.example.com"},
    **{"mixed.example.com": "mixed6.example.com", "time.example.net": "time6.example.net"},
}
"""What takes whose place in the other version of IP. `api.example.com` has addresses of both."""

POLICIES6: dict[str, Any] = {
    "names": {
        "allow": ["api.example.com", "*.example.org", *(f"{name}.example.com" for name in ("rebind6", "metadata6", "mixed6", "many"))]
    },
    "none": "none",
    "internet": "internet",
    "denied": {"allow": ["internet", f"[{PRIVATE6}]:80"], "deny": ["evil6.test", f"[{DIRECT6}]:80"]},
    "addresses": {"allow": ["[2001:db8:80::/120]:2222/tcp", "[::/0]:123/udp", "203.0.113.0/24:80", f"[{METADATA6}/128]:80"]},
}
POLICIES6["names"]["allow"] += ["other6.example.com:2222", "time6.example.net:123/udp"]
ONCE = {"scan", "parallel"}
"""What is tried of both versions, or of either, at once."""


def six(value: Any) -> Any:
    """Steps, their texts and what is expected of them in the other version of IP."""
    if isinstance(value, list):
        return [six(item) for item in value]
    return " ".join(SIX.get(word, word) for word in value.split(" ")) if isinstance(value, str) else value


PLAYED = {
    **SCENARIOS,
    **{f"{name} 6": (POLICIES6[name], [six(step) for step in steps if step[0] not in ONCE]) for name, (_, steps) in SCENARIOS.items()},
}
VERSIONS = pytest.mark.parametrize("version", [4, 6])

_HOST = r"""
    import json, os, threading
    from bandsox import BandSox, BandSoxError
    from bandsox.process import ProcessId
    from tests.network.watching import outcome
    scenarios = json.loads(os.environ["SCENARIOS"])
    with BandSox() as bandsox:
        bandsox.pull_image("debootstrap:bookworm?include=python3", "missing")
        common = {"mem_mib": 256, "enable_networking": True, "dns": ["198.51.100.53"]}
        with bandsox.create_vm(**common, network="none") as vm, bandsox.create_vm(**common) as other:
            for machine in (vm, other):
                machine.write_bytes("/root/probe.py", os.environ["PROBE"].encode())
            here, there = vm.info()["network_config"], other.info()["network_config"]
            names = {"GATEWAY": here["host_ip"], "GATEWAY6": here["host_ipv6"]}
            names |= {"NEIGHBOUR": other.get_guest_ip(), "NEIGHBOUR6": there["guest_ipv6"]}
            print(json.dumps(outcome(vm, other, scenarios, names)))
"""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("internet") / "certificate.pem"
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=internet")
    subprocess.run(["openssl", "req", "-x509", *key, "-keyout", path, "-out", f"{path}.crt"], check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + Path(f"{path}.crt").read_bytes())
    return path


@pytest.fixture(scope="module", params=["root", "user"])
def seen(request: pytest.FixtureRequest, certificate: Path, storage: Path) -> Iterator[Any]:
    program = [sys.executable, str(Path(__file__).with_name("internet.py")), str(certificate)]
    with lab(ADDRESSES, program) as world:
        environment = {"SCENARIOS": json.dumps(PLAYED), "PROBE": Path(__file__).with_name("probe.py").read_text()}
        done = runner(world, request.param, storage)(_HOST, **environment)
    assert done.returncode == 0, done.stderr
    yield json.loads(done.stdout)


def results(seen: Any, scenario: str) -> dict[str, Any]:
    """What came of each step of a scenario, by the step's text."""
    return {" ".join(map(str, step)): result for step, result in zip(PLAYED[scenario][1], seen[scenario], strict=True)}


def check(seen: Any, scenario: str, version: int, step: str, expected: Any) -> None:
    """See to it that what is expected of a step came of it, or is one of the results in a set."""
    if version == 6:
        scenario, step = f"{scenario} 6", six(step)
        expected = expected if isinstance(expected, set) else six(expected)
    found = results(seen, scenario)[step]
    wanted = sorted(expected) if step.startswith("resolve ") and isinstance(expected, list) else expected
    assert found in wanted if isinstance(wanted, set) else found == wanted


@VERSIONS
@pytest.mark.parametrize(
    ("step", "expected"),
    {
        "resolve api.example.com": sorted([API4, API6]),
        "resolve www.example.org": [SHARED],
        "resolve evil.test": "EAI_NONAME",
        "resolve example.org": "EAI_NONAME",
        "dns 8.8.8.8 evil.test": [3, 0],
        f"dns {DIRECT} evil.test 1 tcp": [3, 0],
        f"dns {DIRECT} api.example.com 1 tcp": [0, 1],
        f"dns {API6} evil.test": [3, 0],
        f"dns {RESOLVER} api.example.com 65": [0, 0],
        f"dns {RESOLVER} many.example.com 1 tcp": [0, 60],
        "resolve rebind.example.com": "EAI_NONAME",
        "resolve rebind6.example.com": "EAI_NONAME",
        "resolve metadata.example.com": "EAI_NONAME",
        "resolve mixed.example.com": [API4],
    }.items(),
)
def test_a_guest_learns_the_addresses_of_allowed_names_only(seen: Any, version: int, step: str, expected: Any) -> None:
    check(seen, "names", version, step, expected)


@VERSIONS
@pytest.mark.parametrize(
    ("step", "expected"),
    {
        "web api.example.com 80 api.example.com": [[200, "api.example.com"]],
        f"web {API6} 80 api.example.com": [[200, "api.example.com"]],
        f"web {API4} 80 api.example.com evil.test": [[200, "api.example.com"], [403, ""]],
        f"web {SHARED} 80 www.example.org": [[200, "www.example.org"]],
        f"web {SHARED} 80 evil.test": [[403, ""]],
        "tls api.example.com 443 api.example.com": "api.example.com",
        f"tls {API6} 443 api.example.com": "api.example.com",
        f"tls {SHARED} 443 www.example.org": "www.example.org",
        f"tls {SHARED} 443 evil.test": "ECONNRESET",
        f"tls {SHARED} 443 ": "ECONNRESET",
        f"greeting {SHARED} 2222": "hello\nping",
        f"udp {DIRECT} 123": "ping",
    }.items(),
)
def test_a_connection_to_a_name_is_for_that_name(seen: Any, version: int, step: str, expected: Any) -> None:
    check(seen, "names", version, step, expected)


def test_a_hundred_connections_at_once_are_carried(seen: Any) -> None:
    assert results(seen, "names")["parallel 100 api.example.com api.example.com"] == 100


_REFUSED = {"ECONNREFUSED", "EACCES", "EHOSTUNREACH"}


@VERSIONS
@pytest.mark.parametrize(
    ("scenario", "step"),
    [
        *[("names", step) for step in (f"greeting {API4} 2222", f"udp {API4} 123", f"udp {API4} 443", f"tcp {DIRECT} 80")],
        *[("names", f"tcp {address} 80") for address in (PRIVATE, METADATA, PRIVATE6, HOST4, GATEWAY, NEIGHBOUR)],
        *[("none", step) for step in (f"tcp {API4} 80", f"tcp {API6} 443", f"udp {API4} 123", f"web {SHARED} 80 www.example.org")],
        *[("internet", f"tcp {address} 80") for address in (PRIVATE, METADATA, PRIVATE6, HOST4, NEIGHBOUR)],
        *[("denied", step) for step in (f"tcp {DIRECT} 80", f"tcp {PRIVATE} 2222", f"udp {SHARED} 443")],
        *[("addresses", step) for step in (f"tcp {API4} 80", f"udp {PRIVATE} 123", f"tcp {API6} 443", f"tcp {METADATA} 443")],
    ],
)
def test_what_is_not_allowed_is_refused_at_once(seen: Any, version: int, scenario: str, step: str) -> None:
    check(seen, scenario, version, step, _REFUSED)


@VERSIONS
@pytest.mark.parametrize(
    ("scenario", "step", "expected"),
    [
        ("none", "resolve api.example.com", "EAI_NONAME"),
        ("internet", "resolve evil.test", [SHARED]),
        ("internet", "resolve rebind.example.com", "EAI_NONAME"),
        ("internet", f"web {API4} 80 whoever", [[200, "whoever"]]),
        ("internet", f"greeting {API6} 2222", "hello\nping"),
        ("internet", f"udp {API4} 443", "ping"),
        ("denied", "resolve evil.test", "EAI_NONAME"),
        ("denied", "resolve api.example.com", sorted([API4, API6])),
        ("denied", f"web {SHARED} 80 evil.test", [[403, ""]]),
        ("denied", f"web {SHARED} 80 www.example.org", [[200, "www.example.org"]]),
        ("denied", f"tls {SHARED} 443 evil.test", "ECONNRESET"),
        ("denied", f"tls {SHARED} 443 www.example.org", "www.example.org"),
        ("denied", f"tls {SHARED} 443 ", None),
        ("denied", f"greeting {DIRECT} 2222", "hello\nping"),
        ("denied", f"web {PRIVATE} 80 anybody", [[200, "anybody"]]),
        ("denied", "resolve rebind.example.com", [PRIVATE]),
        ("addresses", f"greeting {API4} 2222", "hello\nping"),
        ("addresses", f"udp {API4} 123", "ping"),
        ("addresses", f"web {API6} 80 whoever", [[200, "whoever"]]),
        ("addresses", f"web {METADATA} 80 metadata", [[200, "metadata"]]),
    ],
)
def test_what_is_allowed_gets_through(seen: Any, version: int, scenario: str, step: str, expected: Any) -> None:
    check(seen, scenario, version, step, expected)


def test_a_policy_ends_the_connections_that_it_does_not_allow(seen: Any) -> None:
    assert seen["held"] == {"before": ["http", "greeting"], "after": ["http reset", "greeting reset"]}


def test_a_guest_that_scans_finds_nobody(seen: Any) -> None:
    [found] = [result for step, result in results(seen, "names").items() if step.startswith("scan")]
    assert found == []


def test_bandwidth_and_connections_are_limited(seen: Any) -> None:
    limits = seen["limits"]
    held, carried, passed_by = limits["slow"]
    assert held == 3
    assert carried < 1.3e6
    assert passed_by < 1.3e6
    assert limits["fast"][0] == 6
    assert limits["fast"][1] > max(carried, passed_by)


def test_clones_keep_the_policy_and_reach_what_it_allows_at_once(seen: Any) -> None:
    assert seen["clones"]["clones"] == [[[[200, "api.example.com"]], "ECONNREFUSED"]] * 2


def test_connections_are_dead_in_clones_whose_programs_are_told_and_go_on_in_the_source(seen: Any) -> None:
    assert seen["clones"]["ends"] == [{"carried": "ECONNRESET", "over4": "ECONNRESET", "over6": "ECONNRESET"}] * 2


def test_the_log_tells_what_was_allowed_and_what_refused(seen: Any) -> None:
    log = seen["log"]
    assert {"name": "api.example.com", "port": 443, "verdict": "allowed"}.items() <= log["tls"].items()
    assert log["tls"]["received"] > log["tls"]["sent"] > 100
    assert log["tls"]["ended"] >= log["tls"]["time"]
    assert {"name": "evil.test", "address": SHARED, "verdict": "refused"}.items() <= log["lie"].items()
    assert log["lie"]["reason"] == "no rule allows this name"
    assert {"name": "evil.test", "protocol": "dns", "verdict": "refused"}.items() <= log["question"].items()
    assert log["rebinding"]["address"] == PRIVATE
    assert log["no policy"] == "conflict"
    assert seen["stats"]["sent"] > 0 and seen["stats"]["received"] > 0 and seen["stats"]["refused"] > 0


def test_the_log_tells_what_the_kernel_decides(seen: Any) -> None:
    assert seen["by the kernel"] == [f"opened tcp {API4} 2222", f"refused tcp {API4} 80"]


def test_a_machine_that_keeps_to_what_it_has_learned_does_the_same_again(seen: Any) -> None:
    learned = seen["learned"]
    assert learned["policy"] == [f"{DIRECT}:123/udp", "api.example.com:443,2222/tcp", "www.example.org:80/tcp"]
    assert learned["before"] == ["api.example.com", [[200, "www.example.org"]], "hello\nping", "ping"]
    assert learned["after"][:4] == learned["before"]
    assert learned["after"][4] in _REFUSED
    assert learned["after"][5] == "EAI_NONAME"


def test_a_machine_without_a_policy_gets_one_while_it_runs(seen: Any) -> None:
    assert seen["later"] == [[[200, "anybody"]], "ECONNREFUSED"]


def test_the_network_fails_closed_and_says_so(seen: Any) -> None:
    assert seen["killed filter"] == {"reach": "unreachable", "error": "host_error", "restarted": [[[200, "api.example.com"]]]}
    assert seen["killed keeper"] == "unreachable"
