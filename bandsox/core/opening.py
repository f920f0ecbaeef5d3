"""A storage directory that was opened: what every part of the front door stands on."""

from __future__ import annotations

import os
import weakref
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from bandsox.engine import Engine
from bandsox.errors import InvalidRequest
from bandsox.models import Isolation, VMRecord
from bandsox.settings import check_confinement, default_confinement, isolation_of

if TYPE_CHECKING:
    from typing_extensions import Self

    from bandsox.engine.pool import Pool
    from bandsox.vm import AsyncMicroVM


class Opening:
    """One storage directory, and the handles on its machines."""

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
        if headers is not None or server_url is not None:
            raise InvalidRequest("headers go to a server, and none was named", remedy="give its http(s) address")
        self.timeout = timeout
        self.confinement = default_confinement() if confinement is None else check_confinement(confinement)
        self.engine = Engine(storage_dir, isolation_of(require))
        self.active_vms: dict[str, AsyncMicroVM] = {}
        self._pools: weakref.WeakSet[Pool] = weakref.WeakSet()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """Let go of the storage directory. Machines and their sessions go on; ephemeral machines and pools are deleted."""
        for pool in list(self._pools):
            await pool.close()
        for vm in self.active_vms.values():
            await vm.disconnect()
        self.active_vms.clear()
        try:
            await self.engine.delete_own()
        finally:
            self.engine.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.storage_dir)!r})"

    # ── where things are ────────────────────────────────────────────────────────────────────────

    @property
    def storage_dir(self) -> Path:
        """The directory of everything that lasts."""
        return self.engine.layout.root

    @property
    def images_dir(self) -> Path:
        """Layer blobs and root file systems, named by digest."""
        return self.engine.layout.images

    @property
    def snapshots_dir(self) -> Path:
        """One directory a snapshot."""
        return self.engine.layout.snapshots

    @property
    def sockets_dir(self) -> Path:
        """The sockets of running machines."""
        return self.engine.layout.runtime

    @property
    def metadata_dir(self) -> Path:
        """The directory of each machine."""
        return self.engine.layout.vms

    def _handle(self, record: VMRecord) -> AsyncMicroVM:
        from bandsox.vm import AsyncMicroVM

        known = self.active_vms.get(record.id)
        if known is None:
            known = self.active_vms[record.id] = AsyncMicroVM(self.engine, record)
        known.refresh(record)
        return known
