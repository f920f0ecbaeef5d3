"""CPU templates: what of the host's CPU a guest sees, so that a snapshot moves between hosts whose CPUs differ.

A template is one of Firecracker's static ones by its name, or JSON text as ``PUT /cpu-config`` takes it (Firecracker,
``docs/cpu_templates/cpu-templates.md``).
"""

from __future__ import annotations

import json
from pathlib import Path

from bandsox.errors import InvalidRequest

STATIC = frozenset({"C3", "T2", "T2S", "T2CL", "T2A", "V1N1"})

_PARTS = frozenset({"cpuid_modifiers", "msr_modifiers", "reg_modifiers", "vcpu_features", "kvm_capabilities"})
_LIMIT = 48 * 1024
"""Firecracker takes requests of at most 50 KiB."""


def load(template: str) -> str:
    """The name of a static template, or the text of the custom one that `template` is or names by its path.

    Raises
    ------
    InvalidRequest: it is neither.
    """
    if template in STATIC:
        return template
    text = template if template.lstrip().startswith("{") else _read(Path(template).expanduser())
    try:
        content = json.loads(text)
    except ValueError as error:
        raise InvalidRequest("the CPU template is not JSON", cause=str(error)) from error
    if not isinstance(content, dict) or not all(key in _PARTS and isinstance(value, list) for key, value in content.items()):
        raise InvalidRequest("this is no CPU template", cause=f"it must be an object of lists named {', '.join(sorted(_PARTS))}")
    return text


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_LIMIT + 1)
    except OSError as error:
        remedy = f"give a file, or one of {', '.join(sorted(STATIC))}"
        raise InvalidRequest(f"the CPU template {path} cannot be read", cause=error.strerror, remedy=remedy) from error
    if len(content) > _LIMIT:
        raise InvalidRequest(f"the CPU template {path} is larger than {_LIMIT} bytes")
    return content.decode(errors="replace")
