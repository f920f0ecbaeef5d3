"""What `doctor` has to say of one thing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. ``note``: it works without, but better with."""

    subject: str
    state: Literal["ok", "note", "missing"]
    text: str
    remedy: str | None = None
