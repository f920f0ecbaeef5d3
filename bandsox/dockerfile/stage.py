"""One stage of a build: its state, and the carrying out of its instructions one after the other.

Each instruction that changes files is looked up in the cache first, by everything it depends on: the content of all layers
below it, the instruction with its variables replaced, the content of what it copies, and for RUN the environment. A machine
is started at the first RUN that is not in the cache, and not at all when every one is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import partial

from bandsox.dockerfile import instructions as ins
from bandsox.dockerfile import settings
from bandsox.dockerfile.cache import BuildCache, Hit, make_key
from bandsox.dockerfile.command import RunCommand, carry_out, run_command
from bandsox.dockerfile.copying import CopyRequest, plan_copy, split
from bandsox.dockerfile.copylayer import Checksums
from bandsox.dockerfile.download import fetch, is_remote
from bandsox.dockerfile.files import FileNode, FileSource, PathKey
from bandsox.dockerfile.layers import BuiltLayer, read_index
from bandsox.dockerfile.lines import Heredoc
from bandsox.dockerfile.machine import BuildMachine
from bandsox.dockerfile.mounts import ReadyMounts, read_mounts
from bandsox.dockerfile.options import BuildOptions, Reporter
from bandsox.dockerfile.patterns import IgnoreRules
from bandsox.dockerfile.source import Fault, Place
from bandsox.dockerfile.users import owner
from bandsox.dockerfile.variables import PROXY_ARGUMENTS, Scope
from bandsox.dockerfile.view import View
from bandsox.dockerfile.words import expand, expand_words
from bandsox.images.spec import HistoryEntry
from bandsox.images.tree import Kind
from bandsox.models import Image, ImageConfig
from bandsox.workers import in_thread

_TOLD = 4096
"""How many characters of an instruction the image's history tells."""

_FORMAT = 1
"""Raised whenever the same instruction would make another layer than before."""


@dataclass(slots=True)
class StageState:
    """An image under construction: what it is based on, the layers on top, and its configuration. ``chain`` names all its files,
    ``history`` are the instructions behind the layers."""

    base: Image | None
    view: View
    chain: str
    config: ImageConfig
    layers: tuple[BuiltLayer, ...] = ()
    history: tuple[HistoryEntry, ...] = ()
    arguments: dict[str, str] = field(default_factory=dict)

    def copy(self) -> StageState:
        """The same state for another stage to go on from."""
        return replace(self, arguments=dict(self.arguments))


FindTree = Callable[[str | None], Awaitable[FileSource]]
StartMachine = Callable[[StageState, bool], contextlib.AbstractAsyncContextManager[BuildMachine]]


@dataclass(slots=True)
class StageTools:
    """What a stage needs of the build: where files come from (None: the context), machines, cache and options."""

    find_tree: FindTree
    start_machine: StartMachine
    cache: BuildCache
    options: BuildOptions
    reporter: Reporter


class StageBuilder:
    """Carries out the instructions of one stage. Use it as a context manager: leaving it ends its machine."""

    def __init__(self, state: StageState, scope: Scope, tools: StageTools) -> None:
        self.state = state
        self._scope = scope
        self._tools = tools
        self._command_set = False
        self._machine: BuildMachine | None = None
        self._machines = contextlib.AsyncExitStack()

    async def __aenter__(self) -> StageBuilder:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._machines.aclose()

    async def carry_out(self, instruction: ins.Instruction) -> None:
        """Carry out one instruction.

        Raises
        ------
        InvalidDockerfile: it cannot be carried out as written. BuildFailed: it was, and failed.
        """
        reporter = self._tools.reporter
        step = reporter.begin(instruction.place.title)
        cached, layers_before = False, len(self.state.layers)
        with instruction.place.located():
            if isinstance(instruction, ins.Arg):
                self._scope.declare(instruction, self.state.config.env)
                self.state.arguments = dict(self._scope.values)
            elif isinstance(instruction, ins.Run):
                cached = await self._run(instruction)
            elif isinstance(instruction, ins.Copy):
                cached = await self._copy(instruction)
            elif isinstance(instruction, ins.Workdir):
                await self._workdir(instruction)
            elif isinstance(instruction, ins.SetCommand):
                self._set_command(instruction)
            else:
                changed = settings.apply(instruction, self.state.config, self._expand, self._words)
                assert changed is not None, instruction
                self.state.config = changed
        self._remember(instruction.place, len(self.state.layers) - layers_before)
        reporter.end(step, f"{instruction.place.title}{'  (cached)' if cached else ''}")

    def _remember(self, place: Place, layers: int) -> None:
        """Write an instruction into the image's history, as it stands in the file: no value of a variable is told."""
        entry = HistoryEntry(created_by=place.text.strip()[:_TOLD], empty_layer=not layers)
        self.state.history = (*self.state.history, *[entry] * max(1, layers))

    # ── configuration ───────────────────────────────────────────────────────────────────────────

    def _expand(self, text: str) -> str:
        return expand(text, self._scope.variables(self.state.config.env), self._scope.escape)

    def _words(self, text: str) -> list[str]:
        return expand_words(text, self._scope.variables(self.state.config.env), self._scope.escape)

    def _set_command(self, instruction: ins.SetCommand) -> None:
        words = instruction.command.words
        if words is None:
            words = settings.command_words(instruction.command, self.state.config)
        if not instruction.entrypoint:
            self.state.config = replace(self.state.config, cmd=words)
            self._command_set = True
        else:
            cmd = self.state.config.cmd if self._command_set else ()
            self.state.config = replace(self.state.config, entrypoint=words, cmd=cmd)

    async def _workdir(self, instruction: ins.Workdir) -> None:
        text = self._expand(instruction.path)
        if not text:
            raise Fault("the directory's name is empty once its variables are replaced")
        base = self.state.config.workdir or "/"
        path = split(text if text.startswith("/") else f"{base}/{text}")
        self.state.config = replace(self.state.config, workdir="/" + b"/".join(path).decode("utf-8", "surrogateescape"))
        await self._make_directory(path)

    async def _make_directory(self, path: PathKey) -> None:
        """Add a layer with a directory and what is missing above it."""
        real = self.state.view.resolve(path)
        there = self.state.view.entry(real)
        if there is not None:
            if there.kind is not Kind.DIRECTORY:
                raise Fault(f"/{b'/'.join(path).decode(errors='replace')} is not a directory in the image")
            return
        text = "/" + b"/".join(real).decode("utf-8", "surrogateescape")
        request = CopyRequest((".",), text, "/", View(None))
        items = plan_copy(request, self.state.view)
        work = self._tools.cache.work_file()
        layer = await in_thread(lambda stop: Checksums(items, stop).write(work, self.state.view, None))
        await self._add_layer(self._tools.cache.store(None, layer))

    # ── files ───────────────────────────────────────────────────────────────────────────────────

    async def _copy(self, instruction: ins.Copy) -> bool:
        async with contextlib.AsyncExitStack() as stack:
            request = await self._copy_request(instruction, stack)
            view = self.state.view
            checksums = await in_thread(lambda stop: Checksums(plan_copy(request, view), stop))
            key = make_key("copy", _FORMAT, self.state.chain, checksums.digest(), request.owner)

            async def make() -> BuiltLayer | None:
                work = self._tools.cache.work_file()
                return await in_thread(lambda _: checksums.write(work, view, request.owner))

            return await self._cached(key, make)

    async def _copy_request(self, instruction: ins.Copy, stack: contextlib.AsyncExitStack) -> CopyRequest:
        documents = {f"<<{one.name}": one for one in instruction.heredocs}
        files: list[tuple[bytes, FileNode]] = []
        sources: list[str] = []
        for text in instruction.sources:
            document = documents.get(_mark(text))
            source = text if document is not None else self._expand(text)
            if document is not None:
                files.append((document.name.encode(), self._document(document)))
            elif instruction.add and is_remote(source):
                files.append(await self._download(source, instruction, stack))
            else:
                sources.append(source)
        if instruction.checksum is not None and len(files) != 1:
            raise Fault("--checksum needs exactly one source, an http(s) address")
        origin = self._expand(instruction.source_stage) if instruction.source_stage is not None else None
        chown = self._expand(instruction.chown) if instruction.chown is not None else None
        tree = await self._tools.find_tree(origin)
        return CopyRequest(
            tuple(sources),
            self._expand(instruction.destination),
            self.state.config.workdir or "/",
            tree,
            tuple(files),
            owner=owner(self.state.view, chown) if chown is not None else None,
            mode=_mode(self._expand(instruction.chmod)) if instruction.chmod is not None else None,
            parents=instruction.parents,
            exclude=IgnoreRules(self._expand(pattern) for pattern in instruction.exclude),
            unpack=instruction.add and instruction.unpack is not False,
            unpack_files=instruction.unpack is True,
        )

    def _document(self, document: Heredoc) -> FileNode:
        text = document.content
        if document.expands:
            text = expand(text, self._scope.variables(self.state.config.env), self._scope.escape, quotes=False)
        data = text.encode()
        return FileNode(Kind.FILE, 0o644, size=len(data), read=lambda: iter((data,)))

    async def _download(self, url: str, instruction: ins.Copy, stack: contextlib.AsyncExitStack) -> tuple[bytes, FileNode]:
        target = self._tools.cache.work_file()
        checksum = self._expand(instruction.checksum) if instruction.checksum is not None else None
        found = await fetch(url, checksum, target)
        stack.callback(partial(target.unlink, missing_ok=True))
        if not found.name and self._expand(instruction.destination).endswith("/"):
            raise Fault(f"{url} has no file name at its end", "end the destination with the name the file shall have")
        return found.name or b"download", found.node

    # ── commands ────────────────────────────────────────────────────────────────────────────────

    async def _run(self, instruction: ins.Run) -> bool:
        await self._make_directory(split(self.state.config.workdir or "/"))
        config = self.state.config
        proxies = {name: value for name, value in self._scope.given.items() if name in PROXY_ARGUMENTS}
        variables = self._scope.variables(config.env)
        command = run_command(instruction.command, config, {**proxies, **variables}, self._scope.escape)
        mounts = await read_mounts(
            instruction.mounts, self._expand, config.workdir or "/", self.state.view, self._tools.find_tree, self._tools.options.secrets
        )
        hidden = set(PROXY_ARGUMENTS) - set(variables)
        seen = {name: value for name, value in command.environment.items() if name not in hidden}
        key = make_key(
            "run", _FORMAT, self.state.chain, command.argv, command.script, seen, command.workdir, command.user, mounts.key,
            instruction.network
        )  # fmt: skip
        networked = instruction.network != "none"
        return await self._cached(key, partial(self._execute, command, mounts, instruction.place, networked), in_machine=True)

    async def _execute(self, command: RunCommand, mounts: ReadyMounts, place: Place, networked: bool) -> BuiltLayer | None:
        excluded = mounts.excluded(self.state.view)
        machine = await self._ready_machine(networked=networked)
        try:
            async with mounts.prepared(machine, self._tools.cache):
                await carry_out(command, machine, mounts.environment, place, self._tools.reporter)
            return await machine.difference(excluded)
        except BaseException:
            machine.reusable = False
            raise

    async def _ready_machine(self, *, networked: bool) -> BuildMachine:
        if self._machine is not None and self._machine.networked is not networked:
            self._machine = None
            await self._machines.aclose()
        if self._machine is None:
            self._machine = await self._machines.enter_async_context(self._tools.start_machine(self.state, networked))
        return self._machine

    # ── layers ──────────────────────────────────────────────────────────────────────────────────

    async def _cached(self, key: str, make: Callable[[], Awaitable[BuiltLayer | None]], *, in_machine: bool = False) -> bool:
        """Take an instruction's layer from the cache or make it; return whether it was there.

        Parameters
        ----------
        in_machine: making it changes the machine, which so has it already.
        """
        cache = self._tools.cache
        async with cache.working(key):
            found: Hit | None = None if self._tools.options.no_cache else cache.find(key)
            layer = found.layer if found is not None else cache.store(key, await make())
        await self._add_layer(layer, in_machine=in_machine and found is None)
        return found is not None

    async def _add_layer(self, layer: BuiltLayer | None, *, in_machine: bool = False) -> None:
        """Put a layer on top, and into the machine where it was not made there."""
        if layer is not None:
            index = await in_thread(lambda _: read_index(layer.path))
            self.state.view = self.state.view.with_layer(index)
            self.state.layers = (*self.state.layers, layer)
            self.state.chain = make_key(self.state.chain, layer.diff_id)
            if self._machine is not None and not in_machine:
                await self._machine.apply(layer)
        if self._machine is not None and not self._machine.reusable:
            self._machine = None
            await self._machines.aclose()


def _mark(text: str) -> str:
    """A here-document's mark without what only says how it is read: ``<<-"EOF"`` as ``<<EOF``."""
    return "<<" + text.lstrip("0123456789")[2:].lstrip("-").strip("'\"") if "<<" in text else ""


def _mode(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and all(digit in "01234567" for digit in text)):
        raise Fault(f"--chmod={text} is not understood", "write the mode in octal digits, such as --chmod=755")
    mode = int(text, 8)
    if mode > 0o7777:
        raise Fault(f"--chmod={text} is no mode a file can have")
    return mode
