"""Warm pools: clones of a template that stand ready, paused, until somebody takes one.

The pool is its owner's: an object of one process, on one event loop, that has as many clones made as it was asked for, and another one for
each that is taken, in the background. Each is a machine of its own already, so that to take it is to let its CPUs go on and to tell it the
time. Until then it ends with the owner, however that ends (`bandsox.engine.ephemeral`).
"""

from __future__ import annotations

import asyncio
import collections
import secrets
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import anyio

from bandsox.engine import identity, launch, networking
from bandsox.errors import Conflict, InvalidRequest, MachineStopped, VMNotFound
from bandsox.models import ConfinementDemand, VMRecord, VMSpec

if TYPE_CHECKING:
    from bandsox.engine.engine import Engine

MOST = 256
_AT_ONCE = 2
"""How many clones are made at a time: who takes one wants the CPUs as well."""


_ALL = ("spec_name", "spec_env_vars")
"""What a taker may change of a machine that the guest is told."""


class Pool:
    """`size` paused clones of a template. Made by the owner, who opens and closes it; its methods run on one event loop.

    Parameters
    ----------
    prefix: what the names of the clones begin with.
    """

    def __init__(self, engine: Engine, template_id: str, size: int, confinement: ConfinementDemand, *, prefix: str = "") -> None:
        self._engine = engine
        self._template_id = template_id
        self._size = _check_size(size)
        self._prefix = prefix
        self._confinement: ConfinementDemand = confinement
        self._ready: collections.deque[VMRecord] = collections.deque()
        self._members: set[str] = set()
        self._making: set[asyncio.Task[None]] = set()
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._changed = asyncio.Event()
        self._failure: BaseException | None = None
        self._closed = False

    @property
    def ready(self) -> int:
        """How many clones stand ready."""
        return len(self._ready)

    @property
    def members(self) -> Collection[str]:
        """The ids of the clones that nobody has taken, those included that are about to stand ready."""
        return self._members

    @property
    def size(self) -> int:
        """How many clones there are to be."""
        return self._size

    @property
    def failure(self) -> BaseException | None:
        """Why the latest clone could not be made; None where it could, or somebody has been told."""
        return self._failure

    def fill(self) -> None:
        """Have the clones made that are missing, in the background."""
        self._failure = None
        self._refill()

    async def resize(self, size: int) -> None:
        """Have another number of clones stand ready: those that are missing are made in the background, others deleted.

        Raises
        ------
        InvalidRequest: there cannot be so many. Conflict: the pool is closed.
        """
        self._size = _check_size(size)
        if self._closed:
            raise Conflict("the pool is closed")
        while len(self._ready) > self._size:
            await self._delete(self._ready.popleft())
        self._refill()

    async def open(self) -> None:
        """Return when all clones stand ready.

        Raises
        ------
        As `Templates.start`; nothing is left then.
        """
        try:
            while len(self._ready) < self._size:
                await self._more()
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self.close()
            raise

    async def take(
        self,
        name: str | None = None,
        *,
        env_vars: Mapping[str, str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        ephemeral: bool = False,
    ) -> VMRecord:
        """A running machine, which is the caller's from now on; waits for one where none stands ready.

        Parameters
        ----------
        name, metadata: in place of those that were made up. env_vars: variables over the template's.
        ephemeral: it ends with this process.

        Raises
        ------
        Conflict: the pool is closed, or another machine has the name. Otherwise as `Templates.start`: the last attempt to make one failed.
        """
        labels = self._labels(name, env_vars, metadata)
        while True:
            if self._closed:
                raise Conflict("the pool is closed")
            if not self._ready:
                await self._more()
                continue
            record = self._ready.popleft()
            self._members.discard(record.id)
            try:
                return await self._hand_out(record, labels, ephemeral=ephemeral)
            except (MachineStopped, VMNotFound):  # somebody has ended it while it stood ready
                continue
            finally:
                self._refill()  # now, since that takes the CPUs

    async def close(self) -> None:
        """Delete the clones that stand ready, and those that are being made. Machines that were taken go on."""
        self._closed = True
        self._changed.set()
        for task in self._making:
            task.cancel()
        await asyncio.gather(*self._making, return_exceptions=True)
        while self._ready:
            await self._delete(self._ready.popleft())

    @staticmethod
    def _labels(name: str | None, env_vars: Mapping[str, str] | None, metadata: Mapping[str, Any] | None) -> dict[str, Any]:
        labels: dict[str, Any] = {}
        if name is not None:
            labels["spec_name"] = identity.check_name(name)
        if metadata is not None:
            labels["spec_metadata"] = identity.check_metadata(metadata)
        if env_vars:
            labels["spec_env_vars"] = identity.check_environment(env_vars)
        return labels

    async def _hand_out(self, record: VMRecord, labels: dict[str, Any], *, ephemeral: bool) -> VMRecord:
        """Let a clone go on, as the machine that it is from now on; one for which that fails is deleted."""
        try:
            if "spec_env_vars" in labels:
                labels = {**labels, "spec_env_vars": {**record.spec.env_vars, **labels["spec_env_vars"]}}
            if labels:
                await self._engine.update(record.id, **labels)
            taken = await self._resumed(record)
            await self._introduce(taken, labels)
            if not ephemeral:
                self._engine.keep(record.id)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await self._engine.delete(record.id)
            raise
        return taken

    async def _resumed(self, record: VMRecord) -> VMRecord:
        try:
            return await self._engine.resume(record.id)
        except Conflict as error:  # it is not paused any more
            raise MachineStopped(f"VM {record.spec.name} was ended", cause=error.message) from error

    async def _introduce(self, record: VMRecord, labels: Collection[str]) -> None:
        """Tell a machine the time, which it has stood still for, and what has changed of its names."""
        name = identity.hostname(record.spec.name)
        renamed = "spec_name" in labels
        await self._engine.direct_client(record).setup(
            tell_time=True,
            hostname=name if renamed else None,
            hosts=networking.hosts(record.network, name) if renamed else None,
            env=launch.environment(record) if "spec_env_vars" in labels else None,
        )

    # ── making clones ───────────────────────────────────────────────────────────────────────────

    def _refill(self) -> None:
        while not self._closed and len(self._ready) + len(self._making) < self._size:
            task = asyncio.create_task(self._make())
            self._making.add(task)
            task.add_done_callback(self._settle)

    async def _make(self) -> None:
        async with self._places:
            spec = VMSpec(image="", name=f"{self._prefix}pool-{secrets.token_hex(4)}", confinement=self._confinement)
            record = await self._engine.templates.start(self._template_id, spec, ephemeral=True)
            self._members.add(record.id)
            try:
                await self._introduce(record, _ALL)  # what a taker waits for was done once then, which emulated processors are slow at
                record = await self._engine.pause(record.id)
            except BaseException:
                with anyio.CancelScope(shield=True):
                    await self._delete(record)
                raise
        if len(self._ready) < self._size:
            self._ready.append(record)
        else:  # there are to be fewer by now
            await self._delete(record)

    async def _delete(self, record: VMRecord) -> None:
        self._members.discard(record.id)
        await self._engine.delete(record.id)

    def _settle(self, task: asyncio.Task[None]) -> None:
        self._making.discard(task)
        if not task.cancelled():
            self._failure = task.exception() or self._failure
        self._changed.set()

    async def _more(self) -> None:
        """Return when a clone has become ready, or raise why none has."""
        self._changed.clear()
        self._refill()
        await self._changed.wait()
        if not self._ready and self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure


def _check_size(size: int) -> int:
    if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= MOST:
        raise InvalidRequest(f"a pool has 1 to {MOST} machines, not {size!r}")
    return size
