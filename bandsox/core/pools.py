"""Warm pools, as the owner sees them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from bandsox.portal import portal, sync

if TYPE_CHECKING:
    from typing_extensions import Self

    from bandsox.engine.pool import Pool as EnginePool
    from bandsox.models import VMRecord
    from bandsox.vm import AsyncMicroVM, MicroVM


class AsyncPool:
    """Clones of a template that stand ready, paused. Made by `AsyncBandSox.pool`; used as a context manager."""

    def __init__(self, pool: EnginePool, handle: Callable[[VMRecord], AsyncMicroVM]) -> None:
        self._pool = pool
        self._handle = handle

    async def __aenter__(self) -> Self:
        await self._pool.open()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    @property
    def ready(self) -> int:
        """How many clones stand ready."""
        return self._pool.ready

    @property
    def size(self) -> int:
        """How many clones there are to be."""
        return self._pool.size

    async def resize(self, size: int) -> None:
        """Have another number of clones stand ready: those that are missing are made in the background, others deleted.

        Raises
        ------
        InvalidRequest: there cannot be so many. Conflict: the pool is closed.
        """
        await self._pool.resize(size)

    async def take(
        self,
        name: str | None = None,
        *,
        env_vars: Mapping[str, str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        ephemeral: bool = False,
    ) -> AsyncMicroVM:
        """A running machine, which is the caller's from now on, as from `create_vm`; another clone is made in the background.

        Where none stands ready, it waits for the next one.

        Parameters
        ----------
        name: a label; by default what was made up for the clone.
        env_vars: variables over the template's. metadata: anything JSON can represent.
        ephemeral: it is deleted when this process ends.

        Raises
        ------
        Conflict: the pool is closed, or another machine has the name.
        BandSoxError: no clone could be made; the next call tries again.
        """
        return self._handle(await self._pool.take(name, env_vars=env_vars, metadata=metadata, ephemeral=ephemeral))

    async def close(self) -> None:
        """Delete the clones that nobody has taken."""
        await self._pool.close()


class Pool:
    """The blocking face of `AsyncPool`: the same methods, parameters and results; see there."""

    def __init__(self, pool: AsyncPool) -> None:
        self._async = pool

    def __enter__(self) -> Pool:
        portal.run(self._async.__aenter__())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    ready = property(lambda self: self._async.ready, doc=AsyncPool.ready.__doc__)

    size = property(lambda self: self._async.size, doc=AsyncPool.size.__doc__)

    resize = sync(AsyncPool.resize)
    take = sync(AsyncPool.take).then(lambda _, vm: _blocking(vm))
    close = sync(AsyncPool.close)


def _blocking(vm: AsyncMicroVM) -> MicroVM:
    from bandsox.vm import MicroVM

    return MicroVM(vm)
