"""A machine that is itself a host: BandSox runs in it, on a kernel with what this machine's own may lack, such as vhost-vsock.

A machine in such a machine is emulated twice, and takes minutes to what one emulation takes seconds for.
"""

from __future__ import annotations

import importlib.metadata
import io
import re
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import bandsox
from bandsox import BandSox, MicroVM
from bandsox.settings import DEFAULT_IMAGE
from bandsox.vmm import debian_kernel
from bandsox.vmm.kernel import Kernels

IMAGE = "debootstrap:bookworm?include=python3,qemu-system-x86,e2fsprogs,bubblewrap,busybox-static"

_PYTHON = (3, 11)
"""Of Debian bookworm, so that what is installed here for that version runs there."""

LIBRARY = "/opt/library"
_STORAGE = "/var/lib/bandsox"

_LOAD = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
for path in sys.argv[1:]:
    descriptor = os.open(path, os.O_RDONLY)
    if libc.syscall(313, descriptor, b"", 0) and ctypes.get_errno() != 17:
        sys.exit(f"{path}: {os.strerror(ctypes.get_errno())}")
"""
"""finit_module(2) for each module that is named, unless it is there already."""


class Outer:
    """The machine that is a host."""

    def __init__(self, vm: MicroVM, modules: debian_kernel.Modules) -> None:
        self.vm = vm
        self._modules = modules

    def load(self, *names: str) -> None:
        """Load kernel modules, with those that they depend on."""
        order = debian_kernel.in_load_order(self._modules, names)
        for name in order:
            self.vm.write_bytes(f"/opt/modules/{name}.ko", self._modules[name])
        loaded = self.vm.run(["python3", "-c", _LOAD, *(f"/opt/modules/{name}.ko" for name in order)])
        assert loaded.exit_code == 0, loaded.stderr.decode()

    def shell(self, command: str) -> None:
        """Run a command that must succeed."""
        done = self.vm.run(command)
        assert done.exit_code == 0, done.stderr.decode()

    def python(self, program: str, *, timeout: float) -> str:
        """Run a program there that may import this BandSox; what it printed."""
        done = self.vm.run(["python3", "-c", program], env={"PYTHONPATH": LIBRARY, "BANDSOX_STORAGE": _STORAGE}, timeout=timeout)
        assert done.exit_code == 0, done.stderr.decode()
        return done.stdout.decode()


@contextmanager
def host(opened: BandSox, kernels: Kernels, image: str = DEFAULT_IMAGE, **options: Any) -> Iterator[Outer]:
    """A running machine with this very BandSox in it, whose kernel can take all modules of its package."""
    if sys.version_info[:2] != _PYTHON:
        pytest.skip(f"a nested host takes this Python's packages along: it must be {_PYTHON[0]}.{_PYTHON[1]}, as its own is")
    package = debian_kernel.fetch("x86_64")
    if kernels.default_label() != package.version:
        kernels.install_package()  # modules only fit the kernel that they were built with
    with opened.create_vm(image, **options) as vm:
        outer = Outer(vm, package.modules)
        vm.write_bytes("/opt/library.tar", _library())
        outer.shell(f"mkdir -p {LIBRARY} /opt/modules && tar -xf /opt/library.tar -C {LIBRARY} && rm /opt/library.tar")
        yield outer


def equip(outer: Outer, kernels: Kernels) -> None:
    """Give a host, made of `IMAGE`, a guest kernel, and an image with busybox: ``rootfs:/opt/guest.tar``."""
    directory = kernels.boot_files().kernel.parent
    for file in (directory / "vmlinux", directory / "modules.order", directory / "label", *sorted((directory / "modules").iterdir())):
        outer.vm.upload_file(file, f"{_STORAGE}/kernels/{directory.name}/{file.relative_to(directory)}")
    outer.shell(f"ln -s {directory.name} {_STORAGE}/kernels/default && chmod 700 {_STORAGE}")
    outer.shell("mkdir -p /opt/guest/bin && cp /bin/busybox /opt/guest/bin/ && chroot /opt/guest /bin/busybox --install -s /bin")
    outer.shell("tar -cf /opt/guest.tar -C /opt/guest .")


def _library() -> bytes:
    """A tar archive of this package, the guest agent in it, and all that it depends on."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        root = Path(bandsox.__file__).parent
        archive.add(root, "bandsox", filter=lambda entry: None if entry.name.endswith(("__pycache__", "-aarch64")) else entry)
        for name in sorted(_dependencies("bandsox")):
            for file in importlib.metadata.files(name) or []:
                if not file.parts[0].startswith(".."):
                    archive.add(file.locate(), str(file))
    return out.getvalue()


def _dependencies(name: str) -> set[str]:
    """The distributions that one needs, as far as they are installed: those for other systems are not."""
    needed: set[str] = set()
    waiting = [name]
    while waiting:
        for requirement in importlib.metadata.requires(waiting.pop()) or []:
            found = re.match(r"[A-Za-z0-9._-]+", requirement)
            assert found is not None
            if found[0] not in needed and "extra ==" not in requirement and _installed(found[0]):
                needed.add(found[0])
                waiting.append(found[0])
    return needed


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
