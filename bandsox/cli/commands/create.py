"""``bandsox create``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from bandsox.cli.command import Command
from bandsox.cli.machines import create_machine, find_config
from bandsox.cli.operation import operation
from bandsox.cli.output import notice, print_json
from bandsox.cli.parameters import MachineOptions, image_argument, machine_options

if TYPE_CHECKING:
    from bandsox.cli.runtime import Call


@click.command(
    cls=Command,
    examples=(
        ("bandsox create python:3-alpine", "a VM with the defaults; prints its id"),
        ("bandsox create python:3-alpine --name dev --mem 2G --vcpu 2", "a larger one, with a name"),
        ("bandsox create rootfs:./disk.tar.gz -e TOKEN --ttl 2h", "of an archive, with a variable of this shell, for two hours"),
    ),
)
@image_argument()
@machine_options
@operation
async def create(call: Call, /, image: str, **values: Any) -> None:
    """Create and start a VM.

    IMAGE is a name in a registry (python:3-alpine), or of another kind, such as oci:DIR, docker-archive:FILE, rootfs:FILE.tar or
    debootstrap:SUITE; or a template (template:ID). The VM runs until it is stopped; its id is printed.
    """
    options = MachineOptions.take(values)
    await find_config(call, image, options.pull)
    vm = await create_machine(call, image, options)
    call.progress.clear()
    info = await vm.info()
    if call.state.json:
        print_json(info)
        return
    click.echo(vm.vm_id)
    notice(f"VM {vm.name} is running on {info['vmm']} ({info['accelerator']}); try: bandsox terminal {vm.vm_id[:8]}", call.state)
