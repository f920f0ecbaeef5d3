"""``bandsox vm``: the life of machines."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, cast

import click

from bandsox.cli.command import CommandGroup
from bandsox.cli.commands import timeline
from bandsox.cli.machines import for_each
from bandsox.cli.operation import operation
from bandsox.cli.output import age, moment_text, print_facts, print_json, print_table
from bandsox.cli.parameters import ON_EXPIRY, json_object, mebibytes, metadata_of, seconds, variables, vm_argument
from bandsox.errors import InvalidRequest

_EXAMPLES = (
    ("bandsox vm list", "all VMs, the newest first"),
    ("bandsox vm stop dev", "power one off; its disk stays"),
    ("bandsox vm start dev", "and on again"),
)

if TYPE_CHECKING:
    from bandsox.cli.runtime import Call
    from bandsox.models import Deadlines, OnExpiry
    from bandsox.vm import AsyncMicroVM


@click.group(cls=CommandGroup, examples=_EXAMPLES, aliases={"ls": "list", "rm": "delete"})
def vm() -> None:
    """List, start, stop, pause, resume, save, fork, rewind, rename and delete VMs."""


@vm.command(
    "list", examples=(("bandsox vm list --filter team=web", "those with this metadata"), ("bandsox vm delete $(bandsox vm list -q)", "all"))
)
@click.option("--limit", type=click.IntRange(min=0), metavar="N", help="Only the newest.")
@click.option(
    "--filter", "filters", multiple=True, metavar="KEY=VALUE", help="Only those whose metadata has this value; also a JSON object."
)
@operation
async def list_(call: Call, limit: int | None, filters: tuple[str, ...]) -> None:
    """List VMs, the newest first."""
    found = await call.bandsox.list_vms(limit=limit, metadata_equals=metadata_of(filters) or None)
    if call.state.json:
        print_json(found)
        return
    if call.state.quiet:
        for info in found:
            click.echo(info["id"])
        return
    columns = ("ID", "NAME", "STATUS", "IMAGE", "CPUS", "MEMORY", "VMM", "CREATED")
    print_table(columns, map(_row, found), call.state, right=("CPUS", "MEMORY"))


def _row(info: dict[str, Any]) -> tuple[str, ...]:
    return (
        info["id"][:12],
        info["name"],
        info["status"],
        info["image"],
        str(info["vcpu"]),
        f"{info['mem_mib']} MiB",
        f"{info['vmm']}/{info['accelerator']}",
        age(info["created_at"]),
    )


@vm.command()
@vm_argument("vms", nargs=-1, required=True, metavar="VM...")
@operation
async def start(call: Call, vms: tuple[str, ...]) -> int:
    """Start stopped VMs again, with their disks as they were left."""
    return await for_each(call, vms, lambda machine: _changed(machine, machine.start()))


@vm.command()
@vm_argument("vms", nargs=-1, required=True, metavar="VM...")
@click.option(
    "--timeout",
    type=seconds,
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="How long powering off may take; then it is killed.",
)
@operation
async def stop(call: Call, vms: tuple[str, ...], timeout: float) -> int:
    """Power VMs off; their disks stay, and they can be started again."""
    return await for_each(call, vms, lambda machine: _changed(machine, machine.stop(timeout)))


@vm.command()
@vm_argument("vms", nargs=-1, required=True, metavar="VM...")
@operation
async def pause(call: Call, vms: tuple[str, ...]) -> int:
    """Stop the CPUs of VMs; their memory stays where it is."""
    return await for_each(call, vms, lambda machine: _changed(machine, machine.pause()))


@vm.command()
@vm_argument("vms", nargs=-1, required=True, metavar="VM...")
@operation
async def hibernate(call: Call, vms: tuple[str, ...]) -> int:
    """Write the memory of VMs to the disk, and end their hypervisors; `resume` lets them go on where they were."""
    return await for_each(call, vms, lambda machine: _changed(machine, machine.hibernate(call.progress)))


@vm.command()
@vm_argument("vms", nargs=-1, required=True, metavar="VM...")
@operation
async def resume(call: Call, vms: tuple[str, ...]) -> int:
    """Let paused or hibernated VMs go on."""
    return await for_each(call, vms, lambda machine: _changed(machine, machine.resume()))


@vm.command(
    examples=(
        ("bandsox vm balloon dev 512", "take half a GiB of its memory from it"),
        ("bandsox vm balloon dev 0", "give it back"),
        ("bandsox vm balloon dev", "how large it is"),
    )
)
@vm_argument("name", metavar="VM")
@click.argument("mib", type=mebibytes, required=False, metavar="[MiB]")
@operation
async def balloon(call: Call, name: str, mib: int | None) -> None:
    """Show or set how much of a VM's memory its balloon takes from it.

    Only a VM that was created with --balloon has one.
    """
    machine = await call.vm(name)
    if mib is not None:
        await machine.set_balloon(mib)
        return
    found = await machine.balloon()
    if call.state.json:
        print_json(dataclasses.asdict(found))
        return
    click.echo(f"{found.actual_mib} MiB, to be {found.target_mib} MiB")
    if found.available_mib is not None and found.total_mib is not None:
        click.echo(f"{found.available_mib} of the other {found.total_mib} MiB are available")


@vm.command(examples=(('bandsox vm mmds dev \'{"role": "web"}\'', "in the place of what it said before"),))
@vm_argument("name", metavar="VM")
@click.argument("contents", type=json_object, metavar="JSON|@FILE")
@operation
async def mmds(call: Call, name: str, contents: dict[str, Any]) -> None:
    """Set what a VM's metadata service says, a JSON object.

    Only a VM that was created with --mmds has one.
    """
    await (await call.vm(name)).set_mmds(contents)


@vm.command(
    examples=(
        ("bandsox vm expose dev 80", "at a free port of this host; prints the URL"),
        ("bandsox vm expose dev 8080:80", "at port 8080 of this host, for programs of this host"),
        ("bandsox vm expose dev 0.0.0.0:8080:80", "for other hosts too"),
        ("bandsox vm expose dev --remove 80", "no more"),
    )
)
@vm_argument("name", metavar="VM")
@click.argument("ports", nargs=-1, required=True, metavar="[[ADDRESS:]HOST:]GUEST...")
@click.option("--remove", is_flag=True, help="Undo it, for ports of the guest.")
@operation
async def expose(call: Call, name: str, ports: tuple[str, ...], remove: bool) -> None:
    """Let this host reach TCP ports of a VM, which needs no network for it.

    It holds for every start of the VM.
    """
    from bandsox.engine import publishing

    machine = await call.vm(name)
    for port in publishing.taken_from(ports):
        if remove:
            await machine.unexpose(port.guest_port)
            continue
        url = await machine.expose(port.guest_port, port.host_port, port.host)
        if not call.state.json:
            click.echo(url)
    if call.state.json:
        print_json((await machine.info())["ports"])


@vm.command("ports", examples=(("bandsox vm ports dev", "what listens for it on this host"),))
@vm_argument("name", metavar="VM")
@operation
async def ports_(call: Call, name: str) -> None:
    """List the ports that a VM publishes on this host."""
    states = await (await call.vm(name)).ports()
    if call.state.json:
        print_json([dataclasses.asdict(state) for state in states])
        return
    rows = (
        (state.port.address, str(state.port.guest_port), "yes" if state.listening else "no", str(state.open), str(state.accepted))
        for state in states
    )
    print_table(("HOST", "GUEST", "LISTENS", "OPEN", "CONNECTIONS"), rows, call.state, right=("GUEST", "OPEN", "CONNECTIONS"))


async def _changed(machine: AsyncMicroVM, change: Any) -> dict[str, Any]:
    await change
    return await machine.info()


@vm.command(examples=(("bandsox vm save dev prepared", "and go on: bandsox snapshot restore prepared"),))
@vm_argument("name", metavar="VM")
@click.argument("snapshot_name", metavar="[NAME]", required=False)
@click.option("--metadata", "notes", multiple=True, metavar="KEY=VALUE", help="Keep a note with the snapshot; also a JSON object.")
@operation
async def save(call: Call, name: str, snapshot_name: str | None, notes: tuple[str, ...]) -> None:
    """Save a VM with its memory and disk as a snapshot, and print the snapshot's name. The VM goes on."""
    machine = await call.vm(name)
    taken = await machine.snapshot(snapshot_name, metadata_of(notes), progress=call.progress)
    call.progress.clear()
    if call.state.json:
        print_json(await call.bandsox.get_snapshot_info(taken))
    else:
        click.echo(taken)


@vm.command(
    examples=(
        ("bandsox vm fork dev", "a clone of a running VM; prints its id"),
        ("bandsox vm fork dev --count 3 --name try", "three of them: try-1, try-2 and try-3"),
    )
)
@vm_argument("name", metavar="VM")
@click.option("--count", type=int, default=1, show_default=True, metavar="N", help="How many clones.")
@click.option("--name", "clone_name", metavar="NAME", help="The clone's name; of several, its beginning.")
@click.option("-e", "--env", "env", multiple=True, metavar="NAME[=VALUE]", help="Set a variable; without a value, as it is here.")
@click.option("--metadata", "notes", multiple=True, metavar="KEY=VALUE", help="Notes in place of the VM's own; also a JSON object.")
@operation
async def fork(call: Call, name: str, count: int, clone_name: str | None, env: tuple[str, ...], notes: tuple[str, ...]) -> None:
    """Make clones of a running VM, which goes on, and print their ids."""
    machine = await call.vm(name)
    metadata = metadata_of(notes) if notes else None
    clones = await machine.fork(count, clone_name, env_vars=variables(env), metadata=metadata, progress=call.progress)
    call.progress.clear()
    if call.state.json:
        print_json([await clone.info() for clone in clones])
        return
    for clone in clones:
        click.echo(clone.vm_id)


for _command in timeline.COMMANDS:
    vm.add_command(_command)


@vm.command()
@vm_argument("vms", nargs=-1, metavar="VM...")
@click.option("--all", "every", is_flag=True, help="Delete all VMs.")
@operation
async def delete(call: Call, vms: tuple[str, ...], every: bool) -> int:
    """Kill VMs and remove everything they own, their disks included."""
    if bool(vms) == every:
        raise click.UsageError("name the VMs, or give --all")
    names = vms or [info["id"] for info in await call.bandsox.list_vms()]
    return await for_each(call, names, _delete)


async def _delete(machine: AsyncMicroVM) -> dict[str, Any]:
    facts = {"id": machine.vm_id, "name": machine.name, "deleted": True}
    await machine.delete()
    return facts


@vm.command()
@vm_argument("name", metavar="VM")
@click.argument("new_name", metavar="NAME")
@operation
async def rename(call: Call, name: str, new_name: str) -> None:
    """Give a VM another name."""
    machine = await call.vm(name)
    await call.bandsox.rename_vm(machine.vm_id, new_name)
    if call.state.json:
        print_json(await machine.info())


@vm.command(
    examples=(
        ("bandsox vm metadata dev", "show it"),
        ("bandsox vm metadata dev team=web --unset old", "change it"),
        ("""bandsox vm metadata dev '{"cpu": 2, "tags": ["a"]}'""", "with values that are no text"),
    )
)
@vm_argument("name", metavar="VM")
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--unset", multiple=True, metavar="KEY", help="Remove a key.")
@click.option("--replace", is_flag=True, help="Remove every key that is not given.")
@operation
async def metadata(call: Call, name: str, settings: tuple[str, ...], unset: tuple[str, ...], replace: bool) -> None:
    """Show or change the notes kept with a VM.

    KEY=VALUE sets a text; a JSON object sets all its keys.
    """
    machine = await call.vm(name)
    present = (await machine.info())["metadata"]
    if unknown := [key for key in unset if key not in present]:
        raise InvalidRequest(f"there is no key {unknown[0]!r} in the metadata of {machine.name}")
    kept = {} if replace else {key: value for key, value in present.items() if key not in unset}
    wanted = {**kept, **metadata_of(settings)}
    if wanted != present:
        await call.bandsox.update_vm_metadata(machine.vm_id, wanted)
    if call.state.json:
        print_json(wanted)
    elif not settings and not unset and not replace:
        print_facts(wanted, call.state)


def _limit(text: str) -> float:
    """A time in seconds; ``none`` is an infinite one."""
    return math.inf if text == "none" else seconds(text)


@vm.command(
    examples=(
        ("bandsox vm deadlines dev", "show them"),
        ("bandsox vm deadlines dev --ttl 2h", "two hours from now on"),
        ("bandsox vm deadlines dev --idle-timeout 5m --on-expiry snapshot --auto-resume", "on the disk while nobody uses it"),
        ("bandsox vm deadlines dev --ttl none --idle-timeout none", "for as long as you like"),
    )
)
@vm_argument("name", metavar="VM")
@click.option("--ttl", type=_limit, metavar="SECONDS|none", help="How long it may run from now on; 90s, 5m, 2h.")
@click.option("--idle-timeout", type=_limit, metavar="SECONDS|none", help="How long it may run while nobody uses it.")
@click.option("--on-expiry", type=ON_EXPIRY, help="What becomes of it when that time is over.")
@click.option("--auto-resume/--no-auto-resume", default=None, help="When it is paused or saved, let it go on at the next command in it.")
@operation
async def deadlines(
    call: Call, name: str, ttl: float | None, idle_timeout: float | None, on_expiry: OnExpiry | None, auto_resume: bool | None
) -> None:
    """Show or change how long a VM may run, now and at later starts."""
    machine = await call.vm(name)
    wanted = {"ttl": ttl, "idle_timeout": idle_timeout, "on_expiry": on_expiry, "auto_resume": auto_resume}
    if given := {key: None if value == math.inf else value for key, value in wanted.items() if value is not None}:
        await machine.set_deadlines(**cast("Deadlines", given))
    info = await machine.info()
    present = {key: info[key] for key in ("expires_at", "idle_timeout", "on_expiry", "auto_resume")}
    if call.state.json:
        print_json(present)
    elif not given:
        print_facts({**present, "expires_at": moment_text(present["expires_at"])}, call.state)
