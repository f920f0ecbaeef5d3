"""The choice of VMM and accelerator, by what the host can really do.

/dev/kvm may be there and yet unable to run an ordinary kernel, so each accelerator that is not proven boots the guest
kernel to its agent once, within a deadline. What was found is kept for this kernel, this VMM and this host.
"""

from __future__ import annotations

import asyncio
import hashlib
import platform
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bandsox import settings
from bandsox.engine import boot, identity, ownership
from bandsox.engine.launch import NO_TOKEN
from bandsox.errors import BootFailed, HostError, InvalidRequest, MissingTool, RequirementNotMet, Unsupported, VMMError
from bandsox.locks import DEADLINE_S, Locks
from bandsox.models import Confinement, Isolation, Progress, ProgressCallback, Transport
from bandsox.settings import Layout
from bandsox.store import ProbeResult, Probes
from bandsox.vmm.base import VMM, Accelerator, LaunchSpec, Transports
from bandsox.vmm.kernel import BootFiles

PROBE_DEADLINE_S = 5.0
"""How long a guest may take to its agent. With hardware behind it, it takes less than a second."""

EMULATION_DEADLINE_S = 60.0
"""How long one may take that is emulated, on a host that is busy."""

_PROBE_MEM_MIB = 128

_STAGES_OF_TRANSPORT = frozenset({"link", "ready"})
"""Where a boot stops that another transport may bring further: the agent runs, and its kernel lacks this one, or nothing comes through."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What is booted to see whether an accelerator works: a kernel, and the settings without which it may not run.

    ``special``: what the machine is going to have that not every hypervisor has; it takes no part in the boot.
    """

    files: BootFiles
    confinement: Confinement
    boot_args: str = ""
    cpu_template: str | None = None
    special: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found out about one accelerator."""

    vmm: str
    accelerator: str
    isolation: Isolation
    usable: bool
    reason: str
    transport: Transport


@dataclass(frozen=True, slots=True)
class Choice:
    """What a machine runs on, and how its agent is reached."""

    vmm: VMM
    accelerator: Accelerator
    transport: Transport


class Accelerators:
    """The accelerators of this host's VMMs."""

    def __init__(self, layout: Layout, vmms: dict[str, VMM], probes: Probes) -> None:
        self._layout = layout
        self._vmms = vmms
        self._probes = probes

    async def choose(self, trial: Trial, vmm_name: str | None, require: Isolation, progress: ProgressCallback | None = None) -> Choice:
        """The best VMM and accelerator that works here with this kernel; of `vmm_name` where that is given.

        Raises
        ------
        InvalidRequest: there is no such VMM.
        MissingTool: it, or every one, is not installed.
        Unsupported: it cannot do what `trial`, or BANDSOX_TRANSPORT, asks for.
        RequirementNotMet: what works here isolates less than `require`, or nothing does.
        """
        if vmm_name is not None and vmm_name not in self._vmms:
            raise InvalidRequest(f"there is no VMM named {vmm_name!r}", remedy=f"choose one of: {', '.join(self._vmms)}")
        refused: list[str] = []
        absent: HostError | None = None
        for vmm in self._vmms.values() if vmm_name is None else (self._vmms[vmm_name],):
            try:
                offered = await _offered(vmm, trial)
            except (MissingTool, Unsupported) as error:
                absent = error
                refused.append(f"not {vmm.name}: {error.message}")
                continue
            for accelerator in offered:
                verdict = await self.verdict(vmm, accelerator, trial, progress)
                if verdict.usable and accelerator.isolation >= require:
                    reason = "; ".join([verdict.reason, *refused])
                    chosen = Accelerator(accelerator.name, accelerator.isolation, reason, accelerator.proven)
                    return Choice(vmm, chosen, verdict.transport)
                refused.append(f"not {vmm.name}/{accelerator.name}: {verdict.reason}")
        if absent is not None and len(refused) == (len(self._vmms) if vmm_name is None else 1):
            raise absent
        what = f"give {require.name.lower()} isolation" if vmm_name is None else f"run machines on {vmm_name}"
        raise RequirementNotMet(f"this host cannot {what}", cause="; ".join(refused), remedy="see `bandsox doctor`")

    async def forget(self) -> None:
        """Forget what was found out, so that every accelerator is tried again."""
        await asyncio.to_thread(self._probes.clear)

    async def verdict(self, vmm: VMM, accelerator: Accelerator, trial: Trial, progress: ProgressCallback | None = None) -> Verdict:
        """Whether `accelerator` works with this kernel, from memory where it was found out before."""
        offered = _transports(vmm)
        *better, last = offered.names
        if not accelerator.proven:
            found = await self._proven_by_boot(vmm, accelerator, trial, progress)
        elif not better:
            found = ProbeResult(True, accelerator.reason, last)
        else:
            tried = await self._proven_by_boot(vmm, accelerator, trial, progress)
            reason = accelerator.reason if tried.usable else f"{accelerator.reason}; over {last}: {tried.reason}"
            found = ProbeResult(True, reason, tried.transport if tried.usable else last)
        reason = f"{found.reason}; {offered.reason}" if offered.reason and found.usable else found.reason
        return Verdict(vmm.name, accelerator.name, accelerator.isolation, found.usable, reason, found.transport)

    async def _proven_by_boot(self, vmm: VMM, accelerator: Accelerator, trial: Trial, progress: ProgressCallback | None) -> ProbeResult:
        key = _key(vmm.name, await vmm.version(), accelerator.name, _transports(vmm).names, trial)
        if (known := self._probes.get(key, time.time())) is not None:
            return known
        async with Locks(self._layout.locks / "probe").hold(deadline_s=DEADLINE_S, what="the probe of this host's accelerators"):
            if (known := self._probes.get(key, time.time())) is not None:
                return known
            if progress is not None:
                progress(Progress("probe", f"trying whether {accelerator.name} runs a guest here"))
            found = await self._first_that_answers(vmm, accelerator, trial)
            self._probes.put(key, found, time.time())
            if progress is not None:
                progress(Progress("probe", f"{accelerator.name}: {found.reason}", finished=True))
        return found

    async def _first_that_answers(self, vmm: VMM, accelerator: Accelerator, trial: Trial) -> ProbeResult:
        """Try the transports in turn, as long as it may be the transport that is to blame; all but the last of a proven accelerator."""
        names = _transports(vmm).names
        refused: list[str] = []
        for transport in names[:-1] if accelerator.proven else names:
            try:
                await self._boot(vmm, accelerator, trial, transport)
            except (BootFailed, VMMError) as error:
                refused.append(f"over {transport}: {error.cause or error.message}")
                if isinstance(error, BootFailed) and error.stage not in _STAGES_OF_TRANSPORT:
                    break
            else:
                worse = f"; not {'; not '.join(refused)}" if refused else ""
                return ProbeResult(True, f"it runs the guest kernel{worse}", transport)
        return ProbeResult(False, f"it did not run the guest kernel ({'; '.join(refused)})", names[0])

    async def _boot(self, vmm: VMM, accelerator: Accelerator, trial: Trial, transport: Transport) -> None:
        vm_id = identity.new_id()
        sockets = self._layout.sockets(vm_id)
        with tempfile.TemporaryDirectory(prefix="probe-", dir=self._layout.temporary) as work:
            sockets.mkdir(mode=0o700)
            spec = LaunchSpec(
                vm_id=vm_id,
                directory=Path(work),
                sockets=sockets,
                vcpu=1,
                mem_mib=_PROBE_MEM_MIB,
                kernel=trial.files.kernel,
                initramfs=trial.files.initramfs,
                disks=(),
                boot_args=f"bandsox.transport={transport} {trial.boot_args}".strip(),
                accelerator=accelerator,
                confinement=trial.confinement,
                transport=transport,
                cpu_template=trial.cpu_template,
            )
            try:
                async with boot.started(vmm, spec) as booting:
                    deadline_s = EMULATION_DEADLINE_S if accelerator.proven else PROBE_DEADLINE_S
                    await boot.first_answer(vmm, spec, booting, lambda client: client.ping(timeout=deadline_s), NO_TOKEN, deadline_s)
                    await ownership.end(booting.process)
            finally:
                shutil.rmtree(sockets, ignore_errors=True)


async def _offered(vmm: VMM, trial: Trial) -> tuple[Accelerator, ...]:
    """The accelerators of a VMM that is there and can do what is asked."""
    if missing := sorted(trial.special - vmm.options):
        raise Unsupported(f"{vmm.name} does not know {' and '.join(missing)}", remedy="leave that out, or choose Firecracker")
    await vmm.version()
    _transports(vmm)
    return await vmm.accelerators()


def _transports(vmm: VMM) -> Transports:
    """The transports of a VMM, or the one of them that the user's settings ask for.

    Raises
    ------
    Unsupported: it does not have that one.
    """
    offered, wanted = vmm.transports(), settings.wanted_transport()
    if wanted is None:
        return offered
    if wanted not in offered.names:
        raise Unsupported(f"{vmm.name} has no transport {wanted} here", cause=offered.reason, remedy="unset BANDSOX_TRANSPORT")
    return Transports((wanted,))


def _key(vmm: str, version: str, accelerator: str, transports: Sequence[Transport], trial: Trial) -> str:
    guest = (str(trial.files.kernel.resolve()), trial.files.initramfs.name, trial.boot_args, trial.cpu_template or "")
    facts = (vmm, version, accelerator, *transports, trial.confinement.name, *guest, platform.release(), _cpu_model())
    return hashlib.sha256("\0".join(facts).encode()).hexdigest()


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line
    return platform.machine()
