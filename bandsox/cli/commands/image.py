"""``bandsox image``: the images of the storage directory."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bandsox.cli.command import CommandGroup
from bandsox.cli.commands.build import build
from bandsox.cli.machines import image_info
from bandsox.cli.operation import operation
from bandsox.cli.output import age, moment_text, print_facts, print_json, print_table, size
from bandsox.cli.parameters import image_argument
from bandsox.errors import BandSoxError, InvalidRequest

_EXAMPLES = (
    ("bandsox image pull python:3-alpine", "fetch from a registry"),
    ("bandsox image pull oci-archive:./image.tar", "or from an archive"),
    ("bandsox image list", "what is here"),
)

if TYPE_CHECKING:
    from bandsox.cli.runtime import Call
    from bandsox.images import Removed
    from bandsox.models import Image


@click.group(cls=CommandGroup, examples=_EXAMPLES, aliases={"ls": "list", "delete": "rm"})
def image() -> None:
    """Pull, build, list, tag, carry and remove images."""


image.add_command(build)


@image.command(
    examples=(
        ("bandsox image pull python:3-alpine", "a registry; host:5000/name:tag for another than Docker Hub"),
        ("bandsox image pull docker-archive:./saved.tar", "what `docker save` has written"),
        ("bandsox image pull 'debootstrap:bookworm?include=python3'", "made of Debian packages"),
    )
)
@image_argument("reference")
@operation
async def pull(call: Call, reference: str) -> None:
    """Fetch an image, or make sure that it is the newest."""
    found = await call.bandsox.pull_image(reference, progress=call.progress)
    call.progress.clear()
    _print_one(call, found)


@image.command("list", examples=(("bandsox image rm $(bandsox image list -q)", "remove all that no VM uses"),))
@operation
async def list_(call: Call) -> None:
    """List images, the newest first."""
    found = list(await call.bandsox.list_images())
    if call.state.json:
        print_json([image_info(each) for each in found])
        return
    if call.state.quiet:
        for each in found:
            click.echo(each.id)
        return
    rows = [
        (name, _short(each.id), size(each.size), each.architecture, age(each.created_at))
        for each in found
        for name in each.references or ("<none>",)
    ]
    print_table(("NAME", "ID", "SIZE", "ARCHITECTURE", "CREATED"), rows, call.state, right=("SIZE",))


@image.command("inspect")
@image_argument("reference", metavar="IMAGE")
@operation
async def inspect_(call: Call, reference: str) -> None:
    """Show all that is known of an image."""
    facts = image_info(await call.engine.images.inspect(reference))
    if call.state.json:
        print_json(facts)
        return
    print_facts({**facts, "created_at": moment_text(facts["created_at"])}, call.state)


@image.command()
@image_argument("reference", metavar="IMAGE")
@operation
async def history(call: Call, reference: str) -> None:
    """Show how an image was made, the last step first."""
    steps = call.engine.images.history(reference)
    if call.state.json:
        print_json([dataclasses.asdict(step) for step in steps])
        return
    rows = [(step.created or "-", " ".join(step.created_by.split()) or "-", size(step.size), step.comment) for step in steps]
    print_table(("CREATED", "CREATED BY", "SIZE", "COMMENT"), rows, call.state, right=("SIZE",))


@image.command(
    examples=(
        ("bandsox image save app:latest -o app.tar", "a file for `bandsox image load`, `docker load` or `podman load`"),
        ("bandsox image save app db | ssh other bandsox image load", "several, through a pipe"),
    )
)
@image_argument("references", nargs=-1, required=True, metavar="IMAGE...")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Where to; else to standard output.")
@operation
async def save(call: Call, references: tuple[str, ...], output: Path | None) -> None:
    """Write images to one file, to be carried to another host.

    It is an OCI image layout in a tar archive, which Docker, Podman and skopeo read too. The layers are as they were fetched.
    """
    if output is None:
        if sys.stdout.isatty():
            raise InvalidRequest("an archive is nothing for a terminal", remedy="give a file with -o, or pipe the output into a program")
        await call.engine.images.save(references, sys.stdout.buffer, call.progress)
        sys.stdout.buffer.flush()
        return
    work = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        with work.open("xb") as file:
            await call.engine.images.save(references, file, call.progress)
        work.replace(output)
    finally:
        work.unlink(missing_ok=True)
    call.progress.clear()


@image.command(
    examples=(
        ("bandsox image load -i app.tar", "what `bandsox image save`, `docker save` or `podman save` has written"),
        ("docker save app | bandsox image load", "which may come through standard input"),
    )
)
@click.option(
    "-i",
    "--input",
    "archive",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The archive; else standard input.",
)
@operation
async def load(call: Call, archive: Path | None) -> None:
    """Take the images of an archive, with the names it gives them. (For the tar archive of a root file system: import.)"""
    import asyncio
    import shutil
    import tempfile

    if archive is not None:
        found = await call.engine.images.load(archive, call.progress)
    else:
        with tempfile.NamedTemporaryFile(dir=call.engine.layout.temporary) as file:
            await asyncio.to_thread(shutil.copyfileobj, sys.stdin.buffer, file, 1 << 20)
            file.flush()
            found = await call.engine.images.load(Path(file.name), call.progress)
    call.progress.clear()
    if call.state.json:
        print_json([image_info(each) for each in found])
        return
    for each in found:
        click.echo(", ".join(each.references) or each.id)


@image.command(examples=(("bandsox image tag python:3-alpine base", "`base` now means this image, whatever a registry has"),))
@image_argument("reference", metavar="IMAGE")
@click.argument("name")
@operation
async def tag(call: Call, reference: str, name: str) -> None:
    """Give an image one more name, taking it from the image that had it."""
    found = await call.bandsox.tag_image(reference, name)
    if call.state.json:
        print_json(image_info(found))


@image.command("rm")
@image_argument("references", nargs=-1, required=True, metavar="IMAGE...")
@click.option("-f", "--force", is_flag=True, help="Also where VMs were made of it, or an id has several names.")
@operation
async def remove(call: Call, references: tuple[str, ...], force: bool) -> int:
    """Remove names of images, and an image with its last name."""
    from bandsox.cli.faults import report

    failures, results = [], []
    for reference in references:
        try:
            results.append(await call.engine.images.remove(reference, force=force))
        except BandSoxError as error:
            failures.append(report(error, call.state))
    _print_removed(call, results)
    return failures[0] if failures else 0


@image.command()
@click.option("-a", "--all", "unused", is_flag=True, help="Also named images that no VM was made of.")
@click.option("--build-cache", is_flag=True, help="Also what builds have kept for the next build.")
@operation
async def prune(call: Call, unused: bool, build_cache: bool) -> None:
    """Remove images without a name, unfinished downloads, and files that nothing needs."""
    from bandsox.images import Removed

    results = []
    if build_cache:
        from bandsox.dockerfile import prune_build_cache

        results.append(Removed(freed=(await prune_build_cache(call.engine)).freed))
    _print_removed(call, [*results, await call.engine.images.prune(unused=unused)])


def _print_removed(call: Call, results: list[Removed]) -> None:
    untagged = [name for removed in results for name in removed.untagged]
    deleted = [image_id for removed in results for image_id in removed.deleted]
    freed = sum(removed.freed for removed in results)
    if call.state.json:
        print_json({"untagged": untagged, "deleted": deleted, "freed": freed})
    elif not call.state.quiet:
        for name in untagged:
            click.echo(f"untagged: {name}")
        for image_id in deleted:
            click.echo(f"deleted: {image_id}")
        if freed or not results:
            click.echo(f"freed: {size(freed)}")


@image.command(
    "import",
    examples=(
        ("bandsox image import ./rootfs.tar.gz mine", "make an image of a root file system"),
        ("docker export box | bandsox image import - mine", "which may come through standard input"),
    ),
)
@click.argument("archive", type=click.Path(exists=True, dir_okay=False, allow_dash=True, path_type=Path))
@click.argument("name")
@operation
async def import_(call: Call, archive: Path, name: str) -> None:
    """Make an image of the tar archive of a root file system."""
    source: Any = sys.stdin.buffer if str(archive) == "-" else archive
    found = await call.engine.images.import_(source, name, progress=call.progress)
    call.progress.clear()
    _print_one(call, found)


def _print_one(call: Call, found: Image) -> None:
    if call.state.json:
        print_json(image_info(found))
    else:
        click.echo(found.id)


def _short(image_id: str) -> str:
    return image_id.removeprefix("sha256:")[:12]
