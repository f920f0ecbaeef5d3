"""What an agent can do. Each answer is bounded: it becomes part of what a model reads."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations

from bandsox.core import AsyncBandSox
from bandsox.errors import BandSoxError, VMNotFound
from bandsox.settings import DEFAULT_IMAGE
from bandsox.version import __version__
from bandsox.vm import AsyncMicroVM

MAX_SHOWN = 64 << 10
"""How many bytes of a stream or a file are shown at once."""

_INSTRUCTIONS = """Machines are isolated microVMs: what runs in one cannot harm the user's computer.
Make one with create_vm, use its id or name with the other tools, and delete it when it is not needed any more.
save_vm keeps a state to which restore_vm goes back, in a new machine."""

Opened = Callable[[Context[Any, Any]], AbstractAsyncContextManager[AsyncBandSox]]

_LOOKS = ToolAnnotations(read_only_hint=True)
_DESTROYS = ToolAnnotations(destructive_hint=True)


def server(opened: Opened) -> MCPServer[Any]:
    """A server of all tools.

    Parameters
    ----------
    opened: the library as the caller of a tool may use it.
    """
    found = MCPServer("bandsox", title="BandSox microVMs", instructions=_INSTRUCTIONS, version=__version__)
    _Tools(opened).add_to(found)
    return found


class _Tools:
    """The tools. Their docstrings are what a model reads of them."""

    def __init__(self, opened: Opened) -> None:
        self._opened = opened

    def add_to(self, found: MCPServer[Any]) -> None:
        for look in (self.list_vms, self.read_file, self.list_files):
            found.tool(annotations=_LOOKS)(look)
        for run in (self.create_vm, self.run_command, self.run_python, self.write_file, self.fork_vm, self.save_vm, self.restore_vm):
            found.tool()(run)
        found.tool(annotations=_DESTROYS)(self.delete_vm)

    @contextlib.asynccontextmanager
    async def _bandsox(self, context: Context[Any, Any]) -> AsyncIterator[AsyncBandSox]:
        try:
            async with self._opened(context) as bandsox:
                yield bandsox
        except BandSoxError as error:
            raise ToolError(str(error)) from error

    @contextlib.asynccontextmanager
    async def _machine(self, context: Context[Any, Any], vm: str) -> AsyncIterator[AsyncMicroVM]:
        async with self._bandsox(context) as bandsox:
            found = await bandsox.get_vm(vm)
            if found is None:
                raise VMNotFound(f"no VM has the id or name {vm!r}", remedy="see list_vms")
            yield found

    async def list_vms(self, context: Context[Any, Any]) -> list[dict[str, Any]]:
        """List the machines: id, name, status, image, size."""
        async with self._bandsox(context) as bandsox:
            return [_brief(info) for info in await bandsox.list_vms()]

    async def create_vm(
        self,
        context: Context[Any, Any],
        image: str = DEFAULT_IMAGE,
        name: str | None = None,
        vcpu: int = 1,
        mem_mib: int = 512,
        env: dict[str, str] | None = None,
        ttl_seconds: float | None = None,
    ) -> dict[str, Any]:
        """Make a machine of a container image, such as "python:3-alpine", and start it. With ttl_seconds it is deleted after that time."""
        async with self._bandsox(context) as bandsox:
            vm = await bandsox.create_vm(image, name, vcpu, mem_mib, env_vars=env, ttl=ttl_seconds)
            return _brief(await vm.info())

    async def run_command(
        self, context: Context[Any, Any], vm: str, command: str, timeout_seconds: float = 120, cwd: str | None = None, stdin: str = ""
    ) -> dict[str, Any]:
        """Run a shell command in a machine to its end: its exit code, and the ends of what it printed."""
        async with self._machine(context, vm) as machine:
            done = await machine.run(command, timeout=timeout_seconds, cwd=cwd, stdin=stdin.encode() if stdin else None)
            return {"exit_code": done.exit_code, "stdout": _end(done.stdout), "stderr": _end(done.stderr)}

    async def run_python(self, context: Context[Any, Any], vm: str, code: str, timeout_seconds: float = 120) -> dict[str, Any]:
        """Run Python code in a fresh interpreter of a machine's image."""
        async with self._machine(context, vm) as machine:
            done = await machine.exec_python_capture(code, timeout=timeout_seconds)
            return {"exit_code": done["exit_code"], "output": _end(str(done["output"]).encode()), "error": done["error"]}

    async def read_file(self, context: Context[Any, Any], vm: str, path: str, first_line: int = 1, lines: int = 500) -> str:
        """Read some lines of a text file of a machine."""
        async with self._machine(context, vm) as machine:
            text = await machine.get_file_contents(path, max(0, first_line - 1), max(1, lines))
            return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}\n... the rest of these lines is left out"

    async def write_file(self, context: Context[Any, Any], vm: str, path: str, content: str, append: bool = False) -> str:
        """Write a text file of a machine, or append to it. Missing directories are made."""
        async with self._machine(context, vm) as machine:
            await machine.write_text(path, content, append=append)
            return f"{len(content.encode())} bytes were written to {path}"

    async def list_files(self, context: Context[Any, Any], vm: str, path: str = "/") -> list[dict[str, Any]]:
        """List a directory of a machine, at most its first 1000 entries."""
        async with self._machine(context, vm) as machine:
            return (await machine.list_dir(path))[:1000]

    async def fork_vm(self, context: Context[Any, Any], vm: str, count: int = 1) -> list[dict[str, Any]]:
        """Make clones of a running machine, with its memory, programs and files as they are now; the machine goes on."""
        async with self._machine(context, vm) as machine:
            return [_brief(await clone.info()) for clone in await machine.fork(count)]

    async def save_vm(self, context: Context[Any, Any], vm: str, name: str | None = None) -> str:
        """Save a machine's memory, programs and files as they are now. The name of the snapshot is for restore_vm."""
        async with self._machine(context, vm) as machine:
            return await machine.snapshot(name)

    async def restore_vm(self, context: Context[Any, Any], snapshot: str, name: str | None = None) -> dict[str, Any]:
        """Make a machine that goes on from a snapshot. The one that was saved is not changed; delete it to go back for good."""
        async with self._bandsox(context) as bandsox:
            return _brief(await (await bandsox.restore_vm(snapshot, name)).info())

    async def delete_vm(self, context: Context[Any, Any], vm: str) -> str:
        """Delete a machine with everything in it."""
        async with self._machine(context, vm) as machine:
            await machine.delete()
            return f"{machine.name} was deleted"


def _brief(info: dict[str, Any]) -> dict[str, Any]:
    return {key: info[key] for key in ("id", "name", "status", "image", "vcpu", "mem_mib")}


def _end(output: bytes) -> str:
    """The end of what was printed."""
    text = output[-MAX_SHOWN:].decode(errors="replace")
    return text if len(output) <= MAX_SHOWN else f"... {len(output) - MAX_SHOWN} bytes before this are left out\n{text}"
