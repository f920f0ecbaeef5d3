"""A Dockerfile's stages, and which one a name means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bandsox.dockerfile import instructions as ins
from bandsox.dockerfile.parser import Dockerfile
from bandsox.dockerfile.source import Fault
from bandsox.dockerfile.variables import Scope
from bandsox.errors import InvalidDockerfile


@dataclass(frozen=True, slots=True)
class Stage:
    """A FROM and what follows it; ``number`` counts from 0."""

    number: int
    origin: ins.From
    instructions: tuple[ins.Instruction, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """The stages of a Dockerfile, and the arguments declared before the first."""

    stages: tuple[Stage, ...]
    scope: Scope

    def target(self, name: str | None) -> Stage:
        """The stage to build: by name or number, by default the last.

        Raises
        ------
        InvalidDockerfile: there is none such.
        """
        if name is None:
            return self.stages[-1]
        found = self.find(name, len(self.stages))
        if found is None:
            known = ", ".join(stage.origin.name or str(stage.number) for stage in self.stages)
            raise InvalidDockerfile(f"there is no stage {name!r}", remedy=f"the stages are {known}")
        return found

    def find(self, name: str, before: int) -> Stage | None:
        """The stage that `name` means among those before number `before`; None where it means something else, such as an image."""
        if name.isascii() and name.isdigit() and len(name) < 6 and int(name) < before:
            return self.stages[int(name)]
        named = (stage for stage in reversed(self.stages[:before]) if stage.origin.name == name.lower())
        return next(named, None)

    def check_later(self, name: str, before: int) -> None:
        """Refuse a name that only a later stage has.

        Raises
        ------
        Fault: it is one.
        """
        if any(stage.origin.name == name.lower() for stage in self.stages[before:]):
            raise Fault(f"the stage {name} comes later", "a stage sees only those above it: move it up")


def make_plan(dockerfile: Dockerfile, given: Mapping[str, str], platform: Mapping[str, str]) -> Plan:
    """Divide a Dockerfile into stages.

    Raises
    ------
    InvalidDockerfile: something but ARG stands before the first FROM.
    """
    scope = Scope({**platform, **given}, {}, dockerfile.escape, dict(platform))
    stages: list[tuple[ins.From, list[ins.Instruction]]] = []
    for instruction in dockerfile.instructions:
        if isinstance(instruction, ins.From):
            stages.append((instruction, []))
        elif stages:
            stages[-1][1].append(instruction)
        elif isinstance(instruction, ins.Arg):
            with instruction.place.located():
                scope.declare(instruction, {})
        else:
            raise instruction.place.error("only ARG may stand before the first FROM", remedy="move it behind a FROM")
    return Plan(tuple(Stage(number, origin, tuple(rest)) for number, (origin, rest) in enumerate(stages)), scope)
