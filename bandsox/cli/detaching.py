"""The keys that leave a terminal while its program goes on."""

from __future__ import annotations

import click

DEFAULT_DETACH_KEYS = "ctrl-p,ctrl-q"


def parse_detach_keys(text: str) -> bytes:
    """Keys as in ``ctrl-p,ctrl-q`` or ``ctrl-a,d``; nothing for an empty text.

    Raises
    ------
    click.BadParameter: they are written otherwise.
    """
    keys = bytearray()
    for word in filter(None, text.split(",")):
        letter = word.removeprefix("ctrl-")
        if len(letter) != 1 or not letter.isascii() or (letter != word and not "@" <= letter.upper() <= "_"):
            raise click.BadParameter(f"{word!r} is not a key: write ctrl-p, or one character", param_hint="--detach-keys")
        keys.append(ord(letter.upper()) & 0x1F if letter != word else ord(letter))
    return bytes(keys)


class DetachKeys:
    """Finds the detach keys in what is typed. The beginning of the keys is held back until it is clear what it is."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._held = b""

    def feed(self, typed: bytes) -> tuple[bytes, bool]:
        """What may go on to the program, and whether the keys were typed behind it."""
        if not self._keys:
            return typed, False
        text = self._held + typed
        before, found, _ = text.partition(self._keys)
        if found:
            return before, True
        length = next(n for n in range(min(len(self._keys) - 1, len(text)), -1, -1) if text.endswith(self._keys[:n]))
        self._held = text[len(text) - length :]
        return text[: len(text) - length], False
