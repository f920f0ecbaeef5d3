"""``bandsox snapshot``: what was saved of VMs. ``bandsox vm save`` takes one."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bandsox.cli.command import CommandGroup
from bandsox.cli.completion import complete_snapshot
from bandsox.cli.faults import report
from bandsox.cli.operation import operation
from bandsox.cli.output import age, moment_text, notice, print_facts, print_json, print_table, size
from bandsox.cli.parameters import Function, metadata_of, seconds, variables
from bandsox.errors import BandSoxError, InvalidRequest

_EXAMPLES = (
    ("bandsox vm save dev prepared", "save a VM as it is, with its memory"),
    ("bandsox snapshot restore prepared --name again", "go on from there, as often as wanted"),
    ("bandsox snapshot list", "what is saved"),
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from bandsox.cli.runtime import Call
    from bandsox.models import Retention


@click.group(cls=CommandGroup, examples=_EXAMPLES, aliases={"ls": "list", "rm": "delete"})
def snapshot() -> None:
    """List, restore, inspect, rename, compress, carry and delete snapshots of VMs."""


def _snapshot_argument(name: str = "snapshot", **settings: Any) -> Callable[[Function], Function]:
    """A positional argument that names a snapshot: its id, the beginning of its id, or its name."""
    return click.argument(name, shell_complete=complete_snapshot, **settings)


@snapshot.command("list", examples=(("bandsox snapshot delete $(bandsox snapshot list -q)", "delete all"),))
@operation
async def list_(call: Call) -> None:
    """List snapshots, the newest first."""
    found = await call.bandsox.list_snapshots()
    if call.state.json:
        print_json(found)
        return
    if call.state.quiet:
        for info in found:
            click.echo(info["id"])
        return
    columns = ("ID", "NAME", "OF VM", "IMAGE", "MEMORY", "SIZE", "VMM", "CREATED")
    print_table(columns, map(_row, found), call.state, right=("MEMORY", "SIZE"))
    for info in found:
        if "status" in info:
            notice(f"the snapshot {info['snapshot_name']} is damaged: {info['status']}", call.state)


def _row(info: dict[str, Any]) -> tuple[str, ...]:
    return (
        info["id"][:12],
        info["snapshot_name"],
        info["source_vm_id"][:12],
        info["image"],
        f"{info['mem_mib']} MiB",
        size(info["size"]),
        f"{info['vmm']}/{info['accelerator']}",
        age(info["created_at"]),
    )


@snapshot.command(
    examples=(
        ("bandsox snapshot restore prepared", "a VM that goes on from it; prints its id"),
        ("bandsox snapshot restore prepared --name other -e TOKEN", "with another name, and a variable of this shell"),
        ("bandsox snapshot restore prepared --cold", "boot from its disk, where this host cannot go on from its memory"),
    )
)
@_snapshot_argument("name", metavar="SNAPSHOT")
@click.option("--name", "vm_name", metavar="NAME", help="The new VM's name; made of the snapshot's id when absent.")
@click.option("-e", "--env", "env", multiple=True, metavar="NAME[=VALUE]", help="Set a variable; without a value, as it is here.")
@click.option(
    "--env-file",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Set the variables of a file of NAME=VALUE lines.",
)
@click.option(
    "--metadata", multiple=True, metavar="KEY=VALUE", help="Notes in place of those of the VM that was saved; also a JSON object."
)
@click.option("--enable-networking/--no-networking", default=None, help="Give it a network.")
@click.option("--cold", is_flag=True, help="Boot from the snapshot's disk; its memory is left out.")
@operation
async def restore(
    call: Call,
    name: str,
    vm_name: str | None,
    env: tuple[str, ...],
    env_file: tuple[Path, ...],
    metadata: tuple[str, ...],
    enable_networking: bool | None,
    cold: bool,
) -> None:
    """Make a VM that goes on from a snapshot, and print its id."""
    vm = await call.bandsox.restore_vm(
        name,
        vm_name,
        enable_networking,
        env_vars=variables(env, env_file),
        metadata=metadata_of(metadata) if metadata else None,
        cold=cold,
        progress=call.progress,
    )
    call.progress.clear()
    if call.state.json:
        print_json(await vm.info())
        return
    click.echo(vm.vm_id)
    notice(f"VM {vm.name} is running; try: bandsox terminal {vm.vm_id[:8]}", call.state)


@snapshot.command()
@_snapshot_argument("name", metavar="SNAPSHOT")
@operation
async def inspect(call: Call, name: str) -> None:
    """Show all that is known of a snapshot."""
    info = await call.bandsox.get_snapshot_info(name)
    if call.state.json:
        print_json(info)
        return
    print_facts({**info, "created_at": moment_text(info["created_at"])}, call.state)


@snapshot.command()
@_snapshot_argument("name", metavar="SNAPSHOT")
@click.argument("new_name", metavar="NAME")
@operation
async def rename(call: Call, name: str, new_name: str) -> None:
    """Give a snapshot another name; its id stays."""
    found = await call.bandsox.get_snapshot_info(name)
    await call.bandsox.rename_snapshot(found["id"], new_name)
    if call.state.json:
        print_json(await call.bandsox.get_snapshot_info(found["id"]))


@snapshot.command(examples=(("bandsox snapshot metadata prepared team=web --unset old", "change them"),))
@_snapshot_argument("name", metavar="SNAPSHOT")
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--unset", multiple=True, metavar="KEY", help="Remove a key.")
@operation
async def metadata(call: Call, name: str, settings: tuple[str, ...], unset: tuple[str, ...]) -> None:
    """Show or change the notes kept with a snapshot.

    KEY=VALUE sets a text; a JSON object sets all its keys.
    """
    info = await call.bandsox.get_snapshot_info(name)
    present = info["metadata"]
    if unknown := [key for key in unset if key not in present]:
        raise InvalidRequest(f"there is no key {unknown[0]!r} in the metadata of {info['snapshot_name']}")
    wanted = {**{key: value for key, value in present.items() if key not in unset}, **metadata_of(settings)}
    if wanted != present:
        await call.bandsox.update_snapshot_metadata(info["id"], wanted)
    if call.state.json:
        print_json(wanted)
    elif not settings and not unset:
        print_facts(wanted, call.state)


@snapshot.command(examples=(("bandsox snapshot compress $(bandsox snapshot list -q)", "all of them"),))
@_snapshot_argument("names", nargs=-1, required=True, metavar="SNAPSHOT...")
@operation
async def compress(call: Call, names: tuple[str, ...]) -> None:
    """Keep snapshots in less room; restoring one unpacks it again.

    A snapshot of a VM that was restored from another is kept as what differs from that.
    """
    done = []
    for name in names:
        before = await call.bandsox.get_snapshot_info(name)
        await call.bandsox.compress_snapshot(before["id"], call.progress)
        after = await call.bandsox.get_snapshot_info(before["id"])
        call.progress.clear()
        done.append({"id": after["id"], "name": after["snapshot_name"], "size": after["size"], "before": before["size"]})
        if not call.state.quiet and not call.state.json:
            click.echo(f"{name}: {size(before['size'])} -> {size(after['size'])}")
    if call.state.json:
        print_json(done)


@snapshot.command(
    examples=(
        ("bandsox snapshot export prepared -o prepared.tar", "one file, for `bandsox snapshot import` on another host"),
        ("bandsox snapshot export prepared | ssh other bandsox snapshot import", "through a pipe"),
        ("bandsox snapshot export later -o later.tar --base prepared", "only what differs from one that is there already"),
        ("bandsox snapshot export prepared -o registry:host:5000/team/prepared:1", "a registry; oci:DIRECTORY for an OCI image layout"),
    )
)
@_snapshot_argument("name", metavar="SNAPSHOT")
@click.option("-o", "--output", metavar="FILE", help="Where to: a file, oci:DIRECTORY or registry:HOST/NAME:TAG; else to standard output.")
@click.option("--base", metavar="SNAPSHOT", help="A snapshot that the receiver has.", shell_complete=complete_snapshot)
@click.option("--without-image", is_flag=True, help="Leave out the root file system of the VM's image, which the receiver has.")
@click.option("--sign-key", metavar="FILE", type=click.Path(path_type=Path), help="Sign it with this Ed25519 private key (PEM).")
@operation
async def export(call: Call, name: str, output: str | None, base: str | None, without_image: bool, sign_key: Path | None) -> None:
    """Write a snapshot with all that its VM needs, to be carried to another host.

    The file holds whatever was in the VM's memory: keep it as secret as that.
    """
    if output is None and sys.stdout.isatty():
        raise InvalidRequest("an archive is nothing for a terminal", remedy="give a file with -o, or pipe the output into a program")
    target = sys.stdout.buffer if output is None else output
    image = not without_image
    digest = await call.bandsox.export_snapshot(name, target, base=base, image=image, sign_key=sign_key, progress=call.progress)
    call.progress.clear()
    if output is None:
        sys.stdout.buffer.flush()
    elif call.state.json:
        print_json({"digest": digest, "target": output})
    else:
        click.echo(digest)


@snapshot.command(
    "import",
    examples=(
        ("bandsox snapshot import prepared.tar --name prepared-2", "what `bandsox snapshot export` has written"),
        ("bandsox snapshot import registry:host:5000/team/prepared:1", "a registry; oci:DIRECTORY for an OCI image layout"),
    ),
)
@click.argument("source", required=False, metavar="[FILE]")
@click.option("--name", metavar="NAME", help="Another name than it had.")
@click.option(
    "--verify-key",
    metavar="FILE",
    type=click.Path(path_type=Path),
    envvar="BANDSOX_VERIFY_KEY",
    show_envvar=True,
    help="Take only what is signed with one of these Ed25519 public keys (PEM).",
)
@operation
async def import_(call: Call, source: str | None, name: str | None, verify_key: Path | None) -> None:
    """Take in a snapshot of another host, and print its name.

    Take one only from somebody whom you would let run a VM here: his programs go on in it.
    """
    import asyncio
    import shutil
    import tempfile

    if source is not None:
        taken = await call.bandsox.import_snapshot(source, name, verify_key=verify_key, progress=call.progress)
    else:
        with tempfile.NamedTemporaryFile(dir=None if call.remote else call.engine.layout.temporary) as file:
            await asyncio.to_thread(shutil.copyfileobj, sys.stdin.buffer, file, 1 << 20)
            file.flush()
            taken = await call.bandsox.import_snapshot(file.name, name, verify_key=verify_key, progress=call.progress)
    call.progress.clear()
    if call.state.json:
        print_json(await call.bandsox.get_snapshot_info(taken))
    else:
        click.echo(taken)


@snapshot.command()
@_snapshot_argument("names", nargs=-1, required=True, metavar="SNAPSHOT...")
@operation
async def delete(call: Call, names: tuple[str, ...]) -> int:
    """Delete snapshots; VMs that were restored from them go on."""
    failures: list[int] = []
    done = []
    for name in names:
        try:
            info = await call.bandsox.get_snapshot_info(name)
            await call.bandsox.delete_snapshot(info["id"])
        except BandSoxError as error:
            failures.append(report(error, call.state))
            continue
        done.append({"id": info["id"], "name": info["snapshot_name"], "deleted": True})
        if not call.state.quiet and not call.state.json:
            click.echo(name)
    if call.state.json:
        print_json(done)
    return failures[0] if failures else 0


_KEPT = (
    click.option("--max-age", type=seconds, metavar="SECONDS", help="None is kept that is older: 12h, 30d."),
    click.option("--keep", type=click.IntRange(min=1), metavar="N", help="Of each VM only the newest N are kept."),
    click.option(
        "--protect", multiple=True, metavar="PATTERN", help="Those whose name fits stay, and are not counted, such as 'release-*'."
    ),
)


def _with_kept(function: Function) -> Function:
    """A command with the options that say which snapshots are kept."""
    for option in reversed(_KEPT):
        function = option(function)
    return function


def _kept(max_age: float | None, keep: int | None, protect: tuple[str, ...]) -> Retention | None:
    from bandsox.models import Retention

    asked = Retention(max_age, keep, protect)
    return None if asked == Retention() else asked


@snapshot.command(
    examples=(
        ("bandsox snapshot retention", "which are kept"),
        ("bandsox snapshot retention --max-age 30d --keep 7 --protect 'release-*'", "from now on; the others go at once"),
        ("bandsox snapshot retention --off", "all, from now on"),
    )
)
@_with_kept
@click.option("--off", is_flag=True, help="Keep all.")
@operation
async def retention(call: Call, max_age: float | None, keep: int | None, protect: tuple[str, ...], off: bool) -> None:
    """Show or say which snapshots are kept. The others go by themselves, as soon as they are too old or too many.

    Those stay that something needs: a VM that goes on from one, another snapshot that is based on it; and those that belong to something,
    such as checkpoints and templates. See what would go with `bandsox snapshot prune --dry-run`.
    """
    from bandsox.models import Retention

    wanted = _kept(max_age, keep, protect)
    if off and wanted is not None:
        raise click.UsageError("--off keeps all, and goes with no other option")
    if off or wanted is not None:
        await call.bandsox.set_snapshot_retention(wanted or Retention())
    found = await call.bandsox.snapshot_retention()
    if call.state.json:
        print_json(dataclasses.asdict(found))
    elif not call.state.quiet:
        age_kept = "any" if found.max_age is None else f"{found.max_age:g} s"
        shown = {"max_age": age_kept, "keep": found.max_count or "any number", "protect": ", ".join(found.protected) or "-"}
        print_facts(shown, call.state)


@snapshot.command(
    examples=(
        ("bandsox snapshot prune --dry-run --max-age 30d", "which are older"),
        ("bandsox snapshot prune", "remove now what is not kept"),
    )
)
@_with_kept
@click.option("--dry-run", is_flag=True, help="Remove none, and print which would be.")
@operation
async def prune(call: Call, max_age: float | None, keep: int | None, protect: tuple[str, ...], dry_run: bool) -> None:
    """Remove snapshots that are too old or too many, and print their names; without options those that are not kept anyway."""
    found = await call.bandsox.prune_snapshots(_kept(max_age, keep, protect), dry_run=dry_run)
    if call.state.json:
        print_json(found)
        return
    for name in found:
        click.echo(name)
