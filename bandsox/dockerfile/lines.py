"""A Dockerfile's text as logical lines: parser directives, comments, continuations and here-documents.

Source: the Dockerfile reference, "Format", "Parser directives" and "Here-Documents".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from bandsox.dockerfile.source import Fault, Place
from bandsox.dockerfile.words import split_words

MAX_SIZE = 4 << 20
_DIRECTIVE = re.compile(r"#\s*([A-Za-z][A-Za-z0-9]*)\s*=\s*(.+?)\s*\Z")
_KNOWN_DIRECTIVES = ("syntax", "escape", "check")
_HEREDOC = re.compile(r"(\d*)<<(-?)(['\"]?)([^\s<'\"]+)\3\Z")
_HEREDOC_INSTRUCTIONS = ("RUN", "COPY", "ADD")


@dataclass(frozen=True, slots=True)
class Heredoc:
    """A here-document: its ``name`` (the delimiter), its text, and whether variables in it are replaced (``<<EOF``, not ``<<'EOF'``)."""

    name: str
    content: str
    expands: bool
    descriptor: int = 0


@dataclass(frozen=True, slots=True)
class Line:
    """One instruction: continuations joined, comments gone, here-documents apart."""

    place: Place
    text: str
    heredocs: tuple[Heredoc, ...] = ()


@dataclass(frozen=True, slots=True)
class Document:
    """A Dockerfile's instructions, and the escape character they are written with."""

    lines: tuple[Line, ...]
    escape: str


def read_document(data: bytes, file: str) -> Document:
    """Split a Dockerfile into its instructions.

    Raises
    ------
    InvalidDockerfile: it is no text, too long, or a directive or here-document in it is broken.
    """
    start = Place(file, 1, "")
    if len(data) > MAX_SIZE:
        raise start.error(f"the file is longer than {MAX_SIZE >> 20} MiB")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Place(file, line, "").error("the file is not UTF-8 text", remedy="save it as UTF-8") from error
    if "\0" in text:
        raise Place(file, text.count("\n", 0, text.index("\0")) + 1, "").error("the file has a NUL character")
    lines = text.split("\n")
    escape = _directives(lines, file)
    return Document(tuple(_Reader(lines, file, escape)), escape)


def _directives(lines: list[str], file: str) -> str:
    """Read the directives at the top; return the escape character."""
    escape = "\\"
    seen: set[str] = set()
    for number, line in enumerate(lines, 1):
        found = _DIRECTIVE.match(line.strip())
        name = found.group(1).lower() if found else ""
        if found is None or name not in _KNOWN_DIRECTIVES:
            break
        place = Place(file, number, line)
        if name in seen:
            raise place.error(f"the directive {name} is given twice", remedy="remove one of them")
        seen.add(name)
        if name == "escape":
            escape = found.group(2)
            if escape not in ("\\", "`"):
                raise place.error(f"the escape character cannot be {escape!r}", remedy="it is \\ or `")
    return escape


def heredoc_mark(word: str) -> re.Match[str] | None:
    """Whether a word begins a here-document (``<<EOF``, ``<<-EOF``, ``<<'EOF'``, ``3<<EOF``)."""
    return _HEREDOC.match(word)


class _Reader:
    """An iterator over the instructions."""

    def __init__(self, lines: list[str], file: str, escape: str) -> None:
        self._lines = lines
        self._file = file
        self._next = 0
        self._continuation = re.compile(re.escape(escape) + r"[ \t]*\Z")
        self._escape = escape

    def __iter__(self) -> Iterator[Line]:
        while self._next < len(self._lines):
            first = self._next
            text = self._logical()
            if not text.strip():
                continue
            place = Place(self._file, first + 1, text)
            with place.located():
                heredocs = self._heredocs(text)
            whole = "\n".join(line.rstrip("\r") for line in self._lines[first : self._next]) if heredocs else text
            yield Line(Place(self._file, first + 1, whole), text.strip(), heredocs)

    def _take(self) -> str:
        line = self._lines[self._next]
        self._next += 1
        return line.rstrip("\r")

    def _logical(self) -> str:
        """The next instruction's text; empty for a blank line or a comment."""
        parts: list[str] = []
        line = self._take().lstrip()
        if line.startswith("#"):
            return ""
        while True:
            joined = self._continuation.sub("", line)
            parts.append(joined)
            if joined == line:
                break
            while self._next < len(self._lines):
                line = self._take()
                if line.strip() and not line.lstrip().startswith("#"):
                    break
            else:
                break
        return "".join(parts)

    def _heredocs(self, text: str) -> tuple[Heredoc, ...]:
        words = text.split(None, 1)
        if not words or len(words) < 2:
            return ()
        name = words[0].upper()
        if name == "ONBUILD":
            rest = words[1].split(None, 1)
            if rest and rest[0].upper() in _HEREDOC_INSTRUCTIONS and any(map(heredoc_mark, split_words(words[1], self._escape))):
                raise Fault("ONBUILD cannot hold a here-document", "write the command on the line itself, or into a file")
            return ()
        if name not in _HEREDOC_INSTRUCTIONS or words[1].lstrip().startswith("["):
            return ()
        marks = [mark for word in split_words(words[1], self._escape) if (mark := heredoc_mark(word))]
        return tuple(self._heredoc(mark) for mark in marks)

    def _heredoc(self, mark: re.Match[str]) -> Heredoc:
        descriptor, dash, quote, name = mark.groups()
        lines: list[str] = []
        while self._next < len(self._lines):
            raw = self._lines[self._next].rstrip("\r")
            self._next += 1
            line = raw.lstrip("\t") if dash else raw
            if line == name:
                content = "".join(line + "\n" for line in lines)
                return Heredoc(name, content, not quote, int(descriptor[:4] or 0))
            lines.append(line)
        raise Fault(f"the here-document {name} has no end", f"end it with a line that holds only {name}")
