"""Values as people type them: sizes, times, variables; and the options that several commands share."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bandsox.cli.completion import complete_image, complete_vm
from bandsox.cli.detaching import DEFAULT_DETACH_KEYS

if TYPE_CHECKING:
    from bandsox.models import OnExpiry, Policy

Function = TypeVar("Function", bound=Callable[..., Any])

_SIZE = re.compile(r"(\d+)\s*(?:([KMGT])(?:i?B)?)?", re.IGNORECASE)
_MIB_PER_UNIT = {"k": 1 / 1024, "m": 1, "g": 1024, "t": 1024 * 1024}
_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*(s|sec|m|min|h|d)?", re.IGNORECASE)
_SECONDS_PER_UNIT = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


def mebibytes(text: str) -> int:
    """A size in MiB: a plain number is MiB, ``512M`` and ``2G`` say their unit.

    Raises
    ------
    click.BadParameter: it is none.
    """
    found = _SIZE.fullmatch(str(text).strip())
    size = int(found[1]) * _MIB_PER_UNIT[(found[2] or "m").lower()] if found else 0.5
    if size != int(size):
        raise click.BadParameter(f"{text!r} is not a size: give MiB, or a unit as in 512M or 2G")
    return int(size)


def seconds(text: str) -> float:
    """A time in seconds: a plain number is seconds, ``90s``, ``5m``, ``2h`` and ``1d`` say their unit.

    Raises
    ------
    click.BadParameter: it is none.
    """
    found = _TIME.fullmatch(str(text).strip())
    length = float(found[1]) * _SECONDS_PER_UNIT[(found[2] or "s").lower()] if found else 0.0
    if length <= 0:
        raise click.BadParameter(f"{text!r} is not a time: give seconds, or a unit as in 90s, 5m or 2h")
    return length


def variables(settings: Iterable[str], files: Iterable[Path] = ()) -> dict[str, str]:
    """Environment variables of ``-e NAME=VALUE``, ``-e NAME`` (the value it has here, left out where it has none) and files of such lines.

    Raises
    ------
    click.BadParameter: one of them has no name.
    """
    lines = [line for file in files for line in file.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    found: dict[str, str] = {}
    for setting in (*lines, *settings):
        name, assigned, value = setting.partition("=")
        if not name or name != name.strip():
            raise click.BadParameter(f"{setting!r} is not NAME=VALUE", param_hint="--env")
        if assigned:
            found[name] = value
        elif name in os.environ:
            found[name] = os.environ[name]
    return found


def metadata_of(settings: Iterable[str]) -> dict[str, Any]:
    """Metadata of ``KEY=TEXT`` and of whole JSON objects, the later over the earlier.

    Raises
    ------
    click.BadParameter: one is neither.
    """
    found: dict[str, Any] = {}
    for setting in settings:
        if setting.lstrip().startswith("{"):
            try:
                found.update(json.loads(setting))
            except ValueError as error:
                raise click.BadParameter(f"{setting!r} is not a JSON object: {error}", param_hint="metadata") from error
            continue
        key, assigned, value = setting.partition("=")
        if not key or not assigned:
            raise click.BadParameter(f"{setting!r} is neither KEY=VALUE nor a JSON object", param_hint="metadata")
        found[key] = value
    return found


def json_object(text: str) -> dict[str, Any]:
    """A JSON object, or that of a file, ``@FILE``.

    Raises
    ------
    click.BadParameter: it is none.
    """
    try:
        found = json.loads(Path(text[1:]).read_text() if text.startswith("@") else text)
    except (OSError, ValueError) as error:
        raise click.BadParameter(f"{text!r} is not a JSON object: {error}") from error
    if not isinstance(found, dict):
        raise click.BadParameter(f"{text!r} is not a JSON object")
    return found


def _together(*decorators: Callable[[Function], Function]) -> Callable[[Function], Function]:
    def decorate(function: Function) -> Function:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


def vm_argument(name: str = "vm", **settings: Any) -> Callable[[Function], Function]:
    """A positional argument that names a VM: its id, the beginning of its id, or its name."""
    return click.argument(name, shell_complete=complete_vm, **settings)


def image_argument(name: str = "image", **settings: Any) -> Callable[[Function], Function]:
    """A positional argument that names an image."""
    return click.argument(name, shell_complete=complete_image, **settings)


def default_of(field: str) -> Any:
    """The default of a field of a machine's specification."""
    from bandsox.models import VMSpec

    return next(f.default for f in dataclasses.fields(VMSpec) if f.name == field)


def policy_options(function: Function) -> Function:
    """Where a VM may go in its network; `wanted_policy` makes one policy of them."""
    decorate = _together(
        click.option("--policy", metavar="PRESET", help="Where it may go: internet, none, registry-only or learn."),
        click.option("--allow", multiple=True, metavar="RULE", help="Let it go there, and elsewhere only where another option says so."),
        click.option("--deny", multiple=True, metavar="RULE", help="Do not let it go there, whatever is allowed."),
        click.option("--upload", type=float, metavar="MBIT", help="How much it may send, in 10^6 bits a second."),
        click.option("--download", type=float, metavar="MBIT", help="How much it may receive, in 10^6 bits a second."),
        click.option("--connections", type=int, metavar="N", help="How many connections it may have open."),
    )
    return decorate(function)


def wanted_policy(values: Mapping[str, Any]) -> Policy | None:
    """The policy of the values of `policy_options`; None when none was asked for. Without ``--policy`` and ``--allow`` it is the Internet.

    Raises
    ------
    InvalidRequest: there is no such preset, or a rule cannot be read.
    """
    given = {name: values[name] for name in ("policy", "allow", "deny", "upload", "download", "connections")}
    if not any(value not in (None, ()) for value in given.values()):
        return None
    from bandsox.models import Policy
    from bandsox.network.policy import policy_of

    base = policy_of(given["policy"]) or Policy(allow=() if given["allow"] else Policy().allow)
    rates = {"upload_mbit": given["upload"], "download_mbit": given["download"], "connections": given["connections"]}
    return policy_of({**rates, "allow": (*base.allow, *given["allow"]), "deny": (*base.deny, *given["deny"]), "learn": base.learn})


ON_EXPIRY = click.Choice(["delete", "stop", "pause", "snapshot"])
"""What `bandsox.models.OnExpiry` may be; to import that takes longer than to show a help."""


def machine_options(function: Function) -> Function:
    """What a new VM is made of. The command gets them as one argument, `options`, of type `MachineOptions`."""
    decorate = _together(
        click.option("--name", metavar="NAME", help="Its name; made up when absent."),
        click.option("--vcpu", type=int, default=default_of("vcpu"), show_default=True, metavar="N", help="Number of CPUs."),
        click.option("--mem", type=mebibytes, default=default_of("mem_mib"), show_default=True, metavar="MiB", help="Memory; 2G is 2048."),
        click.option(
            "--disk-size",
            type=mebibytes,
            default=default_of("disk_size_mib"),
            show_default=True,
            metavar="MiB",
            help="Room for what it writes, which takes space on the host as it is used; 0: in its memory.",
        ),
        click.option("-e", "--env", "env", multiple=True, metavar="NAME[=VALUE]", help="Set a variable; without a value, as it is here."),
        click.option(
            "--env-file",
            multiple=True,
            type=click.Path(exists=True, dir_okay=False, path_type=Path),
            metavar="FILE",
            help="Set the variables of a file of NAME=VALUE lines.",
        ),
        click.option("--metadata", multiple=True, metavar="KEY=VALUE", help="Keep a note with the VM; also a JSON object."),
        click.option("--ttl", type=seconds, metavar="SECONDS", help="How long it may run; 90s, 5m, 2h."),
        click.option("--idle-timeout", type=seconds, metavar="SECONDS", help="How long it may run while nobody uses it."),
        click.option(
            "--on-expiry",
            type=ON_EXPIRY,
            default=default_of("on_expiry"),
            show_default=True,
            help="What becomes of it when that time is over.",
        ),
        click.option("--auto-resume", is_flag=True, help="When it is paused or saved, let it go on at the next command in it."),
        click.option(
            "--vmm", metavar="NAME", help="The hypervisor: firecracker or qemu; BANDSOX_VMM, else the best that works here, when absent."
        ),
        click.option("--cpu-template", metavar="NAME|FILE", help="What of the host's CPU it sees, as a template of Firecracker says."),
        click.option("--disk-bandwidth", type=float, metavar="MB/s", help="Limit each of its disks, in 10^6 bytes a second."),
        click.option("--disk-iops", type=int, metavar="N", help="Limit each of its disks, in operations a second."),
        click.option("--network-bandwidth", type=float, metavar="MB/s", help="Limit its network in each direction; Firecracker only."),
        click.option(
            "--balloon",
            type=mebibytes,
            metavar="MiB",
            help="Give it a balloon that takes so much of its memory at first, or 0; see `vm balloon`; Firecracker only.",
        ),
        click.option(
            "--mmds",
            type=json_object,
            metavar="JSON|@FILE",
            help="Give it a metadata service (version 2) that says this, a JSON object; Firecracker only.",
        ),
        click.option(
            "--track-dirty-pages", is_flag=True, help="Save only what has changed of its memory, for shorter pauses; Firecracker only."
        ),
        click.option(
            "--confinement",
            type=click.Choice(["auto", "none", "namespaces", "jail"]),
            help="What the hypervisor is locked into; BANDSOX_CONFINEMENT, else the strongest that works here, when absent.",
        ),
        click.option("--jailer", "confinement", flag_value="jail", help="The same as --confinement jail, which only root can give."),
        click.option(
            "-p",
            "--publish",
            multiple=True,
            metavar="[[ADDRESS:]HOST:]GUEST",
            help="Let this host reach a port of the guest; without HOST at a free port, without ADDRESS on loopback only.",
        ),
        click.option("--kernel", type=click.Path(dir_okay=False), metavar="FILE", help="Another guest kernel (ELF or bzImage)."),
        click.option("--boot-args", default="", metavar="TEXT", help="Further kernel arguments."),
        click.option(
            "--network/--no-network",
            default=None,
            help="Insist on a network, or do without; when absent, one if this host can give it.",
        ),
        click.option(
            "--dns", multiple=True, metavar="ADDRESS", help="A name server, in the place of those of this host; up to three times."
        ),
        policy_options,
        click.option(
            "--cni", metavar="NAME", help="Attach it to this CNI network of the host; needs root, and goes without a policy at first."
        ),
        click.option(
            "--secret",
            multiple=True,
            metavar="NAME[=FROM]@HOST",
            help="Let requests to HOST have the value of this command's variable FROM, or of a file, whose path has a slash; NAME holds a "
            "placeholder in the VM. HOST,HOST for several; +query, +body or +http at the end to look there too.",
        ),
        click.option("--debug-console", is_flag=True, help="Show all of the kernel's messages in `logs`; slower."),
        click.option(
            "--pull",
            type=click.Choice(["missing", "always", "never"]),
            default="missing",
            show_default=True,
            help="When to fetch the image.",
        ),
    )
    return decorate(function)


@dataclasses.dataclass(frozen=True, slots=True)
class MachineOptions:
    """The values of `machine_options`."""

    name: str | None
    vcpu: int
    mem: int
    disk_size: int
    env: tuple[str, ...]
    env_file: tuple[Path, ...]
    metadata: tuple[str, ...]
    ttl: float | None
    idle_timeout: float | None
    on_expiry: OnExpiry
    auto_resume: bool
    vmm: str | None
    cpu_template: str | None
    disk_bandwidth: float | None
    disk_iops: int | None
    network_bandwidth: float | None
    balloon: int | None
    mmds: dict[str, Any] | None
    track_dirty_pages: bool
    kernel: str | None
    boot_args: str
    confinement: str | None
    network: bool | None
    dns: tuple[str, ...]
    policy: str | None
    allow: tuple[str, ...]
    deny: tuple[str, ...]
    upload: float | None
    download: float | None
    connections: int | None
    cni: str | None
    secret: tuple[str, ...]
    debug_console: bool
    publish: tuple[str, ...]
    pull: str

    @classmethod
    def take(cls, values: dict[str, Any]) -> MachineOptions:
        """Take them out of all of a command's `values`."""
        return cls(**{field.name: values.pop(field.name) for field in dataclasses.fields(cls)})


def detach_keys_option(function: Function) -> Function:
    """Which keys leave a terminal."""
    return click.option(
        "--detach-keys",
        default=DEFAULT_DETACH_KEYS,
        show_default=True,
        metavar="KEYS",
        help="What to type to leave while the program goes on, as ctrl-X or single characters; empty: nothing.",
    )(function)


def program_options(function: Function) -> Function:
    """How a program runs in a guest."""
    decorate = _together(
        click.option("-i", "--interactive", is_flag=True, help="Let it read this command's standard input."),
        click.option("-t", "--tty", is_flag=True, help="Run it on a terminal; with -i, this one."),
        click.option("-w", "--workdir", metavar="DIR", help="Its working directory in the guest; the image's when absent."),
        click.option("-u", "--user", metavar="USER", help="NAME, UID, NAME:GROUP or UID:GID in the guest; the image's when absent."),
        click.option("--timeout", type=seconds, metavar="SECONDS", help="Kill it, with all it started, after this time; 90s, 5m, 2h."),
        detach_keys_option,
    )
    return decorate(function)
