"""Secrets that a guest uses and does not have: a machine of root's and one of an ordinary user's, in an Internet of the tests."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bandsox.errors import InvalidRequest
from bandsox.models import Secret
from bandsox.network import vault
from tests.images.authority import Authority
from tests.network.conftest import runner
from tests.network.internet import ADDRESSES
from tests.network.keeping import OTHER, VALUE
from tests.network.lab import lab

_HOST = """
    import json
    from tests.network.keeping import outcome
    print(json.dumps(outcome()))
"""


@pytest.fixture(scope="module")
def trusted() -> Iterator[Path]:
    """A directory that every user may read: what an authority has certified for the servers, and whom to trust for that."""
    directory = Path(tempfile.mkdtemp(prefix="bandsox-internet-"))
    try:
        authority = Authority.make(directory / "authority")
        certificate, key = authority.issue("servers", "DNS:api.example.com,DNS:www.example.org,DNS:other.example.com,DNS:time.example.net")
        (directory / "server.pem").write_bytes(key.read_bytes() + certificate.read_bytes())
        shutil.copy(authority.certificate, directory / "roots.pem")
        (directory / "nobody.pem").write_text("no certificate\n")
        directory.chmod(0o755)
        yield directory
    finally:
        shutil.rmtree(directory)


@pytest.fixture(scope="module", params=["root", "user"])
def seen(request: pytest.FixtureRequest, trusted: Path, storage: Path) -> Any:
    program = [sys.executable, str(Path(__file__).with_name("internet.py")), str(trusted / "server.pem")]
    with lab(ADDRESSES, program) as world:
        done = runner(world, request.param, storage)(_HOST, SSL_CERT_FILE=str(trusted / "roots.pem"), NOBODY=str(trusted / "nobody.pem"))
    assert done.returncode == 0, done.stderr
    assert VALUE not in done.stderr + done.stdout
    return json.loads(done.stdout)


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_requests_to_its_host_get_the_value_and_the_answer_has_it_not(seen: Any) -> None:
    [status, at, echoed] = seen["https"]
    assert (status, at["digests"]["authorization"]) == (200, digest(f"Bearer {VALUE}"))
    assert at["headers"]["authorization"] == f"Bearer {'*' * len(VALUE)}"
    assert echoed == seen["placeholder"]


def test_over_ipv6_too(seen: Any) -> None:
    [status, at, _] = seen["https over IPv6"]
    assert (status, at["digests"]["authorization"]) == (200, digest(f"Bearer {VALUE}"))


def test_a_secret_for_a_port_and_plain_http_is_sent_there(seen: Any) -> None:
    [status, at, _] = seen["plain, asked for"]
    assert (status, at["digests"]["x-key"]) == (200, digest(OTHER))


@pytest.mark.parametrize(
    "case", ["another host", "plain", "another address under its name", "its address under another name", "no question"]
)
def test_nobody_else_gets_it(seen: Any, case: str) -> None:
    [status, at, _] = seen[case]
    assert (status, at["digests"]["authorization"]) == (200, digest(f"Bearer {seen['placeholder']}"))


def test_a_host_without_secrets_is_not_looked_into(seen: Any) -> None:
    assert seen["issuers"] == {"api.example.com": "BandSox authority of this machine", "www.example.org": "tests"}


def test_another_name_on_a_connection_that_is_looked_into_is_refused(seen: Any) -> None:
    assert seen["another name inside"] == 421


def test_a_server_that_cannot_prove_its_name_gets_nothing(seen: Any) -> None:
    assert seen["no proof"] == [502, "the server's certificate is not one that the host trusts for this name\n", ""]


def test_a_name_with_a_private_address_is_none(seen: Any) -> None:
    assert seen["rebinding"] == "EAI_NONAME"


def test_the_policy_allows_the_hosts_of_secrets_besides(seen: Any) -> None:
    assert seen["none"] == {"api": 200, "www": "EAI_NONAME", "rule": "ECONNREFUSED"}


def test_another_value_holds_at_once_and_none_leaves_the_placeholder(seen: Any) -> None:
    assert seen["rotated"] == digest("Bearer another value")
    assert seen["withdrawn"] == digest(f"Bearer {seen['placeholder']}")
    assert seen["has a value"] == [{"KEY": True, "PLAIN": True, "REBOUND": True, "UNPROVEN": True}, False]


def test_no_place_has_the_value_but_its_file(seen: Any) -> None:
    assert seen["guest memory"] == {"placeholder": True, "value": False}
    assert seen["files with the value"] == ["secrets.json"]
    assert seen["modes"] == [0o600]
    assert seen["processes with the value"] == []
    assert seen["shown"] == []


def test_programs_that_keep_to_the_systems_files_trust_the_authority(seen: Any) -> None:
    assert seen["system"] == {"bundle": 200, "directory": 200, "after an update": 200}


def test_clones_use_the_secrets_and_programs_of_before_go_on(seen: Any) -> None:
    assert seen["clones"] == [digest(f"Bearer {VALUE}")] * 2
    assert seen["held"] == [digest(f"Bearer {VALUE}")] * 2


def test_a_snapshot_has_no_value_and_what_goes_on_from_it_gets_one(seen: Any) -> None:
    restored = seen["restored"]
    assert restored["before"] == [digest(f"Bearer {seen['placeholder']}"), False]
    assert restored["after"] == [digest("Bearer a third value"), True]
    assert restored["failures"] == []
    assert restored["its own authority"]


def test_a_stop_and_a_start_keep_them(seen: Any) -> None:
    assert seen["started again"] == digest(f"Bearer {VALUE}")


def test_without_the_filter_nothing_gets_out(seen: Any) -> None:
    assert seen["killed filter"] in {"unreachable", "EAI_AGAIN", "timeout"}


def test_a_machine_whose_proxy_would_not_work_is_not_started(seen: Any) -> None:
    assert "has no certificate" in seen["refused"]["cause"]
    assert seen["refused"]["left"] == []


@pytest.mark.parametrize(
    "asked",
    [
        {"KEY": Secret("short", hosts=("api.example.com",))},
        {"KEY": Secret("two\r\nlines", hosts=("api.example.com",))},
        {"KEY": Secret("x" * 5000, hosts=("api.example.com",))},
        {"KEY": Secret("a fine value", hosts=())},
        {"KEY": Secret("a fine value", hosts="api.example.com")},
        {"KEY": Secret("a fine value", hosts=("*",))},
        {"KEY": Secret("a fine value", hosts=("203.0.113.1",))},
        {"KEY": Secret("a fine value", hosts=("api.example.com/udp",))},
        {"SSL_CERT_FILE": Secret("a fine value", hosts=("api.example.com",))},
        {"NOT A NAME": Secret("a fine value", hosts=("api.example.com",))},
        {f"KEY{number}": Secret("a fine value", hosts=("api.example.com",)) for number in range(33)},
        {f"KEY{number}": Secret("x" * 4096, hosts=("api.example.com",)) for number in range(9)},
        {"KEY": "a fine value"},
    ],
)
def test_what_could_not_be_kept_is_refused_without_telling_the_value(asked: Any) -> None:
    with pytest.raises(InvalidRequest) as failure:
        vault.uses_of(asked)
    assert not any(str(getattr(secret, "value", secret)) in str(failure.value) for secret in asked.values())


def test_a_secret_does_not_show_its_value() -> None:
    secret = Secret(VALUE, hosts=("api.example.com",))
    assert VALUE not in f"{secret!r} {secret}"
    uses, kept = vault.uses_of({"KEY": secret})
    assert kept is not None and kept.values == {"KEY": VALUE}
    assert VALUE not in repr(uses)
