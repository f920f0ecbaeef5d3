"""A server of the shared storage directory, and a machine in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from bandsox import MicroVM
from tests.server.servers import Server, serving


@pytest.fixture(scope="session")
def server(storage: Path) -> Iterator[Server]:
    with serving(storage) as running:
        yield running


@pytest.fixture(scope="session")
def http(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


@pytest.fixture(scope="module")
def path(vm: MicroVM) -> str:
    """The path of a machine that runs, which all tests of a module share."""
    return f"/api/vms/{vm.vm_id}"
