"""The blocking front door."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING

from bandsox.core.asynchronous import AsyncBandSox
from bandsox.models import Isolation, Template
from bandsox.portal import sync, sync_iterator

if TYPE_CHECKING:
    from bandsox.core.administration import Authentication, Webhooks
    from bandsox.core.pools import Pool
    from bandsox.vm import AsyncMicroVM, MicroVM


class BandSox:
    """The blocking face of `AsyncBandSox`: the same methods, parameters and results.

    Every method runs its asynchronous namesake; see there. It can be used from several threads.
    """

    def __init__(
        self,
        storage_dir: str | os.PathLike[str] | None = None,
        server_url: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 60,
        *,
        require: Isolation | str = Isolation.EMULATED,
        confinement: str | None = None,
    ) -> None:
        self._async = AsyncBandSox(storage_dir, server_url, headers, timeout, require=require, confinement=confinement)

    def __enter__(self) -> BandSox:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __repr__(self) -> str:
        return repr(self._async).replace("AsyncBandSox", type(self).__name__, 1)

    storage_dir = property(lambda self: self._async.storage_dir, doc=AsyncBandSox.storage_dir.__doc__)
    images_dir = property(lambda self: self._async.images_dir, doc=AsyncBandSox.images_dir.__doc__)
    snapshots_dir = property(lambda self: self._async.snapshots_dir, doc=AsyncBandSox.snapshots_dir.__doc__)
    sockets_dir = property(lambda self: self._async.sockets_dir, doc=AsyncBandSox.sockets_dir.__doc__)
    metadata_dir = property(lambda self: self._async.metadata_dir, doc=AsyncBandSox.metadata_dir.__doc__)

    close = sync(AsyncBandSox.close)
    list_vms = sync(AsyncBandSox.list_vms)
    get_vm_info = sync(AsyncBandSox.get_vm_info)
    update_vm_metadata = sync(AsyncBandSox.update_vm_metadata)
    rename_vm = sync(AsyncBandSox.rename_vm)
    update_vm_status = sync(AsyncBandSox.update_vm_status)
    cleanup = sync(AsyncBandSox.cleanup)
    install_kernel = sync(AsyncBandSox.install_kernel)
    install_firecracker = sync(AsyncBandSox.install_firecracker)
    install_cni_plugins = sync(AsyncBandSox.install_cni_plugins)
    install_image = sync(AsyncBandSox.install_image)
    doctor = sync(AsyncBandSox.doctor)
    pull_image = sync(AsyncBandSox.pull_image)
    list_images = sync(AsyncBandSox.list_images)
    tag_image = sync(AsyncBandSox.tag_image)
    remove_image = sync(AsyncBandSox.remove_image)

    list_snapshots = sync(AsyncBandSox.list_snapshots)
    get_snapshot_info = sync(AsyncBandSox.get_snapshot_info)
    delete_snapshot = sync(AsyncBandSox.delete_snapshot)
    rename_snapshot = sync(AsyncBandSox.rename_snapshot)
    update_snapshot_metadata = sync(AsyncBandSox.update_snapshot_metadata)
    snapshot_retention = sync(AsyncBandSox.snapshot_retention)
    set_snapshot_retention = sync(AsyncBandSox.set_snapshot_retention)
    prune_snapshots = sync(AsyncBandSox.prune_snapshots)
    compress_snapshot = sync(AsyncBandSox.compress_snapshot)
    export_snapshot = sync(AsyncBandSox.export_snapshot)
    import_snapshot = sync(AsyncBandSox.import_snapshot)

    template = sync(AsyncBandSox.template)
    list_templates = sync(AsyncBandSox.list_templates)
    get_template = sync(AsyncBandSox.get_template)
    remove_template = sync(AsyncBandSox.remove_template)
    prune_templates = sync(AsyncBandSox.prune_templates)

    def pool(self, template: Template | str, size: int = 2) -> Pool:
        """A warm pool: `size` paused clones of a template, of which `take` hands one out in the time of a resume.

        It is this process's: clones that are taken are replaced in the background, and those that are not are deleted when the pool or
        this object is closed, or the process ends in whatever way. Use it as a context manager: on entering, all clones are made.

        Parameters
        ----------
        template: a template, or its id.
        size: how many clones stand ready, from 1 to 256. Each takes what it does not share with the others of its memory.
        """
        from bandsox.core.pools import Pool

        return Pool(self._async.pool(template, size))

    @property
    def auth(self) -> Authentication:
        """Who may use a server: keys with their quotas, sessions, the password, and who did what. For its administrators.

        Raises
        ------
        Unsupported: this is a storage directory of this host, for which there is `bandsox auth`.
        """
        from bandsox.core.administration import Authentication

        return Authentication(self._async.auth)

    @property
    def webhooks(self) -> Webhooks:
        """The addresses that a server tells of changes. For its administrators.

        Raises
        ------
        Unsupported: this is a storage directory of this host, for which there is `bandsox webhook`.
        """
        from bandsox.core.administration import Webhooks

        return Webhooks(self._async.webhooks)

    @property
    def active_vms(self) -> dict[str, MicroVM]:
        """The machines this object has made or looked up, by id."""
        return {vm_id: _blocking(vm) for vm_id, vm in self._async.active_vms.items()}

    create_vm = sync(AsyncBandSox.create_vm).then(lambda _, vm: _blocking(vm))
    create_vm_from_dockerfile = sync(AsyncBandSox.create_vm_from_dockerfile).then(lambda _, vm: _blocking(vm))
    get_vm = sync(AsyncBandSox.get_vm).then(lambda _, vm: None if vm is None else _blocking(vm))
    delete_vm = sync(AsyncBandSox.delete_vm)
    snapshot_vm = sync(AsyncBandSox.snapshot_vm)
    restore_vm = sync(AsyncBandSox.restore_vm).then(lambda _, vm: _blocking(vm))

    events = sync_iterator(AsyncBandSox.events)


def _blocking(vm: AsyncMicroVM) -> MicroVM:
    from bandsox.vm import MicroVM

    return MicroVM(vm)
