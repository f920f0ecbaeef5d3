"""`RUN --mount`: directories and files that a command sees and that are no part of the layer.

A microVM has none of the host's files, so nothing is mounted: what a mount shows is copied in before the command and, for a
cache, out again after it; what the image has at the target is moved out of the way for good, in a machine that ends with
this RUN. What the command writes to a bind mount is lost with the machine, as it should be.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

from bandsox.dockerfile.cache import BuildCache, make_key
from bandsox.dockerfile.copying import CopyRequest, Item, plan_copy, split
from bandsox.dockerfile.copylayer import Checksums
from bandsox.dockerfile.difference import Excluded
from bandsox.dockerfile.files import FileSource, PathKey
from bandsox.dockerfile.instructions import Mount
from bandsox.dockerfile.machine import BuildMachine
from bandsox.dockerfile.source import Fault
from bandsox.dockerfile.view import View
from bandsox.guest import GuestClient
from bandsox.images.tree import Kind, show_path
from bandsox.workers import in_thread

_OCTAL = re.compile(r"0?[0-7]{1,4}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

Expand = Callable[[str], str]
FindSource = Callable[[str | None], Awaitable[FileSource]]


@dataclass(frozen=True, slots=True)
class ReadyMount:
    """A mount with its options understood; ``items`` is what a bind mount shows."""

    kind: str
    target: PathKey
    items: tuple[Item, ...] = ()
    checksum: str = ""
    name: str = ""
    mode: int | None = None
    uid: int = 0
    gid: int = 0
    keeps: bool = True
    content: bytes | None = None
    variable: str | None = None


@dataclass(slots=True)
class ReadyMounts:
    """The mounts of one RUN."""

    mounts: tuple[ReadyMount, ...] = ()
    _archives: dict[str, Path] = field(default_factory=dict)

    @property
    def key(self) -> object:
        """What the cache key of the RUN needs to know of them; contents of caches and secrets are no part of it."""
        return [(one.kind, show_path(one.target), one.checksum, one.name, one.mode, one.uid, one.gid) for one in self.mounts]

    @property
    def environment(self) -> dict[str, str]:
        """Variables that secrets are handed over in."""
        named = ((one.variable, one.content) for one in self.mounts)
        return {name: content.decode("utf-8", "surrogateescape") for name, content in named if name and content is not None}

    def excluded(self, view: View) -> Excluded:
        """What of the machine's files is theirs; call it with the view the RUN begins with."""
        parents = {one.target[:length] for one in self.mounts for length in range(1, len(one.target))}
        stubs = tuple(path for path in sorted(parents) if view.entry(path) is None)
        return Excluded(tuple(one.target for one in self.mounts if one.target), stubs)

    @contextlib.asynccontextmanager
    async def prepared(self, machine: BuildMachine, cache: BuildCache) -> AsyncIterator[None]:
        """Put everything in place; when the block ends without an error, keep what the caches then hold."""
        async with contextlib.AsyncExitStack() as stack:
            for name in sorted({one.name for one in self.mounts if one.kind == "cache"}):
                self._archives[name] = await stack.enter_async_context(cache.mount(name))
            for one in self.mounts:
                await self._place(machine.guest, one, cache)
            yield
            for one in self.mounts:
                if one.kind == "cache" and one.keeps:
                    await self._keep(machine, one, cache)

    async def _place(self, guest: GuestClient, mount: ReadyMount, cache: BuildCache) -> None:
        if not mount.target:
            return
        target = b"/" + b"/".join(mount.target)
        await guest.make_directory(target.rpartition(b"/")[0] or b"/", parents=True)
        with contextlib.suppress(FileNotFoundError):
            await guest.remove(target, recursive=True)
        if mount.kind == "secret":
            if mount.content is not None:
                await guest.write_bytes(target, mount.content, mode=mount.mode, uid=mount.uid, gid=mount.gid)
            return
        if mount.kind != "bind":
            await guest.make_directory(target, mode=mount.mode if mount.mode is not None else 0o755)
            await guest.change_owner(target, mount.uid, mount.gid)
        archive = self._archives.get(mount.name) if mount.kind == "cache" else None
        if archive is not None and archive.exists():
            await guest.upload_tar(archive, target)
        elif mount.items:
            await _upload(guest, mount.items, cache)

    async def _keep(self, machine: BuildMachine, mount: ReadyMount, cache: BuildCache) -> None:
        work = cache.work_file()
        try:
            await machine.guest.download_tar(b"/" + b"/".join(mount.target), work, base=".", max_bytes=machine.most_bytes)
            work.rename(self._archives[mount.name])
        finally:
            work.unlink(missing_ok=True)


async def _upload(guest: GuestClient, items: tuple[Item, ...], cache: BuildCache) -> None:
    work = cache.work_file()
    try:
        await in_thread(lambda stop: Checksums(items, stop).write(work, View(None), None))
        await guest.upload_tar(work, "/")
    finally:
        work.unlink(missing_ok=True)


async def read_mounts(
    mounts: tuple[Mount, ...], expand: Expand, workdir: str, view: View, find_source: FindSource, secrets: Mapping[str, bytes]
) -> ReadyMounts:
    """Understand the mounts of a RUN.

    Raises
    ------
    Fault: an option is wrong, a source does not exist, or a secret that is required was not given.
    """
    ready = [await _read(mount, expand, workdir, view, find_source, secrets) for mount in mounts]
    targets = [one.target for one in ready if one.target]
    if len(set(targets)) != len(targets):
        raise Fault("two mounts have the same target")
    return ReadyMounts(tuple(ready))


async def _read(
    mount: Mount, expand: Expand, workdir: str, view: View, find_source: FindSource, secrets: Mapping[str, bytes]
) -> ReadyMount:
    if mount.type == "secret":
        return _secret(mount, expand, workdir, view, secrets)
    target_text = expand(mount.get("target", "dst", "destination") or "")
    if not target_text:
        raise Fault(f"--mount=type={mount.type} has no target", "add target=/path")
    target = _target(target_text, workdir, view)
    mode, uid, gid = _number(mount, "mode", 8), _number(mount, "uid", 10) or 0, _number(mount, "gid", 10) or 0
    if mount.type == "tmpfs":
        return ReadyMount("tmpfs", target, mode=0o1777)
    source, origin = expand(mount.get("source", "src") or "/"), mount.get("from")
    items: tuple[Item, ...] = ()
    if mount.type == "bind" or origin is not None:
        tree = await find_source(None if origin is None else expand(origin))
        items = tuple(item for item in _shown(tree, source, target) if item.path[: len(target)] == target)
    checksum = await in_thread(lambda stop: _digest(items, stop)) if items else ""
    if mount.type == "bind":
        return ReadyMount("bind", target, items, checksum)
    sharing = mount.get("sharing") or "shared"
    if sharing not in ("shared", "private", "locked"):
        raise Fault(f"sharing={sharing} is not known", "known are shared, private and locked")
    name = make_key(expand(mount.get("id") or target_text), checksum)
    return ReadyMount("cache", target, items, checksum, name, mode, uid, gid, keeps=mount.read_only is not True)


def _secret(mount: Mount, expand: Expand, workdir: str, view: View, secrets: Mapping[str, bytes]) -> ReadyMount:
    target_text, variable = mount.get("target", "dst", "destination"), mount.get("env")
    identifier = expand(mount.get("id", "source", "src") or (target_text or "").rpartition("/")[2])
    if not identifier:
        raise Fault("--mount=type=secret has neither id nor target")
    if variable is not None and not _NAME.fullmatch(variable):
        raise Fault(f"env={variable} cannot be a variable's name")
    content = secrets.get(identifier)
    if content is None and (mount.get("required") or "false").lower() in ("true", "1"):
        raise Fault(f"the secret {identifier!r} is required and was not given", f"build with --secret id={identifier},src=FILE")
    if target_text is None and variable is not None:
        return ReadyMount("secret", (), name=identifier, content=content, variable=variable)
    target = _target(expand(target_text or f"/run/secrets/{identifier}"), workdir, view)
    mode = _number(mount, "mode", 8)
    return ReadyMount(
        "secret", target, name=identifier, mode=0o400 if mode is None else mode,
        uid=_number(mount, "uid", 10) or 0, gid=_number(mount, "gid", 10) or 0, content=content, variable=variable,
    )  # fmt: skip


def _target(text: str, workdir: str, view: View) -> PathKey:
    path = view.resolve(split(text if text.startswith("/") else f"{workdir}/{text}"))
    if not path or path[0] in (b"proc", b"sys", b"dev"):
        raise Fault(f"{text} cannot be the target of a mount")
    return path


def _number(mount: Mount, name: str, base: int) -> int | None:
    text = mount.get(name)
    if text is None:
        return None
    if not (_OCTAL.fullmatch(text) if base == 8 else text.isascii() and text.isdigit() and len(text) <= 10):
        raise Fault(f"{name}={text} is not a number{' in octal digits' if base == 8 else ''}")
    return int(text, base)


def _shown(tree: FileSource, source: str, target: PathKey) -> list[Item]:
    """What a bind mount shows at its target: the source with everything in it."""
    path = tree.resolve(split(source) if not tree.confined else tuple(part.encode() for part in source.split("/") if part not in ("", ".")))
    node = tree.entry(path)
    if node is None:
        raise Fault(f"{source} does not exist in {tree.name}")
    text = "/" + b"/".join(target).decode("utf-8", "surrogateescape")
    literal = re.sub(r"([*?\[\\])", r"\\\1", b"/".join(path).decode("utf-8", "surrogateescape"))
    request = CopyRequest((literal or ".",), text, "/", tree)
    items = plan_copy(request, View(None))
    return items if node.kind is not Kind.DIRECTORY else [Item(target, node), *(item for item in items if item.path != target)]


def _digest(items: tuple[Item, ...], stop: Event) -> str:
    return Checksums(items, stop).digest()
