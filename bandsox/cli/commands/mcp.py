"""``bandsox mcp``: tools for AI agents."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from bandsox.cli import servers
from bandsox.cli.command import Command
from bandsox.cli.operation import operation
from bandsox.errors import InvalidRequest, MissingTool

if TYPE_CHECKING:
    from bandsox.cli.runtime import Call


@click.command(
    cls=Command,
    examples=(
        ("bandsox mcp", "as the command of an MCP server in an agent's configuration"),
        ("bandsox mcp --host https://sandboxes.example.org", "the VMs of a server, with the key that is kept for it"),
        ("bandsox mcp --http 9000 --host http://127.0.0.1:8000", "over HTTP; each caller brings a key of that server"),
    ),
)
@click.option("--http", "http_port", type=click.IntRange(1, 65535), metavar="PORT", help="Serve over HTTP on this port, at /mcp.")
@click.option("--listen", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Where to listen with --http.")
@operation
async def mcp(call: Call, http_port: int | None, listen: str) -> None:
    """Give an AI agent tools to use VMs (Model Context Protocol).

    They make VMs, run code in them, read and write files, save, clone and delete.
    Over stdio the agent may what you may. Over HTTP it needs a server, whose keys, scopes and quotas hold.
    """
    try:
        from bandsox.mcp import serving
    except ModuleNotFoundError as error:
        raise MissingTool("the Python package mcp is not installed", cause=str(error), remedy="pip install 'bandsox[mcp]'") from error
    if http_port is None:
        await serving.over_stdio(call.bandsox)
        return
    url = servers.url_of(call.state)
    if url is None:
        raise InvalidRequest("over HTTP the keys of a server are needed", remedy="run `bandsox serve`, and name it with --host")
    await serving.over_http(url, listen, http_port)
