"""``bandsox inspect``: all that is known of a machine or an image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from bandsox.cli.command import Command
from bandsox.cli.completion import complete_image, complete_vm
from bandsox.cli.machines import image_info
from bandsox.cli.operation import operation
from bandsox.cli.output import moment_text, print_facts, print_json
from bandsox.errors import ImageNotFound, InvalidReference, NotFound, VMNotFound

if TYPE_CHECKING:
    from bandsox.cli.runtime import Call

_MOMENTS = ("created_at", "expires_at")


@click.command(
    cls=Command,
    examples=(
        ("bandsox inspect dev", "a VM"),
        ("bandsox --json inspect dev | jq .accelerator_reason", "one fact of it, for a program"),
        ("bandsox inspect --type image python:3-alpine", "an image, also where a VM has that name"),
    ),
)
@click.argument("name", shell_complete=lambda *asked: [*complete_vm(*asked), *complete_image(*asked)])
@click.option("--type", "kind", type=click.Choice(["vm", "image"]), help="What NAME names; a VM if there is one, else an image.")
@operation
async def inspect(call: Call, name: str, kind: str | None) -> None:
    """Show all that is known of a VM or an image."""
    facts = await _facts(call, name, kind)
    if call.state.json:
        print_json(facts)
        return
    for key in _MOMENTS:
        if key in facts:
            facts[key] = moment_text(facts[key])
    print_facts(facts, call.state)


async def _facts(call: Call, name: str, kind: str | None) -> dict[str, Any]:
    if kind != "image":
        try:
            return await (await call.vm(name)).info()
        except VMNotFound:
            if kind == "vm" or call.remote:
                raise
    try:
        return image_info(await call.engine.images.inspect(name))
    except (ImageNotFound, InvalidReference) as error:
        if kind == "image":
            raise
        raise NotFound(f"there is no VM and no image named {name!r}", remedy="see `bandsox vm list` and `bandsox image list`") from error
