"""vhost-vsock: the way to a guest's agent through the host's own kernel, where that has it.

The address of a machine (its CID) is taken by trying: the kernel refuses one that another machine of this host has. It is taken here,
on a descriptor of the device that QEMU then inherits: so no two starts can get the same one, a VMM that is locked in needs no way to
the device, and when QEMU has ended, however it did, the address is free again. The machine's sockets directory says which it is.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bandsox.errors import MachineStopped, VMMError
from bandsox.settings import write_atomically

DEVICE = Path("/dev/vhost-vsock")

_SET_GUEST_CID = 0x4008AF60
"""``_IOW(VHOST_VIRTIO, 0x60, __u64)`` (Linux, include/uapi/linux/vhost.h)."""

_FIRST_CID, _CIDS = 1 << 30, 1 << 30
"""Far from the small numbers that people and other programs choose, and so many that the address of a machine that has ended is hardly ever
another's."""

_TRIES = 16


@dataclass(frozen=True, slots=True)
class Vsock:
    """A machine's end: an open descriptor of the device, and the CID that the kernel has given to it."""

    descriptor: int
    cid: int


def unavailable() -> str | None:
    """Why this host cannot give a machine a vsock device; None when it can, which is found out by taking an address."""
    try:
        os.close(_claim().descriptor)
    except FileNotFoundError:
        return f"there is no {DEVICE}"
    except PermissionError:
        return f"this user may not open {DEVICE}"
    except (OSError, VMMError) as error:
        return f"{DEVICE} cannot be used: {error}"
    return None


@contextlib.contextmanager
def claimed(sockets: Path) -> Iterator[Vsock]:
    """An address for the machine with these sockets, which stays its own as long as it, or this block, has the descriptor.

    Raises
    ------
    VMMError: the kernel gives none.
    """
    try:
        vsock = _claim()
    except OSError as error:
        raise VMMError(f"{DEVICE} cannot be used", cause=error.strerror, remedy="see `bandsox doctor`") from error
    try:
        write_atomically(_cid_file(sockets), str(vsock.cid).encode())
        yield vsock
    finally:
        os.close(vsock.descriptor)


def cid_of(sockets: Path) -> int:
    """The CID of the machine with these sockets.

    Raises
    ------
    MachineStopped: it has none, since it is not running.
    """
    try:
        return int(_cid_file(sockets).read_text())
    except (FileNotFoundError, ValueError) as error:
        raise MachineStopped("the machine has no vsock address: it is not running", cause=str(error)) from error


def _claim() -> Vsock:
    descriptor = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(_TRIES):
            cid = _FIRST_CID + secrets.randbelow(_CIDS)
            try:
                fcntl.ioctl(descriptor, _SET_GUEST_CID, struct.pack("=Q", cid))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            else:
                return Vsock(descriptor, cid)
        raise VMMError(f"{DEVICE} gives no address", cause=f"{_TRIES} of {_CIDS} were all in use")
    except BaseException:
        os.close(descriptor)
        raise


def _cid_file(sockets: Path) -> Path:
    return sockets / "vsock.cid"
