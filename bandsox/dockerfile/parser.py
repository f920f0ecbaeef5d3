"""From a Dockerfile's text to its instructions.

Own code, because what PyPI has does not fit: `dockerfile-parse` 2.0.1 takes the lines of a here-document for instructions
and knows no flags; `dockerfile` 3.4.0 is BuildKit's own splitter as a Go library, which brings a second runtime into the
process, is built for x86-64 only, hides the escape character and whether a here-document is quoted, and leaves everything
beyond splitting (flags, variables, typed instructions) to its caller. What is read here is the Dockerfile reference
(https://docs.docker.com/reference/dockerfile/), syntax version 1.

Whatever the text is, the outcome is instructions or `InvalidDockerfile` with file, line and text.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from bandsox.dockerfile import instructions as ins
from bandsox.dockerfile.flags import Flags, split_flags
from bandsox.dockerfile.lines import Heredoc, Line, heredoc_mark, read_document
from bandsox.dockerfile.source import Fault, Place
from bandsox.dockerfile.words import split_words

_NOT_IN_ONBUILD = ("FROM", "ONBUILD", "MAINTAINER")
_STAGE_NAME = re.compile(r"[a-z][a-z0-9._-]*")
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_NANOSECONDS = {"ns": 1, "us": 10**3, "µs": 10**3, "μs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}


@dataclass(frozen=True, slots=True)
class Dockerfile:
    """The instructions of a Dockerfile, and the escape character its words are written with."""

    instructions: tuple[ins.Instruction, ...]
    escape: str


@dataclass(frozen=True, slots=True)
class _Source:
    """One instruction's arguments on the way to becoming a value."""

    place: Place
    name: str
    rest: str
    heredocs: tuple[Heredoc, ...]
    flags: Flags
    escape: str


def parse(data: bytes, file: str = "Dockerfile") -> Dockerfile:
    """Read a Dockerfile; `file` is its name in messages.

    Raises
    ------
    InvalidDockerfile: something in it cannot be read.
    """
    document = read_document(data, file)
    found = tuple(_instruction(line, document.escape) for line in document.lines)
    if not any(isinstance(item, ins.From) for item in found):
        raise Place(file, 1, "").error("no image is named to build from", remedy="begin with FROM <image>, or FROM scratch")
    return Dockerfile(found, document.escape)


def parse_trigger(text: str, image: str) -> ins.Instruction:
    """Read one ONBUILD instruction of the image `image`.

    Raises
    ------
    InvalidDockerfile: it cannot be read, or is not allowed there.
    """
    place = Place(f"ONBUILD of {image}", 1, text)
    with place.located():
        _check_trigger(text)
    return _instruction(Line(place, text), "\\")


def _instruction(line: Line, escape: str) -> ins.Instruction:
    words = line.text.split(None, 1)
    name, rest = words[0].upper(), words[1] if len(words) > 1 else ""
    with line.place.located():
        reader = _READERS.get(name)
        if reader is None:
            near = difflib.get_close_matches(name, _READERS, 1)
            raise Fault(f"there is no instruction {name[:40]}", f"did you mean {near[0]}?" if near else None)
        flags, rest = split_flags(rest, escape)
        if not rest.strip():
            raise Fault(f"{name} needs an argument")
        source = _Source(line.place, name, rest.strip(), line.heredocs, flags, escape)
        result = reader(source)
        flags.check_all_used(name)
        return result


# ── forms ───────────────────────────────────────────────────────────────────────────────────────


def _json(text: str) -> tuple[str, ...] | None:
    """A JSON array of strings; None for anything that is no JSON array and so is meant for a shell."""
    if not text.startswith("["):
        return None
    try:
        items = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, ValueError):
        return None
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise Fault("an array in JSON form holds something that is no string", "put every item in double quotes")
    return tuple(items)


def _command(source: _Source, text: str) -> ins.Command:
    words = _json(text)
    if words is not None and not words:
        raise Fault(f"{source.name} has an empty list")
    return ins.Command(words, text, source.heredocs)


def _list(source: _Source) -> tuple[str, ...]:
    """An array in JSON form, or words between white space."""
    words = _json(source.rest)
    return words if words is not None else tuple(source.rest.split())


def _pairs(source: _Source) -> ins.Pairs:
    """``key=value …``, or the old form ``key value`` with everything behind the first blank as the value."""
    words = split_words(source.rest, source.escape)
    if not words or "=" not in words[0]:
        key, *value = source.rest.split(None, 1)
        if not value:
            raise Fault(f"{source.name} {key} has no value", f"write {source.name} {key}=value")
        return ((key, value[0]),)
    for word in words:
        if "=" not in word or word.startswith("="):
            raise Fault(f"{word!r} is not of the form name=value", "put values with blanks in double quotes")
    return tuple((word.partition("=")[0], word.partition("=")[2]) for word in words)


# ── instructions ────────────────────────────────────────────────────────────────────────────────


def _from(source: _Source) -> ins.From:
    words = source.rest.split()
    if len(words) not in (1, 3) or (len(words) == 3 and words[1].upper() != "AS"):
        raise Fault("FROM is followed by an image, and AS and a name where wanted", "write FROM image AS name")
    name = words[2].lower() if len(words) == 3 else None
    if name is not None and not _STAGE_NAME.fullmatch(name):
        raise Fault(f"{words[2]!r} cannot be a stage's name", "begin with a letter; go on with letters, digits, '.', '_' and '-'")
    return ins.From(source.place, words[0], name, source.flags.one("platform"))


def _run(source: _Source) -> ins.Run:
    security = source.flags.one("security") or "sandbox"
    if security != "sandbox":
        raise Fault(
            f"RUN --security={security} cannot be honoured",
            "leave it out: a command has its microVM for itself and is root of all of it",
        )
    network = source.flags.one("network") or "default"
    if network not in ("default", "none", "host"):
        raise Fault(f"RUN --network={network} is not known", "known are default, none and host")
    if network == "host":
        raise Fault("RUN --network=host cannot be honoured: a microVM never is in the host's network", "leave it out")
    mounts = tuple(_mount(text) for text in source.flags.many("mount"))
    if source.flags.many("device"):
        raise Fault("RUN --device cannot be honoured: a microVM has no device of the host", "leave it out")
    return ins.Run(source.place, _command(source, source.rest), mounts, network)


def _mount(text: str) -> ins.Mount:
    options: list[tuple[str, str]] = []
    kind, read_only = "bind", None
    for field in text.split(","):
        key, equals, value = field.partition("=")
        key = key.strip().lower()
        if key == "type":
            kind = value
        elif key in ("ro", "readonly", "rw", "readwrite"):
            on = value.lower() in ("true", "1") if equals else True
            if equals and value.lower() not in ("true", "1", "false", "0"):
                raise Fault(f"{field!r} in --mount is neither true nor false")
            read_only = on if key.startswith("r") and key in ("ro", "readonly") else not on
        elif key in _MOUNT_OPTIONS:
            options.append((key, value))
        else:
            raise Fault(f"{field!r} is not an option of --mount", f"it has type, ro, rw, {', '.join(sorted(_MOUNT_OPTIONS))}")
    if kind == "ssh":
        raise Fault("RUN --mount=type=ssh cannot be honoured: no SSH agent of the host is lent to a microVM", "use type=secret")
    if kind not in ("bind", "cache", "tmpfs", "secret"):
        raise Fault(f"--mount has no type {kind!r}", "it has bind, cache, tmpfs and secret")
    return ins.Mount(kind, tuple(options), read_only)


_MOUNT_OPTIONS = frozenset(
    ("target", "dst", "destination", "source", "src", "from", "id", "sharing", "mode", "uid", "gid", "required", "env", "size")
)


def _set_command(source: _Source) -> ins.SetCommand:
    return ins.SetCommand(source.place, source.name == "ENTRYPOINT", ins.Command(_json(source.rest), source.rest))


def _copy(source: _Source) -> ins.Copy:
    flags, add = source.flags, source.name == "ADD"
    words = _list(source)
    if len(words) < 2:
        raise Fault(f"{source.name} needs at least one source and a destination", f"write {source.name} source destination")
    flags.boolean("link")
    if add and flags.boolean("keep-git-dir"):
        raise Fault("ADD cannot fetch Git repositories here", "clone it on the host, and COPY the directory")
    sources = tuple(words[:-1])
    if heredoc_mark(words[-1]) and source.heredocs:
        raise Fault(f"{source.name} ends with a here-document and has no destination", f"write {source.name} <<EOF /path/of/the/file")
    return ins.Copy(
        source.place,
        add,
        sources,
        words[-1],
        source.heredocs,
        source_stage=None if add else flags.one("from"),
        chown=flags.one("chown"),
        chmod=flags.one("chmod"),
        checksum=flags.one("checksum") if add else None,
        unpack=flags.optional_boolean("unpack") if add else None,
        parents=flags.boolean("parents"),
        exclude=flags.many("exclude"),
    )


def _label(source: _Source) -> ins.Label:
    if source.name == "MAINTAINER":
        return ins.Label(source.place, (("maintainer", f'"{_quotable(source.rest)}"'),))
    return ins.Label(source.place, _pairs(source))


def _quotable(text: str) -> str:
    return re.sub(r'(["$\\])', r"\\\1", text)


def _arg(source: _Source) -> ins.Arg:
    pairs: list[tuple[str, str | None]] = []
    for word in split_words(source.rest, source.escape):
        name, equals, default = word.partition("=")
        if not name:
            raise Fault(f"{word!r} is not of the form name or name=default")
        pairs.append((name, default if equals else None))
    return ins.Arg(source.place, tuple(pairs))


def _onbuild(source: _Source) -> ins.OnBuild:
    _check_trigger(source.rest)
    _instruction(Line(source.place, source.rest), source.escape)
    return ins.OnBuild(source.place, source.rest)


def _check_trigger(text: str) -> None:
    words = text.split(None, 1)
    if words and words[0].upper() in _NOT_IN_ONBUILD:
        raise Fault(f"ONBUILD cannot be followed by {words[0].upper()}")


def _shell(source: _Source) -> ins.Shell:
    words = _json(source.rest)
    if not words:
        raise Fault("SHELL is written as an array in JSON form", 'write SHELL ["/bin/sh", "-c"]')
    return ins.Shell(source.place, words)


def _healthcheck(source: _Source) -> ins.Healthcheck:
    kind, _, rest = source.rest.partition(" ")
    if kind.upper() == "NONE":
        if rest.strip():
            raise Fault("HEALTHCHECK NONE takes no argument")
        return ins.Healthcheck(source.place, None)
    if kind.upper() != "CMD" or not rest.strip():
        raise Fault("HEALTHCHECK is followed by NONE, or by CMD and a command")
    flags = source.flags
    retries = flags.one("retries") or "0"
    if not retries.isascii() or not retries.isdigit() or len(retries) > 6:
        raise Fault(f"--retries={retries} is not a number")
    return ins.Healthcheck(
        source.place,
        _command(source, rest.strip()),
        interval=_duration(flags.one("interval")),
        timeout=_duration(flags.one("timeout")),
        start_period=_duration(flags.one("start-period")),
        start_interval=_duration(flags.one("start-interval")),
        retries=int(retries),
    )


def _duration(text: str | None) -> int:
    """A time as Go writes it (``1m30s``), in nanoseconds."""
    if text is None or text == "0":
        return 0
    parts = _DURATION.findall(text)
    if "".join(number + unit for number, unit in parts) != text or not parts or len(text) > 40:
        raise Fault(f"{text!r} is not a time", "write a number and a unit, such as 30s or 1m30s")
    return int(sum(float(number) * _NANOSECONDS[unit] for number, unit in parts))


_READERS: dict[str, Callable[[_Source], ins.Instruction]] = {
    "FROM": _from,
    "RUN": _run,
    "CMD": _set_command,
    "ENTRYPOINT": _set_command,
    "LABEL": _label,
    "MAINTAINER": _label,
    "EXPOSE": lambda source: ins.Expose(source.place, tuple(source.rest.split())),
    "ENV": lambda source: ins.Env(source.place, _pairs(source)),
    "ADD": _copy,
    "COPY": _copy,
    "VOLUME": lambda source: ins.Volume(source.place, _list(source)),
    "USER": lambda source: ins.User(source.place, source.rest),
    "WORKDIR": lambda source: ins.Workdir(source.place, source.rest),
    "ARG": _arg,
    "ONBUILD": _onbuild,
    "STOPSIGNAL": lambda source: ins.StopSignal(source.place, source.rest),
    "HEALTHCHECK": _healthcheck,
    "SHELL": _shell,
}
