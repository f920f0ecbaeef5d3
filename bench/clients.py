"""``python -m bench.clients HOST PORT COUNT PATH…``: so many clients, each with its own connection, ask for one of the paths every second.

It says ``ready`` once all are connected, and ends with its standard input; then it tells how many answers there were.
"""

from __future__ import annotations

import asyncio
import sys

_EVERY_S = 1.0


async def _client(host: str, port: int, path: str, begin_s: float, connected: asyncio.Semaphore, answers: list[int]) -> None:
    reader, writer = await asyncio.open_connection(host, port)
    connected.release()
    request = f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode()
    await asyncio.sleep(begin_s)
    while True:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        size = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await reader.readexactly(size)
        answers.append(int(head.split(b" ", 2)[1]))
        await asyncio.sleep(_EVERY_S)


async def main(host: str, port: int, count: int, *paths: str) -> None:
    connected, answers = asyncio.Semaphore(0), list[int]()
    clients = [
        asyncio.create_task(_client(host, port, paths[number % len(paths)], number / count * _EVERY_S, connected, answers))
        for number in range(count)
    ]
    for _ in range(count):
        await connected.acquire()
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    assert set(answers) == {200}, set(answers)
    print(len(answers), flush=True)
    for client in clients:
        client.cancel()
    await asyncio.gather(*clients, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:]))
