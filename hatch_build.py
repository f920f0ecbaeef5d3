"""Builds the guest agent into the wheel, for every architecture a guest may have, and the dashboard."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_MACHINES = ("x86_64", "aarch64")
_PROGRAMS = ("bandsox-agent", "bandsox-serial-relay", "bandsox-network", "bandsox-forwarder", "bandsox-filter", "bandsox-cni")
_PLACE = "bandsox/agent/bin"
_DASHBOARD = "bandsox/server/dashboard/dist"


class AgentBuildHook(BuildHookInterface):  # type: ignore[type-arg]
    """Runs ``scripts/build-agent`` and ``scripts/build-dashboard``, and adds their results. An editable installation has the checkout's."""

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
        subprocess.run([str(Path(self.root) / "scripts/build-dashboard")], cwd=self.root, check=True)
        build_data["force_include"][_DASHBOARD] = _DASHBOARD
