"""Rules of policies as people write them, and as the filter reads them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandsox import BandSoxError, Policy
from bandsox.cli.parameters import wanted_policy
from bandsox.engine.policing import connections, learned_from
from bandsox.errors import InvalidRequest
from bandsox.models import Connection, NetworkEvent
from bandsox.network.policy import MAX_RULES, PRESETS, compiled, from_elsewhere, parse, policy_of


def rule(net: str = "", name: str = "", protocol: str = "", *ports: tuple[int, int]) -> dict[str, Any]:
    return {"net": net, "name": name, "protocol": protocol, "ports": [{"first": first, "last": last} for first, last in ports]}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("internet", [rule("0.0.0.0/0"), rule("::/0")]),
        ("*:22", [rule("0.0.0.0/0", "", "", (22, 22)), rule("::/0", "", "", (22, 22))]),
        ("203.0.113.7", [rule("203.0.113.7/32")]),
        ("203.0.113.7/24:80,8000-8010/tcp", [rule("203.0.113.0/24", "", "tcp", (80, 80), (8000, 8010))]),
        ("10.0.0.0/8/icmp", [rule("10.0.0.0/8", "", "icmp")]),
        ("2001:db8::/32", [rule("2001:db8::/32")]),
        ("[2001:db8::1]:443", [rule("2001:db8::1/128", "", "", (443, 443))]),
        ("API.Example.com.", [rule("", "api.example.com")]),
        ("*.example.org:443/tcp", [rule("", "*.example.org", "tcp", (443, 443))]),
        ("bücher.example", [rule("", "xn--bcher-kva.example")]),
        ("time.example.net:123/udp", [rule("", "time.example.net", "udp", (123, 123))]),
    ],
)
def test_a_rule_is_read(text: str, expected: Any) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            " ",
            "*.",
            "*.*.com",
            "a..b",
            "-a.com",
            "a b",
            "x" * 64 + ".com",
            "a;flush ruleset",
            "1.2.3.4.5",
            "999.1.1.1",
            "[a.com",
            "a/sctp",
        ),
        *("a:0", "a:70000", "a:9-8", "a:80,", "a:", "10.0.0.0/8:80/icmp", "a.com:443/udp", "a.com:1-500/udp", "a.com/udp"),
        *("198.19.4.4", "198.19.0.0/24", "[fd62:616e:6473:1::2]:80"),
        "a:" + ",".join(map(str, range(1, 40))),
    ],
)
def test_what_is_no_rule_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        parse(text)


@given(st.text(max_size=40))
def test_whatever_is_written_is_read_or_refused(text: str) -> None:
    try:
        rules = parse(text)
    except BandSoxError:
        return
    assert all(bool(entry["net"]) != bool(entry["name"]) and entry["name"].isascii() for entry in rules)


def test_a_name_is_for_the_web_where_it_says_nothing_else() -> None:
    found = compiled(Policy(allow=("api.example.com", "db.example.com:5432")))["allow"]
    assert found == [rule("", "api.example.com", "tcp", (80, 80), (443, 443)), rule("", "db.example.com", "tcp", (5432, 5432))]


def test_a_denied_name_is_denied_for_everything() -> None:
    assert compiled(Policy(deny=("evil.test",)))["deny"] == [rule("", "evil.test")]


@pytest.mark.parametrize("name", PRESETS)
def test_presets(name: str) -> None:
    policy = policy_of(name)
    assert policy is not None and policy_of(policy) == policy
    compiled(policy)


@pytest.mark.parametrize(
    "value", ["anything", {"allow": "api.example.com"}, {"alow": []}, Policy(allow=("a",) * 2 + tuple(map(str, range(MAX_RULES))))]
)
def test_what_is_no_policy_is_refused(value: Any) -> None:
    with pytest.raises(InvalidRequest):
        policy_of(value)


def test_a_connection_is_what_was_written_down_of_it() -> None:
    events = [
        NetworkEvent(1, 10.0, "opened", "tcp", "api.example.com", "203.0.113.1", 443),
        NetworkEvent(2, 11.0, "refused", "tcp", "", "10.1.2.3", 80, reason="why"),
        NetworkEvent(1, 12.0, "closed", "tcp", "api.example.com", "203.0.113.1", 443, 5, 7),
        NetworkEvent(9, 13.0, "closed", "tcp", "", "203.0.113.9", 443, 5, 7),  # whose beginning is not kept any more
    ]
    assert connections(events) == [
        Connection(10.0, "tcp", "api.example.com", "203.0.113.1", 443, "allowed", "", 5, 7, 12.0),
        Connection(11.0, "tcp", "", "10.1.2.3", 80, "refused", "why"),
    ]


def test_what_was_learned_is_a_policy() -> None:
    log = [
        Connection(1.0, "tcp", "api.example.com", "203.0.113.1", 443, "allowed"),
        Connection(1.0, "tcp", "api.example.com", "203.0.113.2", 80, "allowed"),
        Connection(1.0, "udp", "quic.example.com", "203.0.113.3", 443, "allowed"),
        Connection(1.0, "tcp", "", "2001:db8::1", 22, "allowed"),
        Connection(1.0, "icmp", "", "203.0.113.4", 0, "allowed"),
        Connection(1.0, "tcp", "evil.test", "203.0.113.5", 443, "refused"),
    ]
    learned = learned_from(log)
    assert learned.allow == ("203.0.113.3:443/udp", "203.0.113.4/icmp", "[2001:db8::1]:22/tcp", "api.example.com:80,443/tcp")
    assert policy_of(learned) == learned
    compiled(learned)


NOTHING: dict[str, Any] = {"policy": None, "allow": (), "deny": (), "upload": None, "download": None, "connections": None}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, None),
        ({"allow": ("a.example",)}, Policy(allow=("a.example",))),
        ({"deny": ("a.example",)}, Policy(deny=("a.example",))),
        ({"policy": "registry-only", "allow": ("a.example",)}, Policy(allow=(*PRESETS["registry-only"].allow, "a.example"))),
        ({"policy": "learn", "deny": ("a.example",)}, Policy(deny=("a.example",), learn=True)),
        ({"upload": 8.0, "connections": 5}, Policy(upload_mbit=8.0, connections=5)),
    ],
)
def test_the_command_lines_options_make_one_policy(options: dict[str, Any], expected: Policy | None) -> None:
    assert wanted_policy({**NOTHING, **options}) == expected


@pytest.mark.parametrize("limits", [{"upload_mbit": 0}, {"download_mbit": float("nan")}, {"connections": 0}, {"connections": True}])
def test_limits_have_bounds(limits: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest):
        policy_of(Policy(**limits))


def test_limits_are_bytes_a_second_to_the_filter() -> None:
    limited = compiled(Policy(upload_mbit=8, download_mbit=0.1, connections=7))
    assert (limited["upload"], limited["download"], limited["connections"]) == (1_000_000, 12_500, 7)
    assert (compiled(Policy())["upload"], compiled(Policy())["connections"]) == (0, 0)


def test_a_policy_from_elsewhere_opens_nothing_of_this_host_or_its_networks() -> None:
    theirs = Policy(
        allow=(
            "internet",
            "api.example.com",
            "203.0.113.0/24:443",
            "10.0.0.0/8",
            "192.168.1.1:80",
            "203.0.113.7",
            "fd00::/8",
            "[2001:db8::1]:22",
        ),
        deny=("10.0.0.0/8", "203.0.113.7"),
        learn=True,
    )
    ours = from_elsewhere(theirs)
    assert ours == dataclasses.replace(theirs, allow=("internet", "api.example.com", "203.0.113.0/24:443"))
    assert from_elsewhere(None) is None
    with pytest.raises(InvalidRequest):
        from_elsewhere(Policy(allow=("no rule at all!",)))
