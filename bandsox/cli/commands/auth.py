"""``bandsox auth``: who may use the server."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import click

from bandsox.cli import servers
from bandsox.cli.administration import authentication
from bandsox.cli.command import CommandGroup, Invocation, invocation
from bandsox.cli.output import print_json, print_table
from bandsox.cli.parameters import seconds
from bandsox.errors import InvalidRequest, MissingTool, NotFound, Unsupported
from bandsox.models import Quotas

if TYPE_CHECKING:
    from bandsox.models import ApiKey, AuditEntry, KeyChanges, LoginSession, NewApiKey
    from bandsox.server.auth.file import AuthFile

_EXAMPLES = (
    ("bandsox auth init", "from now on the server wants a key or the password"),
    ("bandsox auth create-key ci --scope exec --prefix ci- --max-vms 4", "a key for a program"),
)


@click.group(cls=CommandGroup, examples=_EXAMPLES)
def auth() -> None:
    """Say who may use the server: a password for people, keys for programs."""


@auth.command(examples=(("bandsox auth login --host https://sandboxes.example.org", "asks for a key; commands with this --host use it"),))
@click.pass_context
def login(context: click.Context) -> None:
    """Keep a key for a server in ~/.bandsox/credentials: the one on standard input, or typed at a terminal."""
    from bandsox.core import BandSox

    url = servers.url_of(invocation(context))
    if url is None:
        raise InvalidRequest("no server was named", remedy="give --host, or set BANDSOX_URL")
    key = click.prompt("Key", hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.readline().strip()
    with BandSox(server_url=url, headers={"Authorization": f"Bearer {key}"}) as server:
        server.list_vms(limit=0)  # it lets whoever has this key in
    servers.keep_key(url, key)


@auth.command()
@click.pass_context
def logout(context: click.Context) -> None:
    """Forget the key for a server."""
    url = servers.url_of(invocation(context))
    if url is None:
        raise InvalidRequest("no server was named", remedy="give --host, or set BANDSOX_URL")
    servers.keep_key(url, None)


@auth.command()
@click.option("--password-stdin", is_flag=True, help="Read the password from standard input.")
@click.pass_context
def init(context: click.Context, password_stdin: bool) -> None:
    """Turn authentication on, with a password and a first key."""
    from bandsox.server.auth import keys

    if servers.url_of(invocation(context)) is not None:
        raise Unsupported("authentication is turned on where the server runs", remedy="use --storage there")
    file = _file(context)
    with _packages():
        file.set_password(_typed("Password", password_stdin), new=True)
    _print_key(context, keys.create(file, "first"))


@auth.command("set-password")
@click.option("--password-stdin", is_flag=True, help="Read it from standard input; for a server two lines, the present one first.")
@click.pass_context
def set_password(context: click.Context, password_stdin: bool) -> None:
    """Change the password; whoever is logged in has to log in again. A server wants to be shown the present one first."""
    url = servers.url_of(invocation(context))
    if url is not None:
        from bandsox.core import BandSox

        current = _typed("Present password", password_stdin, confirmed=False)
        with BandSox(server_url=url, headers=servers.headers_for(url)) as server:
            server.auth.change_password(current, _typed("New password", password_stdin))
        return
    file = _file(context)
    if file.read() is None:
        raise NotFound("authentication is off", remedy="run `bandsox auth init`")
    with _packages():
        file.set_password(_typed("Password", password_stdin))


_SCOPES = click.Choice(["read", "exec", "admin"])
_COUNT = click.IntRange(min=0)
_QUOTAS = (
    click.option("--max-vms", "vms", type=_COUNT, metavar="N", help="How many VMs it may have."),
    click.option("--max-cpus", "vcpu", type=_COUNT, metavar="N", help="How many CPUs these may have together."),
    click.option("--max-mem", "mem_mib", type=_COUNT, metavar="MIB", help="How much memory."),
    click.option("--max-disk", "disk_mib", type=_COUNT, metavar="MIB", help="How much disk."),
    click.option("--creates-per-minute", type=_COUNT, metavar="N", help="How often it may make a VM."),
)


def _with_quotas(function: Callable[..., None]) -> Callable[..., None]:
    """A command with an option for each quota."""
    for option in reversed(_QUOTAS):
        function = option(function)
    return function


@auth.command("create-key", examples=(("bandsox auth create-key viewer --scope read --expires 86400", "a key to look, for a day"),))
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    default=("admin",),
    show_default=True,
    type=_SCOPES,
    help="What it may do: look, run commands and move files, or everything.",
)
@click.option("--expires", type=seconds, metavar="SECONDS", help="After which it lets nobody in any more.")
@click.option("--prefix", default="", metavar="TEXT", help="What the names of all VMs begin with that exist for it.")
@_with_quotas
@click.pass_context
def create_key(
    context: click.Context, /, name: str, scopes: tuple[str, ...], expires: float | None, prefix: str, **quotas: int | None
) -> None:
    """Make a key, and print it: the only time it is shown."""
    with authentication(invocation(context)) as administered:
        _print_key(context, administered.create_key(name, scopes, expires_in=expires, prefix=prefix, quotas=Quotas(**quotas)))


@auth.command("edit-key", examples=(("bandsox auth edit-key bsx_k_1f2e3d4c --max-vms 8", "allow it more"),))
@click.argument("key_id", metavar="ID")
@click.option("--name", metavar="TEXT", help="Another name.")
@click.option("--scope", "scopes", multiple=True, type=_SCOPES, help="What it may do from now on.")
@click.option("--expires", type=seconds, metavar="SECONDS", help="After which, from now on, it lets nobody in any more.")
@click.option("--no-expiry", is_flag=True, help="It does not expire any more.")
@click.option("--prefix", metavar="TEXT", help="What the names of all VMs begin with that exist for it.")
@click.option("--no-quotas", is_flag=True, help="Lift all its quotas that are not named here.")
@_with_quotas
@click.pass_context
def edit_key(
    context: click.Context,
    /,
    key_id: str,
    name: str | None,
    scopes: tuple[str, ...],
    expires: float | None,
    no_expiry: bool,
    prefix: str | None,
    no_quotas: bool,
    **quotas: int | None,
) -> None:
    """Change what a key may do; running servers know at once, and what is not named stays."""
    wanted: KeyChanges = {}
    if name is not None:
        wanted["name"] = name
    if scopes:
        wanted["scopes"] = scopes
    if prefix is not None:
        wanted["prefix"] = prefix
    if expires is not None or no_expiry:
        wanted["expires_in"] = expires
    given = {each: limit for each, limit in quotas.items() if limit is not None}
    with authentication(invocation(context)) as administered:
        if given or no_quotas:
            known = None if no_quotas else next((key for key in administered.list_keys() if key.id == key_id), None)
            wanted["quotas"] = dataclasses.replace(Quotas() if known is None else known.quotas, **given)
        administered.edit_key(key_id, **wanted)


@auth.command("list-keys")
@click.pass_context
def list_keys(context: click.Context) -> None:
    """List the keys, without what they are."""
    state = invocation(context)
    with authentication(state) as administered:
        found = administered.list_keys()
    columns = ("ID", "NAME", "SCOPES", "PREFIX", "CREATED", "LAST USED", "EXPIRES")
    rows = [
        (
            key.id,
            key.name,
            ",".join(key.scopes),
            key.prefix or "-",
            _moment(key.created_at),
            _moment(key.last_used_at),
            _moment(key.expires_at),
        )
        for key in found
    ]
    _show(state, found, columns, rows)


@auth.command("revoke-key")
@click.argument("key_id", metavar="ID")
@click.pass_context
def revoke_key(context: click.Context, key_id: str) -> None:
    """Have a key let nobody in any more; running servers know at once."""
    with authentication(invocation(context)) as administered:
        administered.revoke_key(key_id)


@auth.command("list-sessions")
@click.pass_context
def list_sessions(context: click.Context) -> None:
    """List the sessions of people who are logged in."""
    state = invocation(context)
    with authentication(state) as administered:
        found = administered.list_sessions()
    rows = [(each.id, each.client, each.agent or "-", _moment(each.created_at), _moment(each.last_used_at)) for each in found]
    _show(state, found, ("ID", "CLIENT", "PROGRAM", "CREATED", "LAST USED"), rows)


@auth.command("end-session")
@click.argument("session", metavar="ID", required=False)
@click.option("--all", "every", is_flag=True, help="All of them.")
@click.pass_context
def end_session(context: click.Context, session: str | None, every: bool) -> None:
    """End a session, or all; running servers know at once."""
    if (session is None) != every:
        raise InvalidRequest("name a session, or give --all")
    with authentication(invocation(context)) as administered:
        if session is None:
            administered.end_sessions()
        else:
            administered.end_session(session)


@auth.command(examples=(("bandsox auth audit --refused --limit 20", "the last that failed, or were not let in"),))
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, metavar="N", help="At most so many entries.")
@click.option("--caller", metavar="ID", help="Only what the key or session with this id did.")
@click.option("--path", metavar="TEXT", help="Only paths that begin so.")
@click.option("--refused/--done", default=None, help="Only what failed or was refused, or only the rest.")
@click.pass_context
def audit(context: click.Context, limit: int, caller: str | None, path: str | None, refused: bool | None) -> None:
    """Show who did what, the newest first: what changed something, and what was refused."""
    state = invocation(context)
    with authentication(state) as administered:
        entries = administered.audit(caller=caller, path=path, refused=refused)
        found = list(itertools.islice(entries, limit))
    columns = ("TIME", "WHO", "FROM", "WHAT", "STATUS", "TOOK")
    rows = [
        (each.time, each.name or "-", each.client or "-", f"{each.method} {each.path}", str(each.status), f"{each.ms} ms") for each in found
    ]
    _show(state, found, columns, rows)


def _show(
    state: Invocation, found: Sequence[ApiKey | LoginSession | AuditEntry], columns: Sequence[str], rows: Sequence[Sequence[str]]
) -> None:
    """Print what was found, as a table unless something else was asked for."""
    if state.json:
        print_json([dataclasses.asdict(each) for each in found])
    elif state.quiet:
        for each in found:
            click.echo(each.id)
    else:
        print_table(columns, rows, state)


def _file(context: click.Context) -> AuthFile:
    from bandsox.server.auth.file import AuthFile
    from bandsox.settings import Layout

    return AuthFile(Layout.open(invocation(context).storage).root)


@contextlib.contextmanager
def _packages() -> Iterator[None]:
    """A block that needs the server's packages."""
    try:
        yield
    except ModuleNotFoundError as error:
        remedy = "pip install 'bandsox[server]'"
        raise MissingTool("the server's Python packages are not installed", cause=str(error), remedy=remedy) from error


def _typed(what: str, from_stdin: bool, *, confirmed: bool = True) -> str:
    if from_stdin:
        return sys.stdin.readline().rstrip("\n")
    if not sys.stdin.isatty():
        raise InvalidRequest("a password is typed at a terminal", remedy="give --password-stdin")
    password: str = click.prompt(what, hide_input=True, confirmation_prompt=confirmed, err=True)
    return password


def _print_key(context: click.Context, key: NewApiKey) -> None:
    state = invocation(context)
    if state.json:
        print_json(dataclasses.asdict(key))
        return
    if not state.quiet:
        click.echo(f"the key {key.name} ({key.key_id}), which is shown only now:", err=True)
    click.echo(key.key)


def _moment(when: float | None) -> str:
    return "-" if when is None else datetime.datetime.fromtimestamp(when).astimezone().isoformat(" ", "minutes")
