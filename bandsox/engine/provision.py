"""What a host needs before its first machine: a guest kernel, Firecracker, CNI plugins, a default image.

Each step stands alone, leaves what is here already as it is, and can be done again with ``force``. What is fetched is verified where it
is known what must come, and a download that broke off is gone on with.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bandsox.errors import DigestMismatch, InvalidRequest, MissingTool, Unsupported
from bandsox.models import Image, ProgressCallback
from bandsox.settings import DEFAULT_IMAGE
from bandsox.vmm.firecracker import release
from bandsox.vmm.firecracker.release import Program
from bandsox.workers import storage_errors

if TYPE_CHECKING:
    from bandsox.engine.engine import Engine

_KVM = Path("/dev/kvm")
_MAX_KERNEL = 1 << 30
_MAX_RELEASE = 256 << 20
_MAX_IMAGE = 16 << 30


@dataclass(frozen=True, slots=True)
class Source:
    """A file of this host, or one of the web (``http:``, ``https:``), and what its content must be."""

    url: str
    sha256: str | None = None


async def install_kernel(
    engine: Engine,
    source: Source | None = None,
    *,
    force: bool = False,
    output: Path | None = None,
    progress: ProgressCallback | None = None,
) -> str:
    """Make a guest kernel the default one, and return what it is called.

    Parameters
    ----------
    source: an ELF kernel or a bzImage with its drivers built in; by default that of the host's package archive, which is fetched
        when there is none here, or with `force`.
    output: a file that gets a copy of it, as ELF.

    Raises
    ------
    InvalidRequest: it comes from plain http, and it is not known what must come.
    CorruptImage: it is not a kernel.
    DownloadFailed, DigestMismatch, HostError: it cannot be had.
    """
    kernels = engine.kernels
    if source is not None:
        _check_trust(source, "a kernel", "--kernel-sha256")
        async with _fetched(engine, source, "the guest kernel", _MAX_KERNEL, progress) as path:
            from bandsox.download import file_name

            await asyncio.to_thread(kernels.install_file, path, file_name(source.url))
    elif force:
        await asyncio.to_thread(kernels.install_package, progress)
    files = await asyncio.to_thread(kernels.boot_files, None, progress)
    if output is not None:
        await asyncio.to_thread(_copy, files.kernel, output)
    return kernels.default_label() or files.kernel.name


async def install_firecracker(
    engine: Engine,
    source: Source | None = None,
    *,
    force: bool = False,
    progress: ProgressCallback | None = None,
) -> Program:
    """Install Firecracker and its jailer, and return the Firecracker that machines get.

    Parameters
    ----------
    source: the archive of a release; by default the pinned one, which is fetched when there is no Firecracker that will do, neither by a
        setting nor installed nor on PATH, or with `force`. Its content must be the pinned release's unless a digest is given.

    Raises
    ------
    Unsupported: there is no pinned release for this machine, or the version is too old.
    CorruptImage: it is no archive of a release.
    DownloadFailed, DigestMismatch: it cannot be had.
    """
    installed = engine.layout.vmms / "firecracker"
    if source is None and not force:
        with contextlib.suppress(MissingTool, Unsupported):
            await asyncio.to_thread(release.find, "jailer", installed)
            return await asyncio.to_thread(release.find, "firecracker", installed)
    pinned = release.archive()
    source = source or Source(pinned.url)
    source = Source(source.url, source.sha256 or pinned.sha256)
    from bandsox.download import Digest

    async with _fetched(engine, source, f"Firecracker {release.VERSION}", _MAX_RELEASE, progress) as path:
        digest = Digest.parse(source.sha256 or "").value
        await asyncio.to_thread(release.install, path, digest, engine.layout.vmms, engine.layout.temporary)
    return await asyncio.to_thread(release.find, "firecracker", installed)


async def install_cni_plugins(
    engine: Engine,
    source: Source | None = None,
    *,
    force: bool = False,
    progress: ProgressCallback | None = None,
) -> Path:
    """Install the CNI plugins, and return the directory that they are in.

    Parameters
    ----------
    source: the archive of a release; by default the pinned one, which is fetched when none is installed, or with `force`. Its content must
        be the pinned release's unless a digest is given.

    Raises
    ------
    Unsupported: there is no pinned release for this machine.
    CorruptImage: it is no archive of a release.
    DownloadFailed, DigestMismatch: it cannot be had.
    """
    from bandsox.download import Digest
    from bandsox.network import plugins

    installed = engine.layout.cni_plugins
    if source is None and not force and installed.is_dir():
        return installed.resolve()
    url, digest = plugins.archive()
    source = Source(source.url if source is not None else url, (source.sha256 if source is not None else None) or digest)
    installed.parent.mkdir(mode=0o700, exist_ok=True)
    async with _fetched(engine, source, f"the CNI plugins {plugins.VERSION}", _MAX_RELEASE, progress) as path:
        digest = Digest.parse(source.sha256 or "").value
        await asyncio.to_thread(plugins.install, path, digest, installed, engine.layout.temporary)
    return installed.resolve()


def cni_plugins_are_of_no_use(engine: Engine) -> str | None:
    """Why CNI plugins would be of no use on this host; None where a network lacks some."""
    from bandsox.network import plugins
    from bandsox.network.cni import Places

    if os.geteuid() != 0:
        return "CNI networks need root"
    places = Places.of(engine.layout.cni_plugins)
    networks = plugins.networks(places.configurations)
    if not networks:
        return f"no network is configured in {':'.join(map(str, places.configurations))}"
    if not any(plugins.missing(network, places.plugins) for network in networks):
        return "the host has those that its networks need"
    return None


async def firecracker_is_of_no_use(engine: Engine, progress: ProgressCallback | None = None) -> str | None:
    """Why Firecracker, which needs KVM, would be of no use on this host; None where it may well be.

    KVM may be there and yet unable to run a guest: where kernel and QEMU are installed, one is tried with them.
    """
    if not _KVM.exists():
        return "there is no /dev/kvm"
    if not os.access(_KVM, os.R_OK | os.W_OK):
        return "this user may not open /dev/kvm"
    if not engine.kernels.default.is_dir():
        return None
    from bandsox.engine.accelerators import Trial

    qemu = engine.vmms["qemu"]
    with contextlib.suppress(MissingTool):
        offer = await asyncio.to_thread(engine.confiner.offer)
        trial = Trial(await asyncio.to_thread(engine.kernels.boot_files), offer.confinement)
        for accelerator in await qemu.accelerators():
            if accelerator.name == "kvm":
                verdict = await engine.accelerators.verdict(qemu, accelerator, trial, progress)
                return None if verdict.usable else f"/dev/kvm is there, but {verdict.reason}"
    return None


async def install_image(
    engine: Engine,
    source: Source | None = None,
    *,
    force: bool = False,
    output: Path | None = None,
    progress: ProgressCallback | None = None,
) -> Image:
    """Make an image the default one.

    Parameters
    ----------
    source: a tar archive of a root file system; by default Debian with Python, which is built when it is not here, or with `force`.
    output: a file that gets a copy of its root file system, as squashfs.

    Raises
    ------
    CorruptImage: it is no such archive.
    DownloadFailed, DigestMismatch, ImageError: it cannot be had.
    """
    if source is None:
        image = await engine.images.resolve(DEFAULT_IMAGE, pull="always" if force else "missing", progress=progress)
    else:
        async with _fetched(engine, source, "the default image", _MAX_IMAGE, progress) as path:
            image = await engine.images.import_(path, DEFAULT_IMAGE, progress=progress)
    if output is not None:
        async with engine.images.use(image):
            await asyncio.to_thread(_copy, image.rootfs, output)
    return image


def _check_trust(source: Source, what: str, option: str) -> None:
    if source.url.startswith("http://") and source.sha256 is None:
        raise InvalidRequest(f"{what} from plain http needs {option}", cause="anybody on the way could replace it")


@contextlib.asynccontextmanager
async def _fetched(engine: Engine, source: Source, what: str, max_size: int, progress: ProgressCallback | None) -> AsyncIterator[Path]:
    """The file of `source`, verified, for the time of the block; a download is removed after it."""
    from bandsox.download import Digest, digest_of, download, file_name  # costs what a look at what is here already should not

    digest = Digest.parse(source.sha256) if source.sha256 is not None else None
    if not source.url.startswith(("http://", "https://")):
        path = Path(source.url.removeprefix("file://")).expanduser()
        if not path.is_file():
            raise InvalidRequest(f"there is no file {source.url}", remedy="give a file of this host, or an http(s) URL")
        if digest is not None:
            found = await asyncio.to_thread(digest_of, path, digest.algorithm)
            if found != digest:
                raise DigestMismatch(f"{source.url} is not what it should be", cause=f"its digest is {found}, and not {digest}")
        yield path
        return
    key = hashlib.sha256(f"{source.url}\0{digest}".encode()).hexdigest()[:16]
    target = engine.layout.downloads / f"{key}-{file_name(source.url)[:100] or 'file'}"
    await download(source.url, target, digest=digest, max_size=max_size, label=f"fetching {what}", progress=progress)
    try:
        yield target
    finally:
        target.unlink(missing_ok=True)


def _copy(source: Path, target: Path) -> None:
    """Write a copy of an artefact that appears under its name whole or not at all."""
    work = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        with storage_errors(target.parent), work.open("xb") as file, source.open("rb") as content:
            shutil.copyfileobj(content, file, 1 << 20)
        work.replace(target)
    except OSError as error:
        raise InvalidRequest(f"{target} cannot be written", cause=error.strerror, remedy="name a file in a directory of yours") from error
    finally:
        work.unlink(missing_ok=True)
