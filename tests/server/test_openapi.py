"""The checked-in OpenAPI document is that of the code, and complete."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest
from fastapi.routing import APIRoute

from bandsox.server.application import ROUTERS, document
from bandsox.server.guard import GuardedRoute, demands
from bandsox.server.openapi import text

DOCUMENT = Path(__file__).parents[2] / "docs/openapi.json"


def test_what_is_checked_in_is_what_the_code_says() -> None:
    assert DOCUMENT.read_text() == text(), "run `make openapi`"


def test_every_operation_is_explained_and_says_what_it_answers() -> None:
    for path, operations in document()["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"] and operation["description"], f"{method} {path}"
            assert {"4XX", "5XX"} <= set(operation["responses"]), f"{method} {path}"


def test_every_operation_but_the_open_ones_says_which_scope_it_takes() -> None:
    unscoped = {path for path, operations in document()["paths"].items() for each in operations.values() if "x-scope" not in each}
    assert unscoped == {"/healthz", "/readyz", "/api/auth/login", "/api/auth/logout", "/api/auth/check"}


def test_the_headers_that_routes_look_at_are_described() -> None:
    described = {
        (each["name"], method, path)
        for path, operations in document()["paths"].items()
        for method, operation in operations.items()
        for each in operation.get("parameters", ())
        if each["in"] == "header"
    }
    keyed = {path for name, method, path in described if (name, method) == ("Idempotency-Key", "post")}
    made = {
        f"/api/{what}" for what in ("vms", "vms/from-dockerfile", "snapshots/import", "snapshots/{snapshot}/restore", "templates", "pools")
    }
    assert keyed >= made | {f"/api/vms/{{vm}}/{what}" for what in ("exec", "sessions", "snapshot", "checkpoints", "fork")}
    assert described >= {(name, "get", "/api/vms/{vm}/download") for name in ("Range", "If-Range")}
    assert ("Last-Event-ID", "get", "/api/events") in described


def test_a_route_that_does_not_say_what_it_demands_cannot_be_added() -> None:
    async def forgotten() -> None: ...

    with pytest.raises(TypeError, match="does not say what it demands"):
        GuardedRoute("/api/forgotten", forgotten)
    assert callable(demands)
    assert all(router.route_class is GuardedRoute for router in ROUTERS)


def test_nothing_that_routes_depend_on_is_run_in_a_thread() -> None:
    routes = [route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)]
    needed = {dependency.call for route in routes for dependency in route.dependant.dependencies}
    assert needed
    assert all(inspect.iscoroutinefunction(each) for each in needed)


def test_the_document_is_json_that_others_can_read() -> None:
    assert json.loads(DOCUMENT.read_text())["openapi"].startswith("3.1")
