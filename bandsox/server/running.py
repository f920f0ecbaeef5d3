"""The server as a process: it checks, listens, serves until it is told to stop, and lets requests end first."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import logging
import os
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from bandsox.core import AsyncBandSox
from bandsox.engine import retention
from bandsox.errors import BandSoxError, HostError, InvalidRequest
from bandsox.server.application import application, served
from bandsox.server.auth.gatekeeper import Gatekeeper
from bandsox.server.configuration import Configuration
from bandsox.server.logs import logging_to
from bandsox.server.protocol import Connections, protocol, websocket_protocol
from bandsox.server.tracing import exported

_THREADS = 32
"""For short work of the library, such as a look into the registry. Transfers have threads of their own."""

_BACKLOG = 1024

_log = logging.getLogger(__name__)


def serve(storage: str | None, configuration: Configuration, ready: Callable[..., None]) -> None:
    """Serve a storage directory until SIGINT or SIGTERM.

    Parameters
    ----------
    ready: called with the server's address, and the proxy's if there is one, once it accepts connections.

    Raises
    ------
    InvalidRequest: the configuration cannot work. HostError: the address is in use, or the storage directory somebody else's.
    """
    _run(_serve(storage, configuration, ready))


def _run(serving: Coroutine[Any, Any, None]) -> None:
    """Run a server on uvloop, on which requests cost less; where there is none for this interpreter, on asyncio's own event loop."""
    try:
        import uvloop
    except ImportError:
        asyncio.run(serving)
    else:
        uvloop.run(serving)


async def _serve(storage: str | None, configuration: Configuration, ready: Callable[..., None]) -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_THREADS, "bandsox"))
    async with AsyncBandSox(storage) as bandsox:
        configuration.check(authenticated=Gatekeeper(bandsox.storage_dir).enabled)
        with contextlib.ExitStack() as open_:
            listeners = [open_.enter_context(_listen(configuration, configuration.port))]
            if configuration.proxy_port is not None:
                listeners.append(open_.enter_context(_listen(configuration, configuration.proxy_port)))
                configuration = dataclasses.replace(configuration, proxy_port=listeners[1].getsockname()[1])
            open_.enter_context(logging_to(bandsox.storage_dir))
            app = application(bandsox, configuration)
            open_.enter_context(app.state.service.leases.watching())
            if configuration.traces:
                app.state.service.traces = open_.enter_context(exported())
            addresses = [_address(configuration, each) for each in listeners]
            server = _Server(_settings(served(app), configuration), lambda: ready(*addresses))
            for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn's own handlers come over these, and raise them again at the end
                signal.signal(number, _told_to_stop)
            app.state.service.pools.open()
            retention.tell(bandsox.engine.layout)  # whoever looked after it may have ended with the host
            gc.freeze()  # modules and routes stay: the collector need not look at them again and again
            try:
                async with app.state.service.dispatcher.running(), _tidying(bandsox):
                    await server.serve(sockets=listeners)
            finally:
                await app.state.once.finish()
                await app.state.service.pools.close()


@contextlib.asynccontextmanager
async def _tidying(bandsox: AsyncBandSox) -> AsyncIterator[None]:
    """Remove, while it begins to serve, what a server that was killed has left half made."""

    async def tidy() -> None:
        try:
            await bandsox.cleanup()
        except (BandSoxError, OSError) as error:
            _log.warning("what others have left was not removed: %s", error)

    task = asyncio.create_task(tidy(), name="cleanup")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _told_to_stop(number: int, frame: object) -> None:
    """Being told to stop is how a server ends, and no failure."""


def _settings(app: ASGIApp, configuration: Configuration) -> uvicorn.Config:
    connections = Connections(configuration.client_connections)
    config = uvicorn.Config(
        app,
        http=protocol(configuration.head_s, connections),
        ws=websocket_protocol(connections),
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws_max_size=1 << 20,
        ws_per_message_deflate=False,
        ws_ping_interval=20.0,
        ws_ping_timeout=20.0,
        h11_max_incomplete_event_size=64 << 10,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=round(configuration.grace_s),
        ssl_certfile=configuration.tls_cert,
        ssl_keyfile=configuration.tls_key,
        ssl_version=ssl.PROTOCOL_TLS_SERVER,
    )
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise InvalidRequest("the certificate cannot be used", cause=str(error)) from error
    return config


class _Server(uvicorn.Server):
    """uvicorn's server, which says when it accepts connections."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to accept connections."""
        await super().startup(sockets)
        if self.started:
            self._ready()


def _listen(configuration: Configuration, port: int) -> socket.socket:
    """A socket that listens where it shall.

    Raises
    ------
    HostError: it cannot.
    """
    try:
        found = socket.getaddrinfo(configuration.host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        listener = socket.create_server(address[:2], family=family, backlog=_BACKLOG, reuse_port=False)
    except OSError as error:
        where = f"{configuration.host}:{port}"
        raise HostError(f"cannot listen on {where}", cause=os.strerror(error.errno or 0), remedy="choose another --port") from error
    # Every connection inherits it. asyncio would set it, but only where a socket was made with the protocol's number; without it a short
    # answer, which is written in two pieces, waits for the client's delayed acknowledgement: 40 ms.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setblocking(False)
    return listener


def _address(configuration: Configuration, listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"{'https' if configuration.tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"
