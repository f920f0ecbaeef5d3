"""The server as a service of systemd."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

_UNIT = """\
[Unit]
Description=BandSox: microVM sandboxes
After=network-online.target
Wants=network-online.target

[Service]
Type=exec
ExecStart={command}
Restart=on-failure
RestartSec=1
# VMs outlive the server: only its own process is ended with it.
KillMode=process
TimeoutStopSec=30
LimitNOFILE=65536
TasksMax=infinity
Delegate=yes
UMask=0077

[Install]
WantedBy={target}
"""


def text(arguments: Sequence[str], *, user: bool) -> str:
    """A unit file for `bandsox serve` with these arguments.

    Parameters
    ----------
    user: for ``systemctl --user``.
    """
    program = Path(sys.argv[0])
    command = [str(program.resolve())] if program.name == "bandsox" else [sys.executable, "-m", "bandsox"]
    words = [each.replace("%", "%%").replace("$", "$$") for each in (*command, *arguments)]
    return _UNIT.format(command=shlex.join(words), target="default.target" if user else "multi-user.target")
