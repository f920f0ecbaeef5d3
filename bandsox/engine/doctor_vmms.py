"""What `doctor` says of the hypervisors: which can run machines here, how, which one they get, and why not another."""

from __future__ import annotations

import asyncio
import contextlib
import grp
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from bandsox.engine import provision
from bandsox.engine.accelerators import Trial
from bandsox.engine.findings import Finding
from bandsox.errors import HostError, InvalidRequest, MissingTool, Unsupported
from bandsox.models import Confinement
from bandsox.settings import default_vmm
from bandsox.vmm.base import VMM
from bandsox.vmm.firecracker import release
from bandsox.vmm.firecracker.release import Program, ProgramName
from bandsox.vmm.qemu import vhost

if TYPE_CHECKING:
    from bandsox.engine.engine import Engine

_KVM = Path("/dev/kvm")
_GROUP_MAY = stat.S_IRGRP | stat.S_IWGRP
_MODULES = {"vmx": "kvm_intel", "svm": "kvm_amd"}


async def examine(engine: Engine, confinement: Confinement) -> list[Finding]:
    """Look at KVM and every hypervisor, confined so; boots a guest where an accelerator has not been tried yet.

    The last finding is the choice.
    """
    trial = Trial(await asyncio.to_thread(engine.kernels.boot_files), confinement)
    findings = [_kvm(), vhost_vsock()]
    for vmm in engine.vmms.values():
        if vmm.name == "firecracker":
            findings += await _firecracker(engine)
        findings += await _accelerators(engine, vmm, trial)
    return [*findings, await _choice(engine, trial)]


def _kvm() -> Finding:
    if not _KVM.exists():
        module = next((name for flag, name in _MODULES.items() if flag in _cpu_flags()), None)
        if module is None:
            return Finding(
                "kvm", "note", "there is no /dev/kvm, and the CPU shows no virtualisation: its firmware or host has it turned off"
            )
        return Finding("kvm", "note", "there is no /dev/kvm, though the CPU has virtualisation", f"sudo modprobe {module}")
    if not os.access(_KVM, os.R_OK | os.W_OK):
        return Finding("kvm", "note", "this user may not open /dev/kvm", _way_in(_KVM))
    return Finding("kvm", "ok", "/dev/kvm can be opened; what it is worth is tried with a guest")


def vhost_vsock() -> Finding:
    """Whether this user can give QEMU's guests a vsock device."""
    missing = vhost.unavailable()
    if missing is None:
        return Finding("vhost-vsock", "ok", "QEMU's guests are reached over vsock where their kernel has it")
    remedy = _way_in(vhost.DEVICE) if vhost.DEVICE.exists() else "sudo modprobe vhost_vsock"
    return Finding("vhost-vsock", "note", f"{missing}: QEMU's guests are reached over virtio-serial", remedy)


def _way_in(device: Path) -> str:
    """The command that lets this user open a device: by its group, where that may, as distributions have it."""
    user = os.environ.get("USER") or str(os.geteuid())
    status = device.stat()
    if status.st_mode & _GROUP_MAY == _GROUP_MAY and status.st_gid != 0:
        with contextlib.suppress(KeyError):
            group = grp.getgrgid(status.st_gid).gr_name
            return f"sudo usermod -aG {group} {user} && newgrp {group}"
    return f"sudo setfacl -m u:{user}:rw {device}"


async def _firecracker(engine: Engine) -> list[Finding]:
    """Firecracker's programs. Where they would be of no use, nothing needs mending."""
    installed = engine.layout.vmms / "firecracker"
    found: dict[ProgramName, Program] = {}
    findings = []
    useless = await provision.firecracker_is_of_no_use(engine)
    for name in release.PROGRAMS:
        try:
            found[name] = await asyncio.to_thread(release.find, name, installed)
        except (MissingTool, Unsupported) as error:
            text = error.message if useless is None else f"{error.message}; without a KVM that runs guests it is of no use"
            findings.append(Finding(name, "note", text, error.remedy if useless is None else None))
        else:
            findings.append(Finding(name, "ok", f"version {found[name].version_text}, {found[name].path} ({found[name].origin})"))
    versions = {program.version for program in found.values()}
    if len(versions) > 1:
        findings.append(
            Finding("jailer", "note", "it is of another version than firecracker, and they only work together", "bandsox init --force")
        )
    return findings


async def _accelerators(engine: Engine, vmm: VMM, trial: Trial) -> list[Finding]:
    """A hypervisor's version, and what each of its accelerators is worth; Firecracker's version is told with its programs."""
    findings = []
    try:
        version, offered = await vmm.version(), await vmm.accelerators()
    except (MissingTool, Unsupported) as error:
        return [] if vmm.name == "firecracker" else [Finding(vmm.name, "note", error.message, error.remedy)]
    if vmm.name != "firecracker":
        findings.append(Finding(vmm.name, "ok", f"version {version}"))
    for accelerator in offered:
        try:
            verdict = await engine.accelerators.verdict(vmm, accelerator, trial)
        except Unsupported as error:
            return [*findings, Finding(vmm.name, "note", error.message, error.remedy)]
        subject = f"{vmm.name}/{accelerator.name}"
        findings.append(Finding(subject, "ok" if verdict.usable else "note", f"{verdict.reason} ({verdict.isolation.name.lower()})"))
    return findings


async def _choice(engine: Engine, trial: Trial) -> Finding:
    """What a machine gets that asks for nothing in particular."""
    try:
        choice = await engine.accelerators.choose(trial, default_vmm(), engine.require)
    except (HostError, InvalidRequest) as error:
        return Finding("choice", "missing", f"{error.message}: {error.cause}" if error.cause else error.message)
    by = "BANDSOX_VMM names it; " if default_vmm() else ""
    chosen = choice.accelerator
    return Finding("choice", "ok", f"VMs run on {choice.vmm.name}/{chosen.name}: {by}{chosen.reason}")


def _cpu_flags() -> set[str]:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("flags"):
            return set(line.split(":", 1)[1].split())
    return set()
