"""Guest kernels of a storage directory: the default one, and any other by path.

A kernel is kept with its initramfs under ``kernels/<digest>/``; the link ``kernels/default`` names the one used where
none is asked for. Everything there is made under another name and renamed, so it is whole or absent.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import platform
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from bandsox.errors import HostError, KernelNotFound
from bandsox.locks import Locks
from bandsox.models import ProgressCallback, report
from bandsox.settings import Layout, replace_link, write_atomically
from bandsox.vmm import bzimage, debian_kernel, initramfs
from bandsox.workers import storage_errors

_WANTED = "modules.wanted"
"""The file that names the modules which were looked for in a package."""


def _wanted() -> bytes:
    return f"{' '.join(debian_kernel.WANTED_MODULES)}\n".encode()


@dataclass(frozen=True, slots=True)
class BootFiles:
    """What a VMM loads: an ELF kernel and the initramfs that fits it."""

    kernel: Path
    initramfs: Path


class Kernels:
    """The kernels of one storage directory."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._renewed = False

    @property
    def default(self) -> Path:
        """The link that names the default kernel's directory."""
        return self._layout.kernels / "default"

    def boot_files(self, kernel_path: str | None = None, progress: ProgressCallback | None = None) -> BootFiles:
        """The kernel at `kernel_path`, or the default one, which is installed if need be, with an initramfs. Blocks.

        Raises
        ------
        KernelNotFound: there is no file at `kernel_path`.
        CorruptImage: it is not a kernel.
        HostError: the default kernel is not installed and cannot be fetched.
        StorageFull: there is no room for them.
        """
        with storage_errors(self._layout.kernels):
            directory = self._import(Path(kernel_path)) if kernel_path else self._default(progress)
            return BootFiles(directory / "vmlinux", self._initramfs(directory))

    def install_package(self, progress: ProgressCallback | None = None) -> Path:
        """Fetch the newest kernel package and make it the default. Blocks for seconds."""
        report(progress, "kernel", "fetching the guest kernel")
        package = debian_kernel.fetch(platform.machine())
        names = debian_kernel.in_load_order(package.modules)
        modules = [(name, package.modules[name]) for name in names]
        directory = self._keep(bzimage.vmlinux(package.bzimage), modules, package.version)
        write_atomically(directory / _WANTED, _wanted())
        self._set_default(directory)
        report(progress, "kernel", f"guest kernel {package.version}", finished=True)
        return directory

    def install_file(self, path: Path, label: str | None = None) -> Path:
        """Make the kernel at `path` (ELF or bzImage, drivers built in) the default. Blocks.

        Parameters
        ----------
        label: what it is called where people see it; by default the file's name.

        Raises
        ------
        CorruptImage: it is not a kernel.
        """
        directory = self._keep(bzimage.vmlinux(path.read_bytes()), [], label or path.name)
        write_atomically(directory / "label", f"{label or path.name}\n".encode())
        self._set_default(directory)
        return directory

    def default_label(self) -> str | None:
        """What the default kernel is called; None when none is installed."""
        try:
            return (self.default / "label").read_text().strip()
        except FileNotFoundError:
            return None

    def _default(self, progress: ProgressCallback | None) -> Path:
        if not self.default.is_dir() or self._lacks_modules():
            with Locks(self._layout.locks / "kernels").hold_blocking("default"):
                if not self.default.is_dir():
                    self.install_package(progress)
                elif self._lacks_modules():
                    self._renew(progress)
        return self.default.resolve()

    def _lacks_modules(self) -> bool:
        """Whether the default kernel's package was unpacked by an earlier version, which took fewer modules along."""
        if self._renewed or not (self.default / "modules.order").read_text().strip():
            return False
        try:
            return (self.default / _WANTED).read_bytes() != _wanted()
        except FileNotFoundError:
            return True

    def _renew(self, progress: ProgressCallback | None) -> None:
        """Fetch the package again. Where it cannot be had the old kernel goes on serving."""
        self._renewed = True
        with contextlib.suppress(HostError):
            self.install_package(progress)

    def _import(self, path: Path) -> Path:
        """The directory for a kernel of the user's; its content is looked at again only when the file has changed."""
        try:
            status = path.stat()
        except FileNotFoundError as error:
            raise KernelNotFound(f"there is no kernel at {path}", remedy="correct kernel_path, or leave it out") from error
        identity = f"{path.resolve()}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}"
        link = self._layout.kernels / f"file-{hashlib.sha256(os.fsencode(identity)).hexdigest()[:24]}"
        if not link.is_dir():
            directory = self._keep(bzimage.vmlinux(path.read_bytes()), [], path.name)
            replace_link(link, directory.name)
        return link.resolve()

    def _keep(self, vmlinux: bytes, modules: list[tuple[str, bytes]], label: str) -> Path:
        digest = hashlib.sha256(vmlinux)
        for name, data in modules:
            digest.update(name.encode() + hashlib.sha256(data).digest())
        directory = self._layout.kernels / digest.hexdigest()[:32]
        if directory.is_dir():
            return directory
        work = Path(tempfile.mkdtemp(prefix="kernel-", dir=self._layout.temporary))
        try:
            (work / "vmlinux").write_bytes(vmlinux)
            (work / "modules").mkdir()
            for name, data in modules:
                (work / "modules" / f"{name}.ko").write_bytes(data)
            (work / "modules.order").write_text("".join(f"{name}\n" for name, _ in modules))
            (work / "label").write_text(label + "\n")
            work.rename(directory)
        except OSError as error:
            if error.errno not in {errno.EEXIST, errno.ENOTEMPTY}:
                raise
        finally:
            shutil.rmtree(work, ignore_errors=True)
        return directory

    def _initramfs(self, directory: Path) -> Path:
        """The initramfs for a kept kernel and the present agent, made when it is not there yet."""
        agent = initramfs.agent_binary(platform.machine())
        status = agent.stat()
        path = directory / f"initramfs-{status.st_size:x}-{status.st_mtime_ns:x}.cpio"
        if not path.is_file():
            names = (directory / "modules.order").read_text().split()
            content = initramfs.build(agent, [directory / "modules" / f"{name}.ko" for name in names])
            write_atomically(path, content)
        return path

    def _set_default(self, directory: Path) -> None:
        replace_link(self.default, directory.name)
