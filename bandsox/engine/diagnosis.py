"""Why a machine did not come up: the stage it stopped at, the likely cause, the remedy."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from bandsox.errors import BootFailed
from bandsox.guest.faults import printable

_CONSOLE_LINES = 40
_LINE_LENGTH = 400
_STAGE = re.compile(r"bandsox-agent: stage: (modules|mounts|link|root|overlay|switch|ready)\b")
_FATAL = re.compile(r"bandsox-agent: fatal: (modules|mounts|link|root|overlay|switch): (.+)")


@dataclass(frozen=True, slots=True)
class _Pattern:
    """What a text on the console, or of the VMM, means."""

    expression: re.Pattern[str]
    cause: str
    remedy: str | None


_PATTERNS = (
    _Pattern(
        re.compile(
            r"Out of memory|System is deadlocked on memory|Cannot allocate memory.*initramfs|Initramfs unpacking failed: write", re.I
        ),
        "the guest has too little memory",
        "give it more: mem_mib=256 or --mem 256",
    ),
    _Pattern(
        re.compile(r"SQUASHFS error|squashfs.*(corrupt|unable to read)|Can't find a SQUASHFS superblock", re.I),
        "the image's root file system is damaged",
        "remove the image with `bandsox image rm` and pull it again",
    ),
    _Pattern(
        re.compile(r"holds none of the file systems"),
        "the image's root file system is damaged, or the guest's kernel does not know squashfs",
        "remove the image with `bandsox image rm` and pull it again; a kernel of your own needs CONFIG_SQUASHFS_LZ4",
    ),
    _Pattern(
        re.compile(r"EXT4-fs error|EXT4-fs \(.*\): (VFS: Can't find|bad geometry|ext4_load_journal)", re.I),
        "the machine's writable disk is damaged",
        "create the machine again",
    ),
    _Pattern(
        re.compile(r"cannot set up guest memory|cannot allocate memory|failed to map", re.I),
        "the host has too little free memory for this machine",
        "stop other machines, or give this one less memory",
    ),
    _Pattern(re.compile(r"No space left on device", re.I), "the host's file system is full", "free some room there"),
    _Pattern(
        re.compile(r"Could not access KVM|failed to initialize kvm|KVM: Permission denied", re.I),
        "this user may not use /dev/kvm",
        "add the user to the group kvm, or choose --accelerator tcg",
    ),
    _Pattern(
        re.compile(r"No working init found|Failed to execute /init", re.I),
        "the kernel could not run the agent",
        "the kernel must be one for this architecture with initramfs support (CONFIG_BLK_DEV_INITRD)",
    ),
    _Pattern(re.compile(r"Kernel panic - not syncing: (.*)"), "the guest's kernel panicked", None),
)


def boot_failure(summary: str, noticed: str, console: Callable[[], bytes], vmm_errors: str, *, resumed: bool = False) -> BootFailed:
    """The error for a machine that did not come up.

    Parameters
    ----------
    summary: what happened, in a few words.
    noticed: what the host saw of it: the cause where nothing printed explains more.
    resumed: it was to go on from where it or another was saved, and need not print anything.
    """
    text, vmm_errors = _readable(console().decode(errors="replace")), _readable(vmm_errors)
    stages = _STAGE.findall(text)
    silent = "resume" if resumed else "spawn"
    stage = stages[-1] if stages else ("kernel" if text.strip() else silent)
    cause, remedy = _explain(text, vmm_errors)
    if fatal := _FATAL.findall(text):
        stage = fatal[-1][0]
        cause = cause or fatal[-1][1]
    if cause is None and stage == "spawn":
        cause = "the guest printed nothing: the VMM did not run its kernel"
        remedy = "see `bandsox doctor`; a kernel of another architecture, or a KVM that cannot run it, looks like this"
    cause = cause or noticed
    tail = "\n".join(text.splitlines()[-_CONSOLE_LINES:])
    return BootFailed(f"{summary} (stage: {stage})", stage=stage, console=tail or vmm_errors, cause=cause, remedy=remedy)


def _readable(text: str) -> str:
    """What a guest printed, or made its VMM print, in lines of bounded length that are safe to print and quick to search."""
    return "\n".join(printable(line.replace("\t", " "), _LINE_LENGTH) for line in text.replace("\r", "").split("\n"))


def _explain(console: str, vmm_errors: str) -> tuple[str | None, str | None]:
    for pattern in _PATTERNS:
        for text in (console, vmm_errors):
            if found := pattern.expression.search(text):
                detail = f": {found[1].strip()}" if found.groups() and found[1] else ""
                return pattern.cause + detail, pattern.remedy
    return (vmm_errors.splitlines()[-1] if vmm_errors else None), None
