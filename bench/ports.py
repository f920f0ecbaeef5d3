"""Connections to ports of a guest: through a published port and through `connect`, against the raw port of the same kind."""

from __future__ import annotations

import asyncio
import socket
import statistics
import time
from urllib.parse import urlsplit

from bandsox.core import AsyncBandSox
from bandsox.vm import AsyncMicroVM
from bench.rawvm import RAW_PORT, RawVM, raw_vm

_SIZE = 256_000_000
_BLOCK = 1 << 20
_ROUNDS = 100
_READY = b"r"
_SERVER = f"""
import socket, threading
block = bytes({_BLOCK})
def serve(conn):
    wanted = conn.recv(1)
    if wanted == b"?":
        conn.sendall(b"!")
    elif wanted == b"<":
        left = {_SIZE}
        while left:
            left -= conn.send(block[:left])
    else:
        while conn.recv_into(bytearray({_BLOCK})):
            pass
        conn.sendall(b"!")
    conn.close()
listener = socket.create_server(("127.0.0.1", 9), backlog=128)
print("ready", flush=True)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""
_DD = f"""exec 3<>/dev/$(grep -lx "{RAW_PORT}" /sys/class/virtio-ports/*/name | cut -d/ -f5); printf {_READY.decode()} >&3; exec dd bs=1M"""


async def measure(bandsox: AsyncBandSox) -> None:
    vm = await bandsox.create_vm(mem_mib=512)
    try:
        async with raw_vm(bandsox, vm._record) as raw:
            await raw.client.setup(timeout=60)
            raw_in = await _raw(raw, f"<&3 of=/dev/null iflag=fullblock,count_bytes count={_SIZE}", inwards=True)
            raw_out = await _raw(raw, f">&3 if=/dev/zero iflag=count_bytes count={_SIZE}", inwards=False)
        await vm.write_text("/root/server.py", _SERVER)
        async with vm.execute(["python3", "/root/server.py"]) as server:
            assert await anext(server) == ("stdout", b"ready\n")
            await _rows(vm, raw_in, raw_out)
    finally:
        await vm.delete()


async def _rows(vm: AsyncMicroVM, raw_in: float, raw_out: float) -> None:
    url = urlsplit(await vm.expose(9))
    assert url.hostname is not None
    address = (url.hostname, url.port or 80)
    print("\n### Ports\n\n| way | in MB/s | of raw | out MB/s | of raw | connect, one byte and back ms |\n|---|---|---|---|---|---|")
    inwards, outwards = await asyncio.to_thread(_published, address, True), await asyncio.to_thread(_published, address, False)
    trips = [await asyncio.to_thread(_trip, address) for _ in range(_ROUNDS)]
    _row("published", inwards, raw_in, outwards, raw_out, trips)
    inwards, outwards = await _connected(vm, True), await _connected(vm, False)
    trips = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        async with await vm.connect(9) as stream:
            await stream.write(b"?")
            assert await stream.read() == b"!"
            trips.append(time.perf_counter() - start)
    _row("`connect`", inwards, raw_in, outwards, raw_out, trips)


def _row(way: str, inwards: float, raw_in: float, outwards: float, raw_out: float, trips: list[float]) -> None:
    cells = (way, inwards / 1e6, inwards / raw_in, outwards / 1e6, outwards / raw_out, statistics.median(trips) * 1e3)
    print("| {} | {:.0f} | {:.2f} | {:.0f} | {:.2f} | {:.1f} |".format(*cells), flush=True)


def _published(address: tuple[str, int], inwards: bool) -> float:
    with socket.create_connection(address) as client:
        start = time.perf_counter()
        client.sendall(b">" if inwards else b"<")
        if inwards:
            _send(client)
            client.shutdown(socket.SHUT_WR)
            assert client.recv(1) == b"!"
        else:
            _receive(client)
        return _SIZE / (time.perf_counter() - start)


def _trip(address: tuple[str, int]) -> float:
    start = time.perf_counter()
    with socket.create_connection(address) as client:
        client.sendall(b"?")
        assert client.recv(1) == b"!"
        return time.perf_counter() - start


async def _connected(vm: AsyncMicroVM, inwards: bool) -> float:
    block, left = bytes(_BLOCK), _SIZE
    async with await vm.connect(9) as stream:
        start = time.perf_counter()
        await stream.write(b">" if inwards else b"<")
        while left:
            if inwards:
                await stream.write(block[:left])
                left -= len(block[:left])
            else:
                left -= len(await stream.read(_BLOCK))
        if inwards:
            await stream.write_eof()
            assert await stream.read() == b"!"
        return _SIZE / (time.perf_counter() - start)


async def _raw(raw: RawVM, command: str, *, inwards: bool) -> float:
    """Bytes a second of a plain copy over the raw port, from the moment at which its program is about to begin."""
    with raw.connect_raw() as connection:
        async with await raw.client.execute(shell=f"{_DD} {command}") as execution:
            assert await asyncio.to_thread(connection.recv, 1) == _READY
            start = time.perf_counter()
            await asyncio.to_thread(_send if inwards else _receive, connection)
            await execution.wait()
            return _SIZE / (time.perf_counter() - start)


def _send(connection: socket.socket) -> None:
    block, left = memoryview(bytes(_BLOCK)), _SIZE
    while left:
        left -= connection.send(block[:left])


def _receive(connection: socket.socket) -> None:
    block, left = bytearray(_BLOCK), _SIZE
    while left:
        left -= connection.recv_into(block)
