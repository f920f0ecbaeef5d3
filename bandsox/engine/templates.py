"""Templates: machines that were set up once, kept by what they were made of, to start others from.

A template is a snapshot that belongs to its key: the digest of all that could make it another one, from the image's digest and the set-up
to the hypervisor's version. Whoever wants a template that exists gets it. Whoever wants one that does not makes it, in a machine that ends
with the maker, under a lock on the key; so several who want the same do the work once, and one who is killed leaves nothing and the next
one does it.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import hashlib
import json
import os
import shlex
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio

from bandsox.engine import launch
from bandsox.errors import BuildFailed, Conflict, InvalidRequest, TemplateNotFound
from bandsox.locks import Locks
from bandsox.models import TEMPLATE_PREFIX, Belonging, ExecResult, ProgressCallback, Snapshot, Template, VMRecord, VMSpec, report
from bandsox.vmm.host_cpu import host_cpu

if TYPE_CHECKING:
    from bandsox.engine.engine import Engine
    from bandsox.guest import CommandOptions, GuestClient
    from bandsox.network.vault import Vault

_SCHEMA = 1
"""Part of every key: raised whenever the same set-up comes to something else."""

_ID_LENGTH = 16
_TAIL = 4096
_OF_THE_TEMPLATE = (
    *("vcpu", "mem_mib", "disk_size_mib", "kernel_path", "boot_args", "debug_console", "cpu_template"),
    *("network_limits", "balloon_mib", "mmds", "track_dirty_pages"),
)
_OF_THE_MACHINE = (
    "confinement",
    "ttl",
    "idle_timeout",
    "on_expiry",
    "auto_resume",
    "publish",
    "dns",
    "disk_limits",
    "policy",
    "mcp",
    "secrets",
    "cni",
)


@dataclass(frozen=True, slots=True)
class Setup:
    """What is done in a machine before it becomes a template: files are put there, then commands run, one after the other.

    A command is a text for the image's ``/bin/sh -c``, or a program with its arguments. ``files`` are contents, or files of this host, by
    their path in the guest; a file of this host brings its permissions, contents get 0644.
    """

    commands: tuple[str | tuple[str, ...], ...] = ()
    files: Mapping[str, bytes | Path] = field(default_factory=dict)

    def canonical(self) -> dict[str, Any]:
        """What makes it another set-up if it changes. Blocks for as long as reading the files takes."""
        return {"commands": self.commands, "files": {path: _identity(content) for path, content in self.files.items()}}

    def described(self) -> list[str]:
        """The commands as people write them."""
        return [command if isinstance(command, str) else shlex.join(command) for command in self.commands]


def setup_of(commands: Sequence[str | Sequence[str]], files: Mapping[str, bytes | str | os.PathLike[str]]) -> Setup:
    """A set-up as callers give it.

    Raises
    ------
    InvalidRequest: it is something else.
    """
    if isinstance(commands, str) or callable(commands):
        raise InvalidRequest("a set-up is a list of commands", remedy="give a list; what cannot be compared cannot be kept")
    checked = tuple(command if isinstance(command, str) else tuple(command) for command in commands)
    if not all(command and (isinstance(command, str) or all(isinstance(word, str) for word in command)) for command in checked):
        raise InvalidRequest("a command of a set-up is a text, or a list of texts, and not empty")
    return Setup(checked, {path: content if isinstance(content, bytes) else Path(content) for path, content in files.items()})


class Templates:
    """The templates of one storage directory."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._shelf = engine.snapshots.shelf
        self._locks = Locks(engine.layout.locks / "templates")

    async def make(
        self, spec: VMSpec, setup: Setup, *, timeout_s: float | None = None, realm: str = "", progress: ProgressCallback | None = None
    ) -> Template:
        """The template of machines that are made as `spec` says and then set up; it is made if it is not here.

        Parameters
        ----------
        timeout_s: how long each command may take, in seconds.
        realm: those of different realms do not share a template, though they want the same.

        Raises
        ------
        BuildFailed: a command failed; the message has the end of what it printed.
        CommandTimeout: one took too long. FileNotFoundError: a file of this host is not there. Otherwise as `Engine.create`.
        """
        ground = await launch.ground(self._engine, spec, progress=progress)
        digest = await asyncio.to_thread(_key, ground, setup, realm, self._engine.layout.runtime)
        async with self._locks.hold(digest):
            with contextlib.suppress(TemplateNotFound):
                return await self.get(digest[:_ID_LENGTH])
            async with self._set_up(ground, setup, timeout_s, progress) as record:
                belonging = Belonging("template", digest, "")
                labels = {"setup": setup.described(), "image": spec.image}
                snapshots = self._engine.snapshots
                snapshot = await snapshots.save(record, f"{TEMPLATE_PREFIX}{digest[:_ID_LENGTH]}", labels, belonging, synced=True)
        return await asyncio.to_thread(self._template, digest, snapshot)

    async def all(self) -> list[Template]:
        """All templates, oldest first."""
        found = await asyncio.to_thread(self._shelf.table.belongings, "template")
        return await asyncio.to_thread(lambda: [self._template(belonging.owner, snapshot) for belonging, snapshot in found])

    async def get(self, template_id: str) -> Template:
        """The template with this id, or unambiguous beginning of it (at least 4 characters).

        Raises
        ------
        TemplateNotFound: there is none. Conflict: the beginning fits several.
        """
        wanted = template_id.removeprefix(TEMPLATE_PREFIX)
        fitting = [template for template in await self.all() if len(wanted) >= 4 and template.id.startswith(wanted)]
        if len(fitting) > 1:
            raise Conflict(f"{wanted!r} is the beginning of several ids", remedy="give more of the id")
        if not fitting:
            raise TemplateNotFound(f"no template has the id {wanted!r}", remedy="see `bandsox template list`")
        return fitting[0]

    async def remove(self, template_id: str) -> None:
        """Delete a template; machines that were made of it go on. Waits for those that are being started from it.

        Raises
        ------
        TemplateNotFound: there is none.
        """
        await self._shelf.give_up([(await self.get(template_id)).snapshot])

    async def prune(self, unused_for_s: float = 0.0) -> list[Template]:
        """Delete the templates that nobody has made a machine of for so many seconds, and return them."""
        before = time.time() - unused_for_s
        doomed = [template for template in await self.all() if template.used_at <= before]
        await self._shelf.give_up([template.snapshot for template in doomed])
        return doomed

    async def start(
        self,
        template_id: str,
        spec: VMSpec,
        *,
        vault: Vault | None = None,
        ephemeral: bool = False,
        progress: ProgressCallback | None = None,
    ) -> VMRecord:
        """Make a machine that goes on from a template, with what `spec` says that is not the template's.

        Parameters
        ----------
        vault: the values of its secrets.
        ephemeral: it ends with this process.

        Raises
        ------
        InvalidRequest: `spec` asks for another size or kernel than the template's.
        TemplateNotFound: there is none. Otherwise as `Snapshots.restore`.
        """
        template = await self.get(template_id)
        snapshot = await self._engine.snapshots.get(template.snapshot)
        _check_fit(spec, snapshot)
        await asyncio.to_thread(os.utime, self._shelf.path(snapshot))
        return await self._engine.snapshots.restore(
            snapshot.id,
            spec.name,
            env_vars=spec.env_vars,
            metadata=spec.metadata,
            enable_networking=spec.enable_networking,
            changes={name: getattr(spec, name) for name in _OF_THE_MACHINE},
            vault=vault,
            ephemeral=ephemeral,
            progress=progress,
        )

    @contextlib.asynccontextmanager
    async def _set_up(
        self, ground: launch.Ground, setup: Setup, timeout_s: float | None, progress: ProgressCallback | None
    ) -> AsyncIterator[VMRecord]:
        """A machine that was set up; it is deleted afterwards. Its lock is held."""
        record = await self._engine.create(ground.spec, ephemeral=True, progress=progress, ground=ground)
        try:
            client = self._engine.direct_client(record)
            for path, content in setup.files.items():
                await _put(client, path, content)
            for command, shown in zip(setup.commands, setup.described(), strict=True):
                report(progress, "setup", shown)
                await _run(client, command, shown, timeout_s)
            await client.sync()
            async with self._engine.locked(record.id):
                yield record
        finally:
            with anyio.CancelScope(shield=True):
                await self._engine.delete(record.id)

    def _template(self, digest: str, snapshot: Snapshot) -> Template:
        directory, spec = self._shelf.path(snapshot), snapshot.spec
        kept = list(directory.iterdir()) if directory.exists() else []  # it may be removed at this moment
        return Template(
            id=digest[:_ID_LENGTH],
            snapshot=snapshot.id,
            image=snapshot.metadata["image"],
            image_id=snapshot.image_id,
            vcpu=spec.vcpu,
            mem_mib=spec.mem_mib,
            disk_size_mib=spec.disk_size_mib,
            setup=tuple(snapshot.metadata["setup"]),
            created_at=snapshot.created_at,
            used_at=directory.stat().st_mtime if kept else snapshot.created_at,
            size=sum(file.stat().st_blocks * 512 for file in kept),
        )


def _key(ground: launch.Ground, setup: Setup, realm: str, facts: Path) -> str:
    """The digest of all that decides what the template is, and whether this host can go on from it. Blocks."""
    spec, choice = ground.spec, ground.choice
    cpu = host_cpu(facts)  # but for the rate of its counter, which is found out again after each reboot
    parts = {
        "schema": _SCHEMA,
        "image": [ground.image.id, ground.image.rootfs_digest],
        "kernel": [os.fspath(ground.files.kernel.resolve()), ground.files.initramfs.name],
        "vmm": [choice.vmm.name, ground.version, choice.accelerator.name, choice.transport],
        "cpu": [cpu.architecture, cpu.vendor, cpu.model, *cpu.flags, spec.cpu_template],
        "shape": [spec.vcpu, spec.mem_mib, spec.disk_size_mib, spec.enable_networking, spec.boot_args],
        "environment": dict(spec.env_vars),
        "setup": setup.canonical(),
        **({"realm": realm} if realm else {}),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _identity(content: bytes | Path) -> list[str]:
    from bandsox.download import digest_of

    if isinstance(content, bytes):
        return [f"sha256:{hashlib.sha256(content).hexdigest()}", "0o644"]
    return [str(digest_of(content)), oct(content.stat().st_mode & 0o777)]


async def _put(client: GuestClient, path: str, content: bytes | Path) -> None:
    if isinstance(content, bytes):
        await client.write_bytes(path, content, mode=0o644, parents=True)
        return
    before = await asyncio.to_thread(_identity, content)
    await client.upload_file(content, path, mode=int(before[1], 8), parents=True)
    if await asyncio.to_thread(_identity, content) != before:
        raise Conflict(f"{content} was changed while the template was made", remedy="try again")


async def _run(client: GuestClient, command: str | tuple[str, ...], shown: str, timeout_s: float | None) -> None:
    """Run a command of a set-up; what it prints is forgotten but for the end."""
    tail: collections.deque[int] = collections.deque(maxlen=_TAIL)
    options: CommandOptions = {"shell": command} if isinstance(command, str) else {"argv": command}
    options["timeout"] = timeout_s
    done: ExecResult = await client.run(**options, on_output=lambda _, data: tail.extend(data))
    if done.exit_code != 0:
        printed = bytes(tail).decode(errors="replace").strip()
        raise BuildFailed(f"a command of the set-up exited with {done.exit_code}: {shown}", cause=printed or None)


def _check_fit(spec: VMSpec, snapshot: Snapshot) -> None:
    """See to it that what is asked for is the template's, or not said."""
    unsaid = VMSpec(image="", name="")
    for name in _OF_THE_TEMPLATE:
        wanted, has = getattr(spec, name), getattr(snapshot.spec, name)
        if wanted not in (has, getattr(unsaid, name)):
            raise InvalidRequest(f"the template's {name} is {has!r}, not {wanted!r}", remedy="leave it out, or make another template")
    if spec.vmm not in {None, snapshot.vmm}:
        raise InvalidRequest(f"the template is one for {snapshot.vmm}, not {spec.vmm}", remedy="leave it out, or make another template")
