"""The CNI plugins that `bandsox init` installs: which release, from where, and which of them a network needs.

Upgrading is a change of the table: `VERSION` and `ARCHIVES`. The digests are those of the archives that the project publishes for its
release on GitHub. They are an archive's only proof: nothing of it is run before it was looked at.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

import msgspec

from bandsox.errors import CorruptImage, Unsupported
from bandsox.settings import put_behind

VERSION = "1.9.1"

ARCHIVES: Mapping[str, tuple[str, str]] = {
    "x86_64": ("amd64", "b98f74a0f8522f0a83867178729c1aa70f2158f90c45a2ca8fa791db1c76b303"),
    "aarch64": ("arm64", "56171987d3947707c3563db2f4001bccaf50fd63468611b9f3cbecb1375ee7ec"),
}
"""What the release calls a machine, and the SHA-256 of its archive, by machine as ``uname -m`` says it."""

_URL = "https://github.com/containernetworking/plugins/releases/download/v{version}/cni-plugins-linux-{machine}-v{version}.tgz"
_NEEDED = frozenset({"bridge", "host-local"})
"""Without these it is no archive of the plugins."""

_MAX_PLUGIN = 64 << 20
_MOST_PLUGINS = 64
_MAX_CONFIGURATION = 1 << 20


@dataclass(frozen=True, slots=True)
class Network:
    """A network as a file describes it: its name and the plugins that it runs; what is wrong with the file, if it cannot be read."""

    file: Path
    name: str = ""
    plugins: tuple[str, ...] = ()
    fault: str | None = None


def archive(machine: str | None = None) -> tuple[str, str]:
    """Where the pinned release's archive for `machine`, by default this one, is, and its SHA-256.

    Raises
    ------
    Unsupported: none is known to be genuine.
    """
    machine = machine or platform.machine()
    if machine not in ARCHIVES:
        raise Unsupported(f"there is no pinned release of the CNI plugins for {machine}", remedy="install those of the distribution")
    name, digest = ARCHIVES[machine]
    return _URL.format(version=VERSION, machine=name), digest


def install(archive_path: Path, digest: str, link: Path, work: Path) -> None:
    """Install the plugins of a release's archive beside `link`, which leads to them.

    Parameters
    ----------
    digest: the archive's, in hexadecimal digits.
    work: a directory of the same file system for work under way.

    Raises
    ------
    CorruptImage: it is no such archive.
    """
    made = Path(tempfile.mkdtemp(prefix="cni-", dir=work))
    try:
        _unpack(archive_path, made)
        put_behind(link, made, f"{link.name}-{digest[:16]}")
    finally:
        shutil.rmtree(made, ignore_errors=True)


def networks(directories: Iterable[Path]) -> list[Network]:
    """The networks that are configured, in the order in which they are looked for (libcni, ``ConfFiles``)."""
    found = []
    for directory in directories:
        files = sorted(directory.iterdir()) if directory.is_dir() else []
        found += [_read(file) for file in files if file.suffix in {".conf", ".conflist", ".json"}]
    return found


def missing(network: Network, directories: Sequence[Path]) -> list[str]:
    """The plugins of a network that are in none of the directories."""
    return [plugin for plugin in network.plugins if not any(os.access(directory / plugin, os.X_OK) for directory in directories)]


def _read(file: Path) -> Network:
    try:
        with file.open("rb") as content:
            text = content.read(_MAX_CONFIGURATION + 1)
        given = msgspec.json.decode(text, type=dict[str, Any])
        steps = given.get("plugins", [given]) if file.suffix == ".conflist" else [given]
        plugins = [step["type"] for step in steps] + [step["ipam"]["type"] for step in steps if step.get("ipam", {}).get("type")]
        return Network(file, str(given.get("name", "")), tuple(dict.fromkeys(map(str, plugins))))
    except (OSError, msgspec.MsgspecError, KeyError, TypeError, AttributeError) as error:
        return Network(file, fault=str(error) or type(error).__name__)


def _unpack(archive_path: Path, directory: Path) -> None:
    """Take the programs out of a release's archive, in which all are in one directory; nothing else of it touches the host."""
    found: set[str] = set()
    try:
        with tarfile.open(archive_path, "r:*") as members:
            for member in members:
                name = PurePosixPath(member.name).name
                content = members.extractfile(member) if member.isfile() and re.fullmatch(r"[a-z0-9-]{1,32}", name) else None
                if content is not None:
                    found.add(name)
                    if len(found) > _MOST_PLUGINS or member.size > _MAX_PLUGIN:
                        raise CorruptImage(f"{archive_path.name} holds more than plugins do")
                    _extract(content, directory / name)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise CorruptImage(f"{archive_path.name} cannot be unpacked", cause=str(error)) from error
    if lacking := _NEEDED - found:
        raise CorruptImage(
            f"{archive_path.name} holds no {' and no '.join(sorted(lacking))}",
            remedy="give the archive of a release of the CNI plugins, cni-plugins-linux-MACHINE-vX.Y.Z.tgz",
        )


def _extract(content: IO[bytes], target: Path) -> None:
    with target.open("wb") as file:
        shutil.copyfileobj(content, file)
    target.chmod(0o755)
