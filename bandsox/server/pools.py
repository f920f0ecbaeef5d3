"""The warm pools of a server: it keeps them filled, and has them again when it is started again.

Their clones end with the server's process, however that ends; what lasts is which pools there are, in ``pools.json``. Of several servers of
one storage directory one has the pools: who holds their lock, which it does while there are any.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from bandsox.decoding import ready
from bandsox.engine import Engine, identity
from bandsox.engine.pool import Pool
from bandsox.errors import Conflict, LimitExceeded, NotFound
from bandsox.locks import Locks
from bandsox.models import ConfinementDemand
from bandsox.settings import write_atomically

MOST_POOLS = 64


class _Kept(msgspec.Struct, frozen=True):
    """What lasts of a pool. `prefix`: what the names of its machines begin with, so whose it is."""

    id: str
    template: str
    size: int
    prefix: str
    created_at: float


@dataclass(slots=True)
class ServedPool:
    """A pool, and what is known of it."""

    kept: _Kept
    pool: Pool


class Pools:
    """The pools of one storage directory, on one event loop."""

    def __init__(self, engine: Engine, confinement: ConfinementDemand) -> None:
        self._engine = engine
        self._confinement = confinement
        self._file = engine.layout.root / "pools.json"
        self._lock = Locks(engine.layout.locks / "pools")
        self._held: int | None = None
        self._served: dict[str, ServedPool] = {}
        self._filling: dict[str, Pool] = {}
        self._writing = asyncio.Lock()
        self._changing = 0

    def open(self) -> bool:
        """Have the pools, and fill them, unless another server has them; whether this one does."""
        if self._held is not None:
            return True
        self._held = self._lock.try_take()
        if self._held is None:
            return False
        for kept in self._read():
            pool = self._served[kept.id] = ServedPool(kept, self._pool(kept))
            pool.pool.fill()
        self._let_go()
        return True

    async def close(self) -> None:
        """Delete the clones that nobody has taken; the pools are there again when a server is started."""
        try:
            await asyncio.gather(*(each.pool.close() for each in self._served.values()))
        finally:
            self._served.clear()
            self._let_go()

    def all(self) -> list[ServedPool]:
        """All pools, oldest first. Raises as `get`."""
        self._check()
        return list(self._served.values())

    def get(self, pool_id: str) -> ServedPool:
        """The pool with this id.

        Raises
        ------
        NotFound: there is none. Conflict: another server has the pools.
        """
        self._check()
        if pool_id not in self._served:
            raise NotFound(f"no pool has the id {pool_id!r}", remedy="see GET /api/pools")
        return self._served[pool_id]

    async def create(self, pool_id: str, template: str, size: int, prefix: str) -> ServedPool:
        """Make a pool, and return when all its clones stand ready.

        Raises
        ------
        LimitExceeded: there are too many pools. Otherwise as `Pool.open`; nothing is left then.
        """
        with self._having():
            if len(self._served) >= MOST_POOLS:
                raise LimitExceeded(f"there are {MOST_POOLS} pools already", remedy="delete one")
            kept = _Kept(pool_id, template, size, prefix, time.time())
            pool = self._pool(kept)
            self._filling[pool_id] = pool
            try:
                with identity.choosing(()):  # the ids that were chosen for this request are not those of clones
                    await pool.open()
            finally:
                del self._filling[pool_id]
            self._served[pool_id] = made = ServedPool(kept, pool)
            await self._write()
        return made

    async def resize(self, pool_id: str, size: int) -> ServedPool:
        """Have another number of clones stand ready. Raises as `get`."""
        found = self.get(pool_id)
        await found.pool.resize(size)
        found.kept = msgspec.structs.replace(found.kept, size=size)
        await self._write()
        return found

    async def delete(self, pool_id: str) -> None:
        """Delete a pool; machines that were taken from it go on. Raises as `get`."""
        with self._having():
            found = self.get(pool_id)
            del self._served[pool_id]
            await self._write()
            await found.pool.close()

    def having(self, vm_id: str) -> str | None:
        """The id of the pool in which a machine waits to be taken; None where it is in none."""
        return self.waiting().get(vm_id)

    def waiting(self) -> dict[str, str]:
        """The machines that wait in pools to be taken, by their ids, with the ids of their pools."""
        known = {**{each.kept.id: each.pool for each in self._served.values()}, **self._filling}
        return {member: pool_id for pool_id, pool in known.items() for member in pool.members}

    def _check(self) -> None:
        if not self.open():
            raise Conflict("another server of this storage directory has the pools", remedy="ask that one, or stop it")

    @contextlib.contextmanager
    def _having(self) -> Iterator[None]:
        """Have the pools at least until the end of the block. Raises as `get`."""
        self._changing += 1
        try:
            self._check()
            yield
        finally:
            self._changing -= 1
            self._let_go()

    def _let_go(self) -> None:
        """Let another server have the pools, where there are none."""
        if not self._served and not self._changing and self._held is not None:
            os.close(self._held)
            self._held = None

    def _pool(self, kept: _Kept) -> Pool:
        return Pool(self._engine, kept.template, kept.size, self._confinement, prefix=kept.prefix)

    def _read(self) -> Iterator[_Kept]:
        with contextlib.suppress(FileNotFoundError):
            yield from msgspec.json.decode(self._file.read_bytes(), type=ready(list[_Kept]))

    async def _write(self) -> None:
        async with self._writing:
            content = msgspec.json.encode([each.kept for each in self._served.values()])
            await asyncio.to_thread(write_atomically, self._file, content)
