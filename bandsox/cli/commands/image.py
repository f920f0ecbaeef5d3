"""``bandsox image``: the images of the storage directory."""

from __future__ import annotations

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
from bandsox.errors import BandSoxError

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
    """Pull, build, list, tag, import and remove images."""


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
    found = list(await call.engine.images.list())
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


@image.command(examples=(("bandsox image tag python:3-alpine base", "`base` now means this image, whatever a registry has"),))
@image_argument("reference", metavar="IMAGE")
@click.argument("name")
@operation
async def tag(call: Call, reference: str, name: str) -> None:
    """Give an image one more name, taking it from the image that had it."""
    found = await call.engine.images.tag(reference, name)
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
