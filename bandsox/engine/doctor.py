"""What this host can do, what it lacks, and the command that mends it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bandsox.engine import doctor_vmms
from bandsox.engine.findings import Finding
from bandsox.errors import BandSoxError
from bandsox.models import Confinement
from bandsox.network import cni, plugins
from bandsox.vmm import initramfs
from bandsox.vmm.confinement import Offer

if TYPE_CHECKING:
    from bandsox.engine.engine import Engine

_LOW_SPACE = 5 << 30
_LOW_MEMORY = 1 << 30


@dataclass(frozen=True, slots=True)
class _Tool:
    program: str
    package: str
    purpose: str
    needed: bool = True


_TOOLS = (
    _Tool("mkfs.ext4", "e2fsprogs", "formats the writable disk of a VM"),
    _Tool("prlimit", "util-linux", "bounds what a VMM may write"),
    _Tool("mmdebstrap", "mmdebstrap", "builds debootstrap: images, among them the default one", needed=False),
)


async def examine(engine: Engine) -> list[Finding]:
    """Look at the host; boots a guest where an accelerator has not been tried yet."""
    findings = [_host(), _agent(), *(_tool(tool) for tool in _TOOLS), _storage(engine.layout.root), _memory()]
    if platform.machine() == "x86_64" and os.geteuid() != 0:
        findings.append(_unprivileged())
    offer = await asyncio.to_thread(engine.confiner.offer, afresh=True)
    findings.append(_confinement(offer))
    findings.append(await asyncio.to_thread(_network, engine))
    if os.geteuid() == 0:
        findings.append(await asyncio.to_thread(_cni, engine))
    findings.append(_kernel(engine))
    if findings[-1].state == "ok":
        findings += await doctor_vmms.examine(engine, offer.confinement)
    return findings


def _host() -> Finding:
    text = f"Linux {platform.release()} on {platform.machine()}, Python {platform.python_version()}"
    if platform.machine() != "x86_64":
        return Finding("host", "missing", f"{text}: VMs run on x86_64 hosts only in this version")
    return Finding("host", "ok", text)


def _agent() -> Finding:
    try:
        return Finding("guest agent", "ok", str(initramfs.agent_binary(platform.machine())))
    except BandSoxError as error:
        return Finding("guest agent", "missing", error.message, error.remedy)


def _tool(tool: _Tool) -> Finding:
    found = shutil.which(tool.program) or shutil.which(tool.program, path="/usr/sbin:/sbin")
    if found:
        return Finding(tool.program, "ok", found)
    return Finding(tool.program, "missing" if tool.needed else "note", tool.purpose, f"apt-get install {tool.package}")


def _storage(root: Path) -> Finding:
    free = shutil.disk_usage(root).free
    text = f"{root}: {free / 1e9:.0f} GB free"
    if free < _LOW_SPACE:
        return Finding("storage", "note", text, "free some room, or name another place with BANDSOX_STORAGE")
    return Finding("storage", "ok", text)


def _memory() -> Finding:
    facts = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    available = int(facts["MemAvailable"].split()[0]) * 1024
    text = f"{available / 1e9:.1f} GB available"
    return Finding("memory", "ok" if available >= _LOW_MEMORY else "note", text)


def _unprivileged() -> Finding:
    user = os.environ.get("USER") or str(os.geteuid())
    configured = any(line.startswith(f"{user}:") for line in _lines(Path("/etc/subuid")))
    if configured and shutil.which("newuidmap"):
        return Finding("subordinate ids", "ok", f"/etc/subuid has a range for {user}")
    remedy = f"sudo apt-get install uidmap && sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}"
    return Finding("subordinate ids", "note", "debootstrap: images need them to be built without root", remedy)


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def _confinement(offer: Offer) -> Finding:
    if offer.confinement is Confinement.NONE:
        return Finding("confinement", "note", f"VMMs run unconfined: {offer.reason}", offer.remedy)
    return Finding("confinement", "ok", f"{offer.confinement.name.lower()}: {offer.reason}")


def _network(engine: Engine) -> Finding:
    """Make a network, and let go of it."""
    with tempfile.TemporaryDirectory(dir=engine.layout.temporary) as directory:
        try:
            config, namespace = engine.networks.make(Path(directory))
            with contextlib.closing(namespace):
                namespace.complete()
        except BandSoxError as error:
            cause = error.message if error.cause is None else error.cause
            return Finding("network", "note", f"VMs have no network: {cause}", error.remedy)
    servers = ", ".join(config.dns) or "none that VMs could reach; name some with dns="
    return Finding("network", "ok" if config.dns else "note", f"{config.uplink}; name servers: {servers}")


def _cni(engine: Engine) -> Finding:
    """The CNI networks that root's machines can be attached to."""
    places = cni.Places.of(engine.layout.cni_plugins)
    networks = plugins.networks(places.configurations)
    if not networks:
        return Finding("CNI", "ok", f"no network is configured in {':'.join(map(str, places.configurations))}; VMs need none")
    faults = [f"{network.file}: {network.fault}" for network in networks if network.fault is not None]
    if faults:
        return Finding("CNI", "note", "; ".join(faults), "correct the file: VMs cannot be attached to its network")
    lacking = {network.name: plugins.missing(network, places.plugins) for network in networks}
    if any(lacking.values()):
        text = "; ".join(f"{name} lacks {', '.join(names)}" for name, names in lacking.items() if names)
        return Finding("CNI", "note", text, "bandsox init --cni, or install them where BANDSOX_CNI_PLUGINS says")
    return Finding("CNI", "ok", f"networks: {', '.join(lacking)}, with all their plugins")


def _kernel(engine: Engine) -> Finding:
    label = engine.kernels.default_label()
    if label is None:
        return Finding("guest kernel", "missing", "none is installed", "bandsox init")
    return Finding("guest kernel", "ok", label)
