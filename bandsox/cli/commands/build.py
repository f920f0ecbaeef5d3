"""``bandsox image build``: an image from a Dockerfile."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bandsox.cli.command import Command
from bandsox.cli.machines import image_info
from bandsox.cli.operation import operation
from bandsox.cli.output import print_json
from bandsox.cli.parameters import mebibytes, variables
from bandsox.errors import InvalidRequest

if TYPE_CHECKING:
    from bandsox.cli.runtime import Call


@click.command(
    cls=Command,
    examples=(
        ("bandsox image build -t app .", "the Dockerfile of this directory"),
        ("bandsox image build -t app -f docker/app.Dockerfile --build-arg VERSION=2 .", "another one, with a value for its ARG"),
        ("bandsox image build --target test --secret id=token,src=./token .", "one stage of it, whose RUN may read a secret"),
    ),
)
@click.argument("context", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="DIRECTORY")
@click.option("-t", "--tag", metavar="NAME", help="The image's name, taken from the image that had it.")
@click.option(
    "-f",
    "--file",
    "dockerfile",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="The Dockerfile; DIRECTORY's own when absent.",
)
@click.option(
    "--build-arg", "build_args", multiple=True, metavar="NAME[=VALUE]", help="A value for an ARG; without a value, as it is here."
)
@click.option("--target", metavar="STAGE", help="The stage to build, by name or number; the last when absent.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="A label of the image.")
@click.option(
    "--secret", "secrets", multiple=True, metavar="id=ID,src=FILE", help="A file for RUN --mount=type=secret, which is in no layer."
)
@click.option("--no-cache", is_flag=True, help="Carry out every instruction again.")
@click.option("--pull", is_flag=True, help="Look at the registry even for images that are here.")
@click.option("--vcpu", type=int, metavar="N", help="CPUs of the VMs in which RUN runs.")
@click.option("--mem", type=mebibytes, metavar="MiB", help="Their memory; 2G is 2048.")
@click.option("--disk-size", type=mebibytes, metavar="MiB", help="Room for what RUN writes.")
@operation
async def build(call: Call, /, context: Path, **values: Any) -> None:
    """Build an image from a Dockerfile, without Docker.

    COPY and ADD take files from DIRECTORY only, without those its .dockerignore names. Each RUN runs in a VM. What was built before
    from the same things is not built again. The image's id is printed.
    """
    from bandsox.dockerfile import build_image

    sizes = {"vcpu": values["vcpu"], "mem_mib": values["mem"], "disk_size_mib": values["disk_size"]}
    image = await build_image(
        call.engine,
        context,
        values["dockerfile"],
        tag=values["tag"],
        build_args=variables(values["build_args"]),
        target=values["target"],
        labels=variables(values["labels"]),
        secrets=dict(map(_secret, values["secrets"])),
        no_cache=values["no_cache"],
        pull=values["pull"],
        progress=call.progress,
        **{name: value for name, value in sizes.items() if value is not None},
    )
    call.progress.clear()
    if call.state.json:
        print_json(image_info(image))
    else:
        click.echo(image.id)


def _secret(text: str) -> tuple[str, bytes]:
    """The name and content of ``id=ID,src=FILE``; where the source is absent, the file that is named like the id."""
    words = dict(word.partition("=")[::2] for word in text.split(","))
    if not words.get("id") or not set(words) <= {"id", "src", "source"}:
        raise InvalidRequest(f"not a secret: {text!r}", remedy="write id=NAME,src=FILE")
    source = words.get("src") or words.get("source") or words["id"]
    return words["id"], Path(source).read_bytes()
