"""``bandsox init``: everything a first machine needs."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bandsox.cli.command import Command
from bandsox.cli.machines import find_image, image_info
from bandsox.cli.operation import operation
from bandsox.cli.output import print_json, visible
from bandsox.errors import DigestMismatch, InvalidRequest

if TYPE_CHECKING:
    from bandsox.cli.runtime import Call
    from bandsox.models import Image


@click.command(
    cls=Command,
    examples=(
        ("bandsox init", "everything that is missing"),
        ("bandsox init --force", "fetch it again, and so the newest"),
        ("bandsox init --kernel-url ./vmlinux --skip-rootfs", "another guest kernel, and no image"),
    ),
)
@click.option("--kernel-url", metavar="URL", help="Another guest kernel, with its drivers built in: a file, or an http(s) URL.")
@click.option("--kernel-sha256", metavar="HEX", help="What the kernel's content must be; needed with plain http.")
@click.option(
    "--rootfs-url", metavar="URL", help="Another default image: a tar archive of a root file system, as a file or an http(s) URL."
)
@click.option("--skip-kernel", is_flag=True, help="Leave the kernel alone.")
@click.option("--skip-rootfs", "--skip-image", "skip_image", is_flag=True, help="Leave the default image alone.")
@click.option("--skip-cni", is_flag=True, hidden=True)
@click.option("--force", is_flag=True, help="Fetch the kernel and the image although they are here.")
@operation
async def init(
    call: Call,
    kernel_url: str | None,
    kernel_sha256: str | None,
    rootfs_url: str | None,
    skip_kernel: bool,
    skip_image: bool,
    skip_cni: bool,
    force: bool,
) -> None:
    """Install the guest kernel and the default image.

    What is here already is left as it is. Then it finds out how VMs run best on this host. Nothing outside the storage directory changes.
    """
    result: dict[str, Any] = {"storage": str(call.bandsox.storage_dir), "kernel": None, "accelerator": None, "image": None}
    if not skip_kernel:
        result["kernel"] = await _kernel(call, kernel_url, kernel_sha256, force=force)
        _say(call, "guest kernel", result["kernel"])
        result["accelerator"] = await _accelerator(call)
        _say(call, "accelerator", "{vmm}/{name}: {reason}".format_map(result["accelerator"]))
    if not skip_image:
        image = await _image(call, rootfs_url, force=force)
        result["image"] = image_info(image)
        _say(call, "default image", ", ".join(image.references) or image.id)
    if call.state.json:
        print_json(result)


def _say(call: Call, subject: str, text: str) -> None:
    call.progress.clear()
    if not call.state.quiet and not call.state.json:
        click.echo(f"{subject:<14} {visible(text)}")


async def _kernel(call: Call, url: str | None, sha256: str | None, *, force: bool) -> str:
    import asyncio

    kernels = call.engine.kernels
    if url is not None:
        async with _fetched(call, url, sha256, "the guest kernel") as path:
            directory = await asyncio.to_thread(kernels.install_file, path)
            (directory / "label").write_text(f"{Path(url).name}\n")
    elif force or not kernels.default.is_dir():
        await asyncio.to_thread(kernels.install_package, call.progress)
    await asyncio.to_thread(kernels.boot_files)
    return (kernels.default / "label").read_text().strip()


async def _accelerator(call: Call) -> dict[str, str]:
    import asyncio

    files = await asyncio.to_thread(call.engine.kernels.boot_files)
    vmm, chosen = await call.engine.accelerators.choose(files, None, call.engine.require, call.progress)
    return {"vmm": vmm.name, "name": chosen.name, "isolation": chosen.isolation.name.lower(), "reason": chosen.reason}


async def _image(call: Call, url: str | None, *, force: bool) -> Image:
    from bandsox.settings import DEFAULT_IMAGE

    if url is None:
        return await find_image(call, DEFAULT_IMAGE, "always" if force else "missing")
    async with _fetched(call, url, None, "the default image") as path:
        return await call.engine.images.import_(path, DEFAULT_IMAGE, progress=call.progress)


@contextlib.asynccontextmanager
async def _fetched(call: Call, url: str, sha256: str | None, what: str) -> AsyncIterator[Path]:
    """The file at `url`, which is fetched if it is not of this host, for the time of the block.

    Raises
    ------
    InvalidRequest: it is not there, or cannot be trusted. DigestMismatch: it is another than was asked for.
    """
    import asyncio

    from bandsox.download import Digest, digest_of, download, file_name

    expected = Digest.parse(sha256) if sha256 is not None else None
    with tempfile.TemporaryDirectory(prefix="init-", dir=call.engine.layout.temporary) as work:
        path = Path(url.removeprefix("file://"))
        if url.startswith(("http://", "https://")):
            if url.startswith("http://") and expected is None and "kernel" in what:
                raise InvalidRequest("a kernel from plain http needs --kernel-sha256", cause="anybody on the way could replace it")
            path = Path(work) / (file_name(url) or "file")
            await download(url, path, digest=expected, label=f"fetching {what}", progress=call.progress)
        elif not path.is_file():
            raise InvalidRequest(f"there is no file {url}", remedy="give a file of this host, or an http(s) URL")
        elif expected is not None:
            found = await asyncio.to_thread(digest_of, path, expected.algorithm)
            if found != expected:
                raise DigestMismatch(f"{url} does not have the digest that was given", cause=f"it is {found}")
        yield path
