"""A server of the shared storage directory, and a machine in it; a server that wants to know who is calling."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from bandsox import MicroVM
from bandsox.server.auth.file import AuthFile
from bandsox.settings import Layout
from tests.server.servers import PASSWORD, Server, serving


@pytest.fixture(scope="session")
def server(storage: Path) -> Iterator[Server]:
    with serving(storage) as running:
        yield running


@pytest.fixture(scope="session")
def http(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> AuthFile:
    """The authentication of a storage directory of its own, in which there are no machines."""
    file = AuthFile(Layout.open(tmp_path_factory.mktemp("guarded")).root)
    file.set_password(PASSWORD)
    return file


@pytest.fixture(scope="module")
def guarded(file: AuthFile) -> Iterator[Server]:
    """A server of that directory."""
    with serving(file.path.parent) as server:
        yield server


@pytest.fixture(scope="module")
def path(vm: MicroVM) -> str:
    """The path of a machine that runs, which all tests of a module share."""
    return f"/api/vms/{vm.vm_id}"


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for which nobody vouches, and its key."""
    directory = tmp_path_factory.mktemp("tls")
    cert, key = directory / "cert.pem", directory / "key.pem"
    subject = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1", *subject]
    subprocess.run([*command, "-keyout", str(key), "-out", str(cert)], check=True, capture_output=True)
    return cert, key
