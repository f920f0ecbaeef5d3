"""What several commands do with machines and images, and how these look as data."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import click

from bandsox.cli.faults import report
from bandsox.cli.output import notice, print_json
from bandsox.cli.parameters import MachineOptions, metadata_of, variables, wanted_policy
from bandsox.cli.secret import secrets_of
from bandsox.errors import BandSoxError, InvalidRequest
from bandsox.models import TEMPLATE_PREFIX

if TYPE_CHECKING:
    from bandsox.cli.runtime import Call
    from bandsox.cli.timings import Timings
    from bandsox.models import Image, ImageConfig, Policy
    from bandsox.vm import AsyncMicroVM


async def find_config(call: Call, reference: str, pull: str) -> ImageConfig:
    """The configuration of a reference's image, which is fetched where `pull` allows it, or of a template's."""
    if reference.startswith(TEMPLATE_PREFIX):
        template = await call.bandsox.get_template(reference.removeprefix(TEMPLATE_PREFIX))
        if not call.remote:
            return (await call.engine.snapshots.get(template.snapshot)).image_config
        reference, pull = template.image_id, "never"
    return (await call.bandsox.pull_image(reference, cast(Literal["missing", "always", "never"], pull), call.progress)).config


async def create_machine(
    call: Call, reference: str, options: MachineOptions, timings: Timings | None = None, *, ephemeral: bool = False
) -> AsyncMicroVM:
    """A new machine of an image that `find_config` has found; an ephemeral one is gone with this process, however that ends."""
    import asyncio

    from bandsox.cli.timings import Timings

    timings = timings or Timings(shown=False)
    with timings.stage("kernel"):
        if not call.remote:
            await asyncio.to_thread(call.engine.kernels.boot_files, options.kernel, call.progress)
    with timings.stage("boot"):
        vm = await call.bandsox.create_vm(
            reference,
            name=options.name,
            vcpu=options.vcpu,
            mem_mib=options.mem,
            kernel_path=options.kernel,
            disk_size_mib=options.disk_size,
            env_vars=variables(options.env, options.env_file),
            metadata=metadata_of(options.metadata),
            vmm=options.vmm,
            boot_args=options.boot_args,
            confinement=options.confinement,
            debug_console=options.debug_console,
            enable_networking=options.network,
            dns=options.dns,
            network=_wanted_network(options),
            secrets=secrets_of(options.secret),
            cpu_template=options.cpu_template,
            disk_bandwidth_mbps=options.disk_bandwidth,
            disk_iops=options.disk_iops,
            network_bandwidth_mbps=options.network_bandwidth,
            balloon_mib=options.balloon,
            mmds=options.mmds,
            track_dirty_pages=options.track_dirty_pages,
            ttl=options.ttl,
            idle_timeout=options.idle_timeout,
            on_expiry=options.on_expiry,
            auto_resume=options.auto_resume,
            publish=options.publish,
            ephemeral=ephemeral and not call.remote,
            progress=call.progress,
        )
    info = await vm.info()
    if not call.remote and info["confinement"] == "none" and (options.confinement or call.bandsox.confinement) != "none":
        call.progress.clear()
        notice(f"the hypervisor is not confined: {info['confinement_reason']}; see `bandsox doctor`", call.state)
    return vm


def _wanted_network(options: MachineOptions) -> Policy | str | None:
    policy = wanted_policy(dataclasses.asdict(options))
    if options.cni is None:
        return policy
    if policy is not None:
        raise click.UsageError("a VM on a CNI network gets its policy once it is there: see `bandsox network policy`")
    return f"cni:{options.cni}"


class Fate:
    """What becomes of a machine at the end of a command."""

    def __init__(self, vm: AsyncMicroVM, *, kept: bool, ephemeral: bool) -> None:
        self._vm = vm
        self._ephemeral = ephemeral
        self.kept = kept

    async def keep(self) -> None:
        """Let it live on after all."""
        if self._ephemeral:
            await self._vm.keep()
        self.kept = True


@contextlib.asynccontextmanager
async def deleted_afterwards(call: Call, vm: AsyncMicroVM, *, keep: bool) -> AsyncIterator[Fate]:
    """Delete a machine at the end of the block, however it ends, unless it is to be kept."""
    fate = Fate(vm, kept=keep, ephemeral=not call.remote)
    try:
        yield fate
    finally:
        if not fate.kept:
            with call.signals.protected():
                await vm.delete()


def program_of(config: ImageConfig, entrypoint: str | None, arguments: Sequence[str], *, interactive: bool) -> list[str]:
    """The command line that an image runs: its ENTRYPOINT and CMD, or `arguments` in the place of CMD, as in Docker.

    Parameters
    ----------
    entrypoint: in the place of the image's: a program, a JSON list, or empty for none; the image's CMD is left out then.
    interactive: somebody is at a terminal, where a shell is what an image without a command can offer.

    Raises
    ------
    InvalidRequest: there is no command.
    """
    prefix = list(config.entrypoint) if entrypoint is None else _entrypoint(entrypoint)
    program = [*prefix, *(arguments or (config.cmd if entrypoint is None else ()))]
    if not program and interactive:
        return ["/bin/sh"]
    if not program:
        raise InvalidRequest("the image names no command of its own", remedy="give one: bandsox run IMAGE -- COMMAND")
    return program


def _entrypoint(text: str) -> list[str]:
    import json

    if not text.startswith("["):
        return [text] if text else []
    try:
        words = json.loads(text)
    except ValueError:
        words = None
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise InvalidRequest(f"not an entrypoint: {text!r}", remedy='give a program, or a JSON list such as ["python3", "-u"]')
    return words


async def for_each(call: Call, names: Sequence[str], act: Callable[[AsyncMicroVM], Awaitable[dict[str, Any]]]) -> int:
    """Do the same with several machines, report those that fail, and return the exit status of the first failure."""
    failures: list[int] = []
    done = []
    for name in names:
        try:
            done.append(await act(await call.vm(name)))
        except BandSoxError as error:
            failures.append(report(error, call.state))
        else:
            if not call.state.quiet and not call.state.json:
                click.echo(name)
    if call.state.json:
        print_json(done)
    return failures[0] if failures else 0


def image_info(image: Image) -> dict[str, Any]:
    """An image as data: the fields of `bandsox.models.Image`."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in dataclasses.asdict(image).items()}
