"""Words of a Dockerfile: quotes, escapes and variables, as the Dockerfile reference describes ("Environment replacement").

    $name  ${name}   ${name:-word} ${name-word}   ${name:+word} ${name+word}   ${name:?word} ${name?word}
    ${name#pattern} ${name##pattern}   ${name%pattern} ${name%%pattern}   ${name/pattern/text} ${name//pattern/text}

Patterns know ``*``, ``?`` and backslash escapes. They are matched in time that grows with text times pattern, whatever they
are, and both are bounded: a Dockerfile may come from a stranger through the server. Where the reference is silent the
behaviour is that of BuildKit's lexer (``frontend/dockerfile/shell``).
"""

from __future__ import annotations

from collections.abc import Mapping

from bandsox.dockerfile.source import Fault

_MAX_DEPTH = 32
_MAX_LENGTH = 1 << 20
_MAX_MATCHED = 4096
_MAX_PATTERN = 256
_SPECIAL_PARAMETERS = "@*#?-$!0"


def expand(text: str, variables: Mapping[str, str], escape: str = "\\", *, quotes: bool = True) -> str:
    """`text` with variables replaced, and, with `quotes`, quotes taken away; without, they are text like any other.

    Raises
    ------
    Fault: a quote or brace is not closed, or a substitution cannot be done.
    """
    return _Lexer(text, variables, escape, quotes).run()[0]


def expand_words(text: str, variables: Mapping[str, str], escape: str = "\\") -> list[str]:
    """As `expand`, and split at white space outside quotes after variables were replaced."""
    return _Lexer(text, variables, escape, True).run()[1]


def split_words(text: str, escape: str = "\\") -> list[str]:
    """Split at white space outside quotes; quotes and escapes stay for `expand` to take away."""
    words: list[str] = []
    current: list[str] = []
    quote = ""
    position = 0
    while position < len(text):
        char = text[position]
        position += 1
        if not quote and char.isspace():
            if current:
                words.append("".join(current))
                current = []
            continue
        if char == escape and quote != "'":
            if position < len(text):
                current.append(char + text[position])
                position += 1
            continue
        if char in "'\"" and quote in ("", char):
            quote = "" if quote else char
        current.append(char)
    if current:
        words.append("".join(current))
    return words


class _Lexer:
    """One pass over one text."""

    def __init__(self, text: str, variables: Mapping[str, str], escape: str, quotes: bool) -> None:
        self._text = text
        self._variables = variables
        self._escape = escape
        self._quotes = quotes
        self._position = 0
        self._depth = 0
        self._produced = 0

    def run(self) -> tuple[str, list[str]]:
        return self._until("", raw_escapes=False)

    # ── characters ──────────────────────────────────────────────────────────────────────────────

    def _peek(self) -> str:
        return self._text[self._position : self._position + 1]

    def _next(self) -> str:
        char = self._peek()
        self._position += 1
        return char

    def _until(self, stop: str, *, raw_escapes: bool) -> tuple[str, list[str]]:
        """Everything up to the character `stop` (empty: the end), as one text and as words."""
        result: list[str] = []
        words = _Words()
        while char := self._peek():
            if char == stop:
                self._next()
                return "".join(result), words.finish()
            piece = self._piece(char, raw_escapes)
            self._produced += len(piece)
            if self._produced > _MAX_LENGTH:
                raise Fault(f"replacing its variables makes this longer than {_MAX_LENGTH} characters")
            result.append(piece)
            words.add(piece, quoted=char in ("'", '"', self._escape))
        if stop:
            raise Fault("a ${ is not closed with }" if stop == "}" else f"a {stop} is missing in ${{…}}")
        return "".join(result), words.finish()

    def _piece(self, char: str, raw_escapes: bool) -> str:
        if char == "'" and self._quotes:
            return self._single_quoted()
        if char == '"' and self._quotes:
            return self._double_quoted(raw_escapes)
        if char == "$":
            return self._variable()
        self._next()
        if char != self._escape:
            return char
        return (char if raw_escapes else "") + self._next()

    def _single_quoted(self) -> str:
        self._next()
        end = self._text.find("'", self._position)
        if end < 0:
            raise Fault("a single quote (') is not closed")
        quoted = self._text[self._position : end]
        self._position = end + 1
        return quoted

    def _double_quoted(self, raw_escapes: bool) -> str:
        self._next()
        result: list[str] = []
        while char := self._peek():
            if char == "$":
                result.append(self._variable())
                continue
            self._next()
            if char == '"':
                return "".join(result)
            if char == self._escape:
                following = self._peek()
                if raw_escapes or following not in ('"', "$", self._escape):
                    result.append(char)
                if following in ('"', "$", self._escape):
                    result.append(self._next())
                continue
            result.append(char)
        raise Fault('a double quote (") is not closed')

    # ── variables ───────────────────────────────────────────────────────────────────────────────

    def _variable(self) -> str:
        self._next()
        if self._peek() != "{":
            name = self._name()
            return self._variables.get(name, "") if name else "$"
        self._next()
        if self._peek() in ("", "{", "}", ":"):
            raise Fault("a ${ is not closed with }" if not self._peek() else "${…} does not begin with a variable's name")
        name = self._name()
        operator = self._next()
        if operator == "}":
            return self._variables.get(name, "")
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise Fault(f"more than {_MAX_DEPTH} variables stand within each other")
        result = self._modified(name, operator)
        self._depth -= 1
        return result

    def _name(self) -> str:
        start = self._position
        char = self._peek()
        if char.isdigit():
            while self._peek().isdigit():
                self._next()
        elif char and char in _SPECIAL_PARAMETERS:
            self._next()
        else:
            while (char := self._peek()) and (char.isalnum() or char == "_"):
                self._next()
        return self._text[start : self._position]

    def _modified(self, name: str, operator: str) -> str:
        value = self._variables.get(name)
        if operator == "/":
            return self._replaced(value or "")
        empty_is_unset = operator == ":"
        if empty_is_unset:
            operator = self._next()
        if operator not in ("-", "+", "?", "#", "%"):
            raise Fault(
                f"${{{name}{':' if empty_is_unset else ''}{operator}…}} is not a substitution a Dockerfile knows" if operator
                else "a ${ is not closed with }"
            )  # fmt: skip
        word, _ = self._until("}", raw_escapes=operator in "#%")
        present = value is not None and not (empty_is_unset and not value)
        if operator == "-":
            return value if present and value is not None else word
        if operator == "+":
            return word if present else ""
        if operator == "?":
            if not present or value is None:
                raise Fault(f"{name}: {word or ('is not allowed to be empty' if value == '' else 'is not allowed to be unset')}")
            return value
        longest = word.startswith(operator)
        return _trimmed(value or "", word[1:] if longest else word, at_end=operator == "%", longest=longest)

    def _replaced(self, value: str) -> str:
        everywhere = self._peek() == "/"
        if everywhere:
            self._next()
        pattern, _ = self._until("/", raw_escapes=True)
        replacement, _ = self._until("}", raw_escapes=True)
        return _replace(value, _glob(pattern), replacement, everywhere)


class _Words:
    """Words as they grow: white space ends one unless it was quoted."""

    def __init__(self) -> None:
        self._words: list[str] = []
        self._current = ""
        self._begun = False

    def add(self, piece: str, *, quoted: bool) -> None:
        if quoted:
            self._current += piece
            return
        for char in piece:
            if not char.isspace():
                self._current += char
            elif self._current:
                self._words.append(self._current)
                self._current = ""

    def finish(self) -> list[str]:
        if self._current:
            self._words.append(self._current)
            self._current = ""
        return self._words


# ── patterns ────────────────────────────────────────────────────────────────────────────────────

_ANY, _STAR = object(), object()


def _glob(pattern: str) -> list[object]:
    """A pattern as a list of characters, `_ANY` (``?``) and `_STAR` (``*``)."""
    if len(pattern) > _MAX_PATTERN:
        raise Fault(f"a pattern in ${{…}} is longer than {_MAX_PATTERN} characters")
    items: list[object] = []
    position = 0
    while position < len(pattern):
        char = pattern[position]
        position += 1
        if char == "\\":
            char = pattern[position : position + 1]
            position += 1
            if char not in ("*", "?", "\\", "}", "/"):
                raise Fault(f"\\{char} is not an escape that a pattern in ${{…}} knows", "only \\*, \\?, \\\\, \\} and \\/ are")
            items.append(char)
        elif char == "*":
            items.append(_STAR)
        else:
            items.append(_ANY if char == "?" else char)
    return items


def _match_end(items: list[object], value: str, start: int, *, longest: bool) -> int | None:
    """Where a match of the pattern that begins at `start` ends: a walk over all states at once, so without backtracking."""
    last = len(items)
    states = _closure({0}, items)
    found = start if last in states else None
    position = start
    while states and position < len(value) and (longest or found is None):
        char = value[position]
        position += 1
        alive = [state for state in states if state < last and items[state] in (_STAR, _ANY, char)]
        states = _closure({state if items[state] is _STAR else state + 1 for state in alive}, items)
        if last in states:
            found = position
    return found


def _closure(states: set[int], items: list[object]) -> set[int]:
    """The states with those that a star's matching nothing leads to."""
    closed = set(states)
    for state in states:
        while state < len(items) and items[state] is _STAR:
            state += 1  # noqa: PLW2901 - walks on from each
            closed.add(state)
    return closed


def _bounded(value: str) -> str:
    if len(value) > _MAX_MATCHED:
        raise Fault(f"a pattern in ${{…}} is applied to a value longer than {_MAX_MATCHED} characters")
    return value


def _trimmed(value: str, pattern: str, *, at_end: bool, longest: bool) -> str:
    items = _glob(pattern)
    if at_end:
        end = _match_end(items[::-1], _bounded(value)[::-1], 0, longest=longest)
        return value[: len(value) - end] if end else value
    end = _match_end(items, _bounded(value), 0, longest=longest)
    return value[end:] if end else value


def _replace(value: str, items: list[object], replacement: str, everywhere: bool) -> str:
    """Replace the leftmost longest match, or each; an empty match replaces nothing and inserts."""
    result: list[str] = []
    position = 0
    budget = 1 << 22
    while position <= len(_bounded(value)):
        budget -= len(value) - position
        if budget < 0:
            raise Fault("a pattern in ${…/…/…} takes too long to match")
        end = _match_end(items, value, position, longest=True)
        if end is not None:
            result.append(replacement)
            if not everywhere:
                return "".join(result) + value[end:]
        if end is None or end == position:
            result.append(value[position : position + 1])
            end = position + 1
        position = end
    return "".join(result)
