"""The Firecracker release that BandSox installs, and the programs it uses: which, from where, and whether they will do.

Upgrading is a change of the table: `VERSION` and `ARCHIVES`. The digests are those of the archives that the project publishes
for its release on GitHub. A program of the user's own is taken as it is, if its version is one that BandSox knows how to drive.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath
from typing import IO, Literal

from bandsox.errors import CorruptImage, MissingTool, Unsupported
from bandsox.settings import put_behind

VERSION = "1.12.1"

ARCHIVES: Mapping[str, str] = {
    "x86_64": "0a75e67ef6e4c540a2cf248b06822b0be9820cbba9fe19f9e0321200fe76ff6b",
    "aarch64": "785bc9d30756bff0c03fb275baac957363f9ba98f78a2272405dcb6929ebb953",
}
"""The SHA-256 of the release's archive, by machine as ``uname -m`` says it."""

OLDEST = (1, 8)
"""The oldest version that is driven; the first one whose devices a guest finds through ACPI."""

ProgramName = Literal["firecracker", "jailer"]
PROGRAMS: tuple[ProgramName, ...] = ("firecracker", "jailer")

_URL = "https://github.com/firecracker-microvm/firecracker/releases/download/v{version}/firecracker-v{version}-{machine}.tgz"
_SETTINGS: Mapping[ProgramName, str] = {"firecracker": "BANDSOX_FIRECRACKER", "jailer": "BANDSOX_JAILER"}
_MAX_PROGRAM = 64 << 20
_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Archive:
    """The release's archive for one kind of machine."""

    url: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Program:
    """A program that was found: its version as a triple, and where it is from, in words."""

    path: Path
    version: tuple[int, int, int]
    origin: str

    @property
    def version_text(self) -> str:
        """The version as people write it, such as ``1.12.1``."""
        return ".".join(map(str, self.version))


def archive(machine: str | None = None) -> Archive:
    """The archive of the pinned release for `machine`, by default this one.

    Raises
    ------
    Unsupported: none is known to be genuine.
    """
    machine = machine or platform.machine()
    if machine not in ARCHIVES:
        raise Unsupported(
            f"there is no pinned Firecracker release for {machine}",
            remedy=f"name a program of your own with {_SETTINGS['firecracker']}=/path/to/firecracker",
        )
    return Archive(_URL.format(version=VERSION, machine=machine), ARCHIVES[machine])


def unpack(archive_path: Path, directory: Path) -> None:
    """Take the programs out of a release's archive; nothing else of it touches the host.

    Raises
    ------
    CorruptImage: it is no archive of a Firecracker release for this machine.
    """
    wanted = re.compile(rf"(firecracker|jailer)-v\d+\.\d+\.\d+-{re.escape(platform.machine())}")
    found = set()
    try:
        with tarfile.open(archive_path, "r:*") as members:
            for member in members:
                name = wanted.fullmatch(PurePosixPath(member.name).name)
                content = members.extractfile(member) if name is not None and member.isfile() else None
                if name is not None and content is not None:
                    _extract(content, member.size, directory / name[1])
                    found.add(name[1])
    except (tarfile.TarError, EOFError, OSError) as error:
        raise CorruptImage(f"{archive_path.name} cannot be unpacked", cause=str(error)) from error
    if missing := set(PROGRAMS) - found:
        raise CorruptImage(
            f"{archive_path.name} holds no {' and no '.join(sorted(missing))} for {platform.machine()}",
            remedy="give the archive of a Firecracker release, firecracker-vX.Y.Z-MACHINE.tgz",
        )


def find(name: ProgramName, installed: Path) -> Program:
    """The program that is used: the one a setting names, else the one `bandsox init` has put into `installed`, else that on PATH.

    Raises
    ------
    MissingTool: there is none, or it is not what its name says.
    Unsupported: its version is too old.
    """
    if configured := os.environ.get(_SETTINGS[name]):
        path, origin = Path(configured).expanduser(), _SETTINGS[name]
        if not os.access(path, os.X_OK) or not path.is_file():
            raise MissingTool(f"{origin} names {path}, which is not a program", remedy=f"correct {origin}, or unset it")
    elif (installed / name).is_file():
        path, origin = installed / name, "bandsox init"
    elif on_path := shutil.which(name):
        path, origin = Path(on_path), "PATH"
    else:
        raise MissingTool(f"{name} is not installed", remedy="bandsox init")
    return inspect(name, path, origin)


def inspect(name: ProgramName, path: Path, origin: str) -> Program:
    """The program at `path`, if it will do.

    Raises
    ------
    MissingTool, Unsupported: as in `find`.
    """
    status = path.stat()
    version = _version(str(path), status.st_mtime_ns, status.st_ino)
    if version[:2] < OLDEST:
        raise Unsupported(
            f"{path} is {name} {'.'.join(map(str, version))}, and {'.'.join(map(str, OLDEST))} is the oldest that is supported",
            remedy=f"correct {origin}, or unset it" if origin == _SETTINGS[name] else "bandsox init",
        )
    return Program(path.resolve(), version, origin)


def parse(version: str) -> tuple[int, int, int]:
    """The triple of a version as `Program.version_text` writes it."""
    major, minor, patch = map(int, version.split("."))
    return major, minor, patch


def install(archive_path: Path, digest: str, directory: Path, work: Path) -> None:
    """Install the programs of a release's archive under `directory`, where the link ``firecracker`` leads to them.

    Parameters
    ----------
    digest: the archive's, in hexadecimal digits.
    work: a directory of the same file system for work under way.

    Raises
    ------
    CorruptImage: it is no such archive. Unsupported: its version is too old.
    """
    made = Path(tempfile.mkdtemp(prefix="firecracker-", dir=work))
    try:
        unpack(archive_path, made)
        version = inspect("firecracker", made / "firecracker", str(archive_path)).version_text
        put_behind(directory / "firecracker", made, f"firecracker-{version}-{digest[:16]}")
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _extract(content: IO[bytes], size: int, target: Path) -> None:
    if size > _MAX_PROGRAM:
        raise CorruptImage(f"the program {target.name} in the archive has {size} bytes", cause=f"at most {_MAX_PROGRAM} are taken")
    with target.open("wb") as file:
        shutil.copyfileobj(content, file)
    target.chmod(0o755)


@cache
def _version(path: str, _mtime_ns: int, _inode: int) -> tuple[int, int, int]:
    """What a program says of itself; asked once for each state of the file."""
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, check=False, timeout=_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MissingTool(f"{path} cannot be run", cause=str(error), remedy="bandsox init --force") from error
    said = re.search(r"v(\d+)\.(\d+)\.(\d+)", done.stdout)
    if done.returncode != 0 or said is None:
        cause = (done.stdout + done.stderr).strip()[:200] or None
        raise MissingTool(f"{path} does not say its version", cause=cause, remedy="bandsox init --force")
    return int(said[1]), int(said[2]), int(said[3])
