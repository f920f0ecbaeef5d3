"""Pages of other origins: those that are allowed may call, and are told so in the language of browsers (CORS); others learn nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from bandsox.server.auth import keys
from bandsox.server.auth.file import AuthFile
from tests.server.servers import refused, serving

FRIEND = "https://app.example.org"
FOREIGN = ("https://app.example.org.evil.example", "https://evil.example", "http://app.example.org", FRIEND + ":444", "null", "*")
PREFLIGHT = {"access-control-request-method": "PATCH", "access-control-request-headers": "authorization,content-type,idempotency-key"}


@pytest.fixture(scope="module")
def client(file: AuthFile) -> Iterator[httpx.Client]:
    with serving(file.path.parent, "--allowed-origin", FRIEND + "/") as server, server.client() as client:
        yield client


def shared(answer: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in answer.headers.items() if name.startswith("access-control-")}


def test_a_page_of_an_allowed_origin_asks_first_and_then_calls_with_a_key(client: httpx.Client, file: AuthFile) -> None:
    asked = client.options("/api/auth/keys/x", headers={"origin": FRIEND, **PREFLIGHT})
    assert asked.status_code == 200
    said = shared(asked)
    assert said["access-control-allow-origin"] == FRIEND
    assert "PATCH" in said["access-control-allow-methods"]
    assert {"authorization", "idempotency-key"} <= {each.strip().lower() for each in said["access-control-allow-headers"].split(",")}
    assert "access-control-allow-credentials" not in said, "it gets no use of a session"
    assert "Origin" in asked.headers["vary"]

    key = keys.create(file, "page").key
    answer = client.get("/api/vms", headers={"origin": FRIEND, "authorization": f"Bearer {key}"})
    assert (answer.status_code, answer.json()) == (200, [])
    assert shared(answer)["access-control-allow-origin"] == FRIEND
    assert "X-Next-After" in shared(answer)["access-control-expose-headers"]
    assert "Origin" in answer.headers["vary"]


def test_a_failure_can_be_read_too(client: httpx.Client) -> None:
    for path in ("/api/vms", "/api/nothing"):
        answer = client.get(path, headers={"origin": FRIEND})
        assert answer.status_code in {401, 404}
        assert shared(answer)["access-control-allow-origin"] == FRIEND


@pytest.mark.parametrize("origin", FOREIGN)
def test_a_foreign_origin_is_told_nothing(client: httpx.Client, origin: str) -> None:
    for method, headers in (("GET", {}), ("POST", {}), ("OPTIONS", PREFLIGHT)):
        answer = client.request(method, "/api/vms", headers={"origin": origin, **headers})
        assert (answer.status_code, answer.json()["code"]) == (403, "foreign_origin")
        assert shared(answer) == {}


def test_a_preflight_under_a_foreign_name_is_refused(client: httpx.Client) -> None:
    answer = client.options("/api/vms", headers={"origin": FRIEND, "host": "evil.example", **PREFLIGHT})
    assert (answer.status_code, shared(answer)) == (421, {})


def test_what_was_not_allowed_is_refused_before(client: httpx.Client) -> None:
    for wrong in ({"access-control-request-method": "TRACE"}, {**PREFLIGHT, "access-control-request-headers": "x-other"}):
        assert client.options("/api/vms", headers={"origin": FRIEND, **wrong}).status_code == 400


def test_without_allowed_origins_nobody_is_told(tmp_path: Path) -> None:
    with serving(tmp_path) as server, server.client() as client:
        for headers in ({}, {"origin": server.url}):
            assert shared(client.get("/api/vms", headers=headers)) == {}
            assert shared(client.options("/api/vms", headers={**headers, **PREFLIGHT})) == {}


@pytest.mark.parametrize("origin", ["*", "null", "app.example.org", "https://", "https://app.example.org/path", "ftp://app.example.org"])
def test_what_is_no_origin_is_not_allowed(tmp_path: Path, origin: str) -> None:
    assert refused(tmp_path, "--allowed-origin", origin)["code"] == "invalid_request"
