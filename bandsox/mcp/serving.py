"""The tools over stdio, for whoever started this process, and over HTTP, for callers of a server."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from mcp.server.mcpserver import Context

from bandsox.core import AsyncBandSox
from bandsox.mcp.tools import server


async def over_stdio(bandsox: AsyncBandSox) -> None:
    """Serve until standard input ends. Whatever `bandsox` may, the agent may."""

    @contextlib.asynccontextmanager
    async def opened(context: Context[Any, Any]) -> AsyncIterator[AsyncBandSox]:
        del context
        yield bandsox

    await server(opened).run_stdio_async()


async def over_http(url: str, host: str, port: int) -> None:
    """Serve at ``http://host:port/mcp`` until the process is told to stop. Each call has the rights of the key that its request carries.

    Parameters
    ----------
    url: of the `bandsox serve` that does the work.
    """

    @contextlib.asynccontextmanager
    async def opened(context: Context[Any, Any]) -> AsyncIterator[AsyncBandSox]:
        given = context.headers or {}
        key = next((value for name, value in given.items() if name.lower() == "authorization"), None)
        async with AsyncBandSox(server_url=url, headers={"Authorization": key} if key else {}) as bandsox:
            yield bandsox

    await server(opened).run_streamable_http_async(host=host, port=port, stateless_http=True)
