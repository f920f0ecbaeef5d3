"""Building images from Dockerfiles: without Docker, without root, every RUN inside a microVM.

    image = await build_image(engine, Path("."), tag="app:latest")

How a build goes:

- `parser` reads the Dockerfile, `plan` divides it into stages; only those the target needs are built.
- COPY and ADD become layers on this host, as tar streams from the context, an image or an earlier stage (`copying`,
  `copylayer`); nothing is unpacked, and what they need to know of the image they read from its squashfs (`rootfs`, `view`).
- RUN is carried out in a microVM (`machine`, `command`). One machine serves the RUNs of a stage; what each changed becomes a layer
  of its own, by comparing the writable layer before and after (`difference`). The alternative, a new machine for each RUN, was
  weighed: it needs no comparison, but costs a boot and a conversion of the whole image for each RUN, seconds under emulation.
- Every layer is kept by what it was made from (`cache`), so a build that has nothing new to do needs no machine.

What is not done: SSH agents, Git sources of ADD, and other platforms than the host's.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from bandsox.dockerfile.builder import Build
from bandsox.dockerfile.cache import BuildCache, Pruned
from bandsox.dockerfile.context import BuildContext, ignore_rules
from bandsox.dockerfile.lines import MAX_SIZE
from bandsox.dockerfile.machine import DEFAULT_DISK_MIB, DEFAULT_MEM_MIB, DEFAULT_VCPU, MachineSize
from bandsox.dockerfile.options import BuildOptions, Reporter
from bandsox.dockerfile.parser import Dockerfile, parse
from bandsox.engine import Engine
from bandsox.errors import InvalidDockerfile
from bandsox.models import Image, ProgressCallback

__all__ = ["MachineSize", "Pruned", "build_image", "image_from_dockerfile", "prune_build_cache"]

_NAMES = ("Dockerfile", "Containerfile")


async def build_image(
    engine: Engine,
    context: str | os.PathLike[str],
    dockerfile: str | os.PathLike[str] | None = None,
    *,
    tag: str | None = None,
    build_args: Mapping[str, str] | None = None,
    target: str | None = None,
    labels: Mapping[str, str] | None = None,
    secrets: Mapping[str, bytes] | None = None,
    no_cache: bool = False,
    pull: bool = False,
    progress: ProgressCallback | None = None,
    vcpu: int = DEFAULT_VCPU,
    mem_mib: int = DEFAULT_MEM_MIB,
    disk_size_mib: int = DEFAULT_DISK_MIB,
    registry_only: bool = False,
) -> Image:
    """Build an image.

    Parameters
    ----------
    context: the directory that COPY and ADD take files from.
    dockerfile: its path, by default `Dockerfile` or `Containerfile` in the context; it may lie outside.
    tag: the name the image gets, taken from the image that had it; None: it is known by its id alone.
    build_args, labels: values for ARG, and labels of the image.
    target: the stage to build, by name or number; by default the last.
    secrets: the contents of secrets, by id, for ``RUN --mount=type=secret``.
    no_cache: carry out everything again. pull: look at the registry even for images that are here.
    progress: called with every step, and with every line that a command prints (``task`` is ``output``).
    vcpu, mem_mib, disk_size_mib: the machines in which RUN runs.
    registry_only: refuse images that are named by a file or program of this host: for Dockerfiles of strangers.

    Raises
    ------
    InvalidDockerfile: the Dockerfile cannot be read, or asks for what cannot be done; the message names file and line.
    BuildFailed: an instruction failed; the message has the end of what it printed.
    InvalidRequest: the context or its ignore file cannot be read.
    ImageError, HostError, MachineError: an image could not be fetched, the disk is full, no machine could be started.
    """
    directory = Path(context)
    path = Path(dockerfile) if dockerfile is not None else _default_dockerfile(directory)
    parsed = _read(path)
    size = MachineSize(vcpu, mem_mib, disk_size_mib)
    options = BuildOptions(build_args or {}, target, labels or {}, secrets or {}, no_cache, pull, registry_only, size)
    reporter = Reporter(progress)
    source = BuildContext(directory, ignore_rules(directory, path))
    try:
        build = Build(engine, parsed, source, options, reporter)
        for name in build.unused_arguments():
            reporter.output(f"warning: no ARG declares the build argument {name}\n".encode())
        return await build.run(tag)
    finally:
        source.close()


async def image_from_dockerfile(
    engine: Engine,
    dockerfile_path: str | os.PathLike[str],
    tag: str | None = None,
    *,
    context: str | os.PathLike[str] | None = None,
    progress: ProgressCallback | None = None,
    no_cache: bool = False,
    build_args: Mapping[str, str] | None = None,
    registry_only: bool = False,
) -> Image:
    """The image of `create_vm_from_dockerfile`; the context is the Dockerfile's directory unless it is given.

    Raises
    ------
    As `build_image`.
    """
    path = Path(dockerfile_path)
    return await build_image(
        engine,
        context if context is not None else path.parent,
        path,
        tag=tag,
        progress=progress,
        no_cache=no_cache,
        build_args=build_args,
        registry_only=registry_only,
    )


async def prune_build_cache(engine: Engine, unused_for_s: float = 0.0) -> Pruned:
    """Remove from the build cache what no build has used for so many seconds; images stay."""
    return await BuildCache(engine.layout).prune(unused_for_s)


def _default_dockerfile(context: Path) -> Path:
    return next((context / name for name in _NAMES if (context / name).is_file()), context / _NAMES[0])


def _read(path: Path) -> Dockerfile:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SIZE + 1)
    except OSError as error:
        cause = os.strerror(error.errno) if error.errno else None
        raise InvalidDockerfile(f"{path} cannot be read", cause=cause, remedy="name the Dockerfile with -f") from error
    return parse(data, os.fspath(path))
