"""The host: the part of `AsyncBandSox` that prepares it, examines it and tidies up."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from bandsox.core.opening import Opening
from bandsox.errors import Unsupported
from bandsox.models import Image, ProgressCallback

if TYPE_CHECKING:
    from bandsox.client.administration import AsyncAuthentication, AsyncWebhooks
    from bandsox.engine.cleanup import Removed
    from bandsox.engine.findings import Finding
    from bandsox.vmm.firecracker.release import Program


class Host(Opening):
    """The methods about the host."""

    async def cleanup(self) -> Removed:
        """Remove what processes that died have left behind, and nothing else."""
        return await self.engine.cleanup()

    @property
    def auth(self) -> AsyncAuthentication:
        """Who may use a server: keys with their quotas, sessions, the password, and who did what. For its administrators.

        Raises
        ------
        Unsupported: this is a storage directory of this host, for which there is `bandsox auth`.
        """
        raise Unsupported("keys are a server's, and this is a storage directory", remedy="use `bandsox auth`, or name a server")

    @property
    def webhooks(self) -> AsyncWebhooks:
        """The addresses that a server tells of changes. For its administrators.

        Raises
        ------
        Unsupported: this is a storage directory of this host, for which there is `bandsox webhook`.
        """
        raise Unsupported("webhooks are a server's, and this is a storage directory", remedy="use `bandsox webhook`, or name a server")

    async def install_kernel(
        self,
        url: str | None = None,
        *,
        sha256: str | None = None,
        output: str | os.PathLike[str] | None = None,
        force: bool = False,
        progress: ProgressCallback | None = None,
    ) -> str:
        """Make a guest kernel the default one, and return what it is called. Whoever needs one first installs it, unless this did.

        Parameters
        ----------
        url: an ELF kernel or a bzImage with its drivers built in, as a file or an http(s) address; by default that of the host's
            package archive.
        sha256: what its content must be; needed with plain http.
        output: a file that gets a copy of it.
        force: fetch it although there is one.

        Raises
        ------
        DownloadFailed, DigestMismatch, HostError: it cannot be had.
        CorruptImage: it is not a kernel.
        """
        from bandsox.engine import provision

        source = provision.Source(url, sha256) if url is not None else None
        copy = Path(output) if output is not None else None
        return await provision.install_kernel(self.engine, source, force=force, output=copy, progress=progress)

    async def install_firecracker(
        self, url: str | None = None, *, sha256: str | None = None, force: bool = False, progress: ProgressCallback | None = None
    ) -> Program:
        """Install the pinned release of Firecracker and its jailer, and return the Firecracker that machines get.

        Nothing is fetched when one that will do is named by ``BANDSOX_FIRECRACKER``, is installed, or is on PATH.

        Parameters
        ----------
        url: the archive of a release, as a file or an http(s) address; by default the project's own.
        sha256: what its content must be; by default that of the pinned release.
        force: fetch it although there is one.

        Raises
        ------
        Unsupported: there is no pinned release for this machine, or the version is too old.
        DownloadFailed, DigestMismatch: it cannot be had.
        """
        from bandsox.engine import provision

        source = provision.Source(url, sha256) if url is not None else None
        return await provision.install_firecracker(self.engine, source, force=force, progress=progress)

    async def install_cni_plugins(
        self, url: str | None = None, *, sha256: str | None = None, force: bool = False, progress: ProgressCallback | None = None
    ) -> Path:
        """Install the pinned release of the CNI plugins, and return the directory that they are in.

        Root's machines use them before those of the host.

        Parameters
        ----------
        url: the archive of a release, as a file or an http(s) address; by default the project's own.
        sha256: what its content must be; by default that of the pinned release.
        force: fetch it although it is here.

        Raises
        ------
        Unsupported: there is no pinned release for this machine.
        CorruptImage: it is no archive of plugins.
        DownloadFailed, DigestMismatch: it cannot be had.
        """
        from bandsox.engine import provision

        source = provision.Source(url, sha256) if url is not None else None
        return await provision.install_cni_plugins(self.engine, source, force=force, progress=progress)

    async def install_image(
        self,
        url: str | None = None,
        *,
        sha256: str | None = None,
        output: str | os.PathLike[str] | None = None,
        force: bool = False,
        progress: ProgressCallback | None = None,
    ) -> Image:
        """Make an image the default one. Whoever needs it first builds it, unless this did.

        Parameters
        ----------
        url: a tar archive of a root file system, as a file or an http(s) address; by default Debian with Python.
        sha256: what its content must be.
        output: a file that gets a copy of its root file system, as squashfs.
        force: build it although it is here.

        Raises
        ------
        DownloadFailed, DigestMismatch, ImageError: it cannot be had.
        """
        from bandsox.engine import provision

        source = provision.Source(url, sha256) if url is not None else None
        copy = Path(output) if output is not None else None
        return await provision.install_image(self.engine, source, force=force, output=copy, progress=progress)

    async def doctor(self, again: bool = False) -> list[Finding]:
        """What this host can do, what it lacks, and the command that mends it.

        Parameters
        ----------
        again: whether to boot a guest with every accelerator, also where it is known whether that works.
        """
        from bandsox.engine.doctor import examine

        if again:
            await self.engine.accelerators.forget()
        return await examine(self.engine)
