"""A build from beginning to end: its stages, its machines and its image.

Only the stages that the target needs are built, when they are needed first: a stage is a coroutine's result that is kept.
What a build leaves behind, however it ends, is the image it was asked for and the cache; machines and the nameless images that they
are started from go with it, and those of a build that was killed with the next build.
"""

from __future__ import annotations

import contextlib
import secrets as random
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace

import anyio

from bandsox.dockerfile.cache import BuildCache, make_key
from bandsox.dockerfile.context import BuildContext
from bandsox.dockerfile.files import FileSource
from bandsox.dockerfile.instructions import Arg
from bandsox.dockerfile.layers import BuiltLayer
from bandsox.dockerfile.machine import BuildMachine, started
from bandsox.dockerfile.options import BuildOptions, Reporter
from bandsox.dockerfile.parser import Dockerfile, parse_trigger
from bandsox.dockerfile.plan import Stage, make_plan
from bandsox.dockerfile.rootfs import RootFS
from bandsox.dockerfile.source import Fault
from bandsox.dockerfile.stage import StageBuilder, StageState, StageTools
from bandsox.dockerfile.variables import PROXY_ARGUMENTS, Scope, platform_arguments
from bandsox.dockerfile.view import View
from bandsox.dockerfile.words import expand
from bandsox.engine import Engine
from bandsox.errors import ImageNotFound, NotFound
from bandsox.images import spec
from bandsox.images.blobs import file_chunks
from bandsox.images.manager import PullPolicy
from bandsox.images.reference import parse_reference
from bandsox.models import Image, ImageConfig
from bandsox.workers import storage_errors

NAMELESS = "dev.bandsox.dockerfile"
"""The label of images that only a build's machines are made of."""

_UNPACKED_AT_MOST = 64 << 20
"""Up to this many bytes of layers are unpacked in a machine of the base; more are converted with it, which then takes less time."""


class Build:
    """One build. Use `run` once."""

    def __init__(self, engine: Engine, dockerfile: Dockerfile, context: BuildContext, options: BuildOptions, reporter: Reporter) -> None:
        self._engine = engine
        self._context = context
        self._options = options
        self._reporter = reporter
        self._cache = BuildCache(engine.layout)
        self._platform = spec.host_platform()
        self._platform_arguments = platform_arguments(self._platform, options.target or "")
        self._dockerfile = dockerfile
        self._plan = make_plan(dockerfile, options.build_args, self._platform_arguments)
        self._states: dict[int, StageState] = {}
        self._images: dict[str, Image] = {}
        self._open = contextlib.ExitStack()

    async def run(self, tag: str | None) -> Image:
        """Build the target and name it.

        Raises
        ------
        InvalidDockerfile, BuildFailed, ImageError, HostError: see `bandsox.dockerfile.build_image`.
        """
        target = self._plan.target(self._options.target)
        await self._engine.remove_overdue()
        with self._open, storage_errors(self._engine.layout.root):
            async with self._cache.building():
                state = await self._stage(target)
                return await self._commit(state, tag)

    def unused_arguments(self) -> list[str]:
        """The build arguments that no ARG declares."""
        declared = {name for item in self._dockerfile.instructions if isinstance(item, Arg) for name, _ in item.pairs}
        return sorted(set(self._options.build_args) - declared - set(PROXY_ARGUMENTS) - set(self._platform_arguments))

    # ── stages ──────────────────────────────────────────────────────────────────────────────────

    async def _stage(self, stage: Stage) -> StageState:
        """The state after a stage, built at the first call."""
        if stage.number not in self._states:
            self._states[stage.number] = await self._build_stage(stage)
        return self._states[stage.number]

    async def _build_stage(self, stage: Stage) -> StageState:
        with stage.origin.place.located():
            state, name = await self._origin(stage)
        self._reporter.end(self._reporter.begin(stage.origin.place.title), stage.origin.place.title)
        triggers, state.config = state.config.on_build, replace(state.config, on_build=())
        scope = Scope(self._options.build_args, self._plan.scope.values, self._dockerfile.escape, dict(state.arguments))
        tools = StageTools(lambda name: self._tree(name, stage), self._machine, self._cache, self._options, self._reporter)
        async with StageBuilder(state, scope, tools) as builder:
            for text in triggers:
                await builder.carry_out(parse_trigger(text, name))
            for instruction in stage.instructions:
                await builder.carry_out(instruction)
            return builder.state

    async def _origin(self, stage: Stage) -> tuple[StageState, str]:
        """What a stage begins with, and its name."""
        origin, scope = stage.origin, self._plan.scope
        if origin.platform is not None:
            self._check_platform(expand(origin.platform, scope.values, scope.escape))
        name = expand(origin.image, scope.values, scope.escape)
        if not name:
            raise Fault("the image's name is empty once its variables are replaced", "give the ARG a default, or pass --build-arg")
        earlier = self._plan.find(name, stage.number) if not name.isdigit() else None
        if earlier is not None:
            return (await self._stage(earlier)).copy(), name
        if name == "scratch":
            return StageState(None, View(None), make_key("scratch"), ImageConfig()), name
        self._plan.check_later(name, stage.number + 1)
        image = await self._image(name)
        chain = make_key("image", image.rootfs_digest)
        return StageState(image, self._view(image), chain, image.config), name

    def _check_platform(self, text: str) -> None:
        parts = text.split("/")
        if parts[0] != "linux" or (len(parts) > 1 and parts[1] != self._platform.architecture):
            raise Fault(f"--platform={text} cannot be built here: this host is {self._platform}", "leave it out")

    async def _image(self, name: str) -> Image:
        """An image that a FROM or COPY --from names, fetched where it is not here.

        Raises
        ------
        Fault: it is one that only this host's user may name. ImageNotFound and what else fetching raises.
        """
        if name not in self._images:
            if self._options.registry_only and parse_reference(name).reads_host:
                raise Fault(f"the image {name} reads this host's files, which this build may not", "name an image of a registry")
            pull: PullPolicy = "always" if self._options.pull else "missing"
            self._images[name] = await self._engine.images.resolve(name, pull, self._reporter.callback)
        return self._images[name]

    def _view(self, image: Image) -> View:
        rootfs = RootFS(image.rootfs)
        self._open.callback(rootfs.close)
        return View(rootfs)

    async def _tree(self, name: str | None, stage: Stage) -> FileSource:
        """Where files are copied from: the context (None), an earlier stage, or an image.

        Raises
        ------
        Fault: the name is this stage's or a later one's.
        """
        if name is None:
            return self._context
        found = self._plan.find(name, stage.number)
        if found is not None:
            return (await self._stage(found)).view
        self._plan.check_later(name, stage.number)
        if name.isdigit():
            raise Fault(f"there is no stage {name} above this one")
        try:
            return self._view(await self._image(name))
        except NotFound as error:
            raise Fault(f"{name} is neither a stage above this one nor an image: {error.message}", error.remedy) from error

    # ── machines ────────────────────────────────────────────────────────────────────────────────

    @contextlib.asynccontextmanager
    async def _machine(self, state: StageState, networked: bool) -> AsyncIterator[BuildMachine]:
        """A machine with the files of `state`: of the base with few layers unpacked in it, or of an image made of all of them."""
        async with contextlib.AsyncExitStack() as stack:
            image, unpacked = state.base, state.layers
            if image is None or sum(layer.size for layer in unpacked) > _UNPACKED_AT_MOST:
                image, unpacked = await stack.enter_async_context(self._nameless_image(state)), ()
            machine = await stack.enter_async_context(
                started(self._engine, self._cache, image, self._options.size, self._reporter.callback, networked=networked)
            )
            for layer in unpacked:
                await machine.apply(layer)
            await machine.begin()
            yield machine

    @contextlib.asynccontextmanager
    async def _nameless_image(self, state: StageState) -> AsyncIterator[Image]:
        """An image of `state` for the time of a machine; its label makes it nobody else's."""
        config = ImageConfig(labels={NAMELESS: random.token_hex(8)})
        images = self._engine.images
        async with images.adding():
            image = await images.commit(await self._layers(state.layers), config, base=state.base, progress=self._reporter.callback)
        try:
            yield image
        finally:
            with anyio.CancelScope(shield=True), contextlib.suppress(ImageNotFound):
                await images.remove(image.id, force=True)

    async def _layers(self, layers: tuple[BuiltLayer, ...]) -> list[spec.Layer]:
        """Layers of the build as layers of the image store; call it inside `Images.adding`."""
        return [await self._engine.images.add_layer(file_chunks(layer.path)) for layer in layers]

    # ── the image ───────────────────────────────────────────────────────────────────────────────

    async def _commit(self, state: StageState, tag: str | None) -> Image:
        labels: Mapping[str, str] = {**state.config.labels, **self._options.labels}
        config = replace(state.config, labels=labels)
        images = self._engine.images
        known = await self._same_image(state, config)
        if known is not None:
            return await images.tag(known.id, tag) if tag is not None else known
        async with images.adding():
            layers = await self._layers(state.layers)
            references = (tag,) if tag is not None else ()
            return await images.commit(
                layers, config, base=state.base, history=state.history, references=references, progress=self._reporter.callback
            )

    async def _same_image(self, state: StageState, config: ImageConfig) -> Image | None:
        """The image of an earlier build that this one would make again: its id follows from its layers and configuration."""
        images = self._engine.images
        layers = [spec.Layer("", 0, "", layer.diff_id) for layer in state.layers]
        try:
            image = await images.inspect(spec.digest_of(images.configuration(layers, config, base=state.base, history=state.history)))
        except ImageNotFound:
            return None
        return image if image.rootfs.is_file() else None
