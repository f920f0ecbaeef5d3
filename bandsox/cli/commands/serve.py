"""``bandsox serve``: the library over HTTP and WebSocket."""

from __future__ import annotations

from pathlib import Path

import click

from bandsox.cli.command import Command, invocation
from bandsox.cli.output import print_json
from bandsox.errors import MissingTool


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
    allowed_hosts = frozenset(name.lower() for name in hosts)
    allowed_origins = frozenset(origin.lower().rstrip("/") for origin in origins)
    configuration = Configuration(host, port, insecure, allowed_hosts, allowed_origins, tls_cert, tls_key, grace, head)

    def ready(address: str) -> None:
        if state.json:
            print_json({"url": address})
        elif not state.quiet:
            click.echo(f"BandSox serves {address}")

    run(state.storage, configuration, ready)
