"""The asynchronous front door."""

from __future__ import annotations

from bandsox.core.host import Host
from bandsox.core.images import Images
from bandsox.core.machines import Machines
from bandsox.core.snapshots import Snapshots


class AsyncBandSox(Machines, Snapshots, Images, Host):
    """The machines and images of one storage directory.

    Parameters
    ----------
    storage_dir: where everything that lasts is kept; by default ``BANDSOX_STORAGE``, else ``/var/lib/bandsox`` for root
        and ``$XDG_DATA_HOME/bandsox`` for others.
    require: the least isolation a machine may have: ``"hardware"`` refuses to emulate a CPU.
    confinement: what the VMMs of new machines are locked into, where `create_vm` does not say: ``"auto"`` is the strongest that works
        here; ``"namespaces"`` and ``"jail"`` are refused where the host cannot give them; ``"none"``. By default
        ``BANDSOX_CONFINEMENT``, else ``"auto"``.

    Raises
    ------
    HostError: the storage directory belongs to somebody else.
    InvalidRequest: there is no such isolation or confinement.
    """
