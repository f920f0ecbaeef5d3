"""What only a host has whose kernel has its side of vsock. Where this one has not, `tests/hostkernel` runs these tests on one that has."""

from __future__ import annotations

import pytest

from bandsox.vmm.qemu import vhost


@pytest.fixture(autouse=True, scope="session")
def _vhost_vsock() -> None:
    if (missing := vhost.unavailable()) is not None:
        pytest.skip(missing)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
