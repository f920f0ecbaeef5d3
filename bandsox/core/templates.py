"""The templates of a storage directory: the part of `AsyncBandSox` that makes, lists and removes them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from bandsox.core.opening import Opening
from bandsox.models import ProgressCallback, Template, VMSpec
from bandsox.settings import DEFAULT_IMAGE, default_vmm

if TYPE_CHECKING:
    from bandsox.core.pools import AsyncPool


class Templates(Opening):
    """The methods about templates."""

    async def template(
        self,
        image: str = DEFAULT_IMAGE,
        setup: Sequence[str | Sequence[str]] = (),
        *,
        files: Mapping[str, bytes | str | os.PathLike[str]] | None = None,
        env_vars: Mapping[str, str] | None = None,
        vcpu: int = 1,
        mem_mib: int = 128,
        disk_size_mib: int = 4096,
        enable_networking: bool | None = None,
        kernel_path: str | None = None,
        boot_args: str = "",
        vmm: str | None = None,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> Template:
        """A template: a machine that was set up once, from which `create_vm` starts others in the time of a restore.

        It is kept by what it is made of, and made only where there is none of the same image (by its digest), set-up, size, kernel,
        hypervisor and host CPU. Several processes that want the same one wait for the first.

        Parameters
        ----------
        image: an image reference; one that is not here is pulled.
        setup: commands that run one after the other: a text in the image's ``/bin/sh -c``, a sequence as it is.
        files: what is put into the machine before: contents, or paths of files of this host, by paths in the guest.
        env_vars: variables for every command, then and later.
        vcpu, mem_mib, disk_size_mib, enable_networking, kernel_path, boot_args, vmm: as for `create_vm`; machines made of it have them too.
        timeout: how many seconds each command may take; None: any.

        Raises
        ------
        BuildFailed: a command failed; its cause is the end of what that printed. CommandTimeout: it took too long.
        FileNotFoundError: a file, the kernel or the image does not exist. BootFailed: the machine did not come up.
        Nothing is left of the template then.
        """
        from bandsox.engine.templates import setup_of

        spec = VMSpec(
            image=image,
            name=self.engine.new_name(),
            vcpu=vcpu,
            mem_mib=mem_mib,
            disk_size_mib=disk_size_mib,
            env_vars=dict(env_vars or {}),
            enable_networking=enable_networking,
            kernel_path=kernel_path,
            boot_args=boot_args,
            vmm=vmm if vmm is not None else default_vmm(),
            confinement=self.confinement,
        )
        return await self.engine.templates.make(spec, setup_of(setup, files or {}), timeout_s=timeout, progress=progress)

    async def list_templates(self) -> list[Template]:
        """All templates, oldest first."""
        return await self.engine.templates.all()

    async def get_template(self, template_id: str) -> Template:
        """The template with this id, or with an id that begins so.

        Raises
        ------
        FileNotFoundError: there is none.
        """
        return await self.engine.templates.get(template_id)

    async def remove_template(self, template_id: str) -> None:
        """Delete a template; machines that were made of it go on.

        Raises
        ------
        FileNotFoundError: there is none.
        """
        await self.engine.templates.remove(template_id)

    async def prune_templates(self, unused_for: float = 0.0) -> list[Template]:
        """Delete the templates of which no machine was made for `unused_for` seconds, and return them."""
        return await self.engine.templates.prune(unused_for)

    def pool(self, template: Template | str, size: int = 2) -> AsyncPool:
        """A warm pool: `size` paused clones of a template, of which `take` hands one out in the time of a resume.

        It is this process's: clones that are taken are replaced in the background, and those that are not are deleted when the pool or
        this object is closed, or the process ends in whatever way. Use it as a context manager: on entering, all clones are made.

        Parameters
        ----------
        template: a template, or its id.
        size: how many clones stand ready, from 1 to 256. Each takes what it does not share with the others of its memory.
        """
        from bandsox.core.pools import AsyncPool
        from bandsox.engine.pool import Pool

        template_id = template.id if isinstance(template, Template) else template
        made = Pool(self.engine, template_id, size, self.confinement)
        self._pools.add(made)
        return AsyncPool(made, self._handle)
