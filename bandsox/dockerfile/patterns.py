"""Go's file name patterns: in COPY and ADD (``filepath.Match``), and in ``.dockerignore`` (with ``**`` and ``!``).

Sources: https://pkg.go.dev/path/filepath#Match; the documentation of ``.dockerignore``
(https://docs.docker.com/build/concepts/context/#dockerignore-files), and where it is silent the behaviour of
``github.com/moby/patternmatcher``, which Docker and BuildKit use: the last pattern that matches a file or one of its
parent directories decides.

Patterns may come from a stranger and meet names a stranger chose, so they must not take long: each becomes a regular
expression in which a ``*`` that is followed by another within its path component is settled once (the earliest match is as
good as any later one) and never tried again. How many ``**`` there may be is bounded.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass

from bandsox.dockerfile.source import Fault

_WILD = re.compile(r"[*?\[\\]")
_MAX_PATTERN = 1024
_MAX_DOUBLE_STARS = 4


def is_pattern(text: str) -> bool:
    """Whether a source of COPY is a pattern rather than a name."""
    return _WILD.search(text) is not None


def unescape(text: str) -> str:
    """The name that a pattern without wildcards means."""
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)


def compile_match(pattern: str) -> re.Pattern[str]:
    """A pattern for one whole path, or part of one, in which ``*`` and ``?`` do not match ``/``.

    Raises
    ------
    Fault: the pattern is malformed.
    """
    return re.compile(_translate(pattern, double_stars=False), re.DOTALL)


def _translate(pattern: str, *, double_stars: bool) -> str:
    if len(pattern) > _MAX_PATTERN or pattern.count("**") > _MAX_DOUBLE_STARS * double_stars + _MAX_PATTERN * (not double_stars):
        raise Fault(f"the pattern {pattern[:80]!r}… is too long, or has more than {_MAX_DOUBLE_STARS} '**'")
    pattern = re.sub(r"\*{3,}", "**", pattern) if double_stars else re.sub(r"\*+", "*", pattern)
    if double_stars and re.fullmatch(r"\*\*[^/*?\[\]\\]+", pattern):
        return ".*" + re.escape(pattern[2:]) + r"\Z"
    out = _Expression()
    position = 0
    while position < len(pattern):
        char = pattern[position]
        position += 1
        if char == "*" and double_stars and pattern[position : position + 1] == "*":
            position += 1 + (pattern[position + 1 : position + 2] == "/")
            out.across(".*" if position == len(pattern) else "(?:.*/)?")
        elif char == "*":
            out.star()
        elif char == "/":
            out.across("/")
        elif char == "[":
            text, position = _character_class(pattern, position)
            out.one(text)
        elif char == "\\":
            if position == len(pattern):
                raise Fault(f"the pattern {pattern!r} ends with an escape")
            out.one(re.escape(pattern[position]))
            position += 1
        else:
            out.one("[^/]" if char == "?" else re.escape(char))
    return out.finish()


class _Expression:
    """A regular expression as it grows; ``chunk`` is what follows the star that is not yet settled."""

    def __init__(self) -> None:
        self._out: list[str] = []
        self._chunk: list[str] | None = None
        self._groups = 0

    def one(self, text: str) -> None:
        """Something that matches one character."""
        (self._out if self._chunk is None else self._chunk).append(text)

    def star(self) -> None:
        """A star: the one before it takes the earliest place where what stood between them fits, for good."""
        if self._chunk:
            self._groups += 1
            self._out.append(f"(?=([^/]*?{''.join(self._chunk)}))\\{self._groups}")
        self._chunk = []

    def across(self, text: str) -> None:
        """Something that ends a path component, or runs over several."""
        self._settle()
        self._out.append(text)

    def finish(self) -> str:
        """The whole expression."""
        self._settle()
        return "".join(self._out) + r"\Z"

    def _settle(self) -> None:
        if self._chunk is not None:
            self._out.append("[^/]*" + "".join(self._chunk))
            self._chunk = None


def _character_class(pattern: str, position: int) -> tuple[str, int]:
    """Translate ``[…]`` from behind its bracket on; return the expression and the position behind its end."""
    negated = pattern[position : position + 1] == "^"
    position += negated
    ranges: list[str] = []
    while True:
        if pattern[position : position + 1] == "]" and ranges:
            break
        low, position = _class_character(pattern, position)
        high = low
        if pattern[position : position + 1] == "-":
            high, position = _class_character(pattern, position + 1)
        ranges.append(f"{re.escape(low)}-{re.escape(high)}" if low <= high else "")
    inner = "".join(ranges)
    if inner:
        return (f"[^/{inner}]" if negated else f"(?!/)[{inner}]"), position + 1
    return ("[^/]" if negated else "(?!)"), position + 1


def _class_character(pattern: str, position: int) -> tuple[str, int]:
    char = pattern[position : position + 1]
    if char == "\\":
        position += 1
        char = pattern[position : position + 1]
    elif char in ("-", "]"):
        char = ""
    if not char or position + 1 >= len(pattern):
        raise Fault(f"the pattern {pattern!r} has a [ that is not closed, or a range that is none")
    return char, position + 1


@dataclass(frozen=True, slots=True)
class _Rule:
    """One line of an ignore file."""

    keeps: bool
    expression: re.Pattern[str]


class IgnoreRules:
    """What an ignore file leaves out of the context.

    Raises
    ------
    Fault: a pattern is malformed.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        self._rules = [_rule(pattern) for pattern in patterns]
        self._keeps = any(rule.keeps for rule in self._rules)

    def __bool__(self) -> bool:
        return bool(self._rules)

    def ignores(self, path: str) -> bool:
        """Whether the file at `path`, relative and with slashes, is left out."""
        parents = path.split("/")
        paths = ["/".join(parents[:count]) for count in range(1, len(parents) + 1)]
        ignored = False
        for rule in self._rules:
            if rule.keeps == ignored and any(rule.expression.match(one) for one in reversed(paths)):
                ignored = not rule.keeps
        return ignored

    def ignores_all_below(self, path: str) -> bool:
        """Whether nothing below the ignored directory `path` can be kept, so that it need not be read."""
        return not self._keeps and self.ignores(path)


def _rule(pattern: str) -> _Rule:
    keeps = pattern.startswith("!")
    body = pattern[1:] if keeps else pattern
    if not body:
        raise Fault("a line of the ignore file is a lone '!'")
    return _Rule(keeps, re.compile(_translate(body, double_stars=True), re.DOTALL))


def read_ignore_file(text: str) -> list[str]:
    """The patterns of an ignore file, cleaned as Docker cleans them: no comment, blank, leading ``/`` or ``.`` part."""
    patterns: list[str] = []
    for number, raw in enumerate(text.removeprefix("\ufeff").splitlines()):
        line = raw if number or not raw.startswith("\ufeff") else raw[1:]
        if line.startswith("#"):
            continue
        line = line.strip()
        if not line:
            continue
        keeps = line.startswith("!")
        body = line[1:].strip() if keeps else line
        if body:
            body = clean_path(body)
            body = body[1:] if len(body) > 1 and body.startswith("/") else body
        patterns.append(("!" if keeps else "") + body)
    return patterns


def clean_path(path: str) -> str:
    """As Go's ``filepath.Clean``: the shortest equivalent path."""
    cleaned = posixpath.normpath(path)
    return "/" + cleaned.lstrip("/") if cleaned.startswith("/") else cleaned
