"""The templates and warm pools of a server."""

from __future__ import annotations

import abc
import base64
import os
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import anyio.to_thread
import msgspec

from bandsox.client.addresses import segment
from bandsox.client.connection import Connection
from bandsox.client.guest import refuse
from bandsox.core.pools import AsyncPool
from bandsox.decoding import ready
from bandsox.errors import Conflict
from bandsox.models import ProgressCallback, Template
from bandsox.settings import DEFAULT_IMAGE

if TYPE_CHECKING:
    from typing_extensions import Self

    from bandsox.vm import AsyncMicroVM


class RemoteTemplates(abc.ABC):
    """The methods about templates, as `bandsox.core.templates` has them."""

    _server: Connection

    @abc.abstractmethod
    async def _made(self, made: Mapping[str, Any]) -> AsyncMicroVM:
        """The handle of a machine that was made."""

    async def template(
        self,
        image: str = DEFAULT_IMAGE,
        setup: Sequence[str | Sequence[str]] = (),
        *,
        files: Mapping[str, bytes | str | os.PathLike[str]] | None = None,
        env_vars: Mapping[str, str] | None = None,
        vcpu: int = 1,
        mem_mib: int = 128,
        disk_size_mib: int = 4096,
        enable_networking: bool | None = None,
        kernel_path: str | None = None,
        boot_args: str = "",
        vmm: str | None = None,
        timeout: float | None = None,
        progress: ProgressCallback | None = None,
    ) -> Template:
        """A template of the server: a machine that was set up once, from which `create_vm` starts others in the time of a restore.

        ``files`` are files of this host, some 20 MiB of them together.
        """
        from bandsox.engine.templates import setup_of

        if kernel_path is not None or boot_args:
            refuse()
        wanted = setup_of(setup, files or {})
        body = {
            "image": image,
            "setup": [command if isinstance(command, str) else list(command) for command in wanted.commands],
            "files": await anyio.to_thread.run_sync(_placed, wanted.files),
            "env_vars": dict(env_vars or {}),
            "vcpu": vcpu,
            "mem_mib": mem_mib,
            "disk_size_mib": disk_size_mib,
            "enable_networking": enable_networking,
            "vmm": vmm,
            "timeout": timeout,
        }
        return msgspec.convert(await self._server.make("/api/templates", progress, json=body), ready(Template))

    async def list_templates(self) -> list[Template]:
        """All templates, oldest first."""
        return await self._server.get("/api/templates", list[Template])

    async def get_template(self, template_id: str) -> Template:
        """The template with this id, or with an id that begins so."""
        return await self._server.get(f"/api/templates/{segment(template_id)}", Template)

    async def remove_template(self, template_id: str) -> None:
        """Delete a template; machines that were made of it go on."""
        await self._server.call("DELETE", f"/api/templates/{segment(template_id)}", patient=True)

    async def prune_templates(self, unused_for: float = 0.0) -> list[Template]:
        """Delete the templates of which no machine was made for `unused_for` seconds, and return them."""
        pruned = await self._server.call("POST", "/api/templates/prune", json={"unused_for": unused_for}, patient=True)
        return msgspec.json.decode(pruned.content, type=ready(list[Template]))

    def pool(self, template: Template | str, size: int = 2) -> AsyncPool:
        """A warm pool of the server, which keeps it filled until it is closed; for the rest as `AsyncBandSox.pool`."""
        return RemotePool(self._server, template.id if isinstance(template, Template) else template, size, self._made)


class RemotePool(AsyncPool):
    """Clones of a template that stand ready on a server. It is made there on entering, or with the first `take`."""

    def __init__(
        self, server: Connection, template: str, size: int, handle: Callable[[Mapping[str, Any]], Coroutine[Any, Any, AsyncMicroVM]]
    ) -> None:
        self._server, self._template, self._size, self._made = server, template, size, handle
        self._info: dict[str, Any] | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        await self._opened()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    @property
    def ready(self) -> int:
        """How many clones stood ready when the server was last asked for something."""
        return 0 if self._info is None else int(self._info["ready"])

    @property
    def size(self) -> int:
        """How many clones there are to be."""
        return self._size

    async def resize(self, size: int) -> None:
        """Have another number of clones stand ready."""
        self._info = (await self._server.call("PUT", await self._opened(), json={"size": size}, patient=True)).json()
        self._size = size

    async def take(
        self,
        name: str | None = None,
        *,
        env_vars: Mapping[str, str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        ephemeral: bool = False,
    ) -> AsyncMicroVM:
        """A running machine, which is the caller's from now on; another clone is made in the background."""
        if ephemeral:
            refuse()
        path = await self._opened()
        body = {
            "name": name,
            "env_vars": None if env_vars is None else dict(env_vars),
            "metadata": None if metadata is None else dict(metadata),
        }
        made = await self._server.make(f"{path}/take", json=body)
        self._info = await self._server.get(path, dict[str, Any])
        return await self._made(made)

    async def close(self) -> None:
        """Delete the clones that nobody has taken."""
        self._closed = True
        if self._info is not None:
            await self._server.call("DELETE", f"/api/pools/{self._info['id']}", patient=True)
            self._info = None

    async def _opened(self) -> str:
        if self._closed:
            raise Conflict("the pool is closed")
        if self._info is None:
            self._info = await self._server.make("/api/pools", json={"template": self._template, "size": self._size})
        return f"/api/pools/{self._info['id']}"


def _placed(files: Mapping[str, bytes | Path]) -> dict[str, dict[str, str]]:
    return {path: {"content": _read(content), "encoding": "base64", "mode": _mode(content)} for path, content in files.items()}


def _read(content: bytes | Path) -> str:
    return base64.b64encode(content if isinstance(content, bytes) else content.read_bytes()).decode()


def _mode(content: bytes | Path) -> str:
    return "644" if isinstance(content, bytes) else f"{content.stat().st_mode & 0o777:03o}"
