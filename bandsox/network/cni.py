"""CNI networks for root's machines: where configurations and plugins are, and undoing what a keeper that was killed has left.

A keeper attaches its namespace with ``bandsox-cni`` (``agent/internal/cni``) and detaches it when the machine has ended. What is attached
is written down before, in a directory of the storage directory for each machine, with the configuration as it was then; so whoever comes
after a crash can have the plugins give back what they hold (addresses, port mappings), even when the machine's own directory is gone.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from bandsox.errors import HostError, InvalidRequest
from bandsox.network.rules import UPLINK

PREFIX = "cni:"

_CONFIGURATIONS = "/etc/cni/net.d"
_PLUGINS = "/opt/cni/bin:/usr/lib/cni:/usr/libexec/cni"
"""Where plugins are by custom, in Debian's package, and in Fedora's."""

_LONGEST_NAME = 128
_INSTALL = "bandsox init --cni, or apt-get install containernetworking-plugins, or name their directory with BANDSOX_CNI_PLUGINS"


@dataclass(frozen=True, slots=True)
class Places:
    """The directories of configurations, and of plugins, in which they are looked for in this order."""

    configurations: tuple[Path, ...]
    plugins: tuple[Path, ...]

    @classmethod
    def of(cls, installed: Path | None) -> Places:
        """Those that the environment names, or else those of custom.

        Parameters
        ----------
        installed: the directory of the plugins that `bandsox init` has installed, if it has.
        """
        configurations = os.environ.get("BANDSOX_CNI_CONFIG") or _CONFIGURATIONS
        plugins = os.environ.get("BANDSOX_CNI_PLUGINS")
        own = [installed] if installed is not None and not plugins else []
        return cls(tuple(map(Path, configurations.split(":"))), (*own, *map(Path, (plugins or _PLUGINS).split(":"))))

    def request(self) -> dict[str, Any]:
        """Their part of a request to ``bandsox-cni``."""
        return {"configs": list(map(str, self.configurations)), "plugins": list(map(str, self.plugins))}


def network_of(name: str) -> str:
    """The name of a CNI network (CNI Specification, "Network configuration format").

    Raises
    ------
    InvalidRequest: none can be called so.
    """
    if not 1 <= len(name) <= _LONGEST_NAME or not name[0].isalnum() or not all(sign.isalnum() or sign in "_.-" for sign in name):
        raise InvalidRequest(f"no CNI network can be called {name!r}")
    return name


def configuration(program: Path, places: Places, attachment: Path, network: str, *, dns: bool) -> dict[str, Any]:
    """The keeper's ``CNI``: what the program is to be run with.

    Parameters
    ----------
    attachment: the directory in which the machine's is kept, with its id as name.
    dns: take the network's name servers, if it has some.

    Raises
    ------
    HostError: this user cannot have such a network.
    """
    if os.geteuid() != 0:
        raise HostError("CNI networks need root", cause="their plugins change the host's network", remedy="leave out network=")
    return {"program": str(program), "request": {**places.request(), "network": network, **_attachment(attachment)}, "dns": dns}


def remedy_for(cause: str) -> str | None:
    """What mends a failure of the plugins; None where that is not known."""
    if "failed to find plugin" in cause:
        return _INSTALL
    if "no CNI network is called" in cause:
        return "write its configuration there, or name the directory with BANDSOX_CNI_CONFIG"
    return None


def detach(program: Path, places: Places, attachment: Path) -> None:
    """Have the plugins give back what they hold for a machine that does not run. Blocks for as long as they take.

    Raises
    ------
    HostError: they cannot; it can be tried again.
    """
    if not attachment.exists():
        return
    request = msgspec.json.encode({**places.request(), "network": "", "namespace": "", **_attachment(attachment)})
    done = subprocess.run([str(program), "detach"], input=request, capture_output=True, env={}, check=False)
    if done.returncode != 0:
        cause = done.stderr.decode(errors="replace").strip()
        raise HostError(
            "a VM cannot be detached from its CNI network", cause=cause, remedy=remedy_for(cause) or "mend the cause, and try again"
        )


def _attachment(state: Path) -> dict[str, Any]:
    return {"container": state.name, "interface": UPLINK, "state": str(state)}
