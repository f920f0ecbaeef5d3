"""The registry of one storage directory: what exists, in SQLite (WAL), safe for many processes.

`Database` owns the file, the schema and the transactions; `VMs`, `Snapshots` and `ImageTable` are tables, `Changes` is the
journal of them. Whether a machine is *alive* is not stored here: that is asked of the kernel.
"""

from bandsox.store.changes import Changes
from bandsox.store.database import Database
from bandsox.store.images import ImageTable
from bandsox.store.keyed import KeyedRequests
from bandsox.store.probes import ProbeResult, Probes
from bandsox.store.snapshots import Snapshots
from bandsox.store.vms import VMs
from bandsox.store.webhooks import Webhooks

__all__ = ["Changes", "Database", "ImageTable", "KeyedRequests", "ProbeResult", "Probes", "Snapshots", "VMs", "Webhooks"]
