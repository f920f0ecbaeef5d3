"""The system-call filter of a confined VMM: what no VMM needs, and what widens the kernel that one could attack.

It is a list of refusals under the VMM's own, narrower filter (QEMU's ``-sandbox``, Firecracker's default), so that a VMM that
was taken over before its own filter stands, or whose filter has a hole, still cannot make a process or a namespace,
mount, trace, hold memory that no limit on its address space counts, or speak to another machine over vsock, which no network
namespace separates.

The filter is classic BPF (Linux, Documentation/userspace-api/seccomp_filter.rst), made here because it is thirty instructions.
"""

from __future__ import annotations

import errno
import functools
import socket
import struct

ARCHITECTURE = "x86_64"

_AUDIT_ARCH = 0xC000003E
_X32_SYSCALL_BIT = 0x40000000

_NUMBER, _ARCH, _FIRST_ARGUMENT = 0, 4, 16
"""Offsets in ``struct seccomp_data``; of an argument the lower half, which holds all flags and families."""

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000

_CLONE_THREAD = 0x00010000
_SOCKET, _CLONE, _CLONE3 = 41, 56, 435

_FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)

_REFUSED = {
    "shmget": 29, "fork": 57, "vfork": 58, "ptrace": 101, "syslog": 103, "vhangup": 153, "pivot_root": 155, "chroot": 161, "acct": 163,
    "settimeofday": 164, "mount": 165, "umount2": 166, "swapon": 167, "swapoff": 168, "reboot": 169, "sethostname": 170,
    "setdomainname": 171, "iopl": 172, "ioperm": 173, "init_module": 175, "delete_module": 176, "quotactl": 179, "lookup_dcookie": 212,
    "kexec_load": 246, "add_key": 248, "request_key": 249, "keyctl": 250, "unshare": 272, "move_pages": 279, "perf_event_open": 298,
    "fanotify_init": 300, "name_to_handle_at": 303, "open_by_handle_at": 304, "clock_adjtime": 305, "setns": 308, "process_vm_readv": 310,
    "process_vm_writev": 311, "kcmp": 312, "finit_module": 313, "memfd_create": 319, "kexec_file_load": 320, "bpf": 321, "userfaultfd": 323,
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428, "move_mount": 429, "fsopen": 430,
    "fsconfig": 431, "fsmount": 432, "fspick": 433, "pidfd_getfd": 438, "mount_setattr": 442, "memfd_secret": 447,
}  # fmt: skip


@functools.cache
def program(*, memory_files: bool = False, local_only: bool = False) -> bytes:
    """The filter as an array of ``struct sock_filter``.

    Parameters
    ----------
    memory_files: memfd_create(2) passes.
    local_only: no socket is made but Unix ones, so that nothing is reached of a network namespace but what is handed over.
    """
    families = (socket.AF_UNIX,) if local_only else _FAMILIES
    refuse, unknown = _ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS
    instructions = [
        (_LOAD, 0, 0, _ARCH),
        (_EQUAL, 1, 0, _AUDIT_ARCH),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        *_answer(_AT_LEAST, _X32_SYSCALL_BIT, unknown),
        *_answer(_EQUAL, _CLONE3, unknown),  # the C library then takes clone, whose flags can be seen
    ]
    for number in (number for name, number in _REFUSED.items() if not (memory_files and name == "memfd_create")):
        instructions += _answer(_EQUAL, number, refuse)
    instructions += [
        (_EQUAL, 0, 4, _CLONE),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        *_answer(_ANY_BIT, _CLONE_THREAD, _ALLOW),
        (_RETURN, 0, 0, refuse),
        (_EQUAL, 0, 2 + 2 * len(families), _SOCKET),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
    ]
    for family in families:
        instructions += _answer(_EQUAL, family, _ALLOW)
    instructions += [(_RETURN, 0, 0, refuse), (_RETURN, 0, 0, _ALLOW)]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)


def _answer(comparison: int, value: int, answer: int) -> list[tuple[int, int, int, int]]:
    """Return `answer` if the loaded word compares so with `value`, else go on."""
    return [(comparison, 0, 1, value), (_RETURN, 0, 0, answer)]
