"""The asynchronous front door."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from bandsox.core.events import Events
from bandsox.core.host import Host
from bandsox.core.images import Images
from bandsox.core.machines import Machines
from bandsox.core.snapshots import Snapshots
from bandsox.core.templates import Templates

if TYPE_CHECKING:
    from typing_extensions import Self


class AsyncBandSox(Machines, Snapshots, Templates, Images, Events, Host):
    """The machines and images of one storage directory, or of a server.

    Parameters
    ----------
    storage_dir: where everything that lasts is kept; by default ``BANDSOX_STORAGE``, else ``/var/lib/bandsox`` for root
        and ``$XDG_DATA_HOME/bandsox`` for others.
    server_url: of a server (`bandsox serve`), in the place of a storage directory; an http(s) address as `storage_dir` is the same.
    headers: for every request to it, such as ``{"Authorization": "Bearer bsx_…"}``.
    timeout: how many seconds it may be silent that is not working on something long.
    require: the least isolation a machine may have: ``"hardware"`` refuses to emulate a CPU.
    confinement: what the VMMs of new machines are locked into, where `create_vm` does not say: ``"auto"`` is the strongest that works
        here; ``"namespaces"`` and ``"jail"`` are refused where the host cannot give them; ``"none"``. By default
        ``BANDSOX_CONFINEMENT``, else ``"auto"``.

    Raises
    ------
    HostError: the storage directory belongs to somebody else.
    InvalidRequest: there is no such isolation or confinement.
    """

    def __new__(
        cls, storage_dir: str | os.PathLike[str] | None = None, server_url: str | None = None, *arguments: object, **options: object
    ) -> Self:
        """A storage directory of this host, or the client of a server."""
        if cls is AsyncBandSox and (server_url is not None or str(storage_dir or "").startswith(("http://", "https://"))):
            from bandsox.core.remote import RemoteBandSox

            return super().__new__(RemoteBandSox)  # type: ignore[return-value]
        return super().__new__(cls)
