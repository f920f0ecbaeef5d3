"""The snapshots of a server."""

from __future__ import annotations

import abc
import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

import anyio.to_thread

from bandsox.client.addresses import segment, vm_path
from bandsox.client.connection import Connection
from bandsox.client.streams import of_file, to_file, to_stream
from bandsox.errors import SnapshotNotFound, Unsupported
from bandsox.models import ProgressCallback, Retention
from bandsox.workers import Task

if TYPE_CHECKING:
    import httpx

    from bandsox.vm import AsyncMicroVM, MicroVM

_REGISTRY, _LAYOUT = "registry:", "oci:"


class RemoteSnapshots(abc.ABC):
    """The methods about snapshots, as `bandsox.core.snapshots` has them."""

    _server: Connection

    @abc.abstractmethod
    async def _made(self, made: Mapping[str, Any]) -> AsyncMicroVM:
        """The handle of a machine that was made."""

    async def snapshot_vm(
        self,
        vm: AsyncMicroVM | MicroVM | str,
        snapshot_name: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        progress: ProgressCallback | None = None,
    ) -> str:
        """Save a running or paused machine, which then is as it was before, and return the snapshot's name."""
        path = vm_path(vm if isinstance(vm, str) else vm.vm_id)
        body = {"name": snapshot_name, "metadata": None if metadata is None else dict(metadata)}
        return str((await self._server.make(f"{path}/snapshot", progress, json=body))["snapshot_id"])

    async def restore_vm(
        self,
        snapshot_id: str,
        name: str | None = None,
        enable_networking: bool | None = None,
        detach: bool = True,
        env_vars: Mapping[str, str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        *,
        cold: bool = False,
        progress: ProgressCallback | None = None,
    ) -> AsyncMicroVM:
        """Make a machine that goes on from a snapshot; any number at once."""
        del detach
        body = {
            "name": name,
            "enable_networking": enable_networking,
            "env_vars": None if env_vars is None else dict(env_vars),
            "metadata": None if metadata is None else dict(metadata),
            "cold": cold,
        }
        return await self._made(await self._server.make(f"{_path(snapshot_id)}/restore", progress, json=body))

    async def list_snapshots(self) -> list[dict[str, Any]]:
        """All snapshots, newest first."""
        return await self._server.get("/api/snapshots", list[dict[str, Any]])

    async def get_snapshot_info(self, snapshot_id: str) -> dict[str, Any]:
        """What is known of a snapshot."""
        return await self._server.get(_path(snapshot_id), dict[str, Any])

    async def delete_snapshot(self, snapshot_id: str) -> None:
        """Delete a snapshot; machines that were restored from it go on."""
        await self._server.call("DELETE", _path(snapshot_id), patient=True)

    async def rename_snapshot(self, snapshot_id: str, new_name: str) -> None:
        """Give a snapshot another name."""
        await self._server.call("PUT", f"{_path(snapshot_id)}/name", json={"name": new_name})

    async def update_snapshot_metadata(self, snapshot_id: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """Replace a snapshot's metadata, and return it."""
        return await self._server.work("PUT", f"{_path(snapshot_id)}/metadata", json={"metadata": dict(metadata)})

    async def snapshot_retention(self) -> Retention:
        """Which snapshots the server keeps."""
        return await self._server.get("/api/retention", Retention)

    async def set_snapshot_retention(self, kept: Retention) -> None:
        """Say which snapshots it keeps, from now on; the others go by themselves. This takes the scope ``admin``, and so does the next."""
        await self._server.call("PUT", "/api/retention", json=dataclasses.asdict(kept))

    async def prune_snapshots(self, kept: Retention | None = None, *, dry_run: bool = False) -> list[str]:
        """Remove snapshots that are too old or too many now, and return their names."""
        body = {"kept": None if kept is None else dataclasses.asdict(kept), "dry_run": dry_run}
        answer = await self._server.call("POST", "/api/snapshots/prune", json=body, patient=True)
        return [str(each["snapshot_name"]) for each in answer.json()]

    async def compress_snapshot(self, snapshot_id: str, progress: ProgressCallback | None = None) -> None:
        """Keep a snapshot that is not needed for now in less room."""
        await self._server.work("POST", f"{_path(snapshot_id)}/compress", progress)

    async def export_snapshot(
        self,
        snapshot_id: str,
        target: str | os.PathLike[str] | BinaryIO,
        *,
        base: str | None = None,
        image: bool = True,
        sign_key: str | os.PathLike[str] | None = None,
        progress: ProgressCallback | None = None,
    ) -> str:
        """Write a snapshot with all that its machine needs to a file or a stream of this host, and return its digest.

        To ``registry:HOST/NAME:TAG`` the server sends it itself, with its own credentials; that takes a key of the scope ``admin``.
        """
        if sign_key is not None:
            raise Unsupported("a server signs nothing with keys of others", remedy="export on its host, with its storage directory")
        place = os.fspath(target) if isinstance(target, (str, os.PathLike)) else None
        path = _path(snapshot_id)
        if place is not None and place.startswith(_REGISTRY):
            body = {"reference": place.removeprefix(_REGISTRY), "base": base, "image": image}
            return str((await self._server.work("POST", f"{path}/push", progress, json=body))["digest"])
        if place is not None and place.startswith(_LAYOUT):
            _not_a_layout()
        params = {"image": image, **({} if base is None else {"base": base})}
        async with self._server.streaming("GET", f"{path}/export", patient=True, params=params) as answer:
            task = Task(progress, "write", "writing", _length(answer))
            if place is not None:
                await to_file(answer.aiter_raw(), Path(place), None, task, mode=0o600)
            else:
                assert not isinstance(target, (str, os.PathLike))
                await to_stream(answer.aiter_raw(), target, task)
            task.finish()
            return answer.headers["x-digest"]

    async def import_snapshot(
        self,
        source: str | os.PathLike[str],
        name: str | None = None,
        *,
        verify_key: str | os.PathLike[str] | None = None,
        progress: ProgressCallback | None = None,
    ) -> str:
        """Make a snapshot that was exported elsewhere, to a file of this host, one of the server, and return its name.

        From ``registry:HOST/NAME:TAG`` the server takes it itself; that takes a key of the scope ``admin``.
        """
        if verify_key is not None:
            raise Unsupported("whom a server trusts is decided there", remedy="set BANDSOX_VERIFY_KEY for it")
        place = os.fspath(source)
        if place.startswith(_REGISTRY):
            body = {"reference": place.removeprefix(_REGISTRY), "name": name}
            return str((await self._server.work("POST", "/api/snapshots/pull", progress, json=body))["snapshot_name"])
        if place.startswith(_LAYOUT):
            _not_a_layout()
        if not await anyio.to_thread.run_sync(os.path.isfile, place):
            raise SnapshotNotFound(f"there is no file {Path(place).absolute()}")
        async with of_file(Path(place), place, progress) as (pieces, _):
            params = {} if name is None else {"name": name}
            taken = await self._server.work("POST", "/api/snapshots/import", progress, content=pieces, params=params)
        return str(taken["snapshot_name"])


def _path(snapshot: str) -> str:
    return f"/api/snapshots/{segment(snapshot)}"


def _length(answer: httpx.Response) -> int | None:
    length = answer.headers.get("content-length", "")
    return int(length) if length.isdecimal() else None


def _not_a_layout() -> NoReturn:
    raise Unsupported("a server's snapshot is no OCI image layout here", remedy="use a file, or a registry")
