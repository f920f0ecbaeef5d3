"""Where things are, decided once: storage directory, runtime directory and the environment's settings.

The storage directory holds everything that lasts. The runtime directory holds sockets and locks, under a
path short enough for a Unix socket's name (108 bytes, unix(7)), and is gone after a reboot, as they are. Nobody removes it
before: another process may have looked for it a moment ago and be about to make its sockets there.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

from bandsox.errors import HostError, InvalidRequest
from bandsox.models import ConfinementDemand, Isolation, Transport
from bandsox.process import ProcessId

DEFAULT_IMAGE = "debootstrap:bookworm?include=python3"
"""The image used where no other was named: Debian 12 with Python, which needs no registry."""


def default_storage_dir() -> Path:
    """``BANDSOX_STORAGE``, else ``/var/lib/bandsox`` for root and ``$XDG_DATA_HOME/bandsox`` for others."""
    if configured := os.environ.get("BANDSOX_STORAGE"):
        return Path(configured).expanduser().absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/bandsox")
    data_home = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data_home).expanduser().absolute() / "bandsox"


def default_confinement() -> ConfinementDemand:
    """``BANDSOX_CONFINEMENT``, else ``auto``.

    Raises
    ------
    InvalidRequest: it has another value than one of `ConfinementDemand`.
    """
    return check_confinement(os.environ.get("BANDSOX_CONFINEMENT") or "auto")


def check_confinement(demand: str) -> ConfinementDemand:
    """`demand` if it is one of `ConfinementDemand`.

    Raises
    ------
    InvalidRequest: it is none.
    """
    for known in get_args(ConfinementDemand):
        if demand == known:
            return cast(ConfinementDemand, known)
    raise InvalidRequest(f"{demand!r} is no confinement", remedy=f"choose one of: {', '.join(get_args(ConfinementDemand))}")


def isolation_of(demand: Isolation | str) -> Isolation:
    """The isolation that is demanded, perhaps by its name.

    Raises
    ------
    InvalidRequest: there is none of this name.
    """
    if isinstance(demand, Isolation):
        return demand
    try:
        return Isolation[demand.upper()]
    except KeyError as error:
        names = ", ".join(each.name.lower() for each in Isolation)
        raise InvalidRequest(f"{demand!r} is no isolation", remedy=f"choose one of: {names}") from error


def default_verify_key() -> Path | None:
    """The file of public keys that ``BANDSOX_VERIFY_KEY`` names; None: snapshots of elsewhere need not be signed."""
    configured = os.environ.get("BANDSOX_VERIFY_KEY")
    return Path(configured).expanduser() if configured else None


def default_vmm() -> str | None:
    """The hypervisor that ``BANDSOX_VMM`` names; None: the best that works."""
    return os.environ.get("BANDSOX_VMM") or None


def warm_boots() -> bool:
    """Whether machines go on from warm boots (`bandsox.engine.warmboots`); ``BANDSOX_WARM_BOOT=0`` has each boot from the beginning.

    Raises
    ------
    InvalidRequest: ``BANDSOX_WARM_BOOT`` is neither 0 nor 1.
    """
    choice = os.environ.get("BANDSOX_WARM_BOOT") or "1"
    if choice not in {"0", "1"}:
        raise InvalidRequest(f"BANDSOX_WARM_BOOT is {choice!r}", remedy="give 0 or 1")
    return choice == "1"


def wanted_transport() -> Transport | None:
    """The way to guests' agents that ``BANDSOX_TRANSPORT`` asks for; None: the best that works.

    Raises
    ------
    InvalidRequest: there is no such way.
    """
    name = os.environ.get("BANDSOX_TRANSPORT")
    if not name:
        return None
    for transport in get_args(Transport):
        if transport == name:
            return cast("Transport", transport)
    raise InvalidRequest(f"BANDSOX_TRANSPORT names {name!r}", remedy=f"choose one of: {', '.join(get_args(Transport))}")


def default_disk_limits() -> tuple[float | None, int | None]:
    """``BANDSOX_DISK_BANDWIDTH_MBPS`` (10^6 bytes a second) and ``BANDSOX_DISK_IOPS`` (operations a second); None: no limit.

    Raises
    ------
    InvalidRequest: one of them is not a number.
    """
    bandwidth, operations = os.environ.get("BANDSOX_DISK_BANDWIDTH_MBPS"), os.environ.get("BANDSOX_DISK_IOPS")
    try:
        return float(bandwidth) if bandwidth else None, int(operations) if operations else None
    except ValueError as error:
        raise InvalidRequest("BANDSOX_DISK_BANDWIDTH_MBPS or BANDSOX_DISK_IOPS is not a number", cause=str(error)) from error


def _runtime_base() -> Path:
    if configured := os.environ.get("BANDSOX_RUNTIME"):
        return Path(configured).absolute()
    if os.geteuid() == 0:
        return Path("/run/bandsox")
    if session := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(session) / "bandsox"
    return Path(f"/tmp/bandsox-{os.geteuid()}")  # noqa: S108 — its owner and mode are checked


def make_private_dir(path: Path) -> Path:
    """Make `path` and its parents, owner-only, and refuse one that somebody else made.

    Raises
    ------
    HostError: it cannot be made, belongs to another user, or is a symbolic link.
    """
    remedy = "choose another directory with BANDSOX_STORAGE or BANDSOX_RUNTIME"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = path.lstat()
    except OSError as error:
        raise HostError(f"{path} cannot be used", cause=str(error), remedy=remedy) from error
    if status.st_uid != os.geteuid() or not stat.S_ISDIR(status.st_mode):
        cause = f"its owner is uid {status.st_uid}, and this process is uid {os.geteuid()}"
        raise HostError(f"{path} belongs to another user, or is no directory", cause=cause, remedy=remedy)
    if status.st_mode & 0o077:
        path.chmod(0o700)
    return path


def write_atomically(path: Path, content: bytes) -> None:
    """Write an owner-only file that is, at every moment, whole as it was before or whole as it is after."""
    descriptor, work = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(work).replace(path)
    except BaseException:
        Path(work).unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Have what was written to a file, or renamed in a directory, last (fsync(2))."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_link(link: Path, target: str) -> None:
    """Make `link` lead to `target`; at every moment it leads to the old or to the new one."""
    work = link.with_name(f"{link.name}.{os.getpid()}")
    work.unlink(missing_ok=True)
    work.symlink_to(target)
    work.replace(link)


def put_behind(link: Path, made: Path, home: str) -> None:
    """Make the directory `made`, which becomes `home` beside `link`, what `link` leads to."""
    place = link.with_name(home)
    if place.is_dir():
        shutil.rmtree(place)
    made.rename(place)
    replace_link(link, home)


@dataclass(frozen=True, slots=True)
class Layout:
    """The directories of one storage directory."""

    root: Path
    runtime: Path

    @classmethod
    def open(cls, storage_dir: str | os.PathLike[str] | None = None) -> Layout:
        """Find the storage directory, and make it and its parts where they are missing."""
        root = Path(storage_dir).expanduser().absolute() if storage_dir is not None else default_storage_dir()
        make_private_dir(root)
        root = root.resolve()  # in a room there are no links on the way to it, and by where a process works it is known whose it is
        key = hashlib.sha256(os.fsencode(root)).hexdigest()[:8]
        make_private_dir(_runtime_base())
        layout = cls(root=root, runtime=make_private_dir(_runtime_base() / key))
        lasting = (layout.images, layout.vms, layout.kernels, layout.vmms, layout.disks, layout.snapshots, layout.boots, layout.downloads)
        for directory in (*lasting, layout.work, layout.locks):
            directory.mkdir(mode=0o700, exist_ok=True)
        return layout

    @property
    def attachments(self) -> Path:
        """What machines hold of CNI networks (`bandsox.network.cni`)."""
        return self.root / "cni"

    @property
    def cni_plugins(self) -> Path:
        """A link to the CNI plugins that were installed here."""
        return self.root / "plugins" / "cni"

    @property
    def database(self) -> Path:
        """The registry of machines, images and snapshots (SQLite)."""
        return self.root / "bandsox.db"

    @property
    def images(self) -> Path:
        """Layer blobs and flattened root file systems, named by digest."""
        return self.root / "images"

    @property
    def vms(self) -> Path:
        """One directory a machine, holding everything the machine owns."""
        return _below(self.root, "vms")

    @property
    def kernels(self) -> Path:
        """Guest kernels and initramfs archives, named by digest."""
        return self.root / "kernels"

    @property
    def vmms(self) -> Path:
        """Hypervisors that were installed here; a link named for each leads to the one in use."""
        return self.root / "vmms"

    @property
    def downloads(self) -> Path:
        """Files that `init` is fetching; what broke off there is gone on with."""
        return self.root / "downloads"

    @property
    def programs(self) -> Path:
        """Copies of the VMMs' programs and libraries, which are all that a confined VMM sees of them."""
        return self.root / "programs"

    @property
    def disks(self) -> Path:
        """Formatted empty disks, copied sparsely for each machine."""
        return self.root / "disks"

    @property
    def snapshots(self) -> Path:
        """One directory a snapshot."""
        return self.root / "snapshots"

    @property
    def boots(self) -> Path:
        """One directory a warm boot, each of which may be removed when nothing is being started."""
        return self.root / "boots"

    @property
    def work(self) -> Path:
        """Work under way, in one directory for each process that works."""
        return self.root / "tmp"

    @property
    def temporary(self) -> Path:
        """This process's own directory for work under way; `bandsox cleanup` removes those of dead processes."""
        this = ProcessId.current()
        directory = self.work / f"{this.pid}-{this.start}"
        directory.mkdir(mode=0o700, exist_ok=True)
        return directory

    def leave(self) -> None:
        """Remove this process's own directory for work under way if nothing is in it."""
        with contextlib.suppress(OSError):
            self.temporary.rmdir()

    @property
    def locks(self) -> Path:
        """Lock files, on which the kernel holds the locks of live processes."""
        return self.root / "locks"

    def vm(self, vm_id: str) -> Path:
        """The directory of the machine `vm_id`."""
        return _below(self.vms, vm_id)

    def sockets(self, vm_id: str) -> Path:
        """The directory of the machine's sockets and port locks."""
        return _below(self.runtime, vm_id)


@functools.lru_cache(maxsize=4096)
def _below(directory: Path, name: str) -> Path:
    """``directory / name``, made once: every command asks for its machine's, and pathlib takes longer than the system call that follows."""
    return directory / name
