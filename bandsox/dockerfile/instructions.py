"""The instructions of a Dockerfile as values, as they are written: variables are replaced when they are carried out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from bandsox.dockerfile.lines import Heredoc
from bandsox.dockerfile.source import Place

Pairs: TypeAlias = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Instruction:
    """What all have: where they stand."""

    place: Place


@dataclass(frozen=True, slots=True)
class From(Instruction):
    """``FROM [--platform=…] image [AS name]``."""

    image: str
    name: str | None
    platform: str | None


@dataclass(frozen=True, slots=True)
class Command:
    """A command line: ``words`` of the exec form, or ``text`` for a shell, with what its here-documents say."""

    words: tuple[str, ...] | None
    text: str
    heredocs: tuple[Heredoc, ...] = ()


@dataclass(frozen=True, slots=True)
class Mount:
    """``--mount=…``: each option as it is written; ``read_only`` None where neither ro nor rw is."""

    type: str
    options: Pairs
    read_only: bool | None

    def get(self, *names: str) -> str | None:
        """The value of the option with one of these names."""
        return next((value for name, value in self.options if name in names), None)


@dataclass(frozen=True, slots=True)
class Run(Instruction):
    """``RUN [--mount=…] [--network=…] command``."""

    command: Command
    mounts: tuple[Mount, ...]
    network: str


@dataclass(frozen=True, slots=True)
class SetCommand(Instruction):
    """``CMD`` and ``ENTRYPOINT``."""

    entrypoint: bool
    command: Command


@dataclass(frozen=True, slots=True)
class Label(Instruction):
    """``LABEL key=value …``, and ``MAINTAINER``."""

    pairs: Pairs


@dataclass(frozen=True, slots=True)
class Expose(Instruction):
    """``EXPOSE port[/protocol] …``."""

    ports: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Env(Instruction):
    """``ENV key=value …``."""

    pairs: Pairs


@dataclass(frozen=True, slots=True)
class Arg(Instruction):
    """``ARG name[=default] …``."""

    pairs: tuple[tuple[str, str | None], ...]


@dataclass(frozen=True, slots=True)
class Copy(Instruction):
    """``COPY`` and ``ADD``; a source may be the name of a here-document (``<<EOF``)."""

    add: bool
    sources: tuple[str, ...]
    destination: str
    heredocs: tuple[Heredoc, ...] = ()
    source_stage: str | None = None
    chown: str | None = None
    chmod: str | None = None
    checksum: str | None = None
    unpack: bool | None = None
    parents: bool = False
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Volume(Instruction):
    """``VOLUME path …``."""

    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class User(Instruction):
    """``USER user[:group]``."""

    user: str


@dataclass(frozen=True, slots=True)
class Workdir(Instruction):
    """``WORKDIR path``."""

    path: str


@dataclass(frozen=True, slots=True)
class OnBuild(Instruction):
    """``ONBUILD instruction``; kept as text, read and carried out by the build that is based on the image."""

    text: str


@dataclass(frozen=True, slots=True)
class StopSignal(Instruction):
    """``STOPSIGNAL signal``."""

    signal: str


@dataclass(frozen=True, slots=True)
class Shell(Instruction):
    """``SHELL ["program", "argument", …]``."""

    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Healthcheck(Instruction):
    """``HEALTHCHECK``; ``command`` is None for NONE. Times are in nanoseconds, as an image's configuration has them; 0: the default."""

    command: Command | None
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0
