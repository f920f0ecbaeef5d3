"""Firecracker in the jail that its own project starts it in (Firecracker, ``docs/jailer.md``): what a host that takes in foreign guests
pays at the least, and so the floor of a start that is confined.

The jailer gives it a root directory, a user and a process namespace of its own. Rooms of this project have namespaces for network, ipc,
host name and control groups besides, and a filter that stands before the VMM's first instruction.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

from bandsox.vmm.base import LaunchSpec
from bandsox.vmm.confinement import user_of
from bandsox.vmm.firecracker import configuration, release, saving
from bench.firecracker_floor import Bare


class Jailed(Bare):
    """A bare Firecracker whose directory is the root of a jail below `base`, on the file system of the machine's files."""

    def __init__(self, spec: LaunchSpec, base: Path) -> None:
        super().__init__(spec)
        self._command = [
            *(str(release.find("jailer", spec.directory).path), "--id", spec.vm_id, "--exec-file", str(self._program)),
            *("--uid", str(user_of(spec.vm_id)), "--gid", str(user_of(spec.vm_id)), "--chroot-base-dir", str(base), "--new-pid-ns"),
        ]
        self._jail = base / self._program.name / spec.vm_id
        self._root = self._jail / "root"
        self._furnish()

    @property
    def api(self) -> Path:
        return self._root / configuration.RUN / configuration.API_SOCKET

    def start(self) -> subprocess.Popen[bytes]:
        own = ["--", "--api-sock", f"{configuration.RUN}/{configuration.API_SOCKET}"]
        return subprocess.Popen([*self._command, *own], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)

    def end(self) -> None:
        pid = self._root / f"{self._program.name}.pid"  # the jailer itself has ended, and a namespace's first process goes with nobody
        os.kill(int(pid.read_text()), signal.SIGKILL)
        self.process.wait()
        shutil.rmtree(self._jail)

    def _furnish(self) -> None:
        """Put what Firecracker needs where it finds it, by links that take no room."""
        spec, owner = self._spec, user_of(self._spec.vm_id)
        self._root.mkdir(parents=True)
        for name, target in configuration.links(spec).items():
            os.link(target, self._root / name)
        saving.prepare(self._root)
        (self._root / configuration.RUN).mkdir()
        own = [disk.path.name for disk in spec.disks if not disk.read_only]
        for name in own:
            os.link(spec.directory / name, self._root / name)
        for name in (configuration.RUN, saving.PLACE, *own):
            shutil.chown(self._root / name, owner, owner)
