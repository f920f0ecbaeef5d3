"""Machines whose /init is a hostile program in the agent's place, in a storage directory of their own.

Nothing in the product knows of it: the storage directory is prepared like any other, and then the program's initramfs is put
where the agent's is.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from bandsox import BandSox
from bandsox.settings import Layout
from bandsox.vmm import initramfs
from bandsox.vmm.kernel import Kernels
from tests.engine.leaks import Traces
from tests.firecracker import VMMS, options_for

GUEST = Path(__file__).parent / "guest"


@pytest.fixture(scope="session")
def hostile_init(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The hostile program. Go's own cache, which goes by content, makes a repeated build cheap."""
    binary = tmp_path_factory.mktemp("hostile") / "init"
    environment = {**os.environ, "CGO_ENABLED": "0", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run(["go", "build", "-trimpath", "-ldflags=-s -w", "-o", binary, "."], cwd=GUEST, env=environment, check=True)
    return binary


@pytest.fixture(scope="session")
def hostile_storage(storage: Path, hostile_init: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage directory whose machines boot the usual kernel, and the hostile program instead of the agent."""
    layout = Layout.open(tmp_path_factory.mktemp("storage") / "hostile")
    shutil.copytree(storage / "kernels", layout.kernels, symlinks=True, dirs_exist_ok=True)
    files = Kernels(layout).boot_files()
    modules = (files.kernel.parent / "modules.order").read_text().split()
    archive = initramfs.build(hostile_init, [files.kernel.parent / "modules" / f"{name}.ko" for name in modules])
    files.initramfs.write_bytes(archive)
    return layout.root


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image of one file. The hostile program does not look at it."""
    path = tmp_path_factory.mktemp("image") / "rootfs.tar"
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("file"))
    return f"rootfs:{path}"


@pytest.fixture(scope="session")
def hostile(hostile_storage: Path, image: str) -> Iterator[BandSox]:
    with BandSox(hostile_storage) as opened:
        opened.pull_image(image, "missing")
        yield opened


@pytest.fixture(scope="module", params=VMMS)
def options(request: pytest.FixtureRequest, hostile_storage: Path, hostile_init: Path) -> Iterator[Mapping[str, Any]]:
    """What a hostile machine is created with, on each hypervisor in turn."""
    with options_for(request.param) as found:
        if "kernel_path" in found:  # a kernel with its drivers built in
            files = Kernels(Layout.open(hostile_storage)).boot_files(found["kernel_path"])
            files.initramfs.write_bytes(initramfs.build(hostile_init, []))
        yield {"disk_size_mib": 0, **found}


def told(options: Mapping[str, Any], words: str) -> dict[str, Any]:
    """The options with kernel arguments that tell the hostile program what to do."""
    return {**options, "boot_args": f"{options.get('boot_args', '')} {words}".strip()}


@pytest.fixture(scope="session")
def layout(hostile: BandSox) -> Layout:
    return Layout.open(hostile.storage_dir)


@pytest.fixture(autouse=True, scope="module")
def nothing_is_left(layout: Layout) -> Iterator[None]:
    """Whatever the machines of a module did, nothing of them is left."""
    before = Traces.of(layout)
    yield
    assert Traces.of(layout).changes_since(before) == {}
