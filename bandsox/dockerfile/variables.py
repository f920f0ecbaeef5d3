"""Build arguments and environment variables: which name has which value where.

Source: the Dockerfile reference, "ARG" and "Environment replacement". Arguments declared before the first FROM are seen by FROM
lines, and by a stage that declares them again. A variable of ENV always wins over an argument of the same name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bandsox.dockerfile.instructions import Arg
from bandsox.dockerfile.words import expand
from bandsox.images.spec import Platform

PROXY_ARGUMENTS = tuple(
    name for lower in ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy") for name in (lower.upper(), lower)
)
"""Arguments that every RUN sees without declaring them, and that the cache does not depend on."""


def platform_arguments(platform: Platform, target: str) -> dict[str, str]:
    """The arguments that name the platform built for and on; a stage that wants one declares it."""
    text = str(platform)
    values = {"": text, "OS": platform.os, "ARCH": platform.architecture, "VARIANT": platform.variant}
    named = {f"{side}{key or 'PLATFORM'}": value for side in ("TARGET", "BUILD") for key, value in values.items()}
    return {**named, "TARGETSTAGE": target or "default"}


@dataclass(slots=True)
class Scope:
    """The arguments of the whole file, or of one stage.

    ``given`` is what the caller of the build set, ``outer`` the arguments of the file, ``values`` those declared here.
    """

    given: Mapping[str, str]
    outer: Mapping[str, str]
    escape: str
    values: dict[str, str] = field(default_factory=dict)

    def declare(self, arg: Arg, environment: Mapping[str, str]) -> None:
        """Carry out an ARG.

        Raises
        ------
        Fault: its default cannot be expanded.
        """
        for raw, default in arg.pairs:
            name = expand(raw, {**self.values, **environment}, self.escape)
            if name in self.given:
                self.values[name] = self.given[name]
            elif default is not None:
                self.values[name] = expand(default, {**self.values, **environment}, self.escape)
            elif name in self.outer:
                self.values[name] = self.outer[name]

    def variables(self, environment: Mapping[str, str]) -> dict[str, str]:
        """What ``$name`` means."""
        return {**self.values, **environment}
