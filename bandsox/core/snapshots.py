"""The snapshots of a storage directory: the part of `AsyncBandSox` that takes, restores, names and deletes them."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from bandsox.core.opening import Opening
from bandsox.engine import retention
from bandsox.models import ProgressCallback, Retention

if TYPE_CHECKING:
    from bandsox.models import Snapshot
    from bandsox.vm import AsyncMicroVM, MicroVM


class Snapshots(Opening):
    """The methods about snapshots. Each takes a snapshot's id or name."""

    async def snapshot_vm(
        self,
        vm: AsyncMicroVM | MicroVM | str,
        snapshot_name: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        progress: ProgressCallback | None = None,
    ) -> str:
        """Save a running or paused machine, which then is as it was before, and return the snapshot's name.

        Parameters
        ----------
        vm: a handle, or the machine's id or name.
        snapshot_name: a label, unique among snapshots; by default made of the machine's id and the time.
        metadata: anything JSON can represent, kept with the snapshot.

        Raises
        ------
        Conflict: the machine does not run, or the name is taken.
        StorageFull: there is no room. Nothing is left of the snapshot then, as after every error.
        """
        vm_id = vm if isinstance(vm, str) else vm.vm_id
        record = await self.engine.get(vm_id)
        return (await self.engine.snapshots.take(record.id, snapshot_name, metadata, progress)).name

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
        """Make a machine that goes on from a snapshot; any number at once.

        Parameters
        ----------
        name: by default ``from-`` and the snapshot's id.
        enable_networking: None: a network if the machine that was saved had one. A machine that goes on keeps its devices, so another
            answer than that takes ``cold``.
        detach: accepted for compatibility; a machine always outlives its maker.
        env_vars: variables over those of the machine that was saved.
        metadata: in place of that machine's.
        cold: boot from the snapshot's disk instead, where this host cannot go on from its memory.

        Raises
        ------
        FileNotFoundError: there is no such snapshot.
        CorruptSnapshot: its files are not what was saved.
        Unsupported, RequirementNotMet: this host cannot go on from it; nothing was started.
        """
        record = await self.engine.snapshots.restore(
            snapshot_id, name, env_vars=env_vars, metadata=metadata, enable_networking=enable_networking, cold=cold, progress=progress
        )
        return self._handle(record)

    async def list_snapshots(self) -> list[dict[str, Any]]:
        """All snapshots, newest first. One whose manifest is damaged has a ``status`` that says so."""
        found = await self.engine.snapshots.all()
        return await asyncio.to_thread(lambda: [self._snapshot_info(snapshot) for snapshot in found])

    async def get_snapshot_info(self, snapshot_id: str) -> dict[str, Any]:
        """What is known of a snapshot, as in `list_snapshots`.

        Raises
        ------
        FileNotFoundError: there is no such snapshot.
        """
        snapshot = await self.engine.snapshots.get(snapshot_id)
        return await asyncio.to_thread(self._snapshot_info, snapshot)

    async def delete_snapshot(self, snapshot_id: str) -> None:
        """Delete a snapshot; machines that were restored from it go on.

        Raises
        ------
        FileNotFoundError: there is no such snapshot.
        """
        await self.engine.snapshots.delete(snapshot_id)

    async def rename_snapshot(self, snapshot_id: str, new_name: str) -> None:
        """Give a snapshot another name.

        Raises
        ------
        FileNotFoundError: there is no such snapshot. Conflict: another one has the name.
        """
        await self.engine.snapshots.rename(snapshot_id, new_name)

    async def update_snapshot_metadata(self, snapshot_id: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """Replace a snapshot's metadata, and return it.

        Raises
        ------
        FileNotFoundError: there is no such snapshot.
        """
        return dict((await self.engine.snapshots.set_metadata(snapshot_id, metadata)).metadata)

    async def snapshot_retention(self) -> Retention:
        """Which snapshots are kept; those that are not go by themselves.

        Raises
        ------
        HostError: what was said of it cannot be read.
        """
        return await asyncio.to_thread(retention.read, self.engine.layout.root)

    async def set_snapshot_retention(self, kept: Retention) -> None:
        """Say which snapshots are kept, from now on; the others go at once, and later as soon as they are too old or too many.

        Never those that belong to something (checkpoints, templates, the memory of saved machines), whose name is protected, from which a
        machine goes on that is still there, or on which another snapshot is based; nor one that somebody uses, while he does.

        Parameters
        ----------
        kept: ``Retention()`` keeps all.

        Raises
        ------
        InvalidRequest: that may not be asked for.
        """
        await asyncio.to_thread(retention.write, self.engine.layout, kept)

    async def prune_snapshots(self, kept: Retention | None = None, *, dry_run: bool = False) -> list[str]:
        """Remove snapshots that are too old or too many now, and return their names.

        Parameters
        ----------
        kept: which are kept; by default what `set_snapshot_retention` has said. For the rest as there.
        dry_run: remove none, and return the names of those that would be.

        Raises
        ------
        InvalidRequest: that may not be asked for.
        """
        return [snapshot.name for snapshot in await retention.prune(self.engine, kept, dry_run=dry_run)]

    async def compress_snapshot(self, snapshot_id: str, progress: ProgressCallback | None = None) -> None:
        """Keep a snapshot that is not needed for now in less room: compressed, and as what differs from the one its machine came from.

        It can be restored as before; the first time takes longer by the unpacking, after which it is as it was. Machines that were restored
        from it are not concerned.

        Raises
        ------
        FileNotFoundError: there is no such snapshot.
        CorruptSnapshot: its files are not what was saved.
        StorageFull: there is no room for both.
        """
        await self.engine.snapshots.compress(snapshot_id, progress)

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
        """Write a snapshot with all that its machine needs, to be imported on another host, and return the digest of what was written.

        Parameters
        ----------
        target: a file to be written, ``oci:DIRECTORY`` for an OCI image layout, ``registry:HOST/NAME:TAG``, or a binary stream.
        base: another snapshot, which the receiver has: of memory and disk only what differs from it is written.
        image: with the root file system of the machine's image; without it the receiver has to have the image.
        sign_key: a file with an Ed25519 private key (PEM), with which what is written is signed; needs ``pip install 'bandsox[signing]'``.

        Raises
        ------
        FileNotFoundError: there is no such snapshot.
        CorruptSnapshot: its files are not what was saved.
        InvalidRequest: the target cannot be written, or the key not be used.
        RegistryError, RegistryUnavailable: the registry refuses, or cannot be reached.
        StorageFull: there is no room.
        """
        from bandsox.engine.snapshots.portable import Portable

        place = os.fspath(target) if isinstance(target, (str, os.PathLike)) else target
        key = Path(sign_key) if sign_key is not None else None
        return await Portable(self.engine).export(snapshot_id, place, base=base, image=image, sign_key=key, progress=progress)

    async def import_snapshot(
        self,
        source: str | os.PathLike[str],
        name: str | None = None,
        *,
        verify_key: str | os.PathLike[str] | None = None,
        progress: ProgressCallback | None = None,
    ) -> str:
        """Make a snapshot that was exported elsewhere one of this storage directory, and return its name.

        Its machine is checked as if somebody asked for it here: a foreign snapshot gets no ports of this host, no other
        confinement than this host chooses, and no path. What is in its memory is whatever its maker put there.

        Parameters
        ----------
        source: a file; ``oci:DIRECTORY``, or ``oci:DIRECTORY@DIGEST`` where the layout has several; ``registry:HOST/NAME:TAG`` or
            ``registry:HOST/NAME@DIGEST``.
        name: another name than it had.
        verify_key: a file with Ed25519 public keys (PEM), with one of which it has to be signed; by default what ``BANDSOX_VERIFY_KEY``
            names. Where neither is given it need not be signed.

        Raises
        ------
        FileNotFoundError: there is no such file, or the snapshot that it is based on is not here.
        UntrustedSnapshot: it is not signed with one of these keys.
        CorruptSnapshot: it is no snapshot, damaged, or not one that is accepted from elsewhere.
        Conflict: the name is taken. StorageFull: there is no room.
        """
        from bandsox.engine.snapshots.portable import Portable

        key = Path(verify_key) if verify_key is not None else None
        return (await Portable(self.engine).import_(os.fspath(source), name, verify_key=key, progress=progress)).name

    def _snapshot_info(self, snapshot: Snapshot) -> dict[str, Any]:
        damage = self.engine.snapshots.shelf.damage(snapshot)
        belonging = self.engine.snapshots.shelf.table.belonging(snapshot.id)
        spec = snapshot.spec
        info = {
            "id": snapshot.id,
            "snapshot_name": snapshot.name,
            "source_vm_id": snapshot.source_vm_id,
            "vcpu": spec.vcpu,
            "mem_mib": spec.mem_mib,
            "disk_size_mib": spec.disk_size_mib,
            "image": spec.image,
            "image_id": snapshot.image_id,
            "rootfs_path": str(self.storage_dir / snapshot.rootfs),
            "backend_rootfs_path": str(self.storage_dir / snapshot.rootfs),
            "network_config": None if snapshot.network is None else dataclasses.asdict(snapshot.network),
            "vsock_config": None,
            "env_vars": dict(spec.env_vars),
            "metadata": dict(snapshot.metadata),
            "created_at": snapshot.created_at,
            "parent": snapshot.parent,
            "belongs_to": None if belonging is None else dataclasses.asdict(belonging),
            "vmm": snapshot.vmm,
            "vmm_version": snapshot.vmm_version,
            "accelerator": snapshot.accelerator,
            "path": str(self.engine.snapshots.shelf.path(snapshot)),
            "size": self.engine.snapshots.shelf.size(snapshot),
            "compressed": self.engine.snapshots.shelf.cold.is_packed(snapshot),
        }
        return info if damage is None else {**info, "status": damage}
