"""The flags of an instruction: ``--name=value`` or ``--name``, before its arguments."""

from __future__ import annotations

import difflib

from bandsox.dockerfile.source import Fault
from bandsox.dockerfile.words import split_words


class Flags:
    """The flags that were written; each is asked for by the instruction that knows it, and one that nobody asked for is an error."""

    def __init__(self, items: list[tuple[str, str | None]]) -> None:
        self._items = items
        self._asked: set[str] = set()

    def many(self, name: str) -> tuple[str, ...]:
        """The values of a flag that may be repeated."""
        self._asked.add(name)
        return tuple(value or "" for key, value in self._items if key == name)

    def one(self, name: str) -> str | None:
        """The value of a flag; None when it was not given.

        Raises
        ------
        Fault: it was given twice, or without a value.
        """
        values = self.many(name)
        if len(values) > 1:
            raise Fault(f"--{name} is given {len(values)} times")
        if values and not values[0]:
            raise Fault(f"--{name} has no value", f"write --{name}=value")
        return values[0] if values else None

    def optional_boolean(self, name: str) -> bool | None:
        """A flag that is true, false or not given."""
        self._asked.add(name)
        values = [value for key, value in self._items if key == name]
        if not values:
            return None
        text = "true" if values[-1] is None else values[-1].lower()
        if text not in ("true", "false", "1", "0"):
            raise Fault(f"--{name}={text} is neither true nor false")
        return text in ("true", "1")

    def boolean(self, name: str) -> bool:
        """A flag that is true when given."""
        return self.optional_boolean(name) or False

    def check_all_used(self, instruction: str) -> None:
        """Refuse what nobody asked for.

        Raises
        ------
        Fault: the instruction has no such flag.
        """
        for name, _ in self._items:
            if name not in self._asked:
                near = difflib.get_close_matches(name, self._asked, 1)
                raise Fault(f"{instruction} has no flag --{name[:40]}", f"did you mean --{near[0]}?" if near else None)


def split_flags(text: str, escape: str) -> tuple[Flags, str]:
    """Take the flags off an instruction's arguments."""
    items: list[tuple[str, str | None]] = []
    rest = text.lstrip()
    while rest.startswith("--"):
        word = split_words(rest, escape)[0]
        if word == "--":
            rest = rest[2:]
            break
        if not rest.startswith(word):
            break
        rest = rest[len(word) :].lstrip()
        name, equals, value = word[2:].partition("=")
        items.append((name, value if equals else None))
    return Flags(items), rest
