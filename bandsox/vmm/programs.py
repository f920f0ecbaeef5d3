"""The files of which a confined program consists: itself, its libraries, its data; nothing else of this host's.

They are copied once into a tree of the storage directory, with the paths they have on the host. A VMM then gets the tree by
one mount instead of half a hundred, which would cost more than all the rest of its start.
The copies are renewed when the originals change: the tree's name is a digest of the programs' and the loader's state.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from bandsox.errors import HostError
from bandsox.workers import storage_errors

_LOADER_CACHE = Path("/etc/ld.so.cache")
"""Where the dynamic loader finds libraries; ldconfig(8) writes it anew whenever one is installed."""

_PROGRAM_INTERPRETER = 3
"""``PT_INTERP`` of elf(5)."""


def tree(store: Path, programs: Sequence[Path], data: Sequence[Path] = ()) -> Path:
    """A directory that holds `programs` with all they load, and the files or directories `data`, each under its own path. Blocks.

    Parameters
    ----------
    store: the directory that keeps such trees.

    Raises
    ------
    HostError: a program cannot be read, or its libraries cannot be found. StorageFull: there is no room for the copies.
    """
    try:
        wanted = store / _digest([*programs, *data, _LOADER_CACHE])
        with storage_errors(store):
            if not wanted.is_dir():
                _make(wanted, programs, data)
            os.utime(wanted)  # when it was last wanted
    except OSError as error:
        raise HostError("the programs of a VMM cannot be copied", cause=str(error)) from error
    return wanted


def libraries(program: Path) -> list[Path]:
    """The loader and the libraries of a program, as the loader itself lists them; none for a static program.

    Raises
    ------
    HostError: one of them is not there.
    """
    loader = _interpreter(program)
    if loader is None:
        return []
    listed = subprocess.run([loader, "--list", program], capture_output=True, text=True, check=False)
    if listed.returncode != 0 or "not found" in listed.stdout:
        raise HostError(f"the libraries of {program} are not all there", cause=(listed.stderr or listed.stdout).strip())
    words = (line.split("=>")[-1].split() for line in listed.stdout.splitlines())
    return [loader, *(Path(word[0]) for word in words if word and word[0].startswith("/"))]


def _digest(files: Iterable[Path]) -> str:
    facts = []
    for file in files:
        with contextlib.suppress(FileNotFoundError):
            status = file.stat()
            facts.append(f"{file}\0{status.st_dev}:{status.st_ino}:{status.st_size}:{status.st_mtime_ns}")
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:32]


def _make(wanted: Path, programs: Sequence[Path], data: Sequence[Path]) -> None:
    wanted.parent.mkdir(mode=0o700, exist_ok=True)
    files = {*programs, *(library for program in programs for library in libraries(program))}
    if len(files) > len(programs) and _LOADER_CACHE.exists():
        files.add(_LOADER_CACHE)
    work = Path(tempfile.mkdtemp(prefix=".making-", dir=wanted.parent))
    try:
        for file in (*files, *data):
            _copy(file, work)
        work.chmod(0o755)
        work.rename(wanted)
    except OSError as error:
        if error.errno not in {errno.EEXIST, errno.ENOTEMPTY}:  # another process was faster
            raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _copy(source: Path, root: Path) -> None:
    """Copy a file or directory to the same path below `root`, readable by everybody and writable by nobody but its owner."""
    target = root / Path(os.path.normpath(source)).relative_to("/")
    _make_directory(target.parent, root)
    if source.is_dir():
        _make_directory(target, root)
        for entry in source.iterdir():
            _copy(entry, root)
    elif source.is_file():
        shutil.copyfile(source, target)
        target.chmod(0o755 if os.access(source, os.X_OK) else 0o644)


def _make_directory(directory: Path, root: Path) -> None:
    if directory != root and not directory.is_dir():
        _make_directory(directory.parent, root)
        directory.mkdir()
        directory.chmod(0o755)


def _interpreter(program: Path) -> Path | None:
    """The dynamic loader of an ELF program; None for a static one.

    Raises
    ------
    HostError: it is no 64-bit little-endian ELF file.
    """
    with program.open("rb") as file:
        header = file.read(64)
        if len(header) < 64 or header[:6] != b"\x7fELF\x02\x01":
            raise HostError(f"{program} is not a program for this host")
        (table,) = struct.unpack_from("<Q", header, 32)
        size, count = struct.unpack_from("<HH", header, 54)
        for number in range(count):
            file.seek(table + number * size)
            kind, _, offset, _, _, length = struct.unpack("<IIQQQQ", file.read(40))
            if kind == _PROGRAM_INTERPRETER:
                file.seek(offset)
                return Path(os.fsdecode(file.read(length).rstrip(b"\0")))
    return None
