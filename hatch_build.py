"""Builds the guest agent into the wheel, for every architecture a guest may have."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_MACHINES = ("x86_64", "aarch64")
_PROGRAMS = ("bandsox-agent", "bandsox-serial-relay", "bandsox-network", "bandsox-forwarder", "bandsox-filter")
_PLACE = "bandsox/agent/bin"


class AgentBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Runs ``scripts/build-agent`` and adds its results to the wheel. An editable installation uses the checkout's own."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build what is missing or old."""
        if version == "editable":
            return
        for machine in _MACHINES:
            subprocess.run([str(Path(self.root) / "scripts/build-agent"), machine, _PLACE], cwd=self.root, check=True)
            for program in _PROGRAMS:
                place = f"{_PLACE}/{program}-{machine}"
                build_data["force_include"][place] = place
