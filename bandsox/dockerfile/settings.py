"""Instructions that change an image's configuration and nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from bandsox.dockerfile import instructions as ins
from bandsox.dockerfile.source import Fault
from bandsox.models import ImageConfig

DEFAULT_SHELL = ("/bin/sh", "-c")
_PORT = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?(?:/(tcp|udp|sctp))?", re.IGNORECASE)
_MAX_RANGE = 4096

Expand = Callable[[str], str]


def apply(instruction: ins.Instruction, config: ImageConfig, expand: Expand, words: Callable[[str], list[str]]) -> ImageConfig | None:
    """The configuration after an instruction; None where it is not one that only sets something.

    Parameters
    ----------
    expand, words: replace the variables of a text, and split it at blanks afterwards.

    Raises
    ------
    Fault: a value cannot be.
    """
    if isinstance(instruction, ins.Env):
        return replace(config, env={**config.env, **_pairs(instruction.pairs, expand)})
    if isinstance(instruction, ins.Label):
        return replace(config, labels={**config.labels, **_pairs(instruction.pairs, expand)})
    if isinstance(instruction, ins.Expose):
        ports = [port for text in instruction.ports for word in words(text) for port in _ports(word)]
        return replace(config, exposed_ports=tuple(dict.fromkeys((*config.exposed_ports, *ports))))
    if isinstance(instruction, ins.Volume):
        paths = [_plain(expand(path), "a volume's path") for path in instruction.paths]
        return replace(config, volumes=tuple(dict.fromkeys((*config.volumes, *paths))))
    if isinstance(instruction, ins.User):
        return replace(config, user=_plain(expand(instruction.user), "a user's name"))
    if isinstance(instruction, ins.StopSignal):
        return replace(config, stop_signal=_plain(expand(instruction.signal), "a signal"))
    if isinstance(instruction, ins.Shell):
        return replace(config, shell=instruction.words)
    if isinstance(instruction, ins.OnBuild):
        return replace(config, on_build=(*config.on_build, instruction.text))
    if isinstance(instruction, ins.Healthcheck):
        return replace(config, healthcheck=_healthcheck(instruction, config))
    return None


def command_words(command: ins.Command, config: ImageConfig) -> tuple[str, ...]:
    """A command's arguments: as written, or the shell with the text as its last."""
    return command.words if command.words is not None else (*(config.shell or DEFAULT_SHELL), command.text)


def _pairs(pairs: ins.Pairs, expand: Expand) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for raw, value in pairs:
        name = expand(raw)
        if not name or "=" in name:
            raise Fault(f"{raw!r} cannot be a name")
        found[name] = expand(value)
    return found


def _plain(text: str, what: str) -> str:
    if not text.strip():
        raise Fault(f"{what} is empty once its variables are replaced")
    return text


def _ports(text: str) -> list[str]:
    """``80``, ``80/udp``, ``8000-8010``; what stands before a colon (a host's port) has no meaning and is refused."""
    found = _PORT.fullmatch(text)
    if found is None:
        raise Fault(f"{text!r} is not a port", "write a number, or number/udp, or a range such as 8000-8010")
    first, last = int(found.group(1)), int(found.group(2) or found.group(1))
    if not 0 < first <= last <= 65535 or last - first > _MAX_RANGE:
        raise Fault(f"{text!r} is not a port or a range of ports")
    return [f"{port}/{(found.group(3) or 'tcp').lower()}" for port in range(first, last + 1)]


def _healthcheck(check: ins.Healthcheck, config: ImageConfig) -> dict[str, Any]:
    if check.command is None:
        return {"Test": ["NONE"]}
    words = check.command.words
    times = {
        "Interval": check.interval, "Timeout": check.timeout, "StartPeriod": check.start_period,
        "StartInterval": check.start_interval, "Retries": check.retries,
    }  # fmt: skip
    test = ["CMD", *words] if words is not None else ["CMD-SHELL", check.command.text]
    return {"Test": test, **{name: value for name, value in times.items() if value}}
