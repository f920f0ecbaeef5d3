"""``bandsox init``: everything a first machine needs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bandsox.cli.command import Command
from bandsox.cli.machines import image_info
from bandsox.cli.operation import operation
from bandsox.cli.output import notice, print_json, visible

if TYPE_CHECKING:
    from bandsox.cli.runtime import Call
    from bandsox.vmm.firecracker.release import Program

_OUTPUT = click.Path(dir_okay=False, path_type=Path)


@dataclasses.dataclass(frozen=True, slots=True)
class _Choices:
    """The options of `init`."""

    kernel_url: str | None
    kernel_sha256: str | None
    kernel_output: Path | None
    rootfs_url: str | None
    rootfs_sha256: str | None
    rootfs_output: Path | None
    firecracker_url: str | None
    firecracker_sha256: str | None
    skip_kernel: bool
    skip_image: bool
    skip_firecracker: bool
    cni: bool
    skip_cni: bool
    cni_url: str | None
    cni_sha256: str | None
    cni_dir: str | None
    force: bool


@click.command(
    cls=Command,
    examples=(
        ("bandsox init", "everything that is missing"),
        ("bandsox init --force", "fetch it again, and so the newest"),
        ("bandsox init --kernel-url ./vmlinux --skip-rootfs", "another guest kernel, and no image"),
        ("bandsox init --firecracker-url ./firecracker-v1.12.1-x86_64.tgz", "the pinned release, fetched by other means"),
    ),
)
@click.option("--kernel-url", metavar="URL", help="Another guest kernel, with its drivers built in: a file, or an http(s) URL.")
@click.option("--kernel-sha256", metavar="HEX", help="What the kernel's content must be; needed with plain http.")
@click.option("--kernel-output", metavar="FILE", type=_OUTPUT, help="Write a copy of the kernel there.")
@click.option(
    "--rootfs-url", metavar="URL", help="Another default image: a tar archive of a root file system, as a file or an http(s) URL."
)
@click.option("--rootfs-sha256", metavar="HEX", help="What the archive's content must be.")
@click.option("--rootfs-output", metavar="FILE", type=_OUTPUT, help="Write a copy of the image's root file system there, as squashfs.")
@click.option("--firecracker-url", metavar="URL", help="The archive of a Firecracker release: a file, or an http(s) URL.")
@click.option(
    "--firecracker-sha256", metavar="HEX", help="What that archive's content must be; that of the pinned release when it is not said."
)
@click.option("--skip-kernel", is_flag=True, help="Leave the kernel alone.")
@click.option("--skip-rootfs", "--skip-image", "skip_image", is_flag=True, help="Leave the default image alone.")
@click.option("--skip-firecracker", is_flag=True, help="Leave Firecracker alone.")
@click.option("--cni", is_flag=True, help="Install the CNI plugins, although no network of this host lacks one.")
@click.option("--cni-url", metavar="URL", help="The archive of a release of the CNI plugins: a file, or an http(s) URL.")
@click.option("--cni-sha256", metavar="HEX", help="What that archive's content must be; that of the pinned release when it is not said.")
@click.option("--skip-cni", is_flag=True, help="Leave the CNI plugins alone.")
@click.option("--cni-dir", hidden=True, metavar="DIR")
@click.option("--force", is_flag=True, help="Fetch everything although it is here.")
@operation
async def init(call: Call, /, **values: Any) -> None:
    """Install the guest kernel, the default image, Firecracker where this host can run it, and CNI plugins that a network of root's lacks.

    What is here already is left as it is, and a download that broke off is gone on with. Then it finds out how VMs run best on this
    host. Nothing outside the storage directory changes.
    """
    choices = _Choices(**values)
    if choices.cni_dir is not None:
        notice("CNI plugins are kept in the storage directory: --cni-dir is taken for the sake of scripts, and changes nothing", call.state)
    result: dict[str, Any] = {"storage": str(call.bandsox.storage_dir)}
    result.update(kernel=None, image=None, firecracker=None, cni=None, accelerator=None)
    if not choices.skip_kernel:
        result["kernel"] = await call.bandsox.install_kernel(
            choices.kernel_url,
            sha256=choices.kernel_sha256,
            output=choices.kernel_output,
            force=choices.force,
            progress=call.progress,
        )
        _say(call, "guest kernel", result["kernel"])
    if not choices.skip_image:
        image = await call.bandsox.install_image(
            choices.rootfs_url,
            sha256=choices.rootfs_sha256,
            output=choices.rootfs_output,
            force=choices.force,
            progress=call.progress,
        )
        result["image"] = image_info(image)
        _say(call, "default image", ", ".join(image.references) or image.id)
    if not choices.skip_firecracker:
        result["firecracker"] = await _firecracker(call, choices)
    if not choices.skip_cni:
        result["cni"] = await _cni(call, choices)
    if not choices.skip_kernel:
        result["accelerator"] = await _accelerator(call)
        _say(call, "accelerator", "{vmm}/{name}: {reason}".format_map(result["accelerator"]))
    if call.state.json:
        print_json(result)


def _say(call: Call, subject: str, text: str) -> None:
    call.progress.clear()
    if not call.state.quiet and not call.state.json:
        click.echo(f"{subject:<14} {visible(text)}")


async def _firecracker(call: Call, choices: _Choices) -> dict[str, str] | None:
    """Install it if it was asked for by name, or is of use; without a kernel that cannot be found out."""
    from bandsox.engine.provision import firecracker_is_of_no_use

    reason = await firecracker_is_of_no_use(call.engine, call.progress) if choices.firecracker_url is None else None
    if reason is not None:
        _say(call, "firecracker", f"not installed: {reason}")
        return None
    program: Program = await call.bandsox.install_firecracker(
        choices.firecracker_url, sha256=choices.firecracker_sha256, force=choices.force, progress=call.progress
    )
    _say(call, "firecracker", f"{program.version_text} ({program.origin})")
    return {"path": str(program.path), "version": program.version_text, "origin": program.origin}


async def _cni(call: Call, choices: _Choices) -> str | None:
    """Install them if they were asked for by name, or are of use."""
    from bandsox.engine.provision import cni_plugins_are_of_no_use

    asked = choices.cni or choices.cni_url is not None
    reason = None if asked else cni_plugins_are_of_no_use(call.engine)
    if reason is not None:
        _say(call, "CNI plugins", f"not installed: {reason}")
        return None
    place: Path = await call.bandsox.install_cni_plugins(
        choices.cni_url, sha256=choices.cni_sha256, force=choices.force, progress=call.progress
    )
    _say(call, "CNI plugins", str(place))
    return str(place)


async def _accelerator(call: Call) -> dict[str, str]:
    import asyncio

    from bandsox.engine.accelerators import Trial
    from bandsox.settings import default_vmm

    offer = await asyncio.to_thread(call.engine.confiner.offer)
    trial = Trial(await asyncio.to_thread(call.engine.kernels.boot_files), offer.confinement)
    chosen = await call.engine.accelerators.choose(trial, default_vmm(), call.engine.require, call.progress)
    accelerator = chosen.accelerator
    return {
        "vmm": chosen.vmm.name,
        "name": accelerator.name,
        "isolation": accelerator.isolation.name.lower(),
        "reason": accelerator.reason,
    }
