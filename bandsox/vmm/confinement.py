"""The room a VMM is locked into, so that one that was taken over by its guest reaches nothing of this host.

bubblewrap (bwrap(1)) makes the room: mount, pid, ipc, uts, cgroup and network namespaces of its own, no capability, no way to gain
one, the system-call filter of `bandsox.vmm.seccomp`, and a root directory with the VMM's own programs and the few files, all at the
paths they have on the host, that a `Room` names. There is no /proc, no /sys, no /tmp, and nothing can be created but in the
writable directories of the room. An ordinary user's VMM gets a user namespace besides; root's gets a user of its own instead, which
is nobody else's, and where the host's control groups allow it a group that bounds what it takes (`bandsox.vmm.cgroup`).

bwrap stays beside the VMM as its parent, and ends when the VMM has ended. The machine is known by the VMM itself, which needs nothing of
bwrap any more: if somebody kills that, the machine goes on, and nothing of it is lost or left.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
import os
import platform
import re
import resource
import shutil
import signal
import stat
import subprocess
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bandsox.errors import HostError, RequirementNotMet, VMMError
from bandsox.models import Confinement, ConfinementDemand
from bandsox.process import ProcessId
from bandsox.settings import write_atomically
from bandsox.vmm import console, programs, seccomp
from bandsox.vmm.cgroup import Groups, Limits
from bandsox.vmm.huge_pages import without_huge_pages
from bandsox.vmm.room import Room, mounts

_OLDEST = (0, 8)
"""The first bubblewrap with --disable-userns."""

_FIRST_UID = 0x70000000
_UIDS = 1 << 26
"""A range that nobody hands out (systemd, docs/UIDS-GIDS.md: 1879048192 to 2147352575 is unused)."""

_NEVER_DUMP = 1
"""A limit on core dumps that also stops those piped into a program, which no other value does (Linux, fs/coredump.c)."""

_INSTALL = "apt-get install bubblewrap"
_ALLOW = "let this user make user namespaces: see kernel.unprivileged_userns_clone, user.max_user_namespaces, AppArmor's profile of bwrap"


@dataclass(frozen=True, slots=True)
class Offer:
    """The strongest confinement that works here, why not a stronger one, and what would mend that."""

    confinement: Confinement
    reason: str
    remedy: str | None = None


@dataclass(frozen=True, slots=True)
class Ends:
    """Descriptors that bwrap inherits: the program of the filter, the pipe on which it tells of its child, the one its child waits on."""

    filter: int
    info: int
    block: int


class Confiner:
    """Starts VMMs in their rooms.

    Parameters
    ----------
    store: where the copies of programs are kept.
    facts: a directory that lasts until the next reboot.
    """

    def __init__(self, store: Path, facts: Path) -> None:
        self._store = store
        self._facts = facts
        self._groups = Groups(facts.name)
        self._started: set[ProcessId] = set()
        self._guard = threading.Lock()

    def offer(self, *, afresh: bool = False) -> Offer:
        """What this host can do, found out by doing it; a success is remembered until the next reboot unless `afresh`. Blocks for ms."""
        if platform.machine() != seccomp.ARCHITECTURE:
            return Offer(Confinement.NONE, f"no system-call filter for {platform.machine()}")
        wrapper = shutil.which("bwrap")
        if wrapper is None:
            return Offer(Confinement.NONE, "bubblewrap is not installed", _INSTALL)
        status = Path(wrapper).stat()
        proof = f"{wrapper} {status.st_ino} {status.st_mtime_ns}".encode()
        known = self._facts / "confinement"
        strongest = Confinement.JAIL if os.geteuid() == 0 else Confinement.NAMESPACES
        success = Offer(strongest, self._reason(strongest))
        if not afresh and known.is_file() and known.read_bytes() == proof:
            return success
        failure = self._try(wrapper, strongest)
        if failure is None:
            write_atomically(known, proof)
            return success
        known.unlink(missing_ok=True)
        return failure

    def choose(self, demand: ConfinementDemand) -> Offer:
        """The confinement of a new machine. Blocks for ms.

        Raises
        ------
        RequirementNotMet: this host cannot give what is demanded.
        """
        if demand == "none":
            return Offer(Confinement.NONE, "it was asked for without")
        offer = self.offer()
        if demand != "auto" and offer.confinement < Confinement[demand.upper()]:
            only_root = offer.confinement is Confinement.NAMESPACES
            raise RequirementNotMet(
                f"this host cannot confine a VM as {demand!r} demands",
                cause="only root can give a VM a user of its own" if only_root else offer.reason,
                remedy="run as root, or be content with namespaces" if only_root else offer.remedy,
            )
        return offer

    def user(self, owner: str, confinement: Confinement) -> int:
        """The user that a machine's VMM is going to run as."""
        return free_user(owner) if confinement is Confinement.JAIL else os.geteuid()

    def launch(
        self,
        arguments: Sequence[str],
        room: Room,
        confinement: Confinement,
        *,
        output: int,
        errors: int,
        input_: int | None = None,
        inherited: Sequence[int] = (),
    ) -> ProcessId:
        """Start a VMM detached from this process, in its room if there is any confinement, and return its process. Blocks for ms.

        Parameters
        ----------
        arguments: the command line, whose first word is ``room.program``.
        output, errors: descriptors of the logs for what it prints.
        input_: a descriptor that it reads from; None for nothing.
        inherited: further descriptors that it gets as they are.

        Raises
        ------
        HostError: a tool is missing, or a file of the room cannot be given to it.
        VMMError: the room could not be made.
        """
        if confinement is Confinement.NONE:
            _give(room, os.geteuid())
            limited = arguments if room.largest_file is None else console.limited(arguments)
            words = [*entrance(room.network, room.users), *limited]
            with _huge_pages(room):
                vmm = _spawn(words, room.directory, (input_, output, errors), inherited, room.preload)
            self._add_child(vmm)
            return vmm
        grouped = confinement is Confinement.JAIL and self._groups.obstacle() is None
        if grouped:
            self._groups.make(room.owner, Limits(room.cpus, room.resident_mib, room.threads, room.directory, room.disk_limits))
        with contextlib.ExitStack() as stack:
            filter_ = seccomp.program(memory_files=room.memory_files, local_only=room.local_only)
            filter_end = stack.enter_context(_descriptor_of(filter_))
            told, telling = os.pipe()
            stack.callback(os.close, told)
            held, letting_go = os.pipe()
            stack.callback(os.close, letting_go)  # it lets the VMM begin
            with contextlib.ExitStack() as handed:
                handed.callback(os.close, telling)
                handed.callback(os.close, held)
                command = self.command(arguments, room, confinement, Ends(filter_end, telling, held))
                descriptors = [*inherited, filter_end, telling, held]
                words = [*entrance(room.network, room.users), *command]
                with _huge_pages(room):
                    wrapper = _spawn(words, room.directory, (input_, output, errors), descriptors)
            self._add_child(wrapper)
            vmm = _child(told)
            try:
                _limit(vmm.pid, room)
                if grouped:
                    self._groups.add(room.owner, vmm.pid)
            except HostError:
                vmm.signal(signal.SIGKILL)
                raise
            return vmm

    def command(self, arguments: Sequence[str], room: Room, confinement: Confinement, ends: Ends) -> list[str]:
        """The command line that runs `arguments` in `room`; the room's files are given to the user that it runs as."""
        jailed = confinement is Confinement.JAIL
        setpriv = [_tool("setpriv")] if jailed else []
        tree = programs.tree(self._store, [room.program, *setpriv], room.data)
        uid = self.user(room.owner, confinement) if room.user is None else room.user
        _give(room, uid)
        return [
            str(_tool("bwrap")),
            *(_JAIL if jailed else (*_NAMESPACES, "--uid", str(uid), "--gid", str(os.getegid()))),
            *("--unshare-pid", "--as-pid-1", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup"),
            *(("--unshare-net",) if room.network is None else ()),
            *("--setenv", "MALLOC_ARENA_MAX", "2"),  # a thread's own arena reserves 64 MiB of the address space that is bounded here
            *(("--setenv", "LD_PRELOAD", str(room.preload)) if room.preload is not None else ()),
            *("--hostname", "bandsox", "--seccomp", str(ends.filter), "--info-fd", str(ends.info), "--block-fd", str(ends.block)),
            *mounts(tree, room, _devices(room, uid) if jailed else {device: device for device in room.devices}),
            *("--chdir", str(room.directory), "--"),
            *((str(setpriv[0]), "--reuid", str(uid), "--regid", str(uid), *_WITHOUT_PRIVILEGES) if jailed else ()),
            *arguments,
        ]

    def forget(self, owner: str) -> None:
        """Remove what bounded a machine's VMM, which has ended."""
        self._groups.remove(owner)

    def sweep(self) -> None:
        """Remove what bounded VMMs that have ended."""
        self._groups.sweep()

    def _reason(self, confinement: Confinement) -> str:
        if confinement is not Confinement.JAIL:
            return "namespaces by bubblewrap, without root"
        obstacle = self._groups.obstacle()
        bounds = "bounded by a control group" if obstacle is None else f"without a control group: {obstacle}"
        return f"namespaces by bubblewrap, and a user of its own, {bounds}"

    def _add_child(self, child: ProcessId) -> None:
        """Remember a child, and reap those that have ended."""
        with self._guard:
            self._started = {process for process in (*self._started, child) if not process.reap()}

    def _try(self, wrapper: str, confinement: Confinement) -> Offer | None:
        """None when a program runs in a room of its own, else what is offered instead."""
        version = subprocess.run([wrapper, "--version"], capture_output=True, text=True, check=False).stdout
        found = re.search(r"(\d+)\.(\d+)", version)
        if found is None or (int(found[1]), int(found[2])) < _OLDEST:
            oldest = ".".join(map(str, _OLDEST))
            return Offer(Confinement.NONE, f"{version.strip() or wrapper} is too old: {oldest} is needed", _INSTALL)
        try:
            program = _tool("setpriv")
            room = Room("0" * 16, self._store, program, (), (), (), (), memory_mib=1024, threads=16, resident_mib=64, cpus=1)
            with _descriptor_of(seccomp.program()) as filter_end, Path(os.devnull).open("r+b") as nowhere:
                ends = Ends(filter_end, nowhere.fileno(), nowhere.fileno())
                command = self.command([str(program), "--version"], room, confinement, ends)
                self._store.mkdir(mode=0o700, exist_ok=True)
                done = subprocess.run(
                    command, capture_output=True, text=True, check=False, cwd=self._store, pass_fds=[filter_end, nowhere.fileno()]
                )
        except HostError as error:
            return Offer(Confinement.NONE, error.cause or error.message, error.remedy)
        if done.returncode == 0:
            return None
        words = done.stderr.strip().splitlines()
        reason = words[-1] if words else f"bubblewrap ended with status {done.returncode}"
        remedy = None if confinement is Confinement.JAIL else _ALLOW
        return Offer(Confinement.NONE, reason, remedy)


_NAMESPACES = ("--unshare-user", "--disable-userns", "--cap-drop", "ALL")
"""In the user namespace of a network an ordinary user is root, whose capabilities bwrap would leave to the VMM."""

_JAIL = ("--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID", "--cap-add", "CAP_SETPCAP")
"""Just what setpriv needs to change the user, and then gives up."""

_WITHOUT_PRIVILEGES = ("--clear-groups", "--bounding-set=-all", "--inh-caps=-all")


def user_of(vm_id: str, attempt: int = 0) -> int:
    """The uid, and gid, of a machine's own user: made of its id, so one of 67 million that no other account has."""
    name = f"{vm_id}.{attempt}" if attempt else vm_id
    return _FIRST_UID + int(hashlib.sha256(name.encode()).hexdigest(), 16) % _UIDS


def free_user(vm_id: str) -> int:
    """The first such user who has no process now: two machines with one user would share its limits, and could signal each other."""
    return next(uid for attempt in itertools.count() if not _has_processes(uid := user_of(vm_id, attempt)))


def _has_processes(uid: int) -> bool:
    try:
        os.getpriority(os.PRIO_USER, uid)
    except ProcessLookupError:
        return False
    return True


def _devices(room: Room, uid: int) -> dict[Path, Path]:
    """Nodes of the room's devices that belong to `uid`: the host's own may not be open to it, and are not to be changed."""
    nodes = {}
    for device in room.devices:
        status = device.stat()
        node = room.directory / f"device-{device.name}"
        node.unlink(missing_ok=True)
        try:
            os.mknod(node, 0o600 | stat.S_IFCHR, status.st_rdev)
            os.chown(node, uid, uid)
        except PermissionError:  # a container may not make nodes; what everybody may open needs none
            node = device
        nodes[device] = node
    return nodes


def _give(room: Room, uid: int) -> None:
    """Make what is the room's alone belong to the user `uid`, who may be this user again, and let him read the rest.

    Directories above the shared artefacts keep everybody out who is not in a room with them. What the VMM may only read stays this
    user's, so that it cannot change its mode; the group lets it in.
    """
    if os.geteuid() != 0:
        return
    for path in filter(Path.exists, room.writable):
        os.chown(path, uid, uid, follow_symlinks=False)
    for path in filter(Path.exists, room.readable):
        mode = stat.S_IMODE(path.stat().st_mode)
        if uid and not mode & stat.S_IROTH:
            path.chmod(mode | stat.S_IRGRP | stat.S_IROTH)


def entrance(network: int | None, users: int | None) -> list[str]:
    """The words before a command line that have its program in a network namespace, and in the user namespace that owns it.

    They open both by the descriptors of this process, which have to stay open as long; the program inherits none.
    """
    if network is None:
        return []
    own = f"/proc/{os.getpid()}/fd"
    way_in = ["--preserve-credentials", f"--user={own}/{users}"] if users is not None else []
    return [str(_tool("nsenter")), *way_in, f"--net={own}/{network}", "--"]


def _limit(pid: int, room: Room) -> None:
    """Bound what a VMM takes that has not begun yet, for good, unless it is bound to less already.

    Raises
    ------
    HostError: it has ended.
    """
    limits = {resource.RLIMIT_AS: room.memory_mib << 20, resource.RLIMIT_NPROC: room.threads, resource.RLIMIT_CORE: _NEVER_DUMP}
    if room.largest_file is not None:
        limits[resource.RLIMIT_FSIZE] = room.largest_file
    try:
        for limit, value in limits.items():
            _, most = resource.prlimit(pid, limit)
            least = value if most == resource.RLIM_INFINITY else min(value, most)
            resource.prlimit(pid, limit, (least, least))
    except OSError as error:
        raise HostError("a VMM's resources cannot be bounded", cause=str(error)) from error


def _tool(name: str) -> Path:
    found = _which(name, os.environ.get("PATH"))
    if found is None:
        raise HostError(f"{name} is not installed", remedy=_INSTALL if name == "bwrap" else "apt-get install util-linux")
    return Path(found)


@functools.cache
def _which(name: str, path: str | None) -> str | None:
    return shutil.which(name, path=path)


@contextlib.contextmanager
def _descriptor_of(content: bytes) -> Iterator[int]:
    """A descriptor from which `content` can be read."""
    descriptor = os.memfd_create("bandsox")
    try:
        os.write(descriptor, content)
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield descriptor
    finally:
        os.close(descriptor)


def _huge_pages(room: Room) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext() if room.huge_pages else without_huge_pages()


def _spawn(
    command: Sequence[str],
    directory: Path,
    streams: tuple[int | None, int, int],
    inherited: Sequence[int],
    preload: Path | None = None,
) -> ProcessId:
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
    if preload is not None:
        environment["LD_PRELOAD"] = str(preload)
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL if streams[0] is None else streams[0],
        stdout=streams[1],
        stderr=streams[2],
        cwd=directory,
        env=environment,
        pass_fds=inherited,
        start_new_session=True,
        restore_signals=False,
    )
    process.returncode = 0  # from here on the process is known by its identity, and reaped by it
    identity = ProcessId.of(process.pid)
    if identity is None:
        raise VMMError("the VMM ended as soon as it was started")
    return identity


def _child(info_end: int) -> ProcessId:
    """The process that bwrap has started, of which it tells at once.

    Raises
    ------
    VMMError: it ended without one, or with it; its log says why.
    """
    with os.fdopen(os.dup(info_end), "rb") as info:
        told = info.read(4096)
    try:
        child = ProcessId.of(json.loads(told)["child-pid"])
    except (ValueError, KeyError):
        child = None
    if child is None:
        raise VMMError("the VMM ended as soon as it was started")
    return child
