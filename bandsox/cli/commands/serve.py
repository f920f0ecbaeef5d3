"""``bandsox serve``: the library over HTTP and WebSocket."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from bandsox.cli.command import Command, invocation
from bandsox.cli.output import print_json
from bandsox.errors import MissingTool


def network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """A network such as ``10.0.0.0/8``."""
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command(
    cls=Command,
    examples=(
        ("bandsox serve", "for programs and people on this machine"),
        (
            "bandsox auth init && bandsox serve --host 0.0.0.0 --tls-cert cert.pem --tls-key key.pem",
            "for others, who need a key or the password",
        ),
    ),
)
@click.option("--host", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Where to listen.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="The port; 0 chooses a free one.")
@click.option("--insecure", is_flag=True, help="Listen for other hosts although authentication is off.")
@click.option("--allowed-host", "hosts", multiple=True, metavar="NAME", help="A further name under which it may be called.")
@click.option("--allowed-origin", "origins", multiple=True, metavar="URL", help="A further origin whose pages may call it.")
@click.option("--tls-cert", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE", help="A certificate, in PEM.")
@click.option("--tls-key", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE", help="Its key, in PEM.")
@click.option("--grace", type=click.FloatRange(1, 3600), default=10.0, show_default=True, help="How many seconds requests may take to end.")
@click.option(
    "--head-timeout",
    "head",
    type=click.FloatRange(0.1, 3600),
    default=20.0,
    show_default=True,
    help="How many seconds a request's head may take to arrive.",
)
@click.option(
    "--reserve",
    type=click.IntRange(min=0),
    metavar="MIB",
    help="What new VMs leave free. [default: a twentieth, at most 1024]",
)
@click.option(
    "--client-connections",
    "connections",
    type=click.IntRange(min=0),
    default=512,
    show_default=True,
    metavar="N",
    help="How many connections one client has at most; 0: any number, for servers behind a proxy.",
)
@click.option(
    "--transfers",
    type=click.IntRange(min=1),
    default=4,
    show_default=True,
    metavar="N",
    help="How many snapshots it exports, imports and compresses at a time.",
)
@click.option(
    "--webhook-network",
    "networks",
    multiple=True,
    type=network,
    metavar="CIDR",
    help="A private network that webhooks may be in, such as 10.0.0.0/8; else they are on the Internet.",
)
@click.option("--traces", is_flag=True, help="Send traces to a collector (OpenTelemetry); OTEL_EXPORTER_OTLP_ENDPOINT says where it is.")
@click.option("--proxy-port", type=click.IntRange(0, 65535), metavar="PORT", help="Where browsers and others reach ports of guests.")
@click.option("--proxy-domain", metavar="NAME", help="Give each of those a name of its own, PORT-ID.NAME.")
@click.option("--print-unit", type=click.Choice(["system", "user"]), help="Print a unit file of systemd that serves so, and end.")
@click.pass_context
def serve(
    context: click.Context,
    host: str,
    port: int,
    insecure: bool,
    hosts: tuple[str, ...],
    origins: tuple[str, ...],
    tls_cert: Path | None,
    tls_key: Path | None,
    grace: float,
    head: float,
    reserve: int | None,
    connections: int,
    transfers: int,
    networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...],
    traces: bool,
    proxy_port: int | None,
    proxy_domain: str | None,
    print_unit: str | None,
) -> None:
    """Serve VMs over HTTP and WebSocket.

    It ends on Ctrl-C or SIGTERM; VMs go on. Until `bandsox auth init` it needs no key, and listens on loopback addresses only.
    """
    from bandsox.server.configuration import Configuration

    try:
        from bandsox.server.running import serve as run
    except ModuleNotFoundError as error:
        raise MissingTool(
            "the server's Python packages are not installed", cause=str(error), remedy="pip install 'bandsox[server]'"
        ) from error
    state = invocation(context)
    if print_unit is not None:
        from bandsox.server import unit

        click.echo(unit.text(_arguments(context, state.storage), user=print_unit == "user"), nl=False)
        return
    allowed_hosts = frozenset(name.lower() for name in hosts)
    allowed_origins = frozenset(origin.lower().rstrip("/") for origin in origins)
    domain = None if proxy_domain is None else proxy_domain.lower().strip(".")
    configuration = Configuration(
        host,
        port,
        insecure,
        allowed_hosts,
        allowed_origins,
        tls_cert,
        tls_key,
        grace_s=grace,
        head_s=head,
        reserve_mib=reserve,
        proxy_port=proxy_port,
        proxy_domain=domain,
        client_connections=connections,
        transfers=transfers,
        webhook_networks=frozenset(networks),
        traces=traces,
    )

    def ready(address: str, proxy: str | None = None) -> None:
        if state.json:
            print_json({"url": address, "proxy_url": proxy})
        elif not state.quiet:
            click.echo(f"BandSox serves {address}" + (f", and ports of guests at {proxy}" if proxy else ""))

    run(state.storage, configuration, ready)


def _arguments(context: click.Context, storage: str | None) -> list[str]:
    """The arguments of this command line again, paths in full."""
    words = ["serve"] if storage is None else ["--storage", str(Path(storage).resolve()), "serve"]
    for option in context.command.params:
        name = str(option.name)
        if name == "print_unit" or context.get_parameter_source(name) is not ParameterSource.COMMANDLINE:
            continue
        value: Any = context.params[name]
        if value is True:
            words.append(option.opts[0])
            continue
        for each in value if isinstance(value, tuple) else (value,):
            words += [option.opts[0], str(each.resolve() if isinstance(each, Path) else each)]
    return words
