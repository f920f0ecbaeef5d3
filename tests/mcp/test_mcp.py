"""The tools as an agent has them: over stdio, and over HTTP with a key of a server."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from bandsox import BandSox
from bandsox.server.auth import keys
from bandsox.server.auth.file import AuthFile
from bandsox.settings import DEFAULT_IMAGE
from tests.server.servers import free_port, serving

NAMES = {
    "list_vms", "read_file", "list_files", "create_vm", "run_command", "run_python", "write_file", "fork_vm", "save_vm", "restore_vm",
    "delete_vm",
}  # fmt: skip


async def call(client: Client, tool: str, **arguments: Any) -> Any:
    """What a tool answers."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result
    found = result.structured_content
    return found["result"] if found is not None and set(found) == {"result"} else found


async def failure(client: Client, tool: str, **arguments: Any) -> str:
    result = await client.call_tool(tool, arguments)
    assert result.is_error
    return str(result.content[0].text)  # type: ignore[union-attr]


def over_stdio(storage: Path, talk: Callable[[Client], Awaitable[None]]) -> None:
    environment = {**os.environ, "BANDSOX_STORAGE": str(storage)}
    program = StdioServerParameters(command=sys.executable, args=["-m", "bandsox", "mcp"], env=environment)

    async def run() -> None:
        async with Client(program) as client:
            await talk(client)

    asyncio.run(run())


def test_an_agent_makes_uses_saves_and_deletes_a_machine(storage: Path, bandsox: BandSox) -> None:
    async def talk(client: Client) -> None:
        tools = (await client.list_tools()).tools
        assert {tool.name for tool in tools} == NAMES
        assert all(tool.description for tool in tools)
        vm = (await call(client, "create_vm", image=DEFAULT_IMAGE, mem_mib=256, ttl_seconds=600))["id"]
        await call(client, "write_file", vm=vm, path="/root/a/b.txt", content="grüß\ndich\n")
        assert await call(client, "read_file", vm=vm, path="/root/a/b.txt") == "grüß\ndich\n"
        done = await call(client, "run_command", vm=vm, command="cat; exit 3", stdin="fed")
        assert done == {"exit_code": 3, "stdout": "fed", "stderr": ""}
        assert (await call(client, "run_python", vm=vm, code="print(6 * 7)"))["output"] == "42\n"
        long = await call(client, "run_command", vm=vm, command="seq 100000")
        assert long["stdout"].startswith("... ")
        assert long["stdout"].endswith("\n100000\n")
        assert [each["name"] for each in await call(client, "list_files", vm=vm, path="/root/a")] == ["b.txt"]
        snapshot = await call(client, "save_vm", vm=vm)
        await call(client, "run_command", vm=vm, command="rm -r /root/a")
        again = (await call(client, "restore_vm", snapshot=snapshot))["id"]
        assert await call(client, "read_file", vm=again, path="/root/a/b.txt") == "grüß\ndich\n"
        clones = await call(client, "fork_vm", vm=again)
        for each in (vm, again, clones[0]["id"]):
            await call(client, "delete_vm", vm=each)
        assert "no VM has" in await failure(client, "run_command", vm=vm, command="true")
        await asyncio.to_thread(bandsox.delete_snapshot, snapshot)

    over_stdio(storage, talk)


def test_what_goes_wrong_is_told_with_its_remedy(tmp_path: Path) -> None:
    async def talk(client: Client) -> None:
        assert await call(client, "list_vms") == []
        assert "list_vms" in await failure(client, "delete_vm", vm="none")
        assert "NOT AN IMAGE" in await failure(client, "create_vm", image="NOT AN IMAGE")
        assert "none" in await failure(client, "restore_vm", snapshot="none")

    over_stdio(tmp_path, talk)


@contextmanager
def over_http(url: str) -> Iterator[str]:
    """``bandsox mcp --http``, for callers of the server at `url`."""
    port = free_port()
    command = [sys.executable, "-m", "bandsox", "mcp", "--http", str(port), "--host", url]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            while "running on" not in (line := process.stderr.readline()).lower():
                assert line, "it has ended"
            yield f"http://127.0.0.1:{port}/mcp"
        finally:
            process.kill()


def test_over_http_the_keys_of_the_server_hold(tmp_path: Path) -> None:
    with BandSox(tmp_path):
        file = AuthFile(tmp_path)
    file.set_password("long enough")
    reader = keys.create(file, "reader", ["read"]).key

    async def ask(url: str, key: str | None) -> tuple[str, str]:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        async with httpx2.AsyncClient(headers=headers) as http, Client(streamable_http_client(url, http_client=http)) as client:
            listed = await client.call_tool("list_vms", {})
            return json.dumps(listed.structured_content or listed.content[0].text), await failure(client, "create_vm")  # type: ignore[union-attr]

    with serving(tmp_path) as server, over_http(server.url) as url:
        listed, refused = asyncio.run(ask(url, reader))
        assert json.loads(listed) == {"result": []}
        assert "scope" in refused
        assert all("who is calling" in each for each in asyncio.run(ask(url, None)))
        with httpx2.Client() as client:
            assert client.post(url, headers={"host": "evil.example"}, json={}).status_code in {403, 421}


@pytest.mark.parametrize("words", [("--http", "9000"), ("--http", "0")])
def test_over_http_there_has_to_be_a_server(tmp_path: Path, words: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "bandsox", "--storage", str(tmp_path), "mcp", *words]
    assert subprocess.run(command, capture_output=True, check=False, timeout=60).returncode != 0
