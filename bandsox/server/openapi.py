"""``python -m bandsox.server.openapi``: print the OpenAPI document, as it is checked in under docs/openapi.json."""

from __future__ import annotations

import json
import sys

from bandsox.server.application import document


def text() -> str:
    """The document as it is checked in."""
    return json.dumps(document(), indent=1, ensure_ascii=False, sort_keys=True) + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
