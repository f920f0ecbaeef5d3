"""The hypervisor's vsock socket: CONNECT, its answer, and its refusals."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bandsox.errors import MachineStopped
from bandsox.guest import GuestClient, VsockLink

pytestmark = pytest.mark.anyio


@contextlib.asynccontextmanager
async def hypervisor(path: Path, agent: Path, refusals: int = 0) -> AsyncIterator[list[bytes]]:
    """A vsock socket as Firecracker's, which connects to the agent after it has refused so often; the CONNECT lines it got."""
    connects: list[bytes] = []
    tasks: list[asyncio.Task[None]] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connects.append(await reader.readline())
        if len(connects) <= refusals:
            writer.close()
            return
        guest_reader, guest_writer = await asyncio.open_unix_connection(agent)
        writer.write(b"OK 1073741824\n")
        tasks.extend((asyncio.create_task(pump(reader, guest_writer)), asyncio.create_task(pump(guest_reader, writer))))

    server = await asyncio.start_unix_server(serve, path)
    try:
        yield connects
    finally:
        server.close()
        await asyncio.gather(*tasks)
        await asyncio.sleep(0)


async def test_a_connection_through_the_hypervisor(short_path: Path, agent: Path) -> None:
    async with hypervisor(short_path / "vsock.sock", agent) as connects:
        guest = GuestClient(VsockLink(short_path / "vsock.sock"))
        assert (await guest.run(argv=["echo", "hello"])).stdout == b"hello\n"
        await asyncio.gather(*(guest.ping() for _ in range(50)))
        assert connects == [b"CONNECT 1024\n"] * 51


async def test_the_first_connection_after_a_restore_is_tried_again(short_path: Path, agent: Path) -> None:
    async with hypervisor(short_path / "vsock.sock", agent, refusals=1) as connects:
        await GuestClient(VsockLink(short_path / "vsock.sock", port=52)).ping()
        assert connects == [b"CONNECT 52\n"] * 2


async def test_a_guest_that_refuses_again_is_not_running(short_path: Path, agent: Path) -> None:
    async with hypervisor(short_path / "vsock.sock", agent, refusals=9) as connects:
        with pytest.raises(MachineStopped, match="refuses"):
            await GuestClient(VsockLink(short_path / "vsock.sock")).setup(hostname="never")
        assert len(connects) == 2


async def test_a_hypervisor_that_has_ended(short_path: Path) -> None:
    with pytest.raises(MachineStopped, match="nobody listens"):
        await GuestClient(VsockLink(short_path / "vsock.sock")).ping()
