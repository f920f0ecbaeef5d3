"""Waiting for a socket, with a deadline and without losing a byte.

The event loop's own ``sock_recv`` may have taken bytes from the socket when its task is cancelled, and they are lost. Here a task
waits for readiness only; the read after it does not suspend. So a read can be cancelled at any time and repeated.
"""

from __future__ import annotations

import asyncio
import socket


class DeadlinePassed(Exception):
    """The deadline passed before the socket was ready."""


async def wait_for_io(sock: socket.socket, *, read: bool = False, write: bool = False, deadline: float | None = None) -> None:
    """Until `sock` is ready for one of what is asked. `deadline` is on the event loop's clock.

    Raises
    ------
    DeadlinePassed: it was not ready until `deadline`.
    """
    loop = asyncio.get_running_loop()
    descriptor = sock.fileno()
    ready: asyncio.Future[bool] = loop.create_future()
    timer = loop.call_at(deadline, _settle, ready, False) if deadline is not None else None
    if read:
        loop.add_reader(descriptor, _settle, ready, True)
    if write:
        loop.add_writer(descriptor, _settle, ready, True)
    try:
        in_time = await ready
    finally:
        if timer is not None:
            timer.cancel()
        if read:
            loop.remove_reader(descriptor)
        if write:
            loop.remove_writer(descriptor)
    if not in_time:
        raise DeadlinePassed


def _settle(future: asyncio.Future[bool], value: bool) -> None:
    if not future.done():
        future.set_result(value)
