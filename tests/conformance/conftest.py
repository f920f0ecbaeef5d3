from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bandsox.settings import DEFAULT_IMAGE
from bandsox.vmm.qemu import vhost
from tests.faces import FACES, Face, Machine
from tests.firecracker import VMMS, found, options_for

_TRANSPORTS = {
    "qemu": ("virtio-serial", "vsock") if vhost.unavailable() is None else ("virtio-serial",),
    "firecracker": ("vsock", "console"),
}
"""How this host can reach the machines of each VMM."""

_WAYS = [f"{vmm}/{transport}" for vmm in VMMS for transport in _TRANSPORTS[vmm]]


_ONLY = {"remotecli": {"test_files", "test_snapshots"}}
"""What a face is tried with where all would take too long: a command line connects to its server anew for each operation. Its commands and
sessions are in tests/cli."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what a face is not tried with."""
    items[:] = [item for item in items if not _is_left_out(item)]


def _is_left_out(item: pytest.Item) -> bool:
    face = item.callspec.params.get("face") if hasattr(item, "callspec") else None
    only = _ONLY.get(str(face).split("-", 1)[0])
    return only is not None and item.path.parent == Path(__file__).parent and item.path.stem not in only


@pytest.fixture(scope="module", params=[f"{face}-{way}" for way in _WAYS for face in FACES])
def face(request: pytest.FixtureRequest, storage: Path) -> Iterator[Face]:
    """Each face in turn, with machines on each VMM in turn, reached in each way in turn."""
    name, way = request.param.split("-", 1)
    vmm, _, transport = way.partition("/")
    with options_for(vmm) as options, pytest.MonkeyPatch.context() as patch:
        patch.setenv("BANDSOX_TRANSPORT", transport)
        opened = FACES[name](storage, options)
        if vmm == "firecracker":
            opened.create = _with_at_most(found().cpus, opened.create)
        yield opened
        opened.close()


def _with_at_most(cpus: int, create: Callable[..., Machine]) -> Callable[..., Machine]:
    """`create`, which skips a test that wants more CPUs than the guest's kernel can have on this machine."""

    def limited(image: str, **options: Any) -> Machine:
        if options.get("vcpu", 1) > cpus:
            pytest.skip(f"the guest kernel for this machine's KVM knows {cpus} CPU")
        return create(image, **options)

    return limited


@pytest.fixture(scope="module")
def machine(face: Face) -> Iterator[Machine]:
    """One running machine for the tests of a module, none of which stops it."""
    created = face.create(DEFAULT_IMAGE, mem_mib=256, env_vars={"GREETING": "grüß dich"})
    yield created
    created.delete()
