"""The built files of the dashboard, by name. They are listed once, so that no name from outside ever becomes a path."""

from __future__ import annotations

import base64
import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path

BUILT = Path(__file__).parent / "dist"
"""Where ``make dashboard`` puts them, and the wheel has them."""

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".woff2": "font/woff2",
}
_ENCODINGS = {"br": ".br", "gzip": ".gz"}
"""Content codings in which a file was built beside itself, the smaller ones first, and how its name ends then."""


@dataclass(frozen=True, slots=True)
class Asset:
    """A built file. `encoded` has its smaller forms by content coding."""

    path: Path
    media_type: str
    encoded: dict[str, Path]

    def form_for(self, accepted: str) -> tuple[Path, str | None]:
        """The smallest form that a browser takes, by its ``Accept-Encoding``, and the content coding of that form."""
        taken = {each.partition(";")[0].strip() for each in accepted.split(",") if not each.replace(" ", "").endswith(";q=0")}
        for coding, path in self.encoded.items():
            if coding in taken:
                return path, coding
        return self.path, None

    def integrity(self) -> str:
        """The content as a source of a content security policy."""
        return f"'sha256-{base64.b64encode(hashlib.sha256(self.path.read_bytes()).digest()).decode()}'"


@functools.cache
def built() -> dict[str, Asset]:
    """All files, by their path below `BUILT`; none where the dashboard was not built."""
    found = {str(path.relative_to(BUILT)): path for path in BUILT.rglob("*") if path.is_file()}
    return {
        name: Asset(
            path,
            _TYPES[path.suffix],
            {coding: found[name + ending] for coding, ending in _ENCODINGS.items() if name + ending in found},
        )
        for name, path in found.items()
        if path.suffix in _TYPES
    }
