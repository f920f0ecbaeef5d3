"""The OpenAPI document, tried: whatever fits it, or nearly does, is answered as it says, and never with a fault of the server."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

from bandsox.server.application import document
from bandsox.server.auth import keys
from bandsox.server.auth.file import AuthFile
from tests.server.servers import Server, serving

EXAMPLES = 3
"""For each operation; they are the same in every run."""

_EXCLUDED = {
    "/api/events",  # without end
    "/api/images/pull",  # asks registries of the whole world
    "/api/doctor",  # boots machines
    "/api/auth/login",  # is limited to ten a minute
    "/api/vms/{vm}/tree",  # takes an archive, which is not made up of a schema
    "/api/snapshots/import",  # so does this
}

schema = schemathesis.openapi.from_dict({**document(), "paths": {p: o for p, o in document()["paths"].items() if p not in _EXCLUDED}})
bounded = settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, str]]:
    """A server of an empty storage directory that makes no machines, and a key that may do everything."""
    storage = tmp_path_factory.mktemp("schema")
    command = [sys.executable, "-m", "bandsox", "--storage", str(storage), "auth", "init", "--password-stdin"]
    subprocess.run(command, input=b"long enough", check=True)
    with serving(storage, "--reserve", str(1 << 40)) as server:
        yield server, keys.create(AuthFile(storage), "schema").key


@schema.parametrize()
@bounded
def test_what_is_asked_with_a_key_is_answered_as_described(case: schemathesis.Case[Any], guarded: tuple[Server, str]) -> None:
    server, key = guarded
    answer = case.call(base_url=server.url, headers={"Authorization": f"Bearer {key}"}, timeout=60)
    assert answer.status_code != 500, answer.text
    case.validate_response(answer, checks=[content_type_conformance, response_schema_conformance, status_code_conformance])


@schema.parametrize()
@bounded
def test_what_is_asked_without_a_key_is_refused(case: schemathesis.Case[Any], guarded: tuple[Server, str]) -> None:
    server, _ = guarded
    answer = case.call(base_url=server.url, headers={"Authorization": ""}, timeout=60)
    if "x-scope" in case.operation.definition.raw:
        assert answer.status_code in {400, 401, 404, 405}, answer.text
    else:
        assert answer.status_code < 500, answer.text
